//! Which entry a name has, beside a simpler way to find it.

use proptest::prelude::*;

use crate::image::reference::Reference;
use crate::image::registries::lookup::match_prefix;
use crate::image::registries::*;

fn endpoints(conf: &str, reference: &str) -> Vec<String> {
    let plan = Snapshot::of(parse(conf).unwrap()).plan(&reference.parse().unwrap());
    plan.endpoints.iter().map(|endpoint| endpoint.reference.to_string()).chain(plan.refused).collect()
}

#[test]
fn without_configuration_the_registry_itself_is_asked() {
    let plan = Snapshot::default().plan(&"busybox".parse().unwrap());
    let [hub] = plan.endpoints.as_slice() else { panic!("{plan:?}") };
    assert_eq!((hub.authority.as_str(), hub.root.as_str(), hub.home), ("registry-1.docker.io", "/v2/", true));
    assert_eq!((hub.scheme, hub.trust.verify, hub.role), (Scheme::Default, true, Role::Origin));
}

#[test]
fn the_longest_prefix_decides_on_path_boundaries() {
    let conf = "[[registry]]\nprefix = \"r.io\"\nlocation = \"one.io\"\n\
        [[registry]]\nprefix = \"r.io/team\"\nlocation = \"two.io/x\"\n\
        [[registry]]\nprefix = \"r.io/team/app:v1\"\nlocation = \"three.io/app:v2\"\n\
        [[registry]]\nprefix = \"*.r.io\"\nlocation = \"four.io\"\n\
        [[registry]]\nprefix = \"*.w.io\"\n";
    for (reference, there) in [
        ("r.io/a/b:v1", "one.io/a/b:v1"),
        ("r.io/teams/b", "one.io/teams/b:latest"),
        ("r.io/team/b:v1", "two.io/x/b:v1"),
        ("r.io/team/app:v1", "three.io/app:v2"),
        ("r.io/team/app:v11", "two.io/x/app:v11"),
        ("r.io:5000/a", "r.io:5000/a:latest"),
        ("deep.a.r.io/a", "four.io/a:latest"),
        ("a.r.io:5000/a", "four.io/a:latest"),
        ("ar.io/a", "ar.io/a:latest"),
        ("a.w.io/a", "a.w.io/a:latest"),
    ] {
        assert_eq!(endpoints(conf, reference), [there], "{reference}");
    }
}

#[test]
fn mirrors_come_first_and_know_which_pulls_they_are_for() {
    let conf = "[[registry]]\nprefix = \"docker.io\"\nlocation = \"docker.io\"\n\
        [[registry.mirror]]\nlocation = \"all.io/hub\"\n\
        [[registry.mirror]]\nlocation = \"digest.io\"\npull-from-mirror = \"digest-only\"\n\
        [[registry.mirror]]\nlocation = \"tag.io\"\npull-from-mirror = \"tag-only\"\ninsecure = true\n";
    let by_tag = ["all.io/hub/library/app:1", "tag.io/library/app:1", "docker.io/library/app:1"];
    assert_eq!(endpoints(conf, "app:1"), by_tag);
    let digest = format!("library/app@sha256:{}", "a".repeat(64));
    let by_digest = ["all.io/hub/", "digest.io/", "docker.io/"].map(|host| format!("{host}{digest}"));
    assert_eq!(endpoints(conf, &digest), by_digest);
    let plan = Snapshot::of(parse(conf).unwrap()).plan(&"app:1".parse().unwrap());
    let insecure: Vec<_> = plan.endpoints.iter().map(|e| (e.scheme, e.trust.verify)).collect();
    let secure = (Scheme::Default, true);
    assert_eq!(insecure, [secure, (Scheme::Either, false), secure]);
}

#[test]
fn what_is_blocked_is_not_asked_but_its_mirrors_are() {
    let conf = "[[registry]]\nlocation = \"r.io\"\nblocked = true\n[[registry.mirror]]\nlocation = \"m.io\"\n\
        [[registry.mirror]]\nlocation = \"bad.io\"\n\
        [[registry]]\nlocation = \"bad.io\"\nblocked = true\n";
    let blocked = |host: &str| format!("registry {host} is blocked in registries.conf");
    assert_eq!(endpoints(conf, "r.io/a"), ["m.io/a:latest".to_owned(), blocked("bad.io"), blocked("r.io")]);
    assert_eq!(endpoints(conf, "bad.io/a"), [blocked("bad.io")]);
}

/// The same decision, component by component.
fn simple_match(prefix: &str, text: &str) -> bool {
    let (authority, path) = text.split_once('/').unwrap();
    if let Some(domain) = prefix.strip_prefix("*.") {
        let host: Vec<&str> = authority.split(':').next().unwrap().split('.').collect();
        let domain: Vec<&str> = domain.split('.').collect();
        return host.len() > domain.len() && host[host.len() - domain.len()..] == domain[..];
    }
    let Some((other, prefix_path)) = prefix.split_once('/') else { return prefix == authority };
    if other != authority {
        return false;
    }
    let (repository, tail) = match path.find([':', '@']) {
        Some(at) => path.split_at(at),
        None => (path, ""),
    };
    let whole: Vec<&str> = repository.split('/').collect();
    match prefix_path.split_once(':') {
        Some((name, tag)) => name == repository && tail.strip_prefix(':').is_some_and(|own| own == tag),
        None => {
            let parts: Vec<&str> = prefix_path.split('/').collect();
            parts.len() <= whole.len() && whole[..parts.len()] == parts[..]
        }
    }
}

proptest! {
    #[test]
    fn prefixes_match_as_the_simple_way_says(
        host in "(a|b|ab)(\\.(a|b|ab)){1,3}(:5)?",
        path in "(a|b|ab)(/(a|b|ab)){0,3}",
        tag in "(:(a|ab))?",
        prefix in "((a|b|ab)(\\.(a|b|ab)){1,3}(:5)?(/(a|b|ab)){0,3}(:(a|ab))?)|(\\*(\\.(a|b|ab)){1,3})",
        cut in 0usize..40,
    ) {
        let reference: Reference = format!("{host}/{path}{tag}").parse().unwrap();
        let text = reference.to_string();
        let own = text.get(..cut).unwrap_or(&text).trim_end_matches([':', '/', '.']);
        for prefix in [prefix.as_str(), own] {
            let is_valid = parse(&format!("[[registry]]\nprefix = \"{prefix}\"\nlocation = \"r.io\"")).is_ok();
            if is_valid && !(prefix.contains(':') && !prefix.contains('/') && !text.starts_with(&format!("{prefix}/"))) {
                prop_assert_eq!(match_prefix(prefix, &text).is_some(), simple_match(prefix, &text), "{} {}", prefix, text);
            }
        }
    }

    #[test]
    fn the_longest_of_many_is_found(
        prefixes in prop::collection::vec("(a|b)\\.(a|b)(/(a|b|ab)){0,3}", 0..12),
        name in "(a|b)\\.(a|b)(/(a|b|ab)){1,4}",
    ) {
        let entries = prefixes.iter().map(|prefix| format!("[[registry]]\nlocation = \"{prefix}\"\n"));
        let conf = parse(&entries.collect::<String>()).unwrap();
        let reference: Reference = format!("{name}:x").parse().unwrap();
        let wanted = prefixes.iter().filter(|p| simple_match(p, &reference.to_string())).map(String::len).max();
        prop_assert_eq!(conf.find(&reference).map(|(registry, _)| registry.prefix.len()), wanted);
    }
}
