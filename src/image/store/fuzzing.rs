//! A way in for the fuzz targets (`fuzz/`), compiled for nothing else.

use std::path::Path;

use super::check;
use super::layer::{LayerInfo, RECORD};
use crate::image::extract::Extracted;
use crate::record::{self, Durability};

/// What is wrong with a layer that has just been unpacked, and not settled.
pub fn findings(directory: &Path, extracted: &Extracted) -> Vec<String> {
    let info = LayerInfo { bytes: extracted.bytes, inodes: extracted.inodes, hides_below: false };
    record::write(&directory.join(RECORD), &info, Durability::Process).expect("tmpfs takes a record");
    let findings = check::check_layer(directory);
    findings.into_iter().map(|finding| format!("{:?} {}", finding.path, finding.problem)).collect()
}
