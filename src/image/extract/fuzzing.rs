//! A way in for the fuzz targets (`fuzz/`), compiled for nothing else.

use std::io::{self, BufReader, Read};

use super::gunzip::Gunzip;

/// What a gzip stream holds, read through a buffer of `capacity` bytes.
pub fn gunzip(packed: &[u8], capacity: usize) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    Gunzip::new(BufReader::with_capacity(capacity.max(1), packed)).read_to_end(&mut content)?;
    Ok(content)
}
