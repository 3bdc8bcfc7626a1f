//! The files of registries.conf: what is read of them, and what is refused.

use proptest::prelude::*;

use crate::image::registries::*;

fn error(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn all_keys_are_read() {
    let conf = parse(
        "unqualified-search-registries = [\"quay.io\", \"localhost:5000\"]\nshort-name-mode = \"enforcing\"\n\
         [aliases]\nfedora = \"registry.fedora.org/fedora\"\n\
         [[registry]]\nprefix = \"example.com/team\"\nlocation = \"internal.io/x/\"\ninsecure = true\nblocked = true\n\
         [[registry.mirror]]\nlocation = \"a.io:5000\"\ninsecure = true\npull-from-mirror = \"tag-only\"\n\
         [[registry.mirror]]\nlocation = \"b.io/y\"\npull-from-mirror = \"digest-only\"\n\
         [[registry]]\nlocation = \"quay.io\"\nmirror-by-digest-only = true\n\
         [[registry.mirror]]\nlocation = \"c.io\"\n\
         [[registry]]\nprefix = \"*.example.com\"\n",
    )
    .unwrap();
    assert_eq!(conf.search.as_ref().unwrap().len(), 2);
    assert_eq!(conf.short_name_mode, Some(ShortNameMode::Enforcing));
    let [team, quay, wild] = conf.registries.as_slice() else { panic!("{conf:?}") };
    assert_eq!((team.location.as_str(), team.insecure, team.blocked), ("internal.io/x", true, true));
    let pulls: Vec<_> = team.mirrors.iter().map(|mirror| (mirror.pulls, mirror.insecure)).collect();
    assert_eq!(pulls, [(Pulls::TagOnly, true), (Pulls::DigestOnly, false)]);
    assert_eq!((quay.prefix.as_str(), quay.mirrors[0].pulls), ("quay.io", Pulls::DigestOnly));
    assert_eq!((wild.prefix.as_str(), wild.location.as_str()), ("*.example.com", ""));
    assert_eq!(conf.warnings, Vec::<String>::new());
}

#[test]
fn mistakes_are_refused_with_their_place_and_without_secrets() {
    for (text, expected) in [
        ("a = 1\n= 2", "line 2 is not TOML"),
        ("[registries.search]\nregistries = [\"docker.io\"]", "version 1 of the format"),
        ("[[registry]]\ninsecure = true", "registry 1: it has neither prefix nor location"),
        ("[[registry]]\nprefix = \"r.io\"", "needs a location"),
        ("[[registry]]\nprefix = \"*.r.io/x\"", "a wildcard is"),
        ("[[registry]]\nlocation = \"https://u:hush@r.io\"", "without a scheme"),
        ("[[registry]]\nlocation = \"u:hush@r.io\"", "registry 1: location = \"***@r.io\""),
        ("[[registry]]\nlocation = \"plain\"", "is not a host"),
        (
            "[[registry]]\nlocation = \"r.io\"\ninsecure = \"yes\"",
            "registry 1: insecure is not true or false",
        ),
        ("[[registry]]\nlocation = \"r.io\"\n[[registry.mirror]]\n", "registry 1: mirror 1: location"),
        (
            "[[registry]]\nlocation = \"r.io\"\nmirror-by-digest-only = true\n\
             [[registry.mirror]]\nlocation = \"m.io\"\npull-from-mirror = \"all\"",
            "cannot stand beside mirror-by-digest-only",
        ),
        (
            "[[registry]]\nlocation = \"r.io\"\n[[registry]]\nprefix = \"s.io\"\nlocation = \"r.io\"\nblocked = true",
            "more than once with different values of blocked",
        ),
        ("unqualified-search-registries = [\"r.io/x\"]", "is not a host name"),
        ("short-name-mode = \"loud\"", "is not enforcing"),
        ("[aliases]\n\"r.io/x\" = \"r.io/y\"", "an alias has neither registry"),
        ("[aliases]\nx = \"y\"", "is not a repository with its registry"),
        ("[aliases]\nx = \"r.io/y:tag\"", "without a tag"),
        ("registry = 3", "list of tables"),
    ] {
        let error = error(text);
        assert!(error.contains(expected), "{expected} is not in {error}");
        assert!(!error.contains("hush"), "{error}");
    }
    assert!(error(&"#".repeat(LARGEST_FILE + 1)).contains("larger than"));
}

#[test]
fn unknown_keys_are_warnings() {
    let text = "odd = 1\ncredential-helpers = [\"x\"]\n[[registry]]\nlocation = \"r.io\"\nodder = 2\n\
        [[registry.mirror]]\nlocation = \"m.io\"\noddest = 3\n";
    assert_eq!(parse(text).unwrap().warnings.len(), 4);
}

#[test]
fn a_later_file_replaces_registries_of_the_same_prefix_and_what_it_says_itself() {
    let mut conf = parse(
        "unqualified-search-registries = [\"a.io\"]\n[aliases]\nx = \"a.io/x\"\ny = \"a.io/y\"\n\
         [[registry]]\nlocation = \"r.io\"\ninsecure = true\n[[registry.mirror]]\nlocation = \"m.io\"\n\
         [[registry]]\nlocation = \"s.io\"\n",
    )
    .unwrap();
    let later = "short-name-mode = \"disabled\"\n[aliases]\nx = \"\"\n[[registry]]\nlocation = \"r.io\"\n";
    conf.lay_over(parse(later).unwrap()).unwrap();
    assert_eq!(conf.search.as_deref(), Some(&["a.io".to_owned()][..]));
    assert_eq!(conf.short_name_mode, Some(ShortNameMode::Disabled));
    assert_eq!(conf.aliases["x"], None);
    assert_eq!(conf.aliases["y"].as_deref(), Some("a.io/y"));
    let r = conf.registries.iter().find(|registry| registry.prefix == "r.io").unwrap();
    assert!(conf.registries.len() == 2 && !r.insecure && r.mirrors.is_empty());
    let conflict = parse("[[registry]]\nprefix = \"t.io\"\nlocation = \"s.io\"\ninsecure = true").unwrap();
    assert!(conf.lay_over(conflict).unwrap_err().to_string().contains("different values of insecure"));
}

proptest! {
    #[test]
    fn hostile_text_never_panics(text in "\\PC{0,200}|(\\[\\[registry\\]\\]|\\[aliases\\]|\\n|=|\"|location|prefix|\\*\\.|r\\.io|:|/|@){0,30}") {
        let _ = parse(&text);
        let _ = parse_hosts(&text, std::path::Path::new("/h"));
    }

    #[test]
    fn any_location_is_judged_without_a_panic(text in "\\PC{0,40}|[a.:/@*\\-]{0,12}") {
        let quoted = toml::Value::String(text).to_string();
        for key in ["location", "prefix"] {
            let _ = parse(&format!("[[registry]]\n{key} = {quoted}\n"));
        }
        let _ = parse(&format!("unqualified-search-registries = [{quoted}]\n[aliases]\nx = {quoted}\n{quoted} = \"r.io/x\""));
    }
}
