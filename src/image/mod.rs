//! Images: layers, the store that keeps them, and the root filesystems made of them.

pub mod digest;
pub mod extract;
pub mod rootfs;
pub mod store;
