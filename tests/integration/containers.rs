//! What a container sees: its command, environment, user, mounts, devices, limits and rights.

use std::fs;

use podd::api;
use serde_json::json;
use tonic::Code;

use crate::common::requests::Pod;
use crate::common::{ContainerSpec, Node, PodSpec, busybox, registry};

async fn start() -> (Node, Pod) {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "pod").privileged()).await;
    (node, pod)
}

#[tokio::test]
async fn command_args_env_and_directory_come_from_the_request_over_the_image() {
    let (mut node, pod) = start().await;
    let spec = ContainerSpec::script("c", "echo $0 $1; pwd; echo $FROM_IMAGE $MINE $BOTH").with(|config| {
        config.args.extend(["zero".to_owned(), "one".to_owned()]);
        config.working_dir = "/var".to_owned();
        let env = |key: &str, value: &str| api::KeyValue { key: key.into(), value: value.into() };
        config.envs = vec![env("MINE", "a b"), env("FROM_IMAGE", "overridden")];
    });
    assert_eq!(node.run_to_end(&pod, spec).await, (0, "zero one\n/var\noverridden a b\n".to_owned()));
    let settings = json!({ "Entrypoint": ["/bin/echo", "entry"], "Cmd": ["default"], "WorkingDir": "/tmp" });
    let pushed = busybox().config(&settings).push(registry::shared().await, "test/entry", "1").await;
    let image = node.pull(&pushed.reference).await.unwrap();
    for (name, command, args, wanted) in [
        ("image", vec![], vec![], "entry default\n"),
        ("args", vec![], vec!["given".to_owned()], "entry given\n"),
        ("command", vec!["/bin/pwd".to_owned()], vec![], "/tmp\n"),
    ] {
        let spec = ContainerSpec::script(name, "").with(|config| {
            config.image = Some(api::ImageSpec { image: image.clone(), ..Default::default() });
            (config.command, config.args) = (command, args);
        });
        assert_eq!(node.run_to_end(&pod, spec).await, (0, wanted.to_owned()), "{name}");
    }
    node.finish().await;
}

/// B26
#[tokio::test]
async fn users_and_groups() {
    let (mut node, pod) = start().await;
    let number = |value| Some(api::Int64Value { value });
    let uid = ContainerSpec::script("uid", "id -u; id -g; id -G").secured(|context| {
        context.run_as_user = number(1000);
        context.supplemental_groups = vec![4242];
    });
    assert_eq!(node.run_to_end(&pod, uid).await.1, "1000\n1000\n1000 4242 50000\n");
    let name = ContainerSpec::script("name", "id -u; id -g").secured(|context| {
        context.run_as_username = "www-data".to_owned();
        context.run_as_group = number(77);
    });
    assert_eq!(node.run_to_end(&pod, name).await.1, "33\n77\n");
    let absent = ContainerSpec::script("absent", "id -u; id -g").secured(|context| {
        context.run_as_user = number(7777);
    });
    assert_eq!(node.run_to_end(&pod, absent).await.1, "7777\n0\n", "a number needs no entry in /etc/passwd");
    let nobody =
        ContainerSpec::waiting("nobody").secured(|context| context.run_as_username = "no-such-user".into());
    let refused = node.try_create(&pod, nobody).await.unwrap_err();
    assert!(refused.message().contains("no-such-user"), "{refused:?}");
    let pushed =
        busybox().config(&json!({ "User": "tester" })).push(registry::shared().await, "test/user", "t").await;
    let image = node.pull(&pushed.reference).await.unwrap();
    let from_image = ContainerSpec::script("image", "id -u; echo $HOME").with(|config| {
        config.image = Some(api::ImageSpec { image, ..Default::default() });
    });
    assert_eq!(node.run_to_end(&pod, from_image).await.1, "1000\n/home/tester\n");
    node.finish().await;
}

#[tokio::test]
async fn mounts_are_read_only_or_not_and_propagate_as_asked() {
    let (mut node, pod) = start().await;
    let volume = node.names.dir().join("volume");
    fs::create_dir_all(volume.join("sub")).unwrap();
    fs::write(volume.join("file"), "from the host").unwrap();
    // The volume is a shared mount, as what the kubelet gives to Bidirectional volumes.
    rustix::mount::mount_bind(&volume, &volume).unwrap();
    rustix::mount::mount_change(&volume, rustix::mount::MountPropagationFlags::SHARED).unwrap();
    let mount = |at: &str, readonly, propagation: api::MountPropagation| api::Mount {
        container_path: at.to_owned(),
        host_path: volume.display().to_string(),
        readonly,
        propagation: propagation.into(),
        ..Default::default()
    };
    let spec = ContainerSpec::waiting("c").secured(|context| context.privileged = true).with(|config| {
        config.mounts = vec![
            mount("/ro", true, api::MountPropagation::PropagationPrivate),
            mount("/private", false, api::MountPropagation::PropagationPrivate),
            mount("/slave", false, api::MountPropagation::PropagationHostToContainer),
            mount("/shared", false, api::MountPropagation::PropagationBidirectional),
        ];
    });
    let id = node.run(&pod, spec).await;
    assert_eq!(node.exec_ok(&id, "cat /ro/file").await, "from the host");
    assert_ne!(node.exec(&id, "echo x > /ro/file", 10).await.unwrap().code, 0);
    node.exec_ok(&id, "echo inside > /private/file").await;
    assert_eq!(fs::read_to_string(volume.join("file")).unwrap(), "inside\n");
    let tmpfs = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tests", volume.join("sub"), "tmpfs", tmpfs, None::<&std::ffi::CStr>).unwrap();
    fs::write(volume.join("sub/late"), "").unwrap();
    let seen = "for at in private slave shared; do test -e /$at/sub/late && echo $at; done; true";
    assert_eq!(node.exec_ok(&id, seen).await, "slave\nshared");
    rustix::mount::unmount(volume.join("sub"), rustix::mount::UnmountFlags::empty()).unwrap();
    node.exec_ok(&id, "mount -t tmpfs none /shared/sub && touch /shared/sub/from-inside").await;
    assert!(volume.join("sub/from-inside").exists(), "Bidirectional does not reach the host");
    node.exec_ok(&id, "umount /shared/sub").await;
    let status = node.container_status(&id).await.unwrap();
    assert_eq!(status.mounts.len(), 4);
    node.remove_pod(&pod.id).await;
    rustix::mount::unmount(&volume, rustix::mount::UnmountFlags::empty()).unwrap();
    node.finish().await;
}

/// As the peers do: a `hostPath` volume without a type may name what is not there yet.
#[tokio::test]
async fn a_missing_mount_source_becomes_a_directory_and_an_impossible_one_is_named() {
    let (mut node, pod) = start().await;
    let mount =
        |host_path: String| api::Mount { container_path: "/x".into(), host_path, ..Default::default() };
    let missing = node.names.dir().join("volumes/new");
    let mounts = vec![mount(missing.display().to_string())];
    node.run(&pod, ContainerSpec::waiting("c").with(|config| config.mounts = mounts)).await;
    assert!(missing.is_dir());
    let mounts = vec![mount("/etc/hostname/below".to_owned())];
    let spec = ContainerSpec::waiting("d").with(|config| config.mounts = mounts);
    let refused = node.try_create(&pod, spec).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("config.mounts[0].host_path: /etc/hostname/below"), "{refused:?}");
    node.finish().await;
}

#[tokio::test]
async fn devices_are_those_asked_for() {
    let (mut node, pod) = start().await;
    let device = api::Device {
        container_path: "/dev/my-zero".into(),
        host_path: "/dev/zero".into(),
        permissions: "rw".into(),
    };
    let spec = ContainerSpec::script(
        "c",
        "head -c 3 /dev/my-zero | od -An -tx1; ls /dev/kmsg 2>&1 | wc -c; mknod /tmp/d b 8 0 && cat /tmp/d",
    )
    .with(|config| config.devices = vec![device]);
    let (code, out) = node.run_to_end(&pod, spec).await;
    assert!(out.starts_with(" 00 00 00\n"), "{out}");
    assert_ne!(code, 0, "a block device that nobody granted can be opened");
    let missing = api::Device {
        container_path: "/dev/x".into(),
        host_path: "/dev/no-such".into(),
        ..Default::default()
    };
    let spec = ContainerSpec::waiting("missing").with(|config| config.devices = vec![missing]);
    let refused = node.try_create(&pod, spec).await.unwrap_err();
    assert!(refused.message().contains("/dev/no-such"), "{refused:?}");
    node.finish().await;
}

/// The effective capabilities of a process, as a bit set.
async fn capabilities(node: &mut Node, pod: &Pod, spec: ContainerSpec) -> u64 {
    let (code, out) = node.run_to_end(pod, spec).await;
    assert_eq!(code, 0, "{out}");
    u64::from_str_radix(out.trim(), 16).unwrap()
}

/// B24
#[tokio::test]
async fn capabilities_are_added_dropped_and_cut_to_the_daemons_own() {
    let (mut node, pod) = start().await;
    let script = "sed -n 's/^CapEff:[[:space:]]*//p' /proc/self/status";
    let (chown, net_admin) = (1u64, 1u64 << 12);
    let plain = capabilities(&mut node, &pod, ContainerSpec::script("plain", script)).await;
    assert!(plain & chown != 0 && plain & net_admin == 0, "{plain:x}");
    let changed = ContainerSpec::script("changed", script).secured(|context| {
        let (add, drop) = (vec!["NET_ADMIN".to_owned()], vec!["CHOWN".to_owned()]);
        let caps = api::Capability { add_capabilities: add, drop_capabilities: drop, ..Default::default() };
        context.capabilities = Some(caps);
    });
    let changed = capabilities(&mut node, &pod, changed).await;
    assert_eq!(changed, (plain | net_admin) & !chown);
    let none = ContainerSpec::script("none", script).secured(|context| {
        let drop_capabilities = vec!["ALL".to_owned()];
        context.capabilities = Some(api::Capability { drop_capabilities, ..Default::default() });
    });
    assert_eq!(capabilities(&mut node, &pod, none).await, 0);
    let privileged = ContainerSpec::script("privileged", script).secured(|context| context.privileged = true);
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).unwrap();
    let privileged = capabilities(&mut node, &pod, privileged).await;
    assert_eq!(privileged, u64::from_str_radix(own, 16).unwrap());
    node.finish().await;
}

/// B27
#[tokio::test]
async fn a_privileged_container_sees_devices_and_may_write_to_sys() {
    let (mut node, pod) = start().await;
    let script =
        "test -e /dev/kmsg && mount -t tmpfs none /var && mount -o remount,rw /sys && ls /proc/timer_list";
    let spec = ContainerSpec::script("c", script).secured(|context| context.privileged = true);
    assert_eq!(node.run_to_end(&pod, spec).await.0, 0);
    let spec = ContainerSpec::script("plain", "mount -t tmpfs none /var");
    assert_ne!(node.run_to_end(&pod, spec).await.0, 0);
    node.finish().await;
}

#[tokio::test]
async fn a_read_only_root_refuses_writes_and_takes_them_in_volumes() {
    let (mut node, pod) = start().await;
    let volume = node.names.dir().join("volume");
    fs::create_dir(&volume).unwrap();
    let mount = api::Mount {
        container_path: "/data".into(),
        host_path: volume.display().to_string(),
        ..Default::default()
    };
    let spec = ContainerSpec::script("c", "touch /data/x && ! touch /etc/x")
        .secured(|context| context.readonly_rootfs = true)
        .with(|config| config.mounts = vec![mount]);
    assert_eq!(node.run_to_end(&pod, spec).await.0, 0);
    assert!(volume.join("x").exists());
    node.finish().await;
}

#[tokio::test]
async fn no_new_privs_and_masked_and_read_only_paths_hold() {
    let (mut node, pod) = start().await;
    let script = "grep NoNewPrivs /proc/self/status; cat /etc/group | wc -c; touch /home/x || echo refused";
    let spec = ContainerSpec::script("c", script).secured(|context| {
        context.no_new_privs = true;
        context.masked_paths = vec!["/etc/group".to_owned()];
        context.readonly_paths = vec!["/home".to_owned()];
    });
    assert_eq!(node.run_to_end(&pod, spec).await.1, "NoNewPrivs:\t1\n0\nrefused\n");
    node.finish().await;
}

#[tokio::test]
async fn resources_become_cgroup_limits_below_the_pods_parent() {
    let (mut node, pod) = start().await;
    let resources = api::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 64 << 20,
        ..Default::default()
    };
    let spec =
        ContainerSpec::waiting("c").with(|config| config.linux.as_mut().unwrap().resources = Some(resources));
    let id = node.run(&pod, spec).await;
    let cgroups = crate::common::leftovers::cgroups(&node.names);
    let own = |file: &str| {
        let found = cgroups.iter().filter(|at| at.to_string_lossy().contains(&id)).map(|at| at.join(file));
        found.into_iter().find_map(|path| fs::read_to_string(path).ok())
    };
    let memory = own("memory.max")
        .or_else(|| own("memory.limit_in_bytes"))
        .expect("no memory cgroup of the container");
    assert_eq!(memory.trim(), (64 << 20).to_string());
    let quota = own("cpu.max").or_else(|| own("cpu.cfs_quota_us")).expect("no cpu cgroup of the container");
    assert_eq!(quota.split_whitespace().next(), Some("50000"));
    let reported = node.container_status(&id).await.unwrap().resources.unwrap().linux.unwrap();
    assert_eq!((reported.memory_limit_in_bytes, reported.cpu_quota), (64 << 20, 50_000));
    node.finish().await;
}

/// B24
#[tokio::test]
async fn oom_score_adj_is_set_and_a_forbidden_value_is_clamped() {
    let (mut node, pod) = start().await;
    for (name, asked) in [("high", 900), ("low", -998)] {
        let resources = api::LinuxContainerResources { oom_score_adj: asked, ..Default::default() };
        let spec = ContainerSpec::script(name, "cat /proc/self/oom_score_adj")
            .with(|config| config.linux.as_mut().unwrap().resources = Some(resources));
        let (code, out) = node.run_to_end(&pod, spec).await;
        let got: i64 = out.trim().parse().unwrap();
        assert_eq!(code, 0);
        let own: i64 = fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().parse().unwrap();
        assert!(got == asked || (asked < own && got == own), "{asked} became {got}");
    }
    node.finish().await;
}

#[tokio::test]
async fn an_absent_image_and_a_wrong_pod_are_not_found() {
    let (mut node, pod) = start().await;
    let spec = ContainerSpec::waiting("c").with(|config| {
        config.image =
            Some(api::ImageSpec { image: "127.0.0.1:9/test/absent:1".into(), ..Default::default() });
    });
    let refused = node.try_create(&pod, spec.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert!(refused.message().contains("127.0.0.1:9/test/absent:1"), "{refused:?}");
    let nowhere = Pod { id: "e".repeat(64), config: pod.config.clone() };
    assert_eq!(node.try_create(&nowhere, spec).await.unwrap_err().code(), Code::NotFound);
    node.finish().await;
}
