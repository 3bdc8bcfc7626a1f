//! Limits, the writable cgroup, and what a document says to systemd.

use super::*;

fn at(case: &Case, pointer: &str) -> Value {
    case.json().pointer(pointer).cloned().unwrap_or(Value::Null)
}

fn with_resources(resources: &Value) -> Case {
    Case::new(json!({"linux": {"resources": resources}}))
}

#[test]
fn a_value_that_the_kernel_would_refuse_or_bend_names_its_field() {
    for (resources, field) in [
        (json!({"cpu_shares": 1}), "cpu_shares: 1 is not between 2 and 262144"),
        (json!({"cpu_shares": 262_145}), "cpu_shares: "),
        (json!({"cpu_period": 999}), "cpu_period: "),
        (json!({"cpu_period": 1_000_001}), "cpu_period: "),
        (json!({"cpu_quota": 999}), "cpu_quota: 999 is neither -1"),
        (json!({"cpu_quota": -2}), "cpu_quota: "),
        (json!({"cpuset_cpus": "0-"}), "cpuset_cpus: \"0-\" is not a list"),
        (json!({"cpuset_cpus": "2-1"}), "cpuset_cpus: "),
        (json!({"cpuset_mems": "+1"}), "cpuset_mems: "),
        (json!({"memory_limit_in_bytes": -2}), "memory_limit_in_bytes: "),
        (json!({"memory_swap_limit_in_bytes": -2}), "memory_swap_limit_in_bytes: "),
        (json!({"memory_swap_limit_in_bytes": 5}), "memory_swap_limit_in_bytes: 5 includes"),
        (json!({"oom_score_adj": 1001}), "oom_score_adj: "),
        (json!({"unified": {"cgroup.kill": "1"}}), "unified: \"cgroup.kill\" is not a setting"),
    ] {
        let error = with_resources(&resources).refusal();
        assert!(error.starts_with(&format!("linux.resources.{field}")), "{error}");
    }
    let mut case = with_resources(&json!({"memory_limit_in_bytes": 5, "memory_swap_limit_in_bytes": 6}));
    case.host.swap_limit = false;
    assert!(case.refusal().starts_with("linux.resources.memory_swap_limit_in_bytes is not supported here"));
}

#[test]
fn the_message_that_holds_resources_is_named() {
    let asked = api::LinuxContainerResources { cpu_quota: -9, ..Default::default() };
    let error = linux_resources(&asked, &host(), "overhead").unwrap_err().to_string();
    assert!(error.starts_with("overhead.cpu_quota: "), "{error}");
}

#[test]
fn good_limits_pass_and_no_quota_is_left_out_of_a_new_cgroup() {
    let case = with_resources(&json!({
        "cpu_shares": 2, "cpu_quota": -1, "cpu_period": 1000, "cpuset_cpus": "0-3,5", "cpuset_mems": "0",
        "memory_limit_in_bytes": -1,
    }));
    assert_eq!(
        at(&case, "/linux/resources/cpu"),
        json!({"shares": 2, "period": 1000, "cpus": "0-3,5", "mems": "0"})
    );
    assert_eq!(at(&case, "/linux/resources/memory"), json!({"limit": -1, "swap": -1}));
}

#[test]
fn the_nodes_limit_of_processes_is_in_every_document_and_none_is_no_limit() {
    let mut case = Case::new(json!({}));
    assert_eq!(at(&case, "/linux/resources/pids"), Value::Null);
    case.pids_limit = 99;
    assert_eq!(at(&case, "/linux/resources/pids"), json!({"limit": 99}));
}

#[test]
fn systemd_is_asked_for_the_scope_itself() {
    const SUBGROUP: &str = "/annotations/run.oci.systemd.subgroup";
    let mut case = Case::new(json!({}));
    assert_eq!(at(&case, SUBGROUP), Value::Null);
    case.cgroups_path = "kubepods-pod1.slice:podd:c1";
    assert_eq!(at(&case, SUBGROUP), json!(""));
    assert_eq!(at(&case, "/linux/cgroupsPath"), json!("kubepods-pod1.slice:podd:c1"));
}

#[test]
fn a_cgroup_is_writable_where_the_annotation_is_heard_and_cannot_do_harm() {
    let access = |case: &Case| {
        case.build().map(|spec| {
            let mounts = spec.mounts().clone().unwrap();
            let cgroup = mounts.iter().find(|mount| mount.destination() == "/sys/fs/cgroup").unwrap();
            cgroup.options().as_ref().unwrap().last().unwrap().clone()
        })
    };
    for name in ["io.kubernetes.cri-o.cgroup2-mount-hierarchy-rw", "cgroup2-mount-hierarchy-rw.crio.io"] {
        let mut case = Case::new(json!({}));
        assert_eq!(access(&case).as_deref(), Ok("ro"));
        case.annotations.insert(name.to_owned(), "false".to_owned());
        assert_eq!(access(&case).as_deref(), Ok("ro"));
        case.annotations.insert(name.to_owned(), "true".to_owned());
        assert_eq!(access(&case).as_deref(), Ok("rw"));
        case.host.nsdelegate = false;
        let error = access(&case).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("annotations[{name:?}]")) && error.contains("nsdelegate"),
            "{error}"
        );
        case.host.cgroup = CgroupMode::V1;
        let error = access(&case).unwrap_err().to_string();
        assert!(error.contains("cgroup v2"), "{error}");
        case.annotations.insert(name.to_owned(), "yes".to_owned());
        assert!(access(&case).unwrap_err().to_string().contains("neither \"true\" nor \"false\""));
    }
    let mut privileged = Case::new(json!({"linux": {"security_context": {"privileged": true}}}));
    privileged.annotations.insert("cgroup2-mount-hierarchy-rw.crio.io".to_owned(), "true".to_owned());
    privileged.host.nsdelegate = false;
    assert_eq!(access(&privileged).as_deref(), Ok("rw"), "it has the host's whole tree anyway");
}

#[test]
fn a_privileged_container_gets_the_hosts_own_mount_of_cgroup_v2() {
    let kind = |case: &Case| {
        let mounts = case.build().unwrap().mounts().clone().unwrap();
        mounts.iter().find(|mount| mount.destination() == "/sys/fs/cgroup").unwrap().typ().clone().unwrap()
    };
    let mut case = Case::new(json!({"linux": {"security_context": {"privileged": true}}}));
    assert_eq!(kind(&case), "bind", "a mount from the host's namespace changes the options of all");
    case.host.cgroup = CgroupMode::V1;
    assert_eq!(kind(&case), "cgroup");
    assert_eq!(kind(&Case::new(json!({}))), "cgroup");
}

#[test]
fn a_pause_container_is_in_a_scope_too() {
    let host = host();
    let document = |cgroups_path| {
        let spec = pause::build(&pause::PauseInput {
            rootfs: Path::new("/r"),
            binary: Path::new("/b"),
            cgroups_path,
            namespaces: Namespaces::default(),
            host: &host,
            ids: None,
            label: None,
        });
        serde_json::to_value(spec).unwrap()
    };
    let scope = document("a.slice:podd:1-pause");
    assert_eq!(scope["linux"]["cgroupsPath"], "a.slice:podd:1-pause");
    assert_eq!(scope["annotations"], json!({"run.oci.systemd.subgroup": ""}));
    assert_eq!(document("/a/podd-1-pause")["annotations"], Value::Null);
}
