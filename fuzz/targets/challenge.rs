//! `WWW-Authenticate` headers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use podd::image::registry::fuzzing;

fuzz_target!(|header: &str| {
    assert!(fuzzing::challenge(header) <= 16);
});
