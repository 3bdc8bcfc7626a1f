//! SPDY: frames in pieces of any size, and a connection that hears them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use podd::streaming::fuzzing;

fuzz_target!(|bytes: &[u8]| {
    fuzzing::spdy_frames(bytes, 1);
    fuzzing::spdy_frames(bytes, 1 << 20);
    fuzzing::spdy_connection(bytes);
});
