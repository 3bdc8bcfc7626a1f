//! Images: references and registries, layers and the store that keeps them, and the root file systems made of them.
//!
//! [`Images`] is what the rest of podd sees. A pull goes `registry` (fetch) -> `extract` (unpack and verify) -> `store`
//! (commit); the way of one is told in `pull.rs`.

pub mod adopt;
pub mod archive;
mod assemble;
pub mod check;
pub mod digest;
mod error;
pub mod extract;
mod images;
pub mod pinned;
mod pull;
pub mod reference;
pub mod registry;
pub mod rootfs;
pub mod store;

pub use error::{ImageError, ImageErrorKind};
pub use images::{Images, places};
pub use store::{Image, Lease};
