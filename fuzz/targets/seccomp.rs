//! A seccomp profile, in either format, up to the filters that containers get by it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use podd::spec::DEFAULT_CAPABILITIES;
use podd::spec::seccomp::Profile;

fuzz_target!(|data: &[u8]| {
    let Ok(profile) = Profile::parse(data) else { return };
    let all = DEFAULT_CAPABILITIES.into_iter().collect();
    for (capabilities, kernel) in [(&Default::default(), (4, 8)), (&all, (6, 18))] {
        let filter = profile.filter(capabilities, kernel);
        for rule in filter.syscalls().iter().flatten() {
            assert!(!rule.names().is_empty());
            assert!(rule.args().iter().flatten().all(|argument| argument.index() < 6));
            assert!(rule.errno_ret().is_none_or(|errno| errno < 4096));
        }
        // What a filter is written as, is a profile of the plain format: it means the same.
        let text = serde_json::to_vec(&filter).expect("a filter is JSON");
        let again = Profile::parse(&text).expect("a filter is a profile");
        assert_eq!(again.filter(capabilities, kernel), filter);
    }
});
