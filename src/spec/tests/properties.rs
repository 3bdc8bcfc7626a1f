//! Whatever a client sends gives a document or an error that names the field.

use super::*;

fn mount() -> impl Strategy<Value = api::Mount> {
    (path(), path(), any::<bool>(), any::<bool>(), -1..4i32).prop_map(
        |(container_path, host_path, readonly, recursive_read_only, propagation)| api::Mount {
            container_path,
            host_path,
            readonly,
            recursive_read_only,
            propagation,
            ..api::Mount::default()
        },
    )
}

fn path() -> impl Strategy<Value = String> {
    prop_oneof![Just("/dev".to_owned()), Just("/dev/shm".to_owned()), "(/|\\.\\.|[a-c]|\\PC){0,8}"]
}

fn context() -> impl Strategy<Value = api::LinuxContainerSecurityContext> {
    let names = || proptest::collection::vec(prop_oneof!["ALL", "CAP_CHOWN", "sys_admin", ".{0,6}"], 0..3);
    let profile = || proptest::option::of((-1..4i32, ".{0,6}"));
    let to_profile = |(profile_type, localhost_ref)| api::SecurityProfile { profile_type, localhost_ref };
    (names(), names(), any::<bool>(), proptest::option::of(-1..5i32), profile(), profile()).prop_map(
        move |(add, drop, privileged, pid, seccomp, apparmor)| api::LinuxContainerSecurityContext {
            capabilities: Some(api::Capability {
                add_capabilities: add,
                drop_capabilities: drop,
                ..api::Capability::default()
            }),
            privileged,
            namespace_options: pid.map(|pid| api::NamespaceOption { pid, ..Default::default() }),
            seccomp: seccomp.map(to_profile),
            apparmor: apparmor.map(to_profile),
            ..Default::default()
        },
    )
}

fn resources() -> impl Strategy<Value = api::LinuxContainerResources> {
    // Any number, and such as are in range.
    let near = |most: i64| prop_oneof![1 => any::<i64>(), 8 => -1..most];
    let numbers = (near(1_100_000), near(100_000), near(300_000), near(1 << 20), near(1 << 20));
    (numbers, -1100..1100i64, "[0-9,-]{0,4}").prop_map(
        |((period, quota, shares, memory, swap), score, cpus)| api::LinuxContainerResources {
            cpu_period: period,
            cpu_quota: quota,
            cpu_shares: shares,
            memory_limit_in_bytes: memory,
            memory_swap_limit_in_bytes: swap,
            oom_score_adj: score,
            cpuset_cpus: cpus,
            ..Default::default()
        },
    )
}

prop_compose! {
    fn config()(
        command in proptest::collection::vec(".{0,6}", 0..3),
        args in proptest::collection::vec(".{0,6}", 0..3),
        working_dir in path(),
        envs in proptest::collection::vec(("[A-C=]{0,2}", any::<Vec<u8>>()), 0..3),
        mounts in proptest::collection::vec(mount(), 0..4),
        tty: bool,
        context in proptest::option::of(context()),
        resources in proptest::option::of(resources()),
    ) -> api::ContainerConfig {
        api::ContainerConfig {
            command,
            args,
            working_dir,
            envs: envs.into_iter().map(|(key, value)| api::KeyValue { key, value }).collect(),
            mounts,
            tty,
            linux: Some(api::LinuxContainerConfig { resources, security_context: context }),
            ..Default::default()
        }
    }
}

proptest! {
    #[test]
    fn any_request_gives_a_document_or_a_named_error(config in config(), shared: bool) {
        let source = if shared { SourcePropagation::Shared } else { SourcePropagation::Private };
        let mut case = Case::new(json!({}));
        case.config = config;
        match case.with_sources(source).build() {
            Ok(spec) => {
                let text = serde_json::to_vec(&spec).unwrap();
                let again: Spec = serde_json::from_slice(&text).unwrap();
                prop_assert_eq!(&again, &spec);
                prop_assert!(!spec.process().as_ref().unwrap().args().as_ref().unwrap()[0].is_empty());
                let depth = |mount: &oci_spec::runtime::Mount| mount.destination().components().count();
                let mounts = spec.mounts().as_ref().unwrap();
                prop_assert!(mounts.windows(2).all(|pair| depth(&pair[0]) <= depth(&pair[1])));
            }
            Err(SpecError::Invalid { field, why } | SpecError::Unsupported { field, why }) => {
                prop_assert!(!field.is_empty() && !why.is_empty());
            }
        }
    }
}
