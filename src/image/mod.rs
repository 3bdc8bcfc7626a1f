//! Images: references and registries, layers and the store that keeps them, and the root file systems made of them.
//!
//! [`Images`] is what the rest of podd sees. A pull goes `registry` (fetch) -> `extract` (unpack and verify) -> `store`
//! (commit); the way of one is told in `pull`. Which endpoints serve an image is the business of `registries`,
//! and whether it may be used that of `policy`. Images that come without a registry: `archive`, `adopt`.

pub mod adopt;
pub mod archive;
mod assemble;
pub mod check;
pub mod digest;
mod error;
pub mod extract;
mod images;
mod mount;
pub mod pinned;
pub mod policy;
mod pull;
pub mod reference;
pub mod registries;
pub mod registry;
pub mod rootfs;
pub mod store;
mod verify;

pub use error::{ImageError, ImageErrorKind};
pub use images::{Images, PullRequest, limits, places};
pub use mount::FileKind;
pub use pull::{PullStatus, PullTotals};
pub use store::{Image, Lease};
