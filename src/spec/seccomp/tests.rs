//! Profiles in files, from their text to the filter of a container.

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Capabilities;
use serde_json::{Value, json};

use super::*;
use crate::config::{Config, SeccompConfig};

fn parsed(profile: &Value) -> Result<Profile, String> {
    Profile::parse(profile.to_string().as_bytes()).map_err(|e| e.to_string())
}

/// The filter as JSON, for a container with these capabilities on Linux 6.1.
fn filter(profile: &Value, capabilities: &[&str]) -> Value {
    let capabilities: Capabilities =
        capabilities.iter().map(|name| security::capability(name).unwrap()).collect();
    serde_json::to_value(parsed(profile).unwrap().filter(&capabilities, (6, 1))).unwrap()
}

/// The names in the rules that hold, joined.
fn names(profile: &Value, capabilities: &[&str]) -> String {
    let filter = filter(profile, capabilities);
    let rules = filter["syscalls"].as_array().unwrap();
    rules.iter().map(|rule| rule["names"][0].as_str().unwrap()).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_plain_profile_of_the_runtime_specification_stays_as_it_is() {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 3,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [{"names": ["mkdir", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 18,
            "args": [{"index": 1, "value": 7, "valueTwo": 5, "op": "SCMP_CMP_MASKED_EQ"}]}],
    });
    assert_eq!(filter(&profile, &[]), profile);
}

#[test]
fn b25_rules_follow_capabilities_architecture_and_kernel() {
    let (native, other) = match cfg!(target_arch = "aarch64") {
        true => ("arm64", "amd64"),
        false => ("amd64", "arm64"),
    };
    let rule = |name: &str, includes: Value, excludes: Value| {
        json!({
            "names": [name], "action": "SCMP_ACT_ALLOW", "args": null, "comment": "", "includes": includes, "excludes": excludes,
        })
    };
    let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        rule("always", json!({}), Value::Null),
        rule("admin", json!({"caps": ["CAP_SYS_ADMIN"]}), json!({})),
        rule("both", json!({"caps": ["CAP_SYS_ADMIN", "CAP_CHOWN"]}), json!({})),
        rule("not-admin", json!({}), json!({"caps": ["CAP_SYS_ADMIN"]})),
        rule("native", json!({"arches": [native, "s390x"]}), json!({})),
        rule("other", json!({"arches": [other]}), json!({})),
        rule("not-native", json!({}), json!({"arches": [native]})),
        rule("old", json!({"minKernel": "4.8"}), json!({})),
        rule("new", json!({"minKernel": "6.2"}), json!({})),
        rule("not-old", json!({}), json!({"minKernel": "6.1"})),
    ]});
    assert_eq!(names(&profile, &[]), "always not-admin native old");
    assert_eq!(names(&profile, &["SYS_ADMIN"]), "always admin native old");
    assert_eq!(names(&profile, &["SYS_ADMIN", "CHOWN"]), "always admin both native old");
}

#[test]
fn the_map_of_architectures_gives_the_native_one_and_those_below_it() {
    let (native, below) = match cfg!(target_arch = "aarch64") {
        true => ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
        false => ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86"),
    };
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [], "archMap": [
        {"architecture": "SCMP_ARCH_LOONGARCH64", "subArchitectures": null},
        {"architecture": native, "subArchitectures": [below]},
    ]});
    assert_eq!(filter(&profile, &[])["architectures"], json!([native, below]));
    let foreign =
        json!({"defaultAction": "SCMP_ACT_ALLOW", "archMap": [{"architecture": "SCMP_ARCH_S390X"}]});
    assert_eq!(filter(&foreign, &[]).get("architectures"), None, "it is the runtime's to say");
}

#[test]
fn errors_have_a_name_or_a_number_and_a_rule_one_name_or_many() {
    let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "defaultErrno": "ENOSYS", "syscalls": [
        {"name": "one", "action": "SCMP_ACT_ERRNO", "errno": "EPERM"},
        {"names": ["two"], "action": "SCMP_ACT_TRACE", "errnoRet": 9},
    ]});
    let found = filter(&profile, &[]);
    assert_eq!(found["defaultErrnoRet"], 38, "the name wins, as in containers-common");
    assert_eq!(
        (&found["syscalls"][0]["errnoRet"], &found["syscalls"][1]["errnoRet"]),
        (&json!(1), &json!(9))
    );
}

#[test]
fn what_cannot_be_honoured_is_named() {
    let with = |key: &str, value: Value| {
        let mut profile = json!({"defaultAction": "SCMP_ACT_ALLOW"});
        profile[key] = value;
        parsed(&profile).unwrap_err()
    };
    let rule = |rule: Value| with("syscalls", json!([rule]));
    for (error, expected) in [
        (with("defaultAction", json!("SCMP_ACT_NOTIFY")), "defaultAction: SCMP_ACT_NOTIFY needs a listener"),
        (with("listenerPath", json!("/run/l")), "listenerPath is set"),
        (with("listenerMetadata", json!("x")), "listenerMetadata is set"),
        (with("defaultActions", json!(1)), "unknown field `defaultActions`"),
        (with("flags", json!(["SECCOMP_FILTER_FLAG_NONE"])), "unknown variant `SECCOMP_FILTER_FLAG_NONE`"),
        (with("defaultErrno", json!("EWHAT")), "defaultErrno: there is no error \"EWHAT\""),
        (rule(json!({"action": "SCMP_ACT_ALLOW"})), "syscalls[0]: it names no system call"),
        (rule(json!({"name": "a", "names": ["b"], "action": "SCMP_ACT_ALLOW"})), "name and names are both"),
        (rule(json!({"name": "a", "action": "SCMP_ACT_NO"})), "unknown variant `SCMP_ACT_NO`"),
        (rule(json!({"name": "a", "action": "SCMP_ACT_ERRNO", "errnoRet": 4096})), "4096 is not an error"),
        (
            rule(json!({"name": "a", "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_X"]}})),
            "\"CAP_X\" is not a capability",
        ),
        (
            rule(json!({"name": "a", "action": "SCMP_ACT_ALLOW", "excludes": {"minKernel": "six"}})),
            "minKernel: \"six\" is not a version",
        ),
        (
            rule(json!({"name": "a", "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]})),
            "there is no argument 6",
        ),
        (Profile::parse(b"{").unwrap_err().to_string(), "EOF while parsing an object at line 1"),
    ] {
        assert!(error.contains(expected), "{expected:?} is not in {error:?}");
    }
    let both = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],
        "archMap": [{"architecture": "SCMP_ARCH_X86"}]});
    assert!(parsed(&both).unwrap_err().starts_with("architectures and archMap are both set"));
}

fn config() -> SeccompConfig {
    Config::defaults(Path::new("/"), Path::new("/run")).seccomp
}

fn asking(context: &Value) -> api::ContainerConfig {
    serde_json::from_value(json!({"linux": {"security_context": context}})).unwrap()
}

#[test]
fn b25_unset_is_what_the_node_says_and_privileged_is_unconfined() {
    let of = |config: &SeccompConfig, context: Value| {
        format!("{:?}", Profiles::load(config).unwrap().filter(&asking(&context)).unwrap())
    };
    let strict = SeccompConfig { unset: UnsetSeccomp::RuntimeDefault, ..config() };
    assert_eq!(of(&config(), json!({})), "Unconfined");
    assert_eq!(of(&strict, json!({})), "BuiltIn");
    assert_eq!(of(&strict, json!({"seccomp": {"profile_type": 1}})), "Unconfined");
    assert_eq!(of(&strict, json!({"privileged": true})), "Unconfined");
    assert_eq!(of(&config(), json!({"seccomp": {"profile_type": 0}})), "BuiltIn");
    assert_eq!(of(&config(), json!({"seccomp_profile_path": "docker/default"})), "BuiltIn");
    assert_eq!(of(&strict, json!({"seccomp_profile_path": "unconfined"})), "Unconfined");
    let missing = json!({"privileged": true, "seccomp": {"profile_type": 2, "localhost_ref": "/none"}});
    assert_eq!(of(&config(), missing), "Unconfined");
    let nothing = Profiles::load(&strict).unwrap();
    assert_eq!(nothing.filter(&api::ContainerConfig::default()).unwrap(), Filter::BuiltIn);
}

#[test]
fn b25_profiles_are_found_by_path_or_by_name_below_the_root_and_their_faults_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("sub")).unwrap();
    fs::write(path("sub/good.json"), r#"{"defaultAction": "SCMP_ACT_LOG"}"#).unwrap();
    fs::write(path("bad.json"), "{").unwrap();
    fs::write(path("long.json"), vec![b' '; (1 << 20) + 1]).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let config = SeccompConfig { localhost_root: dir.path().to_owned(), ..config() };
    let profiles = Profiles::load(&config).unwrap();
    let good = Profile::parse(br#"{"defaultAction": "SCMP_ACT_LOG"}"#).unwrap();
    let absolute = path("sub/good.json").display().to_string();
    for reference in [&absolute, &format!("localhost/{absolute}"), "localhost/sub/good.json", "sub/good.json"]
    {
        for context in [
            json!({"seccomp": {"profile_type": 2, "localhost_ref": reference}}),
            json!({"seccomp_profile_path": reference}),
        ] {
            let found = profiles.filter(&asking(&context)).unwrap();
            assert_eq!(found, Filter::Profile(Cow::Owned(good.clone())), "{reference}");
        }
    }
    let at = |name: &str| path(name).display().to_string();
    for (reference, expected) in [
        (String::new(), ".localhost_ref: the path of a profile is needed".to_owned()),
        ("localhost/".to_owned(), ".localhost_ref: the path".to_owned()),
        ("../x".to_owned(), ".localhost_ref: \"../x\" is neither an absolute path nor one below".to_owned()),
        (at("none.json"), format!(": the seccomp profile {} cannot be read: No such file", at("none.json"))),
        (at("fifo"), format!(": the seccomp profile {} cannot be read: it is not a regular", at("fifo"))),
        (at("sub"), format!(": the seccomp profile {} cannot be read: it is not a regular", at("sub"))),
        (at("long.json"), format!(": the seccomp profile {} has more than 1 MiB", at("long.json"))),
        (at("bad.json"), format!(": {} is not a seccomp profile: EOF while parsing", at("bad.json"))),
    ] {
        let context = json!({"seccomp": {"profile_type": 2, "localhost_ref": reference}});
        let error = profiles.filter(&asking(&context)).unwrap_err().to_string();
        assert!(error.starts_with(&format!("linux.security_context.seccomp{expected}")), "{error}");
    }
}

#[test]
fn the_nodes_own_default_is_read_once_and_must_be_there() {
    let dir = tempfile::tempdir().unwrap();
    let profile: PathBuf = dir.path().join("default.json");
    fs::write(&profile, r#"{"defaultAction": "SCMP_ACT_LOG"}"#).unwrap();
    let config = SeccompConfig { profile: profile.clone(), ..config() };
    let profiles = Profiles::load(&config).unwrap();
    fs::remove_file(&profile).unwrap();
    let found = profiles.filter(&asking(&json!({"seccomp": {"profile_type": 0}}))).unwrap();
    assert!(matches!(found, Filter::Profile(_)), "{found:?}");
    let error = Profiles::load(&config).unwrap_err().to_string();
    assert_eq!(error, format!("the seccomp profile {} cannot be read", profile.display()));
}
