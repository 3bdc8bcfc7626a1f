//! Pods with user namespaces of their own (`hostUsers: false`): root inside is nobody outside.
//!
//! Nothing on disk is changed for it. Most of it is with a crun that knows id-mapped mounts (`PODD_TEST_CRUN_NEW`), as a
//! handler of its own beside the runtime that this run is about, which may not.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use podd::api;
use podd::api::NamespaceMode;
use serde_json::json;
use tonic::{Code, Status};

use crate::common::requests::Pod;
use crate::common::{ContainerSpec, Node, PodSpec, busybox, eventually, oci_runtime, registry};

/// The handler of the newer crun.
const NEW: &str = "crun-new";
const COUNT: u32 = 65_536;

async fn start() -> Node {
    let path =
        std::env::var("PODD_TEST_CRUN_NEW").expect("PODD_TEST_CRUN_NEW is not set: tests/run.sh sets it");
    Node::start_with(&format!("runtimes.{NEW}.path = {path:?}\n")).await
}

fn ids(host: u32) -> Vec<api::IdMapping> {
    vec![api::IdMapping { host_id: host, container_id: 0, length: COUNT }]
}

fn userns(host: u32) -> api::UserNamespace {
    api::UserNamespace { mode: NamespaceMode::Pod.into(), uids: ids(host), gids: ids(host + 1) }
}

fn options(config: &mut api::PodSandboxConfig) -> &mut api::NamespaceOption {
    let context = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    context.namespace_options.get_or_insert_default()
}

fn pod_with_ids(node: &Node, name: &str, host: u32) -> PodSpec {
    PodSpec::new(node, name).with(|config| options(config).userns_options = Some(userns(host)))
}

async fn try_run(node: &mut Node, spec: PodSpec, handler: &str) -> Result<Pod, Status> {
    let (config, runtime_handler) = (spec.0, handler.to_owned());
    let request = api::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler };
    let id = node.runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
    node.remember(&id);
    Ok(Pod { id, config })
}

async fn run(node: &mut Node, spec: PodSpec) -> Pod {
    try_run(node, spec, NEW).await.unwrap()
}

/// What the daemon tells of a container beyond the CRI.
async fn info(node: &mut Node, id: &str) -> serde_json::Value {
    let request = api::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
    let answer = node.runtime.container_status(request).await.unwrap().into_inner();
    serde_json::from_str(&answer.info["info"]).unwrap()
}

/// The four user (or with `Gid:` group) IDs of a container's first process, as the host has them.
async fn host_ids(node: &mut Node, id: &str, field: &str) -> Vec<u32> {
    let pid = info(node, id).await["pid"].as_u64().unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.split_whitespace().map(|id| id.parse().unwrap()).collect()
}

fn upper(node: &Node, id: &str) -> PathBuf {
    node.names.root().join("containers").join(id).join("upper")
}

fn owners(path: &Path) -> (u32, u32) {
    let found = fs::symlink_metadata(path).unwrap();
    (found.uid(), found.gid())
}

#[tokio::test]
async fn root_inside_is_another_user_outside_and_nothing_on_disk_is_changed() {
    let mut node = start().await;
    let sysctl = ("net.ipv4.ip_unprivileged_port_start".to_owned(), "81".to_owned());
    let pod = pod_with_ids(&node, "pod", 1_000_000)
        .with(|config| config.linux.get_or_insert_default().sysctls.extend([sysctl]));
    let pod = run(&mut node, pod).await;
    let id = node.run(&pod, ContainerSpec::waiting("c")).await;
    assert_eq!(host_ids(&mut node, &id, "Uid:").await, [1_000_000; 4]);
    assert_eq!(host_ids(&mut node, &id, "Gid:").await, [1_000_001; 4]);
    let words = "cat /proc/self/uid_map | tr -s ' '; tr -s ' ' < /proc/self/gid_map; id -u; id -g";
    assert_eq!(node.exec_ok(&id, words).await, " 0 1000000 65536\n 0 1000001 65536\n0\n0");
    let image = "stat -c '%u %g' / /bin/busybox /etc/passwd /home/tester";
    assert_eq!(node.exec_ok(&id, image).await, "0 0\n0 0\n0 0\n1000 1000");
    let write = "echo mine > /etc/new; chown 33:34 /etc/new; rm /etc/group; echo more >> /etc/passwd; mkdir /home/tester/d";
    node.exec_ok(&id, write).await;
    assert_eq!(node.exec_ok(&id, "stat -c '%u %g' /etc/new /etc/passwd").await, "33 34\n0 0");
    let upper = upper(&node, &id);
    assert_eq!(owners(&upper.join("etc/new")), (33, 34));
    assert_eq!(owners(&upper.join("etc/passwd")), (0, 0));
    assert_eq!(owners(&upper.join("home/tester")), (1000, 1000));
    let pods_own = "echo nameserver 10.9.8.7 > /etc/resolv.conf && echo h > /etc/hostname && touch /dev/shm/x /dev/mqueue/q \
                    && stat -c '%u %g %a' /dev/shm && cat /proc/sys/net/ipv4/ip_unprivileged_port_start && hostname other && hostname";
    // The parameters of the network are the pod's own, and root inside is who may set the host name only with the right to.
    let ran = node.exec(&id, pods_own, 10).await.unwrap();
    assert_eq!(ran.out, "0 0 1777\n81\n", "{ran:?}");
    assert!(ran.err.contains("hostname") && ran.code != 0, "{ran:?}");
    assert_eq!(node.exec_ok(&id, "cat /etc/resolv.conf /etc/hostname").await, "nameserver 10.9.8.7\nh");
    let nobody =
        node.exec(&id, "cat /proc/1/environ >/dev/null && cat /proc/sysrq-trigger", 10).await.unwrap();
    assert_ne!(nobody.code, 0, "{nobody:?}");
    assert_eq!(node.exec_ok(&id, "cat /sys/class/net/lo/ifindex").await, "1");
    let address = node.pod_status(&pod.id).await.unwrap().network.unwrap().ip;
    assert!(node.exec_ok(&id, "ip -4 addr show eth0").await.contains(&address));
    assert!(
        node.exec_ok(&id, &format!("ping -c 1 -w 5 {}.1", node.names.subnet))
            .await
            .contains(" 0% packet loss")
    );
    node.stop_container(&id, 5).await.unwrap();
    assert_eq!(node.wait_for_exit(&id).await.exit_code, 0);
    node.finish().await;
}

#[tokio::test]
async fn output_is_logged_whoever_writes_it_and_by_whatever_name() {
    let mut node = start().await;
    let pod = pod_with_ids(&node, "pod", 500_000);
    let pod = run(&mut node, pod).await;
    let script = "echo one; echo two > /dev/stdout; echo three > /proc/self/fd/1";
    assert_eq!(node.run_to_end(&pod, ContainerSpec::script("root", script)).await.1, "one\ntwo\nthree\n");
    let user = ContainerSpec::script("user", script).secured(|context| {
        context.run_as_user = Some(api::Int64Value { value: 1000 });
    });
    assert_eq!(node.run_to_end(&pod, user).await, (0, "one\ntwo\nthree\n".to_owned()));
    let terminal =
        ContainerSpec::script("tty", "test -t 1 && echo yes > /dev/tty").with(|config| config.tty = true);
    assert_eq!(node.run_to_end(&pod, terminal).await, (0, "yes\n".to_owned()));
    assert_eq!(owners(Path::new("/dev/null")), (0, 0), "the host's /dev/null was given away");
    let stdin = ContainerSpec::script(
        "stdin",
        "cat /dev/stdin; echo x > /proc/self/fd/0; stat -L -c %t:%T /proc/self/fd/0",
    );
    assert_eq!(node.run_to_end(&pod, stdin).await, (0, "1:3\n".to_owned()));
    node.finish().await;
}

#[tokio::test]
async fn volumes_show_the_owners_that_are_asked_for() {
    let mut node = start().await;
    let volume = node.names.dir().join("volume");
    fs::create_dir_all(volume.join("of-1000")).unwrap();
    chown(volume.join("of-1000"), Some(1000), Some(1000)).unwrap();
    let pod = pod_with_ids(&node, "pod", 700_000);
    let pod = run(&mut node, pod).await;
    let mount = |at: &str, mapped: bool| api::Mount {
        container_path: at.to_owned(),
        host_path: volume.display().to_string(),
        uid_mappings: if mapped { ids(700_000) } else { Vec::new() },
        gid_mappings: if mapped { ids(700_001) } else { Vec::new() },
        ..Default::default()
    };
    let spec = ContainerSpec::waiting("c")
        .with(|config| config.mounts = vec![mount("/mapped", true), mount("/plain", false)]);
    let id = node.run(&pod, spec).await;
    let seen = "stat -c '%u %g' /mapped /mapped/of-1000 /plain /plain/of-1000";
    assert_eq!(node.exec_ok(&id, seen).await, "0 0\n1000 1000\n65534 65534\n65534 65534");
    node.exec_ok(&id, "touch /mapped/root && touch /mapped/user && chown 33:34 /mapped/user").await;
    assert_eq!(owners(&volume.join("root")), (0, 0));
    assert_eq!(owners(&volume.join("user")), (33, 34));
    assert_ne!(node.exec(&id, "touch /plain/no", 10).await.unwrap().code, 0);
    let echoed = node.container_status(&id).await.unwrap().mounts;
    assert_eq!(echoed[0].uid_mappings, ids(700_000));
    let half = ContainerSpec::waiting("half").with(|config| {
        config.mounts = vec![api::Mount { gid_mappings: Vec::new(), ..mount("/half", true) }];
    });
    let refused = node.try_create(&pod, half).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(
        refused.message().contains("mounts[0]") && refused.message().contains("gidMappings"),
        "{refused:?}"
    );
    node.finish().await;
}

#[tokio::test]
async fn pods_with_different_ids_share_an_image_and_cannot_reach_each_other() {
    let mut node = start().await;
    let mut made = Vec::new();
    for (name, host) in [("one", 200_000), ("two", 300_000)] {
        let pod = pod_with_ids(&node, name, host);
        let pod = run(&mut node, pod).await;
        let id = node.run(&pod, ContainerSpec::waiting("c")).await;
        assert_eq!(host_ids(&mut node, &id, "Uid:").await, [host; 4]);
        assert_eq!(node.exec_ok(&id, "echo $(hostname) > /own; stat -c %u /own /bin/busybox").await, "0\n0");
        made.push(id);
    }
    let plain = node.run_pod(PodSpec::new(&node, "plain")).await;
    let id = node.run(&plain, ContainerSpec::waiting("c")).await;
    assert_eq!(node.exec_ok(&id, "stat -c %u /bin/busybox").await, "0");
    assert_eq!(host_ids(&mut node, &id, "Uid:").await, [0; 4]);
    let layers = fs::read_dir(node.names.root().join("layers")).unwrap().count();
    assert_eq!(layers, 2, "the layers of the one image, once");
    for id in made {
        let links = "readlink /proc/self/ns/user";
        assert_ne!(
            node.exec_ok(&id, links).await,
            fs::read_link("/proc/self/ns/user").unwrap().to_str().unwrap()
        );
        assert_eq!(owners(&upper(&node, &id).join("own")), (0, 0));
    }
    node.finish().await;
}

/// B7
#[tokio::test]
async fn b7_a_pod_on_the_hosts_network_has_its_own_users() {
    let mut node = start().await;
    let pod = pod_with_ids(&node, "host", 400_000).host_network();
    let pod = run(&mut node, pod).await;
    let echoed = node.pod_status(&pod.id).await.unwrap().linux.unwrap().namespaces.unwrap().options.unwrap();
    assert_eq!(echoed.userns_options, Some(userns(400_000)));
    assert_eq!(echoed.network(), NamespaceMode::Node);
    let id = node.run(&pod, ContainerSpec::waiting("c")).await;
    assert_eq!(host_ids(&mut node, &id, "Uid:").await, [400_000; 4]);
    let net = fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(node.exec_ok(&id, "readlink /proc/self/ns/net").await, net.to_str().unwrap());
    assert_eq!(node.exec_ok(&id, "cat /sys/class/net/lo/ifindex").await, "1");
    assert_ne!(node.exec(&id, "echo 1 > /sys/kernel/mm/ksm/run", 10).await.unwrap().code, 0);
    node.finish().await;
}

/// B8, B27
#[tokio::test]
async fn b27_containers_of_the_pod_share_its_pids_and_see_each_other_as_their_own() {
    let mut node = start().await;
    let pod = pod_with_ids(&node, "pids", 600_000);
    let pod = pod.with(|config| options(config).set_pid(NamespaceMode::Pod));
    let pod = run(&mut node, pod).await;
    let one = node.run(&pod, ContainerSpec::waiting("one")).await;
    let two = node.run(&pod, ContainerSpec::waiting("two")).await;
    let pids = "readlink /proc/self/ns/pid";
    assert_eq!(node.exec_ok(&one, pids).await, node.exec_ok(&two, pids).await);
    assert_eq!(node.exec_ok(&one, "stat -c %u /proc/1").await, "65535", "the pause container");
    let target = ContainerSpec::waiting("debug").secured(|context| {
        let options = api::NamespaceOption {
            target_id: one.clone(),
            userns_options: Some(userns(600_000)),
            ..Default::default()
        };
        context.namespace_options.insert(options).set_pid(NamespaceMode::Target);
    });
    let debug = node.run(&pod, target).await;
    assert_eq!(node.exec_ok(&debug, pids).await, node.exec_ok(&one, pids).await);
    node.finish().await;
}

#[tokio::test]
async fn a_restarted_daemon_goes_on_with_such_pods() {
    let mut node = start().await;
    let pod = pod_with_ids(&node, "pod", 800_000);
    let pod = run(&mut node, pod).await;
    let before = node.run(&pod, ContainerSpec::waiting("before")).await;
    node.restart().await;
    let echoed = node.pod_status(&pod.id).await.unwrap().linux.unwrap().namespaces.unwrap().options.unwrap();
    assert_eq!(echoed.userns_options, Some(userns(800_000)));
    let after = node.run(&pod, ContainerSpec::waiting("after")).await;
    let user = "readlink /proc/self/ns/user";
    assert_eq!(node.exec_ok(&before, user).await, node.exec_ok(&after, user).await);
    node.stop_pod(&pod.id).await;
    node.finish().await;
}

#[tokio::test]
async fn what_does_not_go_with_a_user_namespace_is_refused_by_name() {
    let mut node = start().await;
    type Change = fn(&mut api::PodSandboxConfig);
    let cases: [(&str, Change); 7] = [
        ("namespace_options.pid", |config| options(config).set_pid(NamespaceMode::Node)),
        ("namespace_options.ipc", |config| options(config).set_ipc(NamespaceMode::Node)),
        ("privileged", |config| {
            options(config);
            config.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
        }),
        ("userns_options.mode", |config| {
            options(config).userns_options.as_mut().unwrap().set_mode(NamespaceMode::Container);
        }),
        ("userns_options.uids", |config| options(config).userns_options.as_mut().unwrap().uids.clear()),
        ("userns_options.gids", |config| {
            options(config).userns_options.as_mut().unwrap().gids[0].length = u32::MAX;
        }),
        ("userns_options", |config| {
            options(config).userns_options.as_mut().unwrap().set_mode(NamespaceMode::Node);
        }),
    ];
    for (field, change) in cases {
        let spec = pod_with_ids(&node, "refused", 100_000).with(change);
        let refused = try_run(&mut node, spec, NEW).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(
            refused.message().contains(&format!("security_context.{field}"))
                || refused.message().contains(&format!("namespace_options.{field}")),
            "{field}: {refused:?}"
        );
    }
    let pod = pod_with_ids(&node, "pod", 100_000);
    let pod = run(&mut node, pod).await;
    let other = |host| {
        ContainerSpec::waiting("other").secured(move |context| {
            context.namespace_options.get_or_insert_default().userns_options = host;
        })
    };
    for asked in [None, Some(userns(900_000))] {
        let refused = node.try_create(&pod, other(asked)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().contains("namespace_options.userns_options"), "{refused:?}");
    }
    let unmapped = ContainerSpec::waiting("user").secured(|context| {
        context.run_as_user = Some(api::Int64Value { value: COUNT.into() });
    });
    let refused = node.try_create(&pod, unmapped).await.unwrap_err();
    assert!(refused.message().contains("run_as_user: user 65536 is not in"), "{refused:?}");
    node.finish().await;
}

/// The runtime that this run is about, by what it says of itself.
#[tokio::test]
async fn a_runtime_without_mapped_mounts_runs_such_pods_and_refuses_their_volumes() {
    let mut node = start().await;
    let status = eventually("the features of both runtimes", || {
        let mut client = node.runtime.clone();
        async move {
            let status = client.status(api::StatusRequest::default()).await.unwrap().into_inner();
            let known = |name: &str| {
                let handler = status.runtime_handlers.iter().find(|handler| handler.name == name).unwrap();
                handler.features.unwrap().recursive_read_only_mounts
            };
            (known(NEW) && known(&oci_runtime())).then_some(status)
        }
    })
    .await;
    let handler =
        |name: &str| status.runtime_handlers.iter().find(|h| h.name == name).unwrap().features.unwrap();
    assert!(handler(NEW).user_namespaces);
    assert_eq!(handler(""), handler(&oci_runtime()));
    let features = status.features.unwrap();
    assert!(features.supplemental_groups_policy && features.user_namespaces_host_network);

    let pod = pod_with_ids(&node, "old", 110_000);
    let pod = try_run(&mut node, pod, "").await.unwrap();
    let id = node.run(&pod, ContainerSpec::waiting("c")).await;
    assert_eq!(host_ids(&mut node, &id, "Uid:").await, [110_000; 4]);
    assert_eq!(node.exec_ok(&id, "touch /x; stat -c %u /x /bin/busybox").await, "0\n0");
    let volume = ContainerSpec::waiting("volume").with(|config| {
        config.mounts = vec![api::Mount {
            container_path: "/v".to_owned(),
            host_path: "/tmp".to_owned(),
            uid_mappings: ids(110_000),
            gid_mappings: ids(110_001),
            ..Default::default()
        }];
    });
    let created = node.try_create(&pod, volume).await;
    match handler("").user_namespaces {
        true => drop(created.unwrap()),
        false => {
            let refused = created.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
            let text = refused.message();
            assert!(text.contains("uidMappings") && text.contains("crun 1.9 or runc 1.2"), "{text}");
        }
    }
    node.finish().await;
}

#[tokio::test]
async fn image_volumes_and_directories_that_an_image_declares_have_the_pods_owners() {
    let mut node = start().await;
    let image = busybox().config(&json!({ "Volumes": { "/data/new": {} } }));
    let image = image.push(registry::shared().await, "test/declares", "1").await;
    node.pull(&image.reference).await.unwrap();
    let pod = pod_with_ids(&node, "pod", 1_000_000);
    let pod = run(&mut node, pod).await;
    let volume = api::Mount {
        container_path: "/volume".to_owned(),
        image: Some(api::ImageSpec { image: image.reference.clone(), ..Default::default() }),
        readonly: true,
        ..Default::default()
    };
    let spec = ContainerSpec::waiting("c").with(|config| {
        config.image.get_or_insert_default().image = image.reference.clone();
        config.mounts.push(volume);
    });
    let id = node.run(&pod, spec).await;
    let seen = node.exec_ok(&id, "stat -c '%u %g' /data/new /volume/etc/passwd /volume/home/tester").await;
    assert_eq!(seen, "0 0\n0 0\n1000 1000");
    node.exec_ok(&id, "touch /data/new/mine").await;
    node.finish().await;
}
