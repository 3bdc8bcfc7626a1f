//! The container's log: bytes of its streams in, lines of the CRI format out.
//!
//! ```text
//!   read(2) -> Lines (one per stream) -> Batch -> Limits -> LogFile -> write(2)
//! ```
//!
//! All buffers are mapped once, before the container starts; nothing on this path allocates or blocks on a broken disk.

mod file;
mod limits;
mod lines;
mod stamp;

pub(crate) use file::LogFile;
pub(crate) use limits::Limits;
pub(crate) use lines::{Batch, Lines, Stream};
pub(crate) use stamp::Stamp;
