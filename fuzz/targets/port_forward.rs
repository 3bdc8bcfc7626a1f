//! A port-forward whose client opens, pairs, resets and floods streams as the input says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use podd::streaming::fuzzing;

fuzz_target!(|bytes: &[u8]| fuzzing::port_forward(bytes));
