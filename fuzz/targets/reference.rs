//! Image references: what is accepted is written as it is read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use podd::image::reference::Reference;

fuzz_target!(|text: &str| {
    let Ok(reference) = text.parse::<Reference>() else { return };
    assert_eq!(reference.to_string().parse::<Reference>().as_ref(), Ok(&reference));
    if let Some(tagged) = reference.repo_tag() {
        assert_eq!(tagged.parse::<Reference>().expect("a tagged name").name(), reference.name());
    }
    assert!(!reference.registry().contains('/') && !reference.repository().contains([':', '@']));
});
