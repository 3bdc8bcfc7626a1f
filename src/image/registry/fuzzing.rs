//! Ways in for the fuzz targets (`fuzz/`), compiled for nothing else: parsers that are private, with what holds of them.

use super::challenge;
use super::manifest::{Document, MOST_LAYERS, diff_ids};
use super::platform::Platform;

/// Reads a document as a manifest, an index or a configuration, whichever it is.
pub fn manifest(body: &[u8], content_type: Option<&str>) {
    let platform = Platform::host();
    match Document::parse(body, content_type) {
        Ok(Document::Index(index)) => drop(index.choose(&platform).map_err(|e| e.to_string())),
        Ok(Document::Manifest(manifest)) => assert!(manifest.layers.len() <= MOST_LAYERS),
        Err(error) => drop(error.to_string()),
    }
    for layers in 0..3 {
        if let Ok(ids) = diff_ids(body, layers, &platform) {
            assert_eq!(ids.len(), layers);
        }
    }
}

/// Reads a `WWW-Authenticate` header; answers how many challenges it has.
pub fn challenge(header: &str) -> usize {
    challenge::parse(header).len()
}
