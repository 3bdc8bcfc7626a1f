//! The leaf by itself, on a directory without quotas; with them `tests/integration/disk_quota.rs` has it.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use super::walk::{Broken, Budget, Sum, Walk};
use super::*;
use crate::sys::mount;

fn config() -> DiskConfig {
    DiskConfig {
        first_project: 1,
        projects: 0,
        walk_interval_seconds: 1,
        walk_entries: 100_000,
        walk_milliseconds: 1000,
    }
}

/// A tree with all that is hard to count.
fn tree(top: &Path) {
    fs::create_dir_all(top.join("a/b/c")).unwrap();
    fs::create_dir(top.join("empty")).unwrap();
    fs::write(top.join("a/file"), vec![1; 100_000]).unwrap();
    for name in ["a/second", "a/b/third"] {
        fs::hard_link(top.join("a/file"), top.join(name)).unwrap();
    }
    let sparse = File::create(top.join("a/b/sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    symlink("/usr", top.join("a/b/c/link")).unwrap();
    for n in 0..300 {
        fs::create_dir(top.join(format!("empty/{n}"))).unwrap();
        fs::write(top.join(format!("a/b/c/{n}")), vec![0; n * 30]).unwrap();
    }
}

/// What is to be found, found in another way.
fn counted(path: &Path, seen: &mut HashSet<u64>) -> (u64, u64) {
    let stat = fs::symlink_metadata(path).unwrap();
    if !seen.insert(stat.ino()) {
        return (0, 0);
    }
    let mut sum = (stat.blocks() * 512, 1);
    if stat.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            let (bytes, inodes) = counted(&entry.unwrap().path(), seen);
            sum = (sum.0 + bytes, sum.1 + inodes);
        }
    }
    sum
}

fn begin(top: &Path) -> Walk {
    Walk::begin(fs_open(top), Sum::default()).unwrap()
}

fn fs_open(path: &Path) -> OwnedFd {
    crate::sys::fs::open_directory(path).unwrap()
}

/// Goes on for so many files, and tells whether that was the end.
fn step(walk: &mut Walk, entries: u64) -> Result<bool, Broken> {
    let (gone, until) = (AtomicBool::new(false), Instant::now() + Duration::from_secs(60));
    walk.go_on(&mut Budget::new(entries, until, &gone))
}

fn found(walk: &Walk) -> (u64, u64) {
    (walk.sum.bytes(), walk.sum.inodes())
}

#[test]
fn a_walk_counts_links_holes_and_directories_as_they_are_in_steps_of_any_size() {
    let scratch = tempfile::tempdir().unwrap();
    tree(scratch.path());
    let expected = counted(scratch.path(), &mut HashSet::new());
    assert!(expected.0 > 100_000 && expected.0 < 100 << 20 && expected.1 > 600, "{expected:?}");
    for entries in [1, 2, 7, 63, 64, 65, 1_000_000] {
        let mut walk = begin(scratch.path());
        let mut steps = 0;
        while !step(&mut walk, entries).unwrap() {
            steps += 1;
        }
        assert_eq!(found(&walk), expected, "{entries} at a time");
        assert!(steps >= 600 / entries, "{steps} steps of {entries}");
    }
}

#[test]
fn a_walk_goes_to_any_depth_with_two_open_directories() {
    let scratch = tempfile::tempdir().unwrap();
    let mut dir = fs_open(scratch.path());
    for _ in 0..3000 {
        crate::sys::fs::make_directory(dir.as_fd(), b"d", 0o755).unwrap();
        dir = crate::sys::fs::open_directory_beneath(dir.as_fd(), b"d").unwrap();
    }
    drop(crate::sys::fs::create_file(dir.as_fd(), b"file").unwrap());
    drop(dir);
    let mut walk = begin(scratch.path());
    while !step(&mut walk, 500).unwrap() {
        let open = fs::read_dir("/proc/self/fd").unwrap();
        let below = open.filter(|entry| {
            let target = entry.as_ref().ok().and_then(|entry| fs::read_link(entry.path()).ok());
            target.is_some_and(|target| target.starts_with(scratch.path()))
        });
        assert!(below.count() <= 1);
    }
    assert_eq!(walk.sum.inodes(), 3002);
    crate::sys::fs::empty_directory(fs_open(scratch.path()).as_fd()).unwrap();
}

#[test]
fn what_is_mounted_in_a_layer_is_not_of_it() {
    let scratch = tempfile::tempdir().unwrap();
    let at = scratch.path().join("mount");
    fs::create_dir(&at).unwrap();
    let mut before = begin(scratch.path());
    assert!(step(&mut before, 100).unwrap());
    mount::mount_tmpfs(&at, 1 << 20, 0o755, (0, 0), None).unwrap();
    fs::write(at.join("file"), "no part of it").unwrap();
    let mut walk = begin(scratch.path());
    let ended = step(&mut walk, 100);
    mount::unmount(&at).unwrap();
    assert!(ended.unwrap());
    assert_eq!(walk.sum.inodes(), before.sum.inodes() - 1, "not even the place of the mount");
}

#[test]
fn a_directory_that_is_moved_under_a_walk_breaks_it_off_and_leads_nowhere_else() {
    let scratch = tempfile::tempdir().unwrap();
    let (layer, outside) = (scratch.path().join("layer"), scratch.path().join("outside"));
    fs::create_dir_all(layer.join("a/b")).unwrap();
    fs::create_dir(&outside).unwrap();
    for n in 0..10 {
        fs::write(layer.join(format!("a/b/{n}")), "").unwrap();
        fs::write(outside.join(n.to_string()), "").unwrap();
    }
    let mut walk = begin(&layer);
    assert!(!step(&mut walk, 5).unwrap());
    fs::rename(layer.join("a/b"), outside.join("b")).unwrap();
    assert_eq!(step(&mut walk, 1000), Err(Broken::Moved));
    assert!(walk.sum.inodes() <= 13, "{:?}", walk.sum);
}

#[test]
fn a_walk_gives_way_to_the_deletion_of_what_it_is_in() {
    let scratch = tempfile::tempdir().unwrap();
    let layer = scratch.path().join("layer");
    fs::create_dir(&layer).unwrap();
    tree(&layer);
    let mut walk = begin(&layer);
    for _ in 0..3 {
        assert!(!step(&mut walk, 50).unwrap());
    }
    fs::remove_dir_all(&layer).unwrap();
    assert_eq!(step(&mut walk, 1_000_000), Ok(true));
    let gone = AtomicBool::new(true);
    tree(&layer);
    let mut walk = begin(&layer);
    let until = Instant::now() + Duration::from_secs(60);
    assert_eq!(walk.go_on(&mut Budget::new(1000, until, &gone)), Ok(false));
    assert!(walk.sum.inodes() < 4, "it stops at the next file: {:?}", walk.sum);
}

struct Layers {
    place: tempfile::TempDir,
    disk: Disk,
}

impl Layers {
    fn new(config: &DiskConfig) -> Self {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("containers")).unwrap();
        let disk = Disk::open(config, place.path());
        Self { place, disk }
    }

    fn make(&self) -> (ContainerId, PathBuf) {
        let id = ContainerId::generate();
        let directory = self.place.path().join("containers").join(id.as_str());
        for name in [UPPER, WORK] {
            fs::create_dir_all(directory.join(name)).unwrap();
        }
        self.disk.add(&id, None).unwrap();
        (id, directory)
    }

    /// Patient: a walk that a busy machine draws out is followed by a rest of twenty times its length.
    fn until(&self, id: &ContainerId, what: &str, wanted: impl Fn(Usage) -> bool) -> Usage {
        let start = Instant::now();
        loop {
            let usage = self.disk.usage(id);
            if let Some(usage) = usage.filter(|usage| wanted(*usage)) {
                return usage;
            }
            assert!(start.elapsed() < Duration::from_secs(120), "no {what}: {usage:?}");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn a_question_is_answered_from_the_last_walk_and_has_the_next_one_made() {
    let layers = Layers::new(&config());
    let (id, directory) = layers.make();
    assert_eq!(layers.disk.usage(&id), None);
    let first = layers.until(&id, "first walk", |_| true);
    assert_eq!((first.bytes, first.inodes), counted(&directory, &mut HashSet::new()).less(&directory));
    tree(&directory.join(UPPER));
    let grown = layers.until(&id, "walk over more", |usage| usage.inodes > 600);
    assert_eq!((grown.bytes, grown.inodes), counted(&directory, &mut HashSet::new()).less(&directory));
    assert!(grown.at > first.at);
    assert_eq!((layers.disk.total().bytes, layers.disk.total().inodes), (grown.bytes, grown.inodes));
    fs::remove_dir_all(directory.join(UPPER).join("a")).unwrap();
    layers.until(&id, "walk over less", |usage| usage.bytes < grown.bytes);
    layers.disk.release(&id).unwrap();
    assert_eq!((layers.disk.usage(&id), layers.disk.total().inodes), (None, 0));
}

/// Without the directory that the layer lies in.
trait Less {
    fn less(self, directory: &Path) -> Self;
}

impl Less for (u64, u64) {
    fn less(self, directory: &Path) -> Self {
        (self.0 - fs::metadata(directory).unwrap().blocks() * 512, self.1 - 1)
    }
}

#[test]
fn nothing_is_walked_over_that_nobody_asks_about_and_no_thread_waits_for_it() {
    let layers = Layers::new(&config());
    let (asked, _) = layers.make();
    let (other, _) = layers.make();
    assert!(!layers.disk.walker.is_started());
    layers.until(&asked, "walk", |_| true);
    assert!(layers.disk.walker.is_started());
    assert_eq!(layers.disk.walker.known(&other), None);
}

#[test]
fn the_layer_of_a_container_that_has_ended_is_walked_over_once_more() {
    let layers = Layers::new(&config());
    let (id, directory) = layers.make();
    layers.until(&id, "walk", |_| true);
    fs::write(directory.join(UPPER).join("last"), "words").unwrap();
    layers.disk.ended(&id);
    let last = layers.until(&id, "last walk", |usage| usage.inodes == 3);
    fs::write(directory.join(UPPER).join("more"), "by nobody").unwrap();
    // A layer that changes is walked over meanwhile, more than once.
    let (other, directory) = layers.make();
    for n in 0..2 {
        fs::write(directory.join(UPPER).join(n.to_string()), "").unwrap();
        layers.until(&other, "walk", |usage| usage.inodes == 3 + n);
    }
    assert_eq!(layers.disk.usage(&id), Some(last));
}

#[test]
fn a_budget_stretches_a_walk_and_a_removal_ends_it() {
    let layers = Layers::new(&DiskConfig { walk_entries: 250, ..config() });
    let (id, directory) = layers.make();
    tree(&directory.join(UPPER));
    let began = Instant::now();
    let usage = layers.until(&id, "slow walk", |_| true);
    // Of 613 files 250 are looked at in each of the first two seconds.
    assert!(began.elapsed() > Duration::from_millis(1900), "{:?}", began.elapsed());
    assert_eq!((usage.bytes, usage.inodes), counted(&directory, &mut HashSet::new()).less(&directory));
    let (next, next_directory) = layers.make();
    tree(&next_directory.join(UPPER));
    assert_eq!(layers.disk.usage(&next), None);
    layers.disk.release(&next).unwrap();
    fs::remove_dir_all(&next_directory).unwrap();
    let (last, _) = layers.make();
    layers.until(&last, "walk after one that was broken off", |_| true);
}

#[test]
fn what_an_earlier_daemon_left_is_taken_up() {
    let layers = Layers::new(&config());
    let (running, _) = layers.make();
    let (ended, _) = layers.make();
    let again = Disk::open(&config(), layers.place.path());
    let living = HashMap::from([(running.clone(), false), (ended.clone(), true)]);
    assert!(again.take_up(&living).is_empty());
    let again = Layers { disk: again, place: layers.place };
    again.until(&running, "walk", |_| true);
    again.until(&ended, "walk", |_| true);
}

#[test]
fn a_limit_needs_quotas_and_the_error_says_which() {
    let layers = Layers::new(&config());
    let error = layers.disk.add(&ContainerId::generate(), Some(1 << 20)).unwrap_err().to_string();
    assert!(error.contains("disk.projects is 0"), "{error}");
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("containers")).unwrap();
    mount::mount_tmpfs(&place.path().join("containers"), 1 << 20, 0o755, (0, 0), None).unwrap();
    let disk = Disk::open(&DiskConfig { projects: 10, ..config() }, place.path());
    let error = disk.can_limit().unwrap_err().to_string();
    drop(disk);
    mount::unmount(&place.path().join("containers")).unwrap();
    assert!(error.contains("prjquota") && error.contains("tune2fs"), "{error}");
}
