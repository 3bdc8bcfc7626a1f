//! Manifests, indexes and configurations: a line with the `Content-Type` (it may be empty), then the document.
#![no_main]

use libfuzzer_sys::fuzz_target;
use podd::image::registry::fuzzing;

fuzz_target!(|data: &[u8]| {
    let line = data.iter().position(|&byte| byte == b'\n').unwrap_or(0);
    let content_type = std::str::from_utf8(&data[..line]).ok().filter(|text| !text.is_empty());
    fuzzing::manifest(&data[line..], content_type);
});
