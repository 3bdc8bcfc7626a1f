//! `registries.conf`: whatever is accepted gives each image its endpoints, and each short name its references.
#![no_main]

use libfuzzer_sys::fuzz_target;
use podd::image::registries::{fuzzing, parse};

const IMAGES: [&str; 4] = ["a.io/b/c:d", "docker.io/library/a:latest", "b.a.io:5000/x", "localhost/a"];

fuzz_target!(|text: &str| {
    let Ok(conf) = parse(text) else { return };
    for image in IMAGES {
        let reference = image.parse().expect("a reference");
        let plan = fuzzing::plan(&conf, None, &reference);
        assert!(plan.endpoints.iter().all(|endpoint| !endpoint.authority.contains(['/', '@'])));
        assert!(conf.find(&reference).is_none_or(|(_, matched)| matched <= reference.to_string().len()));
    }
    for name in ["a", "a:b", "a/b"] {
        assert!(conf.candidates(name).is_ok_and(|found| !found.is_empty()));
    }
    let mut both = conf.clone();
    both.lay_over(conf).expect("a file agrees with itself");
});
