//! containerd's `hosts.toml`: whatever is accepted gives an image its endpoints.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use podd::image::registries::{RegistriesConf, Role, fuzzing, parse_hosts};

fuzz_target!(|text: &str| {
    let Ok(hosts) = parse_hosts(text, Path::new("/hosts/a.io")) else { return };
    let reference = "a.io/b/c:d".parse().expect("a reference");
    let plan = fuzzing::plan(&RegistriesConf::default(), Some(&hosts), &reference);
    // The registry itself is asked once, where it is among its own mirrors, too.
    let mirrors = plan.endpoints.iter().filter(|endpoint| endpoint.role == Role::Mirror).count();
    assert_eq!(plan.endpoints.len(), mirrors + 1);
    assert!(mirrors == hosts.hosts.len() || mirrors + 1 == hosts.hosts.len());
    for endpoint in &plan.endpoints {
        assert!(!endpoint.authority.contains(['/', '@']), "{}", endpoint.authority);
        assert!(endpoint.root.starts_with('/') && endpoint.root.ends_with('/'));
    }
});
