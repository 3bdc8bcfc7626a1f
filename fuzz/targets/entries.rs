//! Layers of entries that are well formed and yet odd: paths, links, whiteouts, devices, sparse maps, PAX records, in all
//! combinations (see `archive`).
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use podd_fuzz::{Place, archive};

static PLACE: LazyLock<Place> = LazyLock::new(Place::new);

fuzz_target!(|data: &[u8]| {
    let tar = archive::from_bytes(data, &PLACE.outside());
    let first = PLACE.unpack(&tar).map_err(|e| e.to_string());
    let second = PLACE.unpack(&tar).map_err(|e| e.to_string());
    assert_eq!(first, second);
});
