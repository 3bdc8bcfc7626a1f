//! What is mounted into a container, from where, in which order, and what its surroundings are without being asked for.

use std::ffi::CStr;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Instant;

use podd::api;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use serde_json::json;
use tonic::Code;

use crate::common::tar::Entry;
use crate::common::{ContainerSpec, ImageBuilder, Node, PodSpec, busybox, oci_runtime, random_tag, registry};

/// A mount as the kubelet writes it, of a path of the host.
fn mount(container_path: &str, host_path: &Path) -> api::Mount {
    api::Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.display().to_string(),
        ..Default::default()
    }
}

fn waiting(name: &str, mounts: Vec<api::Mount>) -> ContainerSpec {
    ContainerSpec::waiting(name).with(|config| config.mounts = mounts)
}

/// A directory of the node's with a file of its own name.
fn volume(node: &Node, name: &str) -> std::path::PathBuf {
    let path = node.names.dir().join("volumes").join(name);
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("name"), name).unwrap();
    path
}

/// The same container of another image.
async fn of_image(node: &mut Node, image: ImageBuilder, spec: ContainerSpec) -> ContainerSpec {
    let pushed = image.push(registry::shared().await, "test/mounts", &random_tag()).await;
    let image = node.pull(&pushed.reference).await.unwrap();
    spec.with(|config| config.image = Some(api::ImageSpec { image, ..Default::default() }))
}

async fn configured(text: &str) -> Node {
    let mut node = Node::start().await;
    let drop_ins = node.names.dir().join("podd.toml.d");
    fs::create_dir(&drop_ins).unwrap();
    fs::write(drop_ins.join("mounts.toml"), text).unwrap();
    node.restart().await;
    node
}

#[tokio::test]
async fn mounts_may_come_in_any_order_and_the_last_of_one_path_is_seen() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    let [outer, inner, first, last] = ["outer", "inner", "first", "last"].map(|name| volume(&node, name));
    fs::create_dir_all(outer.join("a/b")).unwrap();
    let mounts = vec![
        mount("/data/a/b", &inner),
        mount("/data", &outer),
        mount("/twice", &first),
        mount("/twice/../twice/", &last),
        mount("/data/a/b/name", &first.join("name")),
    ];
    let id = node.run(&pod, waiting("c", mounts)).await;
    let seen = "for at in /data /data/a/b /twice; do cat $at/name; echo; done";
    assert_eq!(node.exec_ok(&id, seen).await, "outer\nfirst\nlast");
    node.finish().await;
}

#[tokio::test]
async fn a_destination_behind_links_of_the_image_stays_in_the_container() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    let outside = node.names.dir().join("outside");
    fs::create_dir(&outside).unwrap();
    let inside = outside.display().to_string();
    let image = busybox().layer(&[
        Entry::symlink("absolute", &inside),
        Entry::symlink("relative", &format!("../../../../../../../..{inside}")),
        Entry::dir(inside.trim_start_matches('/'), 0o755),
        Entry::dir("real", 0o755),
        Entry::symlink("link", "/real"),
    ]);
    let source = volume(&node, "source");
    let mounts =
        vec![mount("/link/x", &source), mount("/absolute/y", &source), mount("/relative/z", &source)];
    let spec = of_image(&mut node, image, waiting("c", mounts)).await;
    let id = node.run(&pod, spec).await;
    assert_eq!(
        node.exec_ok(&id, "cat /real/x/name /absolute/y/name /relative/z/name").await,
        "sourcesourcesource"
    );
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "something was made on the host");
    node.finish().await;
}

/// Images of whole systems have such links for /etc/resolv.conf and /etc/localtime.
#[tokio::test]
async fn a_file_is_mounted_where_a_link_of_the_image_leads_nowhere() {
    let mut node = configured("[mounts]\ntimezone = \"Asia/Tokyo\"\n").await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    let image = busybox().layer(&[
        Entry::symlink("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf"),
        Entry::symlink("etc/localtime", "/usr/share/zoneinfo/Etc/UTC"),
    ]);
    let spec = of_image(&mut node, image, ContainerSpec::waiting("c")).await;
    let id = node.run(&pod, spec).await;
    assert_eq!(node.exec_ok(&id, "cat /etc/resolv.conf > /dev/null && date +%Z").await, "JST");
    node.finish().await;
}

#[tokio::test]
async fn a_file_on_a_directory_and_the_reverse_are_refused_by_name() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    let source = volume(&node, "source");
    let image = busybox().layer(&[Entry::symlink("to-passwd", "etc/passwd")]);
    for (name, at, from, why) in [
        ("file", "/etc/passwd", source.clone(), "\"/etc/passwd\" is a file in the image, and"),
        ("link", "/to-passwd", source.clone(), "\"/to-passwd\" is a file in the image, and"),
        ("directory", "/home/tester", source.join("name"), "is a directory in the image, and"),
    ] {
        let spec = of_image(&mut node, image.clone(), waiting(name, vec![mount(at, &from)])).await;
        let refused = node.try_create(&pod, spec).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().starts_with("config.mounts[0].container_path: "), "{refused:?}");
        assert!(refused.message().contains(why), "{refused:?}");
        assert!(refused.message().contains(&from.display().to_string()), "{refused:?}");
    }
    node.finish().await;
}

#[tokio::test]
async fn impossible_paths_are_refused_and_nothing_is_made_behind_a_dangling_link() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    let (link, target) = (node.names.dir().join("link"), node.names.dir().join("target"));
    symlink(&target, &link).unwrap();
    for (mount, expected) in [
        (mount("/x", &link), "config.mounts[0].host_path: "),
        (mount("/x", &link.join("below")), "config.mounts[0].host_path: "),
        (mount("/x", Path::new("relative")), "config.mounts[0].host_path: \"relative\" is not an absolute"),
        (mount("/x", Path::new("")), "config.mounts[0].host_path: \"\" is not an absolute"),
        (mount("relative", Path::new("/tmp")), "config.mounts[0].container_path: \"relative\" is not"),
        (mount("/", Path::new("/tmp")), "config.mounts[0] (\"/\").container_path: "),
        (mount("/x/..", Path::new("/tmp")), "config.mounts[0] (\"/x/..\").container_path: "),
    ] {
        let refused = node.try_create(&pod, waiting("c", vec![mount])).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().starts_with(expected), "{refused:?}");
    }
    assert!(!target.exists());
    node.finish().await;
}

/// The kubelet opens a subPath safely and may name it by its descriptor.
#[tokio::test]
async fn a_host_path_may_be_a_descriptor_of_a_process() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    let path = volume(&node, "source");
    let opened = fs::File::open(&path).unwrap();
    let unnamed = fs::File::create(path.join("unnamed")).unwrap();
    fs::remove_file(path.join("unnamed")).unwrap();
    let of = |fd: i32| format!("/proc/{}/fd/{fd}", std::process::id());
    let (directory, file) = (of(opened.as_raw_fd()), of(unnamed.as_raw_fd()));
    let mounts = vec![mount("/directory", Path::new(&directory))];
    let id = node.run(&pod, waiting("directory", mounts)).await;
    assert_eq!(node.exec_ok(&id, "cat /directory/name").await, "source");
    let spec = waiting("file", vec![mount("/file", Path::new(&file))]);
    let refused = node.try_create(&pod, spec).await.unwrap_err();
    let expected = format!("config.mounts[0].host_path: {file}: it leads to something that has no path");
    assert!(refused.message().starts_with(&expected), "{refused:?}");
    node.finish().await;
}

#[tokio::test]
async fn b27_a_mount_below_a_volume_is_seen_and_written_to_as_the_volume_says() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    let path = volume(&node, "outer");
    fs::create_dir(path.join("nested")).unwrap();
    rustix::mount::mount_bind(&path, &path).unwrap();
    rustix::mount::mount_change(&path, MountPropagationFlags::SHARED).unwrap();
    let tmpfs = |at: &Path| rustix::mount::mount("tests", at, "tmpfs", MountFlags::empty(), None::<&CStr>);
    tmpfs(&path.join("nested")).unwrap();
    let readonly = |at: &str, recursive_read_only, propagation| api::Mount {
        readonly: true,
        recursive_read_only,
        propagation,
        ..mount(at, &path)
    };
    let id =
        node.run(&pod, waiting("c", vec![readonly("/ro", false, 0), readonly("/slave", false, 1)])).await;
    node.exec_ok(&id, "touch /ro/nested/written && test -e /slave/nested/written").await;
    assert_ne!(node.exec(&id, "touch /ro/x", 10).await.unwrap().code, 0);
    let id = node.run(&pod, waiting("rro", vec![readonly("/rro", true, 0)])).await;
    for file in ["/rro/x", "/rro/nested/x"] {
        assert_ne!(node.exec(&id, &format!("touch {file}"), 10).await.unwrap().code, 0, "{file} is written");
    }
    for wrong in [readonly("/x", true, 1), api::Mount { readonly: false, ..readonly("/x", true, 0) }] {
        let refused = node.try_create(&pod, waiting("wrong", vec![wrong])).await.unwrap_err();
        assert!(refused.message().contains("recursive_read_only: it needs"), "{refused:?}");
    }
    node.remove_pod(&pod.id).await;
    rustix::mount::unmount(path.join("nested"), UnmountFlags::empty()).unwrap();
    rustix::mount::unmount(&path, UnmountFlags::empty()).unwrap();
    node.finish().await;
}

#[tokio::test]
async fn three_hundred_mounts_cost_no_more_than_the_runtime_takes_for_them() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    let source = volume(&node, "source");
    node.create(&pod, ContainerSpec::waiting("warm")).await;
    let mounts = (0..300).map(|n| mount(&format!("/many/{n}"), &source)).collect();
    let start = Instant::now();
    let id = node.create(&pod, waiting("c", mounts)).await;
    let took = start.elapsed();
    node.start_container(&id).await.unwrap();
    assert_eq!(node.exec_ok(&id, "cat /many/*/name | wc -c").await, (300 * 6).to_string());
    assert_eq!(node.container_status(&id).await.unwrap().mounts.len(), 300);
    println!("300 mounts: {} ms", took.as_millis());
    assert!(took.as_secs() < 20, "{took:?}");
    node.finish().await;
}

#[tokio::test]
async fn files_of_the_pod_follow_the_root_and_those_of_the_kubelet_their_own_mount() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "named")).await;
    let directory = volume(&node, "files");
    let hosts = directory.join("etc-hosts");
    fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
    let shm = volume(&node, "shm");
    let mounts = || vec![mount("/etc/hosts", &hosts), mount("/dev/shm", &shm)];
    let id = node.run(&pod, waiting("rw", mounts())).await;
    node.exec_ok(&id, "echo 10.0.0.1 written >> /etc/hosts && echo '# x' >> /etc/resolv.conf").await;
    assert!(fs::read_to_string(&hosts).unwrap().ends_with("10.0.0.1 written\n"));
    assert_eq!(
        node.exec_ok(&id, "cat /etc/hostname /dev/shm/name").await,
        "named\nshm",
        "a medium of its own"
    );
    let spec = waiting("ro", mounts()).secured(|context| context.readonly_rootfs = true);
    let id = node.run(&pod, spec).await;
    node.exec_ok(&id, "echo 10.0.0.2 too >> /etc/hosts && touch /dev/shm/x").await;
    for file in ["/etc/resolv.conf", "/etc/hostname", "/etc/passwd"] {
        assert_ne!(node.exec(&id, &format!("echo x >> {file}"), 10).await.unwrap().code, 0, "{file}");
    }
    node.finish().await;
}

#[tokio::test]
async fn a_pod_of_the_hosts_network_sees_the_hosts_names_unless_it_brings_its_own() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "host").host_network()).await;
    let id = node.run(&pod, ContainerSpec::waiting("c")).await;
    let expected = fs::read_to_string("/etc/hosts").unwrap();
    assert_eq!(node.exec_ok(&id, "cat /etc/hosts").await, expected.trim_end());
    assert_ne!(node.exec(&id, "echo x >> /etc/hosts", 10).await.unwrap().code, 0);
    let own = volume(&node, "own").join("name");
    let id = node.run(&pod, waiting("own", vec![mount("/etc/hosts", &own)])).await;
    assert_eq!(node.exec_ok(&id, "cat /etc/hosts").await, "own");
    node.finish().await;
}

#[tokio::test]
async fn a_missing_working_directory_is_made_and_mtab_is_the_table_of_mounts() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    let script = "pwd; stat -c '%u:%g %a' .; stat -c %a ..; readlink /etc/mtab; grep -c ' /proc ' /etc/mtab";
    for readonly in [false, true] {
        let spec = ContainerSpec::script(&format!("c{readonly}"), script)
            .with(|config| config.working_dir = "/made/for/it".to_owned())
            .secured(|context| {
                context.run_as_user = Some(api::Int64Value { value: 1000 });
                context.readonly_rootfs = readonly;
            });
        let expected = "/made/for/it\n0:0 755\n755\n/proc/mounts\n1\n".to_owned();
        assert_eq!(node.run_to_end(&pod, spec).await, (0, expected));
    }
    let image = busybox().layer(&[Entry::file("etc/mtab", 0o644, "of the image")]);
    let spec = of_image(&mut node, image, ContainerSpec::script("kept", "cat /etc/mtab")).await;
    assert_eq!(node.run_to_end(&pod, spec).await, (0, "of the image".to_owned()));
    node.finish().await;
}

#[tokio::test]
async fn volumes_that_an_image_declares_are_directories_of_the_container() {
    let volumes =
        json!({ "Volumes": { "/data/new": {}, "/etc/passwd": {}, "/home/tester": {}, "/link/in": {} } });
    let image = busybox().config(&volumes).layer(&[Entry::symlink("link", "../../var")]);
    let script = "stat -c '%n %u:%g %a %F' /data /data/new /home/tester /var/in; ls -ld /data/new | cut -c1; \
                  head -1 /etc/passwd; touch /data/new/x; ls /data/new";
    let expected = "/data 0:0 755 directory\n/data/new 0:0 755 directory\n/home/tester 1000:1000 755 directory\n\
                    /var/in 0:0 755 directory\nd\nroot:x:0:0:root:/root:/bin/sh\nx\n";
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    for name in ["one", "two"] {
        let spec = of_image(&mut node, image.clone(), ContainerSpec::script(name, script)).await;
        assert_eq!(node.run_to_end(&pod, spec).await, (0, expected.to_owned()), "each has its own");
    }
    node.finish().await;
    let mut node = configured("[mounts]\nimage_volumes = \"ignore\"\n").await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    let spec = of_image(&mut node, image, ContainerSpec::script("c", "test ! -e /data")).await;
    assert_eq!(node.run_to_end(&pod, spec).await.0, 0);
    node.finish().await;
}

#[tokio::test]
async fn the_operator_gives_every_container_mounts_and_a_timezone() {
    let secrets = std::env::temp_dir().join(format!("podd-test-secrets-{}", random_tag()));
    fs::create_dir(&secrets).unwrap();
    fs::write(secrets.join("key"), "of the operator").unwrap();
    let text = format!(
        "[mounts]\ntimezone = \"Asia/Tokyo\"\ndefault_mounts = [\"{0}:/run/secrets/op:ro\", \"{0}:/shared\"]\n",
        secrets.display()
    );
    let mut node = configured(&text).await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    let own = volume(&node, "own");
    let id = node.run(&pod, waiting("c", vec![mount("/shared", &own)])).await;
    assert_eq!(
        node.exec_ok(&id, "cat /run/secrets/op/key /shared/name; echo; date +%Z").await,
        "of the operatorown\nJST"
    );
    assert_ne!(node.exec(&id, "touch /run/secrets/op/x", 10).await.unwrap().code, 0);
    let id = node.run(&pod, ContainerSpec::waiting("d")).await;
    node.exec_ok(&id, "touch /shared/written").await;
    assert!(secrets.join("written").exists());
    fs::remove_dir_all(&secrets).unwrap();
    let refused = node.try_create(&pod, ContainerSpec::waiting("e")).await.unwrap_err();
    assert!(
        refused.message().contains(&format!("the default mount of {}", secrets.display())),
        "{refused:?}"
    );
    node.finish().await;
}

#[tokio::test]
async fn the_umask_is_the_pods_only_where_the_operator_lets_it() {
    let runtime = oci_runtime();
    let allow = format!("[runtimes.{runtime}]\nallowed_annotations = [\"io.kubernetes.cri-o.umask\"]\n");
    for (settings, expected) in [(String::new(), "0022\n"), (allow, "0007\n")] {
        let mut node = configured(&settings).await;
        let umask = |text: &str| ("io.kubernetes.cri-o.umask".to_owned(), text.to_owned());
        let spec = PodSpec::new(&node, "pod").with(|config| config.annotations.extend([umask("0007")]));
        let pod = node.run_pod(spec).await;
        assert_eq!(
            node.run_to_end(&pod, ContainerSpec::script("c", "umask")).await,
            (0, expected.to_owned())
        );
        let wrong =
            ContainerSpec::script("d", "umask").with(|config| config.annotations.extend([umask("u=rwx")]));
        let made = node.try_create(&pod, wrong).await;
        assert_eq!(made.is_ok(), settings.is_empty(), "{made:?}");
        node.finish().await;
    }
}

/// The mode of what podd makes, whatever its own umask is.
#[tokio::test]
async fn a_directory_that_is_made_for_a_missing_host_path_can_be_read_by_all() {
    let mut node = Node::start().await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    let missing = node.names.dir().join("made/by/podd");
    node.run(&pod, waiting("c", vec![mount("/x", &missing)])).await;
    assert_eq!(fs::metadata(&missing).unwrap().permissions().mode() & 0o7777, 0o755);
    node.finish().await;
}
