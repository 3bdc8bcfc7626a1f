//! Files in directories, and what a container gets of them.

use std::fs;

use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::*;
use crate::spec::adjust::HookStage;

const FULL: &str = r#"
cdiVersion: 1.0.0
kind: test.io/gpu
containerEdits:
  env: ["SHARED=1"]
  additionalGids: [0, 44]
devices:
- name: "0"
  containerEdits:
    env: ["GPU=0"]
    deviceNodes:
    - {path: /dev/my-null, hostPath: /dev/null, permissions: r, fileMode: 0640, gid: 7}
    - {path: /dev/made, type: c, major: 10, minor: 200, permissions: none}
    mounts:
    - {hostPath: /usr/lib, containerPath: /a/b/lib, options: [ro, bind]}
    - {hostPath: none, containerPath: /x, type: tmpfs}
    hooks:
    - {hookName: createContainer, path: /bin/true, args: ["true"], timeout: 3}
    intelRdt: {closID: gold}
- name: all
  containerEdits: {env: ["GPU=all"]}
"#;

fn names(names: &[&str]) -> Vec<DeviceName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// Directories with files, as (directory, file, text).
fn tree(files: &[(&str, &str, String)]) -> (tempfile::TempDir, Vec<PathBuf>) {
    let root = tempfile::tempdir().unwrap();
    let mut directories = Vec::new();
    for (directory, file, text) in files {
        let directory = root.path().join(directory);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(file), text).unwrap();
        if !directories.contains(&directory) {
            directories.push(directory);
        }
    }
    (root, directories)
}

fn one(value: &str) -> String {
    json!({
        "cdiVersion": "0.5.0", "kind": "test.io/gpu",
        "devices": [{"name": "0", "containerEdits": {"env": [format!("FROM={value}")]}}],
    })
    .to_string()
}

fn env(directories: &[PathBuf], asked: &[&str]) -> Vec<(String, String)> {
    edits(directories, &names(asked)).unwrap().env
}

#[test]
fn a_document_gets_all_that_a_file_asks_for() {
    let (_root, directories) = tree(&[("a", "gpu.yaml", FULL.replace("hostPath: none", "hostPath: /none"))]);
    let mut spec: Spec = serde_json::from_value(json!({
        "ociVersion": "1.0.2",
        "process": {"cwd": "/", "user": {"uid": 33, "gid": 0, "additionalGids": [5]}, "env": ["GPU=none", "A=1"]},
        "mounts": [{"destination": "/a"}, {"destination": "/x"}, {"destination": "/a/b/lib/c"}],
        "linux": {
            "devices": [{"path": "/dev/my-null", "type": "c", "major": 9, "minor": 9}],
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
        },
    }))
    .unwrap();
    let asked = names(&["test.io/gpu=0", "test.io/gpu=0"]);
    edits(&directories, &asked).unwrap().apply(&mut spec);
    let found = serde_json::to_value(&spec).unwrap();
    assert_eq!(found["process"]["env"], json!(["GPU=0", "A=1", "SHARED=1"]));
    assert_eq!(found["process"]["user"], json!({"uid": 33, "gid": 0, "additionalGids": [5, 44]}));
    let devices = json!([
        {"path": "/dev/my-null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 33, "gid": 7},
        {"path": "/dev/made", "type": "c", "major": 10, "minor": 200, "uid": 33},
    ]);
    assert_eq!(found["linux"]["devices"], devices);
    let rules = json!([
        {"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "r"},
    ]);
    assert_eq!(found["linux"]["resources"]["devices"], rules);
    let mounts = json!([
        {"destination": "/a"},
        {"destination": "/x", "type": "tmpfs", "source": "/none", "options": []},
        {"destination": "/a/b/lib", "type": "bind", "source": "/usr/lib", "options": ["ro", "bind"]},
        {"destination": "/a/b/lib/c"},
    ]);
    assert_eq!(found["mounts"], mounts);
    let hook = json!([{"path": "/bin/true", "args": ["true"], "timeout": 3}]);
    assert_eq!(found["hooks"], json!({"createContainer": hook}));
    assert_eq!(found["linux"]["intelRdt"], json!({"closID": "gold"}));
}

#[test]
fn the_edits_of_a_file_come_once_and_before_those_of_its_devices() {
    let (_root, directories) = tree(&[("a", "gpu.yaml", FULL.replace("hostPath: none", "hostPath: /none"))]);
    let found = env(&directories, &["test.io/gpu=all", "test.io/gpu=0"]);
    let found: Vec<_> = found.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(found, ["SHARED=1", "GPU=all", "GPU=0"]);
}

#[test]
fn the_later_directory_wins_and_two_files_of_one_are_a_conflict() {
    let files = [("a", "x.json", one("a")), ("b", "x.json", one("b"))];
    let (_root, directories) = tree(&files);
    assert_eq!(env(&directories, &["test.io/gpu=0"]), [("FROM".to_owned(), "b".to_owned())]);
    let (_root, directories) = tree(&[&files[..], &[("b", "y.yaml", one("y"))]].concat());
    let error = edits(&directories, &names(&["test.io/gpu=0"])).unwrap_err().to_string();
    assert!(error.starts_with("device test.io/gpu=0 is described more than once, in "), "{error}");
    assert!(error.contains("b/x.json and ") && error.contains("b/y.yaml"), "{error}");
}

#[test]
fn a_broken_file_hinders_no_other_and_is_named_to_who_looks_for_a_device_in_vain() {
    let (_root, mut directories) = tree(&[
        ("a", "bad.json", "{".to_owned()),
        ("a", "good.json", one("a")),
        ("a", "note.txt", "?".to_owned()),
    ]);
    directories.insert(0, "/no/such/directory".into());
    assert_eq!(env(&directories, &["test.io/gpu=0"]).len(), 1);
    let error = edits(&directories, &names(&["test.io/gpu=7"])).unwrap_err().to_string();
    assert!(error.starts_with("no device test.io/gpu=7 is described in /no/such/directory and "), "{error}");
    assert!(error.contains("passed over: ") && error.contains("bad.json: EOF while parsing"), "{error}");
}

#[test]
fn a_node_that_the_host_lacks_is_named_with_its_file() {
    let text = json!({
        "cdiVersion": "0.5.0", "kind": "test.io/gpu", "devices": [
            {"name": "gone", "containerEdits": {"deviceNodes": [{"path": "/dev/no-such"}]}},
            {"name": "block", "containerEdits": {"deviceNodes": [{"path": "/dev/null", "type": "b"}]}},
            {"name": "file", "containerEdits": {"deviceNodes": [{"path": "/etc/passwd"}]}},
        ],
    });
    let (_root, directories) = tree(&[("a", "x.json", text.to_string())]);
    for (device, words) in [
        ("gone", "/dev/no-such on the host cannot be looked at: No such file"),
        ("block", "/dev/null on the host is not of type b"),
        ("file", "/etc/passwd on the host is not a device"),
    ] {
        let error = edits(&directories, &names(&[&format!("test.io/gpu={device}")])).unwrap_err();
        assert!(error.to_string().ends_with("a/x.json describes it"), "{error}");
        let causes = anyhow::Error::from(error);
        assert!(format!("{causes:#}").contains(words), "{causes:#}");
    }
}

#[test]
fn what_a_file_must_not_say_is_named_by_its_place() {
    let edits = |edits: Value| json!({"devices": [{"name": "0", "containerEdits": edits}]});
    let cases = [
        (json!({"kind": "gpu"}), "kind: \"gpu\": there is no '/'"),
        (json!({"cdiVersion": "2.0.0"}), "cdiVersion: \"2.0.0\" is not one of 0.3.0"),
        (json!({"devices": []}), "devices: there is none"),
        (json!({"colour": "red"}), "unknown field `colour`"),
        (edits(json!({})), "devices[0].containerEdits: there is none"),
        (edits(json!({"env": ["A"]})), "devices[0].containerEdits.env: \"A\" is not NAME=value"),
        (
            edits(json!({"deviceNodes": [{"path": "x"}]})),
            "devices[0].containerEdits.deviceNodes[0].path: \"x\"",
        ),
        (
            edits(json!({"deviceNodes": [{"path": "/x", "permissions": "rx"}]})),
            "devices[0].containerEdits.deviceNodes[0].permissions: \"rx\"",
        ),
        (
            edits(json!({"hooks": [{"hookName": "never", "path": "/x"}]})),
            "devices[0].containerEdits.hooks[0].hookName",
        ),
        (edits(json!({"mounts": [{"hostPath": "/x"}]})), "devices[0].containerEdits.mounts[0].containerPath"),
        (edits(json!({"intelRdt": {"closID": ".."}})), "devices[0].containerEdits.intelRdt.closID"),
        (edits(json!({"netDevices": []})), "unknown field `netDevices`"),
    ];
    for (change, words) in cases {
        let mut document = json!({"cdiVersion": "1.1.0", "kind": "a.io/b"});
        document["devices"] = json!([{"name": "0", "containerEdits": {"env": ["A=1"]}}]);
        document.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let error = parse(document.to_string().as_bytes(), Form::Json).unwrap_err().to_string();
        assert!(error.starts_with(words), "{error:?} does not begin with {words:?}");
    }
}

#[test]
fn a_version_must_know_what_its_file_uses() {
    let with = |version: &str, edits: Value| {
        let devices = json!([{"name": "x", "containerEdits": edits}]);
        let document = json!({"cdiVersion": version, "kind": "a.io/b", "devices": devices});
        parse(document.to_string().as_bytes(), Form::Json).map(drop).map_err(|error| error.to_string())
    };
    let host_path = json!({"deviceNodes": [{"path": "/dev/a", "hostPath": "/dev/b"}]});
    assert_eq!(with("0.5.0", host_path.clone()), Ok(()));
    let why = "cdiVersion: \"0.4.0\" is too low for what the file uses, which needs 0.5.0";
    assert_eq!(with("0.4.0", host_path), Err(why.to_owned()));
    assert!(with("0.6.0", json!({"additionalGids": [1]})).is_err());
    assert!(with("v0.3.0", json!({"env": ["A=1"]})).is_ok());
}

#[test]
fn annotations_name_devices_by_their_prefix() {
    let of = |pairs: &[(&str, &str)]| {
        let map: std::collections::BTreeMap<String, String> =
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        annotated(&map)
    };
    let found = of(&[("cdi.k8s.io/b", "a/b=1,a/b=2"), ("cdi.k8s.io/a", "a/b=0"), ("other", "x")]).unwrap();
    assert_eq!(found, names(&["a/b=0", "a/b=1", "a/b=2"]));
    let (key, error) = of(&[("cdi.k8s.io/x", "gpu0")]).unwrap_err();
    assert_eq!(key, "cdi.k8s.io/x");
    assert!(error.to_string().contains("\"gpu0\""));
}

#[test]
fn hook_stages_have_the_names_of_the_runtime_specification() {
    for stage in HookStage::ALL {
        assert_eq!(HookStage::of(stage.name()), Some(stage));
    }
    assert_eq!(HookStage::of("poststop"), Some(HookStage::Poststop));
}
