//! Images in files: what moves images without a registry.
//!
//! [`import`] takes OCI layouts (a directory, or a tar of it) and archives of `docker save`, told apart by what is in
//! them. Archives are as hostile as registries: they are looked at through an index of bounded size, nothing is unpacked
//! by the names in them, and every document and layer is verified by its digest.
//!
//! [`export`] writes images to such archives, which then have IDs of their own; `preload` imports what lies in a directory.

pub(super) mod docker;
mod error;
mod export;
pub(super) mod found;
mod import;
mod index;
mod layer;
pub(super) mod oci;
pub(super) mod preload;
mod progress;
pub(super) mod source;
mod spool;
#[cfg(test)]
mod tests;

pub use self::error::ArchiveError;
pub use self::export::{Exported, Format, Wanted, export, export_layout, find, to_file};
pub use self::import::{ImportOptions, Imported, import, import_stream};
pub use self::progress::Progress;
pub(super) use self::spool::scratch;
