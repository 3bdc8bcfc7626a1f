//! The operator's defaults and a handler's own document, below what the client and the image say.

use std::fs;

use super::*;
use crate::config::ContainersConfig;
use crate::spec::base::Base;

fn base(containers: &ContainersConfig, document: &Value) -> (Base, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("base.json");
    fs::write(&path, document.to_string()).unwrap();
    Base::new(containers, "crun", &path).unwrap()
}

#[test]
fn a_handlers_document_fills_in_what_nobody_else_says() {
    let containers = ContainersConfig {
        env: vec!["FROM=config".parse().unwrap(), "A=config".parse().unwrap()],
        ulimits: vec!["nofile=100:200".parse().unwrap()],
        hooks_dirs: Vec::new(),
    };
    let document = json!({
        "ociVersion": "1.0.2",
        "hostname": "not-taken",
        "root": {"path": "rootfs"},
        "annotations": {"base": "1", "io.kubernetes.cri.sandbox-name": "not taken"},
        "process": {
            "cwd": "/", "user": {"uid": 0, "gid": 0}, "args": ["sh"], "oomScoreAdj": 7,
            "env": ["FROM=base", "BASE=1", "PATH=/base"],
            "rlimits": [
                {"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            ],
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/extra", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]},
        ],
        "hooks": {"createRuntime": [{"path": "/bin/true"}]},
        "linux": {
            "sysctl": {"net.core.somaxconn": "77"},
            "resources": {"devices": [{"allow": true}], "pids": {"limit": 99}, "cpu": {"shares": 5, "period": 1000}},
            "seccomp": {"defaultAction": "SCMP_ACT_KILL"},
        },
    });
    let (base, left) = base(&containers, &document);
    let mut untaken = left;
    untaken.sort();
    let expected = ["hostname", "linux.seccomp", "process.args", "process.cwd", "process.user", "root"];
    assert_eq!(untaken, expected);
    let mut case = Case::new(json!({"linux": {"resources": {"cpu_shares": 512, "oom_score_adj": 300}}}));
    case.base = base;
    let mut found = case.json();
    assert_eq!(found.pointer("/linux/seccomp"), None);
    found["process"].as_object_mut().unwrap().remove("capabilities");
    golden("base.json", &found);
}

#[test]
fn the_operators_variables_come_before_the_images() {
    let containers =
        ContainersConfig { env: vec!["A=0".parse().unwrap(), "B=0".parse().unwrap()], ..Default::default() };
    let (base, _) = Base::new(&containers, "crun", Path::new("")).unwrap();
    let mut case = Case::new(json!({}));
    case.base = base;
    let document = case.json();
    assert_eq!(
        document["process"]["env"],
        json!(["A=1", "B=0", "PATH=/bin", "HOSTNAME=web-1", "HOME=/var/www"])
    );
}

#[test]
fn a_document_that_cannot_be_used_is_named_with_its_handler() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("base.json");
    let refused = |text: &str| {
        fs::write(&path, text).unwrap();
        let error = Base::new(&ContainersConfig::default(), "kata", &path).unwrap_err();
        format!("{:#}", anyhow::Error::from(error))
    };
    let front = format!("cannot use {}, the value of runtimes.kata.base_spec: ", path.display());
    assert!(refused("{").starts_with(&format!("{front}EOF while parsing")));
    let env = r#"{"process": {"cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["A"]}}"#;
    assert_eq!(refused(env), format!("{front}process.env: \"A\" is not NAME=value"));
    let mounts = r#"{"mounts": [{"destination": "x"}]}"#;
    assert_eq!(refused(mounts), format!("{front}mounts: \"x\" is not an absolute path"));
    assert!(refused(r#"{"process": {"rlimits": 1}}"#).contains("invalid type"));
}

#[test]
fn what_a_privileged_container_gets_of_the_hosts_devices_is_the_handlers_to_say() {
    let mut case = Case::new(json!({"linux": {"security_context": {"privileged": true}}}));
    let found = |case: &Case| {
        let document = case.json();
        let nodes = document.pointer("/linux/devices").and_then(Value::as_array).map_or(0, Vec::len);
        (nodes, document["linux"]["resources"]["devices"][0]["allow"].clone())
    };
    assert_eq!(found(&case), (1, json!(true)));
    case.privileged_devices = PrivilegedDevices::Allowed;
    assert_eq!(found(&case), (0, json!(true)));
    case.privileged_devices = PrivilegedDevices::Asked;
    assert_eq!(found(&case), (0, json!(false)));
}
