//! A WebSocket with channels, on which a client says anything.
#![no_main]

use libfuzzer_sys::fuzz_target;
use podd::streaming::fuzzing;

fuzz_target!(|bytes: &[u8]| fuzzing::websocket_channels(bytes));
