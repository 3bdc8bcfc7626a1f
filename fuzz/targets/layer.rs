//! Layers: any bytes, as they would come from a registry.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use podd_fuzz::Place;

static PLACE: LazyLock<Place> = LazyLock::new(Place::new);

fuzz_target!(|blob: &[u8]| {
    let _ = PLACE.unpack(blob);
});
