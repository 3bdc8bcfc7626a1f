//! What holds a container in bounds, seen from inside: filters of system calls, users, privileges, kernel parameters.

use std::fs;

use podd::api;
use podd::api::security_profile::ProfileType;
use serde_json::json;
use tonic::Code;

use crate::common::probe::{Answer, Call, program};
use crate::common::requests::Pod;
use crate::common::tar::Entry;
use crate::common::{ContainerSpec, Node, PATIENCE, PodSpec, busybox, registry};

const EPERM: i32 = 1;
const ENOSYS: i32 = 38;

const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;
/// A bit that the kernel does not read of an `int`.
const UPPER: u64 = 1 << 32;

/// Programs of one call: its name, the call, and what it gives in a container with the default profile.
const PROBES: [(&str, Call, Expected); 12] = [
    ("io_uring_setup", Call(425, 425, 0), Expected::Is(EPERM)),
    ("keyctl", Call(250, 219, 0), Expected::Is(EPERM)),
    ("userfaultfd", Call(323, 282, 0), Expected::Is(EPERM)),
    ("kcmp", Call(312, 272, 0), Expected::Is(EPERM)),
    ("unshare-user", Call(272, 97, 0x1000_0000), Expected::Is(EPERM)),
    ("clone-user", Call(56, 220, 0x1000_0000), Expected::Is(EPERM)),
    ("clone3", Call(435, 435, 0), Expected::Is(ENOSYS)),
    ("no-such-call", Call(2000, 2000, 0), Expected::Is(ENOSYS)),
    ("alg", Call(41, 198, AF_ALG | UPPER), Expected::Is(EPERM)),
    ("vsock", Call(41, 198, AF_VSOCK | UPPER), Expected::Is(EPERM)),
    ("inet", Call(41, 198, 2), Expected::IsNot(EPERM)),
    ("personality", Call(135, 92, 0xFFFF_FFFF), Expected::Is(0)),
];

#[derive(Debug, Clone, Copy)]
enum Expected {
    Is(i32),
    IsNot(i32),
}

/// busybox with the probes in `/probe`.
async fn probes(node: &mut Node) -> String {
    let mut entries = vec![Entry::dir("probe", 0o755)];
    for (name, call, _) in PROBES {
        entries.push(Entry::file(&format!("probe/{name}"), 0o755, program(call, Answer::Errno)));
    }
    // geteuid(2), as root whoever runs it.
    let euid = program(Call(107, 175, 0), Answer::Value);
    entries.push(Entry::file("probe/euid", 0o4755, euid));
    let pushed = busybox().layer(&entries).push(registry::shared().await, "test/probes", "1").await;
    node.pull(&pushed.reference).await.unwrap()
}

async fn start() -> (Node, Pod, String) {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "pod").privileged()).await;
    let image = probes(&mut node).await;
    (node, pod, image)
}

fn of(image: &str, spec: ContainerSpec) -> ContainerSpec {
    spec.with(|config| config.image = Some(api::ImageSpec { image: image.to_owned(), ..Default::default() }))
}

fn seccomp(spec: ContainerSpec, kind: ProfileType, path: &str) -> ContainerSpec {
    let profile = api::SecurityProfile { profile_type: kind.into(), localhost_ref: path.to_owned() };
    spec.secured(|context| context.seccomp = Some(profile))
}

/// The exit code of a probe in a running container.
async fn probe(node: &mut Node, container: &str, name: &str) -> i32 {
    node.exec(container, &format!("/probe/{name}"), 30).await.unwrap().code
}

const MODE: &str = "sed -n 's/^Seccomp:[[:space:]]*//p' /proc/self/status /proc/1/status";

/// The default profile holds for the first process and for those that are executed later, and does not stop a shell.
#[tokio::test]
async fn b25_the_default_profile_denies_with_eperm_and_what_has_a_fallback_with_enosys() {
    let (mut node, pod, image) = start().await;
    let spec = of(&image, seccomp(ContainerSpec::waiting("c"), ProfileType::RuntimeDefault, ""));
    let id = node.run(&pod, spec).await;
    assert_eq!(node.exec_ok(&id, MODE).await, "2\n2");
    for (name, call, expected) in PROBES {
        let found = probe(&mut node, &id, name).await;
        let good = match expected {
            Expected::Is(errno) => found == errno,
            Expected::IsNot(errno) => found != errno,
        };
        assert!(good, "{name} {call:?}: {found}, expected {expected:?}");
    }
    // In the first process, too.
    for (name, code) in [("unshare-user", EPERM), ("clone3", ENOSYS)] {
        let first = ContainerSpec::script(&format!("first-{name}"), &format!("exec /probe/{name}"));
        let first = of(&image, seccomp(first, ProfileType::RuntimeDefault, ""));
        assert_eq!(node.run_to_end(&pod, first).await.0, code);
    }
    node.finish().await;
}

#[tokio::test]
async fn b25_unset_and_privileged_are_unconfined_and_a_capability_opens_what_needs_it() {
    let (mut node, pod, image) = start().await;
    let id = node.run(&pod, of(&image, ContainerSpec::waiting("unset"))).await;
    assert_eq!(node.exec_ok(&id, MODE).await, "0\n0");
    for name in ["unshare-user", "alg", "kcmp"] {
        assert_ne!(probe(&mut node, &id, name).await, EPERM, "{name} fails for another reason than a filter");
    }
    let spec = seccomp(ContainerSpec::waiting("privileged"), ProfileType::RuntimeDefault, "");
    let id = node.run(&pod, of(&image, spec).secured(|context| context.privileged = true)).await;
    assert_eq!(node.exec_ok(&id, MODE).await, "0\n0");
    let spec = seccomp(ContainerSpec::waiting("admin"), ProfileType::RuntimeDefault, "").secured(|context| {
        let add_capabilities = vec!["SYS_ADMIN".to_owned(), "SYS_PTRACE".to_owned()];
        context.capabilities = Some(api::Capability { add_capabilities, ..Default::default() });
    });
    let id = node.run(&pod, of(&image, spec)).await;
    assert_eq!(node.exec_ok(&id, MODE).await, "2\n2");
    assert_eq!(probe(&mut node, &id, "unshare-user").await, 0);
    assert_ne!(probe(&mut node, &id, "clone3").await, ENOSYS);
    assert_ne!(probe(&mut node, &id, "kcmp").await, EPERM);
    assert_eq!(probe(&mut node, &id, "io_uring_setup").await, EPERM);
    node.finish().await;
}

/// A profile of the plain format, and one with conditions.
fn write_profiles(plain: &str, mapped: &str) {
    let plain_profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat", "a_call_of_tomorrow"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
    ]});
    fs::write(plain, plain_profile.to_string()).unwrap();
    let rule = |names: &[&str], errno: i32, includes| {
        json!({
            "names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": [], "includes": includes, "excludes": {},
        })
    };
    let mapped_profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
        ],
        "syscalls": [
            rule(&["mkdir", "mkdirat"], 30, json!({"caps": ["CAP_CHOWN"]})),
            rule(&["rmdir", "unlinkat"], 30, json!({"caps": ["CAP_SYS_ADMIN"]})),
            {"names": ["sethostname"], "action": "SCMP_ACT_ALLOW"},
        ],
    });
    fs::write(mapped, mapped_profile.to_string()).unwrap();
}

#[tokio::test]
async fn b25_a_profile_of_the_kubelets_is_read_from_its_file_and_a_bad_one_named() {
    let (mut node, pod, image) = start().await;
    let path = |name: &str| node.names.dir().join(name).display().to_string();
    let (plain, mapped, bad, missing) =
        (path("plain.json"), path("mapped.json"), path("bad.json"), path("missing.json"));
    write_profiles(&plain, &mapped);
    fs::write(&bad, r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/l"}"#).unwrap();
    let localhost = |name: &str, path: &str, script: &str| {
        of(&image, seccomp(ContainerSpec::script(name, script), ProfileType::Localhost, path))
    };
    let (code, out) = node.run_to_end(&pod, localhost("plain", &plain, "mkdir /x 2>&1")).await;
    assert!(code != 0 && out.contains("No space left"), "{out}");
    let script = "mkdir /x 2>&1; rmdir /home/none 2>&1";
    let (_, out) = node.run_to_end(&pod, localhost("mapped", &mapped, script)).await;
    assert!(out.contains("Read-only file system") && out.contains("No such file"), "{out}");
    for (name, path, text) in [("bad", &bad, "listenerPath is set"), ("missing", &missing, "No such file")] {
        let refused = node.try_create(&pod, localhost(name, path, "true")).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        for part in ["config.linux.security_context.seccomp", path, text] {
            assert!(refused.message().contains(part), "{part} is not in {refused:?}");
        }
    }
    node.finish().await;
}

#[tokio::test]
async fn b25_the_node_says_what_unset_means_and_which_profile_is_the_default() {
    let dir = tempfile::tempdir().unwrap();
    let (root, default) = (dir.path().display(), dir.path().join("default.json"));
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"name": "mkdir", "action": "SCMP_ACT_ERRNO", "errno": "ENOSPC"},
        {"name": "mkdirat", "action": "SCMP_ACT_ERRNO", "errno": "ENOSPC"},
    ]});
    fs::write(&default, profile.to_string()).unwrap();
    let settings = format!(
        "seccomp.unset = \"runtime-default\"\nseccomp.profile = {default:?}\nseccomp.localhost_root = \"{root}\"\n"
    );
    let mut node = Node::start_with(&settings).await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    let (_, out) = node.run_to_end(&pod, ContainerSpec::script("unset", "mkdir /x 2>&1")).await;
    assert!(out.contains("No space left"), "{out}");
    let open = seccomp(ContainerSpec::script("open", "mkdir /x"), ProfileType::Unconfined, "");
    assert_eq!(node.run_to_end(&pod, open).await.0, 0);
    #[allow(deprecated)]
    let named = ContainerSpec::script("named", "mkdir /x 2>&1")
        .secured(|context| context.seccomp_profile_path = "localhost/default.json".to_owned());
    assert!(node.run_to_end(&pod, named).await.1.contains("No space left"));
    node.finish().await;
}

/// A daemon whose default profile is broken says so and does not begin, rather than run containers without it.
#[tokio::test]
async fn b25_a_broken_default_profile_keeps_the_daemon_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let (at, profile) = (dir.path().display(), dir.path().join("default.json"));
    fs::write(&profile, r#"{"defaultAction": "SCMP_ACT_SOME"}"#).unwrap();
    let config = dir.path().join("podd.toml");
    let text = format!(
        "root = \"{at}/root\"\nrun_dir = \"{at}/run\"\nnetwork.netns_dir = \"{at}/netns\"\n\
         images.preload_dir = \"\"\nseccomp.profile = {profile:?}\n"
    );
    fs::write(&config, text).unwrap();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_podd"));
    command.args(["serve", "--config"]).arg(&config).kill_on_drop(true);
    let ended = tokio::time::timeout(PATIENCE, command.output()).await.expect("it goes on running").unwrap();
    let said = String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success());
    for part in ["seccomp.profile", &profile.display().to_string(), "unknown variant `SCMP_ACT_SOME`"] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&at.to_string()), "it leaves mounts");
}

/// A real set-user-ID program, run by a user.
#[tokio::test]
async fn no_new_privs_keeps_a_set_user_id_program_from_its_owners_rights() {
    let (mut node, pod, image) = start().await;
    for (name, no_new_privs, euid) in [("without", false, 0), ("with", true, 100)] {
        let spec = of(&image, ContainerSpec::waiting(name)).secured(|context| {
            context.run_as_user = Some(api::Int64Value { value: 100 });
            context.no_new_privs = no_new_privs;
        });
        let id = node.run(&pod, spec).await;
        assert_eq!(probe(&mut node, &id, "euid").await, euid, "{name} no_new_privs");
    }
    node.finish().await;
}

#[tokio::test]
async fn b26_groups_are_merged_or_strict_and_the_status_says_what_holds() {
    let (mut node, pod, _) = start().await;
    let number = |value| Some(api::Int64Value { value });
    let policy = api::SupplementalGroupsPolicy::Strict.into();
    for (name, policy, groups) in [("merge", 0, vec![1000, 50_000, 7]), ("strict", policy, vec![1000, 7])] {
        let spec = ContainerSpec::waiting(name).secured(|context| {
            context.run_as_username = "tester".to_owned();
            context.supplemental_groups = vec![7];
            context.supplemental_groups_policy = policy;
        });
        let id = node.run(&pod, spec).await;
        let inside = node.exec_ok(&id, "grep -E '^(Uid|Gid|Groups):' /proc/1/status").await;
        let mut sorted = groups.clone();
        sorted.sort_unstable();
        let sorted = sorted.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let ids = "1000\t1000\t1000\t1000";
        let inside: Vec<_> = inside.lines().map(str::trim_end).collect();
        assert_eq!(inside, [format!("Uid:\t{ids}"), format!("Gid:\t{ids}"), format!("Groups:\t{sorted}")]);
        let user = node.container_status(&id).await.unwrap().user.unwrap().linux.unwrap();
        assert_eq!((user.uid, user.gid, user.supplemental_groups), (1000, 1000, groups));
    }
    let alone = ContainerSpec::waiting("alone").secured(|context| context.run_as_group = number(5));
    let refused = node.try_create(&pod, alone).await.unwrap_err();
    assert!(refused.message().contains("config.linux.security_context.run_as_group"), "{refused:?}");
    let home = ContainerSpec::waiting("home").with(|config| {
        config.envs = vec![api::KeyValue { key: "HOME".into(), value: "/\nroot2:x:0:0::/:/bin/sh".into() }];
    });
    assert!(node.try_create(&pod, home).await.unwrap_err().message().contains("HOME"));
    node.finish().await;
}

#[tokio::test]
async fn b26_the_images_user_may_be_a_name_a_number_or_either_with_a_group() {
    let (mut node, pod, _) = start().await;
    for (user, uid, gid) in [
        ("tester", 1000, 1000),
        ("1002", 1002, 0),
        ("33:1004", 33, 1004),
        ("www-data:extra", 33, 50_000),
        ("www-data", 33, 33),
    ] {
        let tag = user.replace(':', "-");
        let builder = busybox().config(&json!({ "User": user }));
        let pushed = builder.push(registry::shared().await, "test/as", &tag).await;
        let image = node.pull(&pushed.reference).await.unwrap();
        let spec = of(&image, ContainerSpec::script(&tag, "id -u; id -g"));
        assert_eq!(node.run_to_end(&pod, spec).await, (0, format!("{uid}\n{gid}\n")), "{user}");
        // The group is the image's only as long as its user is.
        let other = of(&image, ContainerSpec::script(&format!("{tag}-other"), "id -u; id -g"))
            .secured(|context| context.run_as_user = Some(api::Int64Value { value: 1000 }));
        assert_eq!(node.run_to_end(&pod, other).await, (0, "1000\n1000\n".to_owned()), "{user}");
    }
    node.finish().await;
}

#[tokio::test]
async fn capabilities_begin_with_those_of_the_configuration_and_ambient_ones_reach_a_user() {
    let mut node = Node::start_with("security.capabilities = [\"CHOWN\", \"cap_kill\"]\n").await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    let caps = |set: &str| format!("sed -n 's/^{set}:[[:space:]]*//p' /proc/self/status");
    let (chown, kill, bind) = (1u64, 1 << 5, 1 << 10);
    let hex = |set: u64| (0, format!("{set:016x}\n"));
    let plain = ContainerSpec::script("plain", &caps("CapBnd"));
    assert_eq!(node.run_to_end(&pod, plain).await, hex(chown | kill));
    let only = ContainerSpec::script("only", &caps("CapEff")).secured(|context| {
        let (add, drop) = (vec!["NET_BIND_SERVICE".to_owned()], vec!["ALL".to_owned()]);
        let asked = api::Capability { add_capabilities: add, drop_capabilities: drop, ..Default::default() };
        context.capabilities = Some(asked);
    });
    assert_eq!(node.run_to_end(&pod, only).await, hex(bind));
    let ambient = ContainerSpec::script("ambient", &caps("CapEff")).secured(|context| {
        context.run_as_user = Some(api::Int64Value { value: 1000 });
        let add_ambient_capabilities = vec!["NET_BIND_SERVICE".to_owned()];
        context.capabilities = Some(api::Capability { add_ambient_capabilities, ..Default::default() });
    });
    assert_eq!(node.run_to_end(&pod, ambient).await, hex(bind));
    node.finish().await;
}

/// As the kubelet sends it for `procMount: Unmasked` (both lists empty) and by default.
#[tokio::test]
async fn masked_and_read_only_paths_are_those_of_the_request_and_none_when_privileged() {
    let (mut node, pod, _) = start().await;
    let masked = || vec!["/proc/timer_list".to_owned(), "/proc/acpi".to_owned(), "/sys/firmware".to_owned()];
    let readonly = || vec!["/proc/sys".to_owned(), "/proc/sysrq-trigger".to_owned()];
    let script = "head -c 1 /proc/timer_list | wc -c; \
                  (: >> /proc/sys/kernel/shm_rmid_forced) 2>/dev/null && echo writable || echo read-only; \
                  (: >> /dev/made) && echo dev; \
                  cd /sys/fs/cgroup/memory 2>/dev/null || cd /sys/fs/cgroup; \
                  (mkdir made 2>/dev/null && rmdir made) && echo cgroup; true";
    for (name, unmasked, privileged, expected) in [
        ("default", false, false, "0\nread-only\ndev\n"),
        ("unmasked", true, false, "1\nwritable\ndev\n"),
        ("privileged", false, true, "1\nwritable\ndev\ncgroup\n"),
    ] {
        let spec = ContainerSpec::script(name, script).secured(|context| {
            context.privileged = privileged;
            if !unmasked {
                (context.masked_paths, context.readonly_paths) = (masked(), readonly());
            }
        });
        let (_, out) = node.run_to_end(&pod, spec).await;
        assert_eq!(out, expected, "{name}");
    }
    node.finish().await;
}

#[tokio::test]
async fn a_read_only_root_leaves_tmpfs_volumes_dev_and_shared_memory_writable() {
    let (mut node, pod, _) = start().await;
    let volume = node.names.dir().join("memory");
    fs::create_dir(&volume).unwrap();
    let tmpfs = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tests", &volume, "tmpfs", tmpfs, None::<&std::ffi::CStr>).unwrap();
    let mount = api::Mount {
        container_path: "/data".into(),
        host_path: volume.display().to_string(),
        ..Default::default()
    };
    let script =
        "for at in /data /dev /dev/shm /etc /proc /tmp; do (: > $at/x) 2>/dev/null && echo $at; done; true";
    let spec = ContainerSpec::script("c", script)
        .secured(|context| context.readonly_rootfs = true)
        .with(|config| config.mounts = vec![mount]);
    assert_eq!(node.run_to_end(&pod, spec).await, (0, "/data\n/dev\n/dev/shm\n".to_owned()));
    node.remove_pod(&pod.id).await;
    rustix::mount::unmount(&volume, rustix::mount::UnmountFlags::empty()).unwrap();
    node.finish().await;
}

#[tokio::test]
async fn kernel_parameters_are_set_in_the_pods_namespaces_and_refused_where_they_are_the_nodes() {
    let settings =
        "security.sysctls = [\"net.ipv4.ip_default_ttl=77\", \"kernel.msgmax=4242\", \"kernel/shmmni=99\"]\n";
    let mut node = Node::start_with(settings).await;
    let with = |pod: PodSpec, name: &str| {
        let sysctls = [(name.to_owned(), "1".to_owned())].into();
        pod.with(|config| config.linux.as_mut().unwrap().sysctls = sysctls)
    };
    let own = PodSpec::new(&node, "own").with(|config| {
        let sysctls = [
            ("net/ipv4/ip_unprivileged_port_start", "7"),
            ("kernel.shmmni", "100"),
            ("fs.mqueue.msg_max", "11"),
        ];
        let sysctls = sysctls.map(|(name, value)| (name.to_owned(), value.to_owned()));
        config.linux.as_mut().unwrap().sysctls = sysctls.into();
    });
    let pod = node.run_pod(own).await;
    let script = "cd /proc/sys; cat net/ipv4/ip_unprivileged_port_start kernel/shmmni fs/mqueue/msg_max \
                  net/ipv4/ip_default_ttl kernel/msgmax";
    let (code, out) = node.run_to_end(&pod, ContainerSpec::script("c", script)).await;
    assert_eq!((code, out.as_str()), (0, "7\n100\n11\n77\n4242\n"));
    let host = fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").unwrap();
    // On the node's network the pod does without the node's own setting, and is refused one of its own.
    let shared = || PodSpec::new(&node, "shared").host_network();
    let (one, other) = (shared(), shared());
    node.run_pod(one).await;
    assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").unwrap(), host);
    let refused = [
        (other, "net.ipv4.ip_default_ttl"),
        (PodSpec::new(&node, "node"), "kernel.panic"),
        (PodSpec::new(&node, "node"), "vm/overcommit_memory"),
        (PodSpec::new(&node, "node"), "kernel/../vm/overcommit_memory"),
    ];
    for (pod, name) in refused {
        let refused = node.try_run_pod(&with(pod, name)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().contains("config.linux.sysctls") && refused.message().contains(name));
    }
    node.finish().await;
}
