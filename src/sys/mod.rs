//! The one door to the kernel: thin wrappers of system calls, and the only place in the daemon with `unsafe`.
#![allow(unsafe_code)]

pub mod clock;
pub mod console;
pub mod descriptors;
pub mod fs;
pub mod isal;
pub mod kernel;
pub mod memory;
pub mod mount;
pub mod namespace;
pub mod priority;
pub mod process;
pub mod quota;

/// Runs what blocks on a thread that may wait. A panic of it goes on in the caller.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))
}
