//! One rule each.

use super::*;
use crate::apparmor::DefaultProfile;

fn at(document: &Value, pointer: &str) -> Value {
    document.pointer(pointer).cloned().unwrap_or(Value::Null)
}

fn names(document: &Value, pointer: &str, key: &str) -> Vec<String> {
    let list = at(document, pointer);
    list.as_array().into_iter().flatten().filter_map(|item| item[key].as_str().map(str::to_owned)).collect()
}

fn with_context(context: &Value) -> Case {
    Case::new(json!({"linux": {"security_context": context}}))
}

#[test]
fn command_and_args_stand_for_entrypoint_and_cmd() {
    let run = |config: Value, image_config: Value| {
        let mut case = Case::new(config);
        case.image = image(&image_config);
        case.build().map(|spec| spec.process().clone().unwrap().args().clone().unwrap())
    };
    let both = || json!({"Entrypoint": ["e"], "Cmd": ["c"]});
    assert_eq!(run(json!({}), both()).unwrap(), ["e", "c"]);
    assert_eq!(run(json!({"command": ["x"]}), both()).unwrap(), ["x"]);
    assert_eq!(run(json!({"args": ["y"]}), both()).unwrap(), ["e", "y"]);
    assert_eq!(run(json!({"command": ["x"], "args": ["y"]}), both()).unwrap(), ["x", "y"]);
    assert_eq!(run(json!({}), json!({"Cmd": ["c", "d"]})).unwrap(), ["c", "d"]);
    assert_eq!(run(json!({}), json!({"Entrypoint": [""], "Cmd": ["c"]})).unwrap(), ["c"]);
    let error = run(json!({}), json!({})).unwrap_err().to_string();
    assert_eq!(error, "command: neither the container nor its image says what to run");
    assert!(run(json!({"command": ["a\0b"]}), json!({})).is_err());
}

#[test]
fn the_environment_is_the_images_then_the_clients_with_defaults_for_what_neither_sets() {
    let mut case = Case::new(
        json!({"envs": [{"key": "A", "value": b"2"}, {"key": "HOME", "value": b"/h"}], "tty": true}),
    );
    let env = |case: &Case| at(&case.json(), "/process/env");
    assert_eq!(env(&case), json!(["PATH=/bin", "A=2", "HOSTNAME=web-1", "HOME=/h", "TERM=xterm"]));
    case.image = image(&json!({"Cmd": ["c"]}));
    assert!(
        env(&case)
            .as_array()
            .unwrap()
            .iter()
            .any(|entry| entry.as_str().unwrap().starts_with("PATH=/usr/local/sbin"))
    );
}

#[test]
fn b26_a_line_break_in_home_is_refused() {
    let case = Case::new(json!({"envs": [{"key": "HOME", "value": b"/\nroot2:x:0:0::/:/bin/sh"}]}));
    assert_eq!(case.refusal(), "envs: HOME contains a line break");
}

#[test]
fn variables_that_no_runtime_can_take_are_named() {
    for (key, value) in [("", &b"x"[..]), ("a=b", b"x"), ("bin", b"\xff\xfe"), ("nul", b"a\0b")] {
        let error = Case::new(json!({"envs": [{"key": key, "value": value}]})).refusal();
        assert!(error.starts_with("envs") && error.contains(key), "{error}");
    }
}

#[test]
fn b24_capabilities_are_cut_to_what_the_daemon_has() {
    let mut case = with_context(&json!({"privileged": true}));
    let bounding = |case: &Case| at(&case.json(), "/process/capabilities/bounding").as_array().unwrap().len();
    assert_eq!(bounding(&case), 40, "all but CAP_SYS_RESOURCE");
    case.host.bounding = 1 << 10 | 1 << 25;
    assert_eq!(bounding(&case), 2);
    let mut plain = Case::new(json!({}));
    assert_eq!(bounding(&plain), 14);
    plain.host.bounding = 0b1;
    assert_eq!(at(&plain.json(), "/process/capabilities/effective"), json!(["CAP_CHOWN"]));
}

#[test]
fn capabilities_are_added_and_dropped_by_name_in_any_spelling() {
    let bounding = |add: &[&str], drop: &[&str]| {
        let case =
            with_context(&json!({"capabilities": {"add_capabilities": add, "drop_capabilities": drop}}));
        case.build().map(|spec| {
            let sets = spec.process().as_ref().unwrap().capabilities().clone().unwrap();
            let mut names: Vec<_> =
                sets.bounding().clone().unwrap().iter().map(ToString::to_string).collect();
            names.sort();
            names
        })
    };
    assert_eq!(bounding(&["chown", "Cap_Sys_Time"], &["ALL"]).unwrap(), ["CHOWN", "SYS_TIME"]);
    assert_eq!(bounding(&["all"], &[]).unwrap().len(), 40);
    assert_eq!(bounding(&["ALL"], &["cap_chown"]).unwrap().len(), 39);
    assert_eq!(bounding(&["CHOWN"], &["CHOWN"]).unwrap().len(), 13);
    let error = bounding(&["SYS_MAGIC"], &[]).unwrap_err().to_string();
    assert_eq!(
        error,
        "linux.security_context.capabilities.add_capabilities: \"SYS_MAGIC\" is not a capability"
    );
    let ambient = with_context(&json!({"capabilities": {"add_ambient_capabilities": ["NET_ADMIN"]}})).json();
    assert_eq!(at(&ambient, "/process/capabilities/ambient"), json!(["CAP_NET_ADMIN"]));
    assert_eq!(at(&ambient, "/process/capabilities/inheritable"), json!(["CAP_NET_ADMIN"]));
}

#[test]
fn b24_oom_score_adj_goes_no_lower_than_the_daemon_may() {
    let score = |asked: i64, floor: Option<i32>| {
        let mut case = Case::new(json!({"linux": {"resources": {"oom_score_adj": asked}}}));
        case.host.oom_score_adj_floor = floor;
        case.build().map(|spec| spec.process().as_ref().unwrap().oom_score_adj())
    };
    assert_eq!(score(-998, Some(-5)), Ok(Some(-5)));
    assert_eq!(score(-998, None), Ok(Some(-998)));
    assert_eq!(score(7, Some(-5)), Ok(Some(7)));
    assert!(score(-1001, None).is_err());
}

#[test]
fn only_a_privileged_pod_has_privileged_containers() {
    let mut case = with_context(&json!({"privileged": true}));
    case.pod.linux = None;
    assert!(case.refusal().starts_with("linux.security_context.privileged: the pod is not privileged"));
}

#[test]
fn pid_modes() {
    let namespaces = |mode: api::NamespaceMode, pid: Option<&str>| {
        let mut case = with_context(&json!({"namespace_options": {"pid": mode as i32}}));
        case.pid = pid.map(PathBuf::from);
        case.build().map(|spec| serde_json::to_value(spec.linux().as_ref().unwrap().namespaces()).unwrap())
    };
    let own = namespaces(api::NamespaceMode::Container, None).unwrap();
    assert!(own.as_array().unwrap().contains(&json!({"type": "pid"})));
    let target = namespaces(api::NamespaceMode::Target, Some("/proc/7/ns/pid")).unwrap();
    assert!(target.as_array().unwrap().contains(&json!({"type": "pid", "path": "/proc/7/ns/pid"})));
    let host = namespaces(api::NamespaceMode::Node, None).unwrap();
    assert!(!host.as_array().unwrap().iter().any(|namespace| namespace["type"] == "pid"));
    assert!(namespaces(api::NamespaceMode::Pod, None).unwrap_err().to_string().contains("for mode POD"));
}

#[test]
fn mounts_are_ordered_by_depth_and_replace_defaults() {
    let case = Case::new(json!({"mounts": [
        {"container_path": "/a/b/../b/c/", "host_path": "/h/1"}, {"container_path": "a", "host_path": "/h/2"},
        {"container_path": "/etc/hostname", "host_path": "/h/3"}, {"container_path": "/dev", "host_path": "/h/4"},
    ]}));
    let document = case.with_sources(SourcePropagation::Private).json();
    let found = names(&document, "/mounts", "destination");
    let expected =
        ["/proc", "/sys", "/a", "/dev", "/etc/resolv.conf", "/etc/hostname", "/sys/fs/cgroup", "/a/b/c"];
    assert_eq!(found, expected);
    let hostname = at(&document, "/mounts/5/source");
    assert_eq!(hostname, json!("/h/3"));
}

#[test]
fn sys_of_the_client_takes_the_place_of_all_below_it() {
    let case = Case::new(json!({"mounts": [{"container_path": "/sys", "host_path": "/sys"}]}));
    let document = case.with_sources(SourcePropagation::Private).json();
    let found = names(&document, "/mounts", "destination");
    assert!(!found.contains(&"/sys/fs/cgroup".to_owned()), "{found:?}");
}

#[test]
fn the_operators_mounts_come_over_podds_and_under_the_clients() {
    let mount = |source: &str, destination: &str, readonly| HostMount {
        source: source.into(),
        destination: destination.into(),
        readonly,
    };
    let mut case = Case::new(json!({"mounts": [{"container_path": "/secrets", "host_path": "/h"}]}))
        .with_sources(SourcePropagation::Private);
    case.hosts = Some("/etc/hosts".into());
    case.default_mounts = vec![
        mount("/op/1", "/secrets", true),
        mount("/op/2", "/etc/hosts", true),
        mount("/op/3", "/x", false),
    ];
    let document = case.json();
    let mounts = document["mounts"].as_array().unwrap();
    let of = |destination: &str| -> Vec<(&Value, &Value)> {
        let at = mounts.iter().filter(|mount| mount["destination"] == destination);
        at.map(|mount| (&mount["source"], &mount["options"][2])).collect()
    };
    assert_eq!(of("/secrets"), [(&json!("/h"), &json!("rw"))]);
    assert_eq!(of("/etc/hosts"), [(&json!("/op/2"), &json!("ro"))]);
    assert_eq!(of("/x"), [(&json!("/op/3"), &json!("rw"))]);
}

#[test]
fn b27_an_image_is_mounted_read_only_and_without_devices() {
    let case = Case::new(json!({"mounts": [
        {"container_path": "/model", "image": {"image": "x"}, "readonly": true, "image_sub_path": "a"},
    ]}))
    .with_sources(SourcePropagation::Private);
    let document = case.json();
    let mount = document["mounts"].as_array().unwrap().iter().find(|mount| mount["destination"] == "/model");
    let options = json!(["rbind", "rprivate", "ro", "nosuid", "nodev"]);
    assert_eq!(mount.unwrap()["options"], options);
}

#[test]
fn the_umask_is_that_of_an_allowed_annotation() {
    let of = |text: &str| {
        let mut case = Case::new(json!({}));
        case.annotations.insert("io.kubernetes.cri-o.umask".to_owned(), text.to_owned());
        case
    };
    assert_eq!(at(&of("0027").json(), "/process/user/umask"), json!(0o027));
    assert_eq!(at(&Case::new(json!({})).json(), "/process/user/umask"), Value::Null);
    for wrong in ["", "8", "+7", "1777", "u=rwx"] {
        let error = of(wrong).refusal();
        assert!(error.starts_with("annotations[\"io.kubernetes.cri-o.umask\"]: "), "{error}");
    }
}

#[test]
fn propagation_needs_a_mount_that_propagates() {
    let spec = |propagation: i32, source: SourcePropagation| {
        let mount = json!({"container_path": "/v", "host_path": "/h", "propagation": propagation});
        let case = Case::new(json!({"mounts": [mount]})).with_sources(source);
        case.build().map(|spec| spec.linux().as_ref().unwrap().rootfs_propagation().clone())
    };
    assert_eq!(spec(0, SourcePropagation::Private), Ok(None));
    assert_eq!(spec(1, SourcePropagation::Slave), Ok(Some("rslave".into())));
    assert_eq!(spec(2, SourcePropagation::Shared), Ok(Some("rshared".into())));
    assert!(
        spec(1, SourcePropagation::Private).unwrap_err().to_string().contains("private mount of the host")
    );
    assert!(spec(2, SourcePropagation::Slave).unwrap_err().to_string().contains("mount --make-rshared"));
}

#[test]
fn b27_recursive_read_only_needs_readonly_and_private() {
    for (readonly, propagation) in [(false, 0), (true, 1), (true, 2)] {
        let mount = json!({
            "container_path": "/v", "host_path": "/h", "recursive_read_only": true,
            "readonly": readonly, "propagation": propagation,
        });
        let error = Case::new(json!({"mounts": [mount]})).with_sources(SourcePropagation::Shared).refusal();
        assert!(error.starts_with("mounts[0] (\"/v\").recursive_read_only: it needs"), "{error}");
    }
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    let volume = |extra: Value| {
        let mut mount = json!({"container_path": "/v", "host_path": "/h"});
        mount.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({"mounts": [mount]})
    };
    let context = |context: Value| json!({"linux": {"security_context": context}});
    let cases = [
        (volume(json!({"image": {"image": "x"}})), "mounts[0] (\"/v\").readonly"),
        (
            volume(json!({"image": {"image": "x"}, "readonly": true, "propagation": 1})),
            "mounts[0] (\"/v\").propagation",
        ),
        (volume(json!({"uid_mappings": [{"length": 1}]})), "mounts[0] (\"/v\").gidMappings"),
        (volume(json!({"gid_mappings": [{"length": 1}]})), "mounts[0] (\"/v\").uidMappings"),
        (volume(json!({"container_path": "/x/.."})), "mounts[0] (\"/x/..\").container_path"),
        (volume(json!({"host_path": ""})), "mounts[0] (\"/v\").host_path"),
        (
            context(json!({"namespace_options": {"userns_options": {"mode": 0}}})),
            "linux.security_context.namespace_options",
        ),
        (context(json!({"seccomp": {"profile_type": 2}})), "linux.security_context.seccomp"),
        (context(json!({"seccomp_profile_path": "localhost/x"})), "linux.security_context.seccomp"),
        (
            context(json!({"apparmor": {"profile_type": 2, "localhost_ref": "x"}})),
            "linux.security_context.apparmor",
        ),
        (json!({"linux": {"resources": {"cpu_shares": -1}}}), "linux.resources.cpu_shares"),
        (json!({"linux": {"resources": {"unified": {"../x.y": "1"}}}}), "linux.resources.unified"),
        (
            json!({"linux": {"resources": {"memory_limit_in_bytes": 2, "memory_swap_limit_in_bytes": 1}}}),
            "linux.resources.memory_swap_limit_in_bytes",
        ),
        (
            json!({"linux": {"resources": {"hugepage_limits": [{"page_size": "1GB", "limit": 1}]}}}),
            "linux.resources.hugepage_limits",
        ),
    ];
    for (config, field) in cases {
        let error = Case::new(config).with_sources(SourcePropagation::Private).refusal();
        assert!(error.starts_with(field), "{error:?} does not name {field}");
    }
}

#[test]
fn profiles_follow_what_the_host_has() {
    let mut case = with_context(&json!({
        "apparmor": {"profile_type": 2, "localhost_ref": "localhost/mine"},
    }));
    case.host.apparmor = apparmor(DefaultProfile::Unconfined);
    let document = case.json();
    assert_eq!(at(&document, "/process/apparmorProfile"), json!("mine"));
    assert_eq!(at(&document, "/process/selinuxLabel"), Value::Null, "SELinux is off");
    let (process, mount) = ("u:r:my_t:s0:c1,c2", "u:object_r:my_file_t:s0:c1,c2");
    case.labels = Labels { process: Some(process.into()), mount: Some(mount.into()), relabel: true };
    let document = case.json();
    assert_eq!(at(&document, "/process/selinuxLabel"), json!(process));
    assert_eq!(at(&document, "/linux/mountLabel"), json!(mount));
}

fn apparmor(default: DefaultProfile) -> AppArmorFacts {
    AppArmorFacts::Enabled { default, loaded: ["mine".to_owned()].into() }
}

#[test]
fn the_default_apparmor_profile_is_for_who_asks_for_it_and_for_who_asks_for_nothing() {
    let loaded = || DefaultProfile::Loaded("podd-default".into());
    let failed = || DefaultProfile::Failed("no parser".into());
    let missing = || DefaultProfile::Missing("ours".into());
    let profile = |context: Value, default: DefaultProfile| {
        let mut case = with_context(&context);
        case.host.apparmor = apparmor(default);
        at(&case.json(), "/process/apparmorProfile")
    };
    let default = || json!({"apparmor": {"profile_type": 0}});
    for asked in [json!({}), default(), json!({"apparmor_profile": "runtime/default"})] {
        assert_eq!(profile(asked.clone(), loaded()), json!("podd-default"), "{asked}");
        assert_eq!(profile(asked, DefaultProfile::Unconfined), Value::Null);
    }
    assert_eq!(profile(json!({"apparmor_profile": "localhost/mine"}), loaded()), json!("mine"));
    for asked in [json!({"apparmor": {"profile_type": 1}}), json!({"apparmor_profile": "unconfined"})] {
        assert_eq!(profile(asked.clone(), loaded()), Value::Null, "{asked}");
    }
    assert_eq!(profile(json!({}), failed()), Value::Null, "as on a node without AppArmor");
    let refusal = |context: Value, default: DefaultProfile| {
        let mut case = with_context(&context);
        case.host.apparmor = apparmor(default);
        case.refusal()
    };
    let field = "linux.security_context.apparmor";
    for (context, default, wanted) in [
        (default(), failed(), "no parser"),
        (default(), missing(), "\"ours\""),
        (json!({}), missing(), "\"ours\""),
        (json!({"apparmor": {"profile_type": 2, "localhost_ref": "x"}}), loaded(), "\"x\" is not loaded"),
    ] {
        let text = refusal(context, default);
        assert!(text.starts_with(field) && text.contains(wanted), "{text:?}");
    }
}

#[test]
fn b25_seccomp_is_off_unless_asked_for_and_follows_the_capabilities() {
    assert_eq!(at(&Case::new(json!({})).json(), "/linux/seccomp"), Value::Null);
    let profile = |add: &[&str]| {
        let context = json!({"seccomp": {"profile_type": 0}, "capabilities": {"add_capabilities": add}});
        at(&with_context(&context).json(), "/linux/seccomp")
    };
    let plain = profile(&[]);
    assert_eq!(plain["defaultAction"], "SCMP_ACT_ERRNO");
    let allowed = plain["syscalls"][0]["names"].as_array().unwrap().clone();
    assert!(
        allowed.contains(&json!("openat"))
            && !allowed.contains(&json!("mount"))
            && !allowed.contains(&json!("clone"))
    );
    let of = |profile: &Value, name: &str| {
        let rules = profile["syscalls"].as_array().unwrap().clone();
        rules.into_iter().filter(|rule| rule["names"] == json!([name])).collect::<Vec<_>>()
    };
    assert_eq!(of(&plain, "clone3")[0]["errnoRet"], 38);
    assert_eq!(of(&plain, "clone")[0]["args"][0]["op"], "SCMP_CMP_MASKED_EQ");
    assert_eq!(plain["defaultErrnoRet"], 38);
    let refused = plain["syscalls"][1]["names"].as_array().unwrap().clone();
    assert_eq!(plain["syscalls"][1]["errnoRet"], 1);
    assert!(refused.contains(&json!("mount")) && !refused.contains(&json!("clone")), "{refused:?}");
    assert!(profile(&["BPF"])["syscalls"][0]["names"].as_array().unwrap().contains(&json!("bpf")));
    assert!(!profile(&["BPF"])["syscalls"][1]["names"].as_array().unwrap().contains(&json!("bpf")));
    let admin = profile(&["SYS_ADMIN"]);
    assert!(admin["syscalls"][0]["names"].as_array().unwrap().contains(&json!("mount")));
    assert!(of(&admin, "clone3").is_empty());
    let privileged = with_context(&json!({"privileged": true, "seccomp": {"profile_type": 0}})).json();
    assert_eq!(at(&privileged, "/linux/seccomp"), Value::Null);
}

#[test]
fn devices_are_made_and_allowed() {
    let mut case = Case::new(json!({}));
    let fuse = HostDevice {
        path: "/dev/fuse".into(),
        kind: LinuxDeviceType::C,
        major: 10,
        minor: 229,
        mode: 0o666,
        uid: 0,
        gid: 0,
        permissions: "rw".into(),
    };
    case.devices = vec![fuse];
    let document = case.json();
    assert_eq!(names(&document, "/linux/devices", "path"), ["/dev/fuse"]);
    let rules = at(&document, "/linux/resources/devices");
    let expected = json!([
        {"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
    ]);
    assert_eq!(rules, expected);
}

#[test]
fn swap_is_off_where_there_is_a_memory_limit_and_it_can_be() {
    let memory = |swap_limit: bool, swap: i64| {
        let resources = json!({"memory_limit_in_bytes": 100, "memory_swap_limit_in_bytes": swap});
        let mut case = Case::new(json!({"linux": {"resources": resources}}));
        case.host.swap_limit = swap_limit;
        at(&case.json(), "/linux/resources/memory")
    };
    assert_eq!(memory(true, 0), json!({"limit": 100, "swap": 100}));
    assert_eq!(memory(false, 0), json!({"limit": 100}));
    assert_eq!(memory(true, 150), json!({"limit": 100, "swap": 150}));
    assert_eq!(memory(true, -1), json!({"limit": 100, "swap": -1}));
    assert_eq!(memory(false, -1), json!({"limit": 100}));
}

#[test]
fn an_exec_runs_as_the_container_does() {
    let mut case = with_context(&json!({"no_new_privs": true}));
    case.labels.process = Some("u:r:t:s0".to_owned());
    let spec = case.build().unwrap();
    let first = spec.process().clone().unwrap();
    let exec = exec_process(&first, &["ls".into(), "-l".into()], true);
    assert_eq!(exec.args().clone().unwrap(), ["ls", "-l"]);
    assert_eq!(exec.terminal(), Some(true));
    assert!(exec.env().as_ref().unwrap().contains(&"TERM=xterm".to_owned()));
    assert_eq!(
        (exec.user(), exec.cwd(), exec.capabilities()),
        (first.user(), first.cwd(), first.capabilities())
    );
    assert_eq!(exec.no_new_privileges(), Some(true));
    assert_eq!(exec.selinux_label().as_deref(), Some("u:r:t:s0"));
}
