//! What writable layers take of the disk, and their limits, where the file system has project quotas: ext4 and XFS.
//!
//! The kernel has to know these quotas, which not every kernel of a virtual machine does; `tests/run.sh` runs this module on the
//! one that it boots for cgroup v2.

use std::collections::HashMap;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use podd::config::{Config, DiskConfig};
use podd::disk::Disk;
use podd::id::ContainerId;
use podd::sys::quota::{self, Count};
use tonic::Code;

use crate::common::{ContainerSpec, Node, PATIENCE, PodSpec, eventually, oci_runtime, program};
use crate::disk::{
    MAX_SIZE, WRITE, du, hearing, is_written, layer, limited, split, told, told_as_it_is, walks,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// The numbers of the tests' projects.
const FIRST: u32 = 7000;
const PROJECTS: u32 = 40;

/// A file system on a loop device.
struct Volume {
    at: tempfile::TempDir,
}

impl Volume {
    fn new(make: &[&str], options: &str) -> Self {
        let at = tempfile::Builder::new().prefix("podd-disk-").tempdir().unwrap();
        let (image, mountpoint) = (at.path().join("image"), at.path().join("volume"));
        fs::File::create(&image).unwrap().set_len(512 * MIB).unwrap();
        fs::create_dir(&mountpoint).unwrap();
        run(Command::new(program(make[0])).args(&make[1..]).arg(&image));
        run(Command::new(program("mount")).args(["-o", options]).arg(&image).arg(&mountpoint));
        Self { at }
    }

    fn ext4() -> Self {
        Self::ext4_mounted("loop,prjquota")
    }

    fn ext4_mounted(options: &str) -> Self {
        let quota = "quotatype=usrquota:grpquota:prjquota";
        Self::new(&["mkfs.ext4", "-q", "-O", "project,quota", "-E", quota], options)
    }

    fn xfs() -> Self {
        Self::new(&["mkfs.xfs", "-q"], "loop,prjquota")
    }

    fn path(&self) -> PathBuf {
        self.at.path().join("volume")
    }

    /// A daemon with all that it has on this volume.
    async fn node(&self, settings: &str) -> Node {
        let binary = env!("CARGO_BIN_EXE_podd").into();
        let disk = format!("[disk]\nfirst_project = {FIRST}\nprojects = {PROJECTS}\n");
        let settings = split(&self.path().join("images")) + &disk + settings;
        Node::start_binary_on(binary, &self.path(), &settings).await
    }

    /// What the kernel has for a project.
    fn count(&self, project: u32) -> Count {
        quota::count(fs::File::open(self.path()).unwrap().as_fd(), project).unwrap()
    }

    /// All that it has for the tests' projects.
    fn counts(&self) -> HashMap<u32, Count> {
        let all = (FIRST..FIRST + PROJECTS).map(|project| (project, self.count(project)));
        all.filter(|(_, count)| *count != Count::default()).collect()
    }

    /// Waits until no project has a file or a limit.
    async fn eventually_free(&self) {
        eventually("no project with a file or a limit", || async { self.counts().is_empty().then_some(()) })
            .await;
    }

    /// What is told of a layer that is written down: until then more may be set aside for it than du finds.
    async fn settled(&self, node: &Node, id: &str) -> (u64, u64) {
        rustix::fs::syncfs(fs::File::open(self.path()).unwrap()).unwrap();
        told_as_it_is(node, id).await
    }

    /// The leaf by itself.
    fn disk(&self, projects: u32) -> Disk {
        let defaults = Config::defaults(&self.path(), &self.path()).disk;
        let (first_project, projects) = (FIRST.into(), projects.into());
        fs::create_dir_all(self.path().join("containers")).unwrap();
        Disk::open(&DiskConfig { first_project, projects, ..defaults }, &self.path())
    }

    /// A layer for it.
    fn make(&self) -> (ContainerId, PathBuf) {
        let id = ContainerId::generate();
        let layer = self.path().join("containers").join(id.as_str());
        for name in ["upper", "work"] {
            fs::create_dir_all(layer.join(name)).unwrap();
        }
        (id, layer)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new(program("umount")).arg("--lazy").arg(self.path()).status();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}; this module needs a kernel with project quotas",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// XFS takes a moment to count what was deleted.
fn soon(what: &str, good: impl Fn() -> bool) {
    let start = Instant::now();
    while !good() {
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn project_of(path: &Path) -> u32 {
    quota::project(fs::File::open(path).unwrap().as_fd()).unwrap().id
}

#[tokio::test]
async fn the_kernel_counts_what_a_container_writes_on_ext4_and_on_xfs() {
    for volume in [Volume::ext4(), Volume::xfs()] {
        let mut node = volume.node("").await;
        let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
        let id = node.run(&pod, ContainerSpec::waiting("c")).await;
        let before = volume.settled(&node, &id).await;
        node.exec_ok(&id, WRITE).await;
        let after = volume.settled(&node, &id).await;
        is_written(before, after);
        // There is no walk that it could come from, and none that it would wait for.
        assert!(!walks(&node));
        node.exec_ok(&id, "dd if=/dev/zero of=/more bs=1M count=2 2>/dev/null").await;
        assert!(told(&node).await.0 >= after.0 + 2 * MIB);
        node.restart().await;
        assert_eq!(volume.settled(&node, &id).await, du(&layer(&node, &id)));
        node.exec_ok(&id, "rm -r /data /more && sync").await;
        assert!(volume.settled(&node, &id).await.0 < before.0 + MIB);
        assert!(!walks(&node));
        node.remove_container(&id).await.unwrap();
        volume.eventually_free().await;
        node.finish().await;
    }
}

#[tokio::test]
async fn a_limit_stops_one_container_and_no_other_on_ext4_and_on_xfs() {
    for volume in [Volume::ext4(), Volume::xfs()] {
        let mut node = volume.node(&hearing()).await;
        let pod = node.run_pod(PodSpec::new(&node, "pod").privileged()).await;
        let id = node.run(&pod, limited(ContainerSpec::waiting("c"), "8Mi")).await;
        let other = node.run(&pod, ContainerSpec::waiting("d")).await;
        let mighty = ContainerSpec::waiting("e").secured(|context| context.privileged = true);
        let mighty = node.run(&pod, limited(mighty, "8Mi")).await;
        let write = |megabytes: u64| format!("dd if=/dev/zero of=/file bs=1M count={megabytes}");
        for restarted in [false, true] {
            let full = node.exec(&id, &write(32), 30).await.unwrap();
            let words = full.err.contains("No space left") || full.err.contains("uota exceeded");
            assert!(full.code != 0 && words, "{full:?}");
            let size: u64 = node.exec_ok(&id, "stat -c %s /file").await.parse().unwrap();
            assert!((6 * MIB..=8 * MIB).contains(&size), "{size}, restarted: {restarted}");
            assert!(volume.count(project_of(&layer(&node, &id).join("work"))).bytes <= 8 * MIB);
            let seen = node.exec_ok(&id, "df -k / | tail -n 1").await;
            assert_eq!(seen.split_whitespace().nth(1), Some("8192"), "{seen}");
            node.exec_ok(&other, &write(32)).await;
            node.exec_ok(&id, "rm /file && sync").await;
            node.exec_ok(&id, &write(4)).await;
            if !restarted {
                node.restart().await;
            }
        }
        assert_ne!(
            node.exec(&mighty, &write(32), 30).await.unwrap().code,
            0,
            "it exceeds its limit by privilege"
        );
        let project = project_of(&layer(&node, &id).join("work"));
        assert_eq!(project, project_of(&layer(&node, &id).join("upper/file")));
        assert_eq!(volume.count(project).limit, 8 * MIB);
        node.remove_container(&id).await.unwrap();
        assert_eq!(volume.count(project).limit, 0, "the limit outlives its layer");
        node.remove_pod(&pod.id).await;
        volume.eventually_free().await;
        node.finish().await;
    }
}

#[tokio::test]
async fn the_operator_limits_all_containers_that_do_not_say_otherwise() {
    let volume = Volume::ext4();
    let default = format!("default_annotations = {{ {MAX_SIZE:?} = \"6Mi\" }}\n");
    let mut node = volume.node(&(hearing() + &default)).await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    for (size, limit) in [(None, 6 * MIB), (Some("0.5Gi"), 512 * MIB), (Some("2097153"), 2 * MIB + 512)] {
        let spec = ContainerSpec::waiting(&format!("c{limit}"));
        let spec = size.into_iter().fold(spec, limited);
        let id = node.create(&pod, spec).await;
        assert_eq!(volume.count(project_of(&layer(&node, &id).join("work"))).limit, limit);
    }
    let alias = "containerd.io/snapshot/max-size";
    let spec = ContainerSpec::waiting("deaf");
    let spec = spec.with(|config| drop(config.annotations.insert(alias.to_owned(), "7Mi".to_owned())));
    let id = node.create(&pod, spec).await;
    assert_eq!(volume.count(project_of(&layer(&node, &id).join("work"))).limit, 6 * MIB, "{alias} is heard");
    node.finish().await;
    let own = format!("[runtimes.{}]\nallowed_annotations = [\"containerd.io/snapshot/*\"]\n", oci_runtime());
    let mut node = volume.node(&own).await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    let spec = ContainerSpec::waiting("c");
    let spec = spec.with(|config| drop(config.annotations.insert(alias.to_owned(), "7340032".to_owned())));
    let id = node.create(&pod, spec).await;
    assert_eq!(volume.count(project_of(&layer(&node, &id).join("work"))).limit, 7 * MIB);
    node.finish().await;
}

#[tokio::test]
async fn a_kill_in_the_midst_of_limiting_leaves_no_project() {
    for volume in [Volume::ext4(), Volume::xfs()] {
        let mut node = volume.node(&hearing()).await;
        let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
        let kept = node.create(&pod, limited(ContainerSpec::waiting("kept"), "3Mi")).await;
        for round in 0..4u64 {
            let image = node.container_status(&kept).await.unwrap().image.unwrap();
            let made: Vec<_> = (0..3)
                .map(|n| {
                    let spec = limited(ContainerSpec::waiting(&format!("c{round}-{n}")), "4Mi");
                    let config = podd::api::ContainerConfig { image: Some(image.clone()), ..spec.0 };
                    let request = podd::api::CreateContainerRequest {
                        pod_sandbox_id: pod.id.clone(),
                        config: Some(config),
                        sandbox_config: Some(pod.config.clone()),
                    };
                    let mut client = node.runtime.clone();
                    tokio::spawn(async move { client.create_container(request).await })
                })
                .collect();
            tokio::time::sleep(Duration::from_millis(2 + round * 13)).await;
            node.kill9();
            for made in made {
                let _ = made.await;
            }
            node.start_again().await;
        }
        let project = project_of(&layer(&node, &kept).join("work"));
        let containers = node.runtime.list_containers(podd::api::ListContainersRequest::default()).await;
        let living = containers.unwrap().into_inner().containers;
        eventually("no projects but those of living containers", || async {
            (volume.counts().len() == living.len()).then_some(())
        })
        .await;
        assert_eq!(volume.count(project).limit, 3 * MIB);
        // A removal that is cut off goes on when the daemon is back.
        for (n, container) in living.iter().enumerate().filter(|(_, container)| container.id != kept).take(4)
        {
            let (mut client, id) = (node.runtime.clone(), container.id.clone());
            let removal = tokio::spawn(async move {
                client.remove_container(podd::api::RemoveContainerRequest { container_id: id }).await
            });
            tokio::time::sleep(Duration::from_millis(1 + 3 * n as u64)).await;
            node.kill9();
            let _ = removal.await;
            node.start_again().await;
        }
        node.remove_pod(&pod.id).await;
        volume.eventually_free().await;
        node.finish().await;
    }
}

#[tokio::test]
async fn ext4_that_counts_without_limiting_says_what_is_missing() {
    let volume = Volume::ext4_mounted("loop");
    let mut node = volume.node(&hearing()).await;
    let pod = node.run_pod(PodSpec::new(&node, "pod")).await;
    let refused = node.try_create(&pod, limited(ContainerSpec::waiting("c"), "8Mi")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let message = refused.message();
    assert!(
        message.contains(MAX_SIZE) && message.contains("without limiting them; mount it with"),
        "{message}"
    );
    let id = node.run(&pod, ContainerSpec::waiting("c")).await;
    node.exec_ok(&id, WRITE).await;
    assert!(volume.settled(&node, &id).await.0 > 3 * MIB);
    assert!(!walks(&node));
    node.finish().await;
}

#[test]
fn a_project_that_has_a_file_is_nobody_elses_and_one_that_has_none_is_cleared() {
    for volume in [Volume::ext4(), Volume::xfs()] {
        let disk = volume.disk(3);
        // Somebody else has the first number, and another left a limit on the second.
        let others = volume.path().join("others");
        fs::create_dir(&others).unwrap();
        quota::set_project(fs::File::open(&others).unwrap().as_fd(), FIRST).unwrap();
        quota::set_limit(fs::File::open(volume.path()).unwrap().as_fd(), FIRST + 1, 4 * KIB).unwrap();
        let ((one, one_layer), (two, two_layer), (three, three_layer)) =
            (volume.make(), volume.make(), volume.make());
        disk.add(&one, None).unwrap();
        assert_eq!((project_of(&one_layer.join("upper")), volume.count(FIRST + 1).limit), (FIRST + 1, 0));
        disk.add(&two, Some(5 * MIB)).unwrap();
        assert_eq!(project_of(&two_layer.join("work")), FIRST + 2);
        // None is left: counting goes on in another way, a limit cannot be had.
        let error = disk.add(&three, Some(5 * MIB)).unwrap_err().to_string();
        assert!(error.contains("7000 to 7002") && error.contains("disk.projects"), "{error}");
        disk.add(&three, None).unwrap();
        assert_eq!(disk.usage(&three), None, "it is not walked over yet");
        assert_eq!(project_of(&three_layer.join("work")), 0);
        assert_eq!(disk.usage(&two).map(|usage| usage.inodes), Some(2));
        // A layer on its way to its end has its number until the last file is gone.
        disk.release(&two).unwrap();
        assert_eq!((disk.usage(&two), volume.count(FIRST + 2).limit), (None, 0));
        let trash = volume.path().join("trash");
        fs::rename(&two_layer, &trash).unwrap();
        let (four, _) = volume.make();
        assert!(disk.add(&four, Some(5 * MIB)).is_err());
        fs::remove_dir_all(&trash).unwrap();
        soon("the number of a layer that is gone", || disk.add(&four, Some(5 * MIB)).is_ok());
        // A second daemon knows all of it again.
        let again = volume.disk(3);
        let living = HashMap::from([(one.clone(), false), (three.clone(), false)]);
        assert!(again.take_up(&living).is_empty());
        assert_eq!(again.usage(&one).map(|usage| usage.inodes), Some(2));
        assert_eq!((again.usage(&four), volume.count(FIRST + 2).limit), (None, 0), "no container has it");
        fs::remove_dir_all(&others).unwrap();
    }
}

#[test]
fn two_daemons_on_one_file_system_never_share_a_project() {
    let volume = Volume::ext4();
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let disk = volume.disk(PROJECTS);
            let layers: Vec<_> = (0..PROJECTS / 4).map(|_| volume.make()).collect();
            std::thread::spawn(move || {
                for (id, _) in &layers {
                    disk.add(id, Some(MIB)).unwrap();
                }
                layers.iter().map(|(_, layer)| project_of(&layer.join("work"))).collect::<Vec<_>>()
            })
        })
        .collect();
    let mut projects: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    projects.sort_unstable();
    projects.dedup();
    assert_eq!(projects.len(), PROJECTS as usize / 2);
    assert!(projects.iter().all(|project| volume.count(*project).limit == MIB));
}

#[test]
fn a_place_that_an_administrator_counts_is_left_to_him() {
    let volume = Volume::ext4();
    let containers = volume.path().join("containers");
    fs::create_dir(&containers).unwrap();
    quota::set_project(fs::File::open(&containers).unwrap().as_fd(), 5).unwrap();
    let disk = volume.disk(3);
    let error = disk.can_limit().unwrap_err().to_string();
    assert!(error.contains("belongs to project 5 already"), "{error}");
    let (id, layer) = volume.make();
    disk.add(&id, None).unwrap();
    disk.release(&id).unwrap();
    assert_eq!(project_of(&layer.join("work")), 5);
}
