//! Where things lie: file systems, room, and what overlayfs asks of them.

use std::path::{Path, PathBuf};

use podd::config::Config;
use podd::image;
use rustix::fs::{FileType, StatVfsMountFlags};

use super::finding::Check;

/// Below this share of free room the kubelet's default begins to evict pods for the sake of images.
const LITTLE: u64 = 15;
/// Below this a pull or a log is likely to fail.
const NEXT_TO_NONE: u64 = 3;

/// How a file system serves what lies on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Serves {
    /// Layers and writable layers.
    Well,
    /// The same until the next reboot.
    InMemory,
    /// No writable layer.
    Not,
    Unknown,
}

/// By the numbers that statfs(2) gives.
const KINDS: [(u64, &str, Serves); 16] = [
    (0xef53, "ext4", Serves::Well),
    (0x5846_5342, "xfs", Serves::Well),
    (0x9123_683e, "btrfs", Serves::Well),
    (0xf2f5_2010, "f2fs", Serves::Well),
    (0xca45_1a4e, "bcachefs", Serves::Well),
    (0x2fc1_2fc1, "zfs", Serves::Well),
    (0x0102_1994, "tmpfs", Serves::InMemory),
    (0x8584_58f6, "ramfs", Serves::InMemory),
    (0x794c_7630, "overlay", Serves::Not),
    (0x6969, "nfs", Serves::Not),
    (0xff53_4d42, "cifs", Serves::Not),
    (0xfe53_4d42, "smb2", Serves::Not),
    (0x6573_5546, "fuse", Serves::Not),
    (0x0102_1997, "9p", Serves::Not),
    (0x00c3_6400, "ceph", Serves::Not),
    (0x7371_7368, "squashfs", Serves::Not),
];

/// What was seen of a directory.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    /// Of it, or where it is not there yet, of what it will be made in.
    pub(super) found: Result<FileSystem, String>,
}

/// A file system.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileSystem {
    pub(super) magic: u64,
    pub(super) bytes: Share,
    /// Of no inodes at all there is no end.
    pub(super) inodes: Share,
    pub(super) read_only: bool,
    /// Whether a listing tells what is a directory; `None` where nothing is there to be listed.
    pub(super) types: Option<bool>,
    pub(super) project_quota: bool,
}

/// What is free of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) free: u64,
    pub(super) all: u64,
}

impl Share {
    fn percent(self) -> u64 {
        match self.all {
            0 => 100,
            all => u64::try_from(u128::from(self.free) * 100 / u128::from(all)).unwrap_or(100),
        }
    }
}

/// What was seen of the disks.
#[derive(Debug, Clone)]
pub(super) struct Disks {
    pub(super) root: Place,
    /// The images', where they have a place of their own.
    pub(super) images: Option<Place>,
    pub(super) run: Place,
}

/// Looks at them.
pub(super) fn observe(config: &Config) -> Disks {
    let images = image::places(&config.images, &config.root).images;
    Disks {
        images: (images != config.root).then(|| place(&images)),
        root: place(&config.root),
        run: place(&config.run_dir),
    }
}

/// The directory, or the nearest one above it that is there.
pub(super) fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

fn place(path: &Path) -> Place {
    Place { path: path.to_owned(), found: file_system(existing(path)).map_err(|e| e.to_string()) }
}

fn file_system(path: &Path) -> std::io::Result<FileSystem> {
    let (kind, room) = (rustix::fs::statfs(path)?, rustix::fs::statvfs(path)?);
    Ok(FileSystem {
        // Some architectures have it with a sign.
        magic: u64::try_from(kind.f_type).unwrap_or_default() & 0xffff_ffff,
        bytes: Share {
            free: room.f_bavail.saturating_mul(room.f_frsize),
            all: room.f_blocks.saturating_mul(room.f_frsize),
        },
        inodes: Share { free: room.f_favail, all: room.f_files },
        read_only: room.f_flag.contains(StatVfsMountFlags::RDONLY),
        types: tells_types(path),
        project_quota: has_project_quota(path),
    })
}

fn tells_types(path: &Path) -> Option<bool> {
    let directory = podd::sys::fs::open_directory(path).ok()?;
    let entries = rustix::fs::Dir::read_from(directory).ok()?.flatten();
    let mut entries = entries.filter(|entry| !matches!(entry.file_name().to_bytes(), b"." | b".."));
    entries.next().map(|entry| entry.file_type() != FileType::Unknown)
}

/// By the options of the mount that the path lies on: the last one of the longest mount point.
fn has_project_quota(path: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    project_quota(&table, &path)
}

fn project_quota(mountinfo: &str, path: &Path) -> bool {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let point = Path::new(mount.split(' ').nth(4)?);
        path.starts_with(point)
            .then(|| (point.components().count(), filesystem.rsplit(' ').next().unwrap_or_default()))
    });
    let options = mounts.max_by_key(|(depth, _)| *depth).map(|(_, options)| options).unwrap_or_default();
    options.split(',').any(|option| matches!(option, "prjquota" | "pquota"))
}

/// Judges them.
pub(super) fn checks(disks: &Disks) -> Vec<Check> {
    let mut checks = stored("disk.root", "root", &disks.root);
    if let Some(images) = &disks.images {
        checks.extend(stored("disk.images", "images.root", images));
    }
    checks.push(run_dir(&disks.run));
    if let Ok(found) = &disks.root.found {
        checks.push(match found.project_quota {
            true => Check::ok("disk.quota", "project quotas are on: sizes of writable layers cost nothing"),
            false => Check::note(
                "disk.quota",
                "no project quotas: sizes of writable layers are found by walking through them",
                "nothing, or mount the file system of root with prjquota (ext4, xfs)",
            ),
        });
    }
    checks
}

fn stored(id: &str, key: &str, place: &Place) -> Vec<Check> {
    let path = place.path.display();
    let found = match &place.found {
        Ok(found) => found,
        Err(why) => return vec![Check::problem(id, format!("{path}: {why}"), &format!("correct {key}"))],
    };
    let mut checks = vec![suited(id, key, &place.path, found)];
    checks.push(room(&format!("{id}.space"), &path.to_string(), "room", "bytes", found.bytes));
    if found.inodes.all > 0 {
        checks.push(room(&format!("{id}.inodes"), &path.to_string(), "inodes", "inodes", found.inodes));
    }
    checks
}

fn suited(id: &str, key: &str, path: &Path, found: &FileSystem) -> Check {
    let (name, serves) = KINDS.iter().find(|(magic, ..)| *magic == found.magic).map_or_else(
        || (format!("a file system of type {:#x}", found.magic), Serves::Unknown),
        |(_, name, serves)| ((*name).to_owned(), *serves),
    );
    let path = path.display();
    let elsewhere = format!("put {key} on a disk with ext4, xfs or btrfs");
    match (found.read_only, found.types, serves) {
        (true, ..) => Check::problem(id, format!("{path} is on a read-only file system"), &elsewhere),
        (_, Some(false), _) => Check::problem(
            id,
            format!("{path} is on {name} without the types of entries (d_type): overlayfs needs them"),
            "make the file system anew with them (mkfs.xfs -n ftype=1)",
        ),
        (.., Serves::Well) => Check::ok(id, format!("{path} is on {name}")),
        (.., Serves::InMemory) => Check::warning(
            id,
            format!("{path} is on {name}: images are gone after a reboot, and addresses are not given back"),
            &elsewhere,
        ),
        (.., Serves::Not) => Check::problem(
            id,
            format!("{path} is on {name}, which takes no writable layer of overlayfs"),
            &elsewhere,
        ),
        (.., Serves::Unknown) => Check::note(
            id,
            format!("{path} is on {name}"),
            "see that overlayfs can have its writable layer there",
        ),
    }
}

fn room(id: &str, path: &str, what: &str, unit: &str, share: Share) -> Check {
    use crate::cli::table::bytes;
    let shown = |count| if unit == "bytes" { bytes(count) } else { format!("{count}") };
    let seen = format!("{} of {} free ({} %)", shown(share.free), shown(share.all), share.percent());
    let advice = format!("make room around {path}: crictl rmi --prune, old logs");
    match share.percent() {
        percent if percent < NEXT_TO_NONE => {
            Check::problem(id, format!("hardly any {what}: {seen}"), &advice)
        }
        percent if percent < LITTLE => Check::warning(
            id,
            format!("little {what}: {seen}; the kubelet evicts pods at such levels"),
            &advice,
        ),
        _ => Check::ok(id, seen),
    }
}

fn run_dir(place: &Place) -> Check {
    const ID: &str = "disk.run";
    let path = place.path.display();
    match &place.found {
        Err(why) => Check::problem(ID, format!("{path}: {why}"), "correct run_dir"),
        Ok(found) if found.read_only => Check::problem(ID, format!("{path} is read-only"), "correct run_dir"),
        Ok(found) if matches!(found.magic, 0x0102_1994 | 0x8584_58f6) => match found.bytes.percent() {
            percent if percent < NEXT_TO_NONE => Check::problem(
                ID,
                format!("{path} is in memory, and full to {} %", 100 - percent),
                "see what fills it: podd's records are small",
            ),
            _ => Check::ok(ID, format!("{path} is in memory")),
        },
        Ok(_) => Check::warning(
            ID,
            format!("{path} is on a disk: each record of a pod costs it a write, and a reboot leaves them"),
            "put run_dir on a tmpfs, as /run is",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Outcome;
    use super::*;

    const PLENTY: Share = Share { free: 80, all: 100 };

    fn ext4() -> FileSystem {
        let types = Some(true);
        FileSystem {
            magic: 0xef53,
            bytes: PLENTY,
            inodes: PLENTY,
            read_only: false,
            types,
            project_quota: true,
        }
    }

    fn disks(root: FileSystem) -> Disks {
        let of = |path: &str, found| Place { path: path.into(), found: Ok(found) };
        let run = FileSystem { magic: 0x0102_1994, ..ext4() };
        Disks { root: of("/var/lib/podd", root), images: None, run: of("/run/podd", run) }
    }

    fn outcome(disks: &Disks, id: &str) -> Outcome {
        checks(disks).into_iter().find(|check| check.id == id).unwrap().outcome
    }

    #[test]
    fn a_disk_with_room_is_well() {
        assert!(checks(&disks(ext4())).iter().all(|check| check.outcome == Outcome::Ok));
    }

    #[test]
    fn file_systems_are_judged_by_what_overlayfs_makes_of_them() {
        let on = |magic| outcome(&disks(FileSystem { magic, ..ext4() }), "disk.root");
        assert_eq!(on(0x5846_5342), Outcome::Ok);
        assert_eq!(on(0x0102_1994), Outcome::Warning);
        assert_eq!(on(0x6969), Outcome::Problem);
        assert_eq!(on(0x794c_7630), Outcome::Problem);
        assert_eq!(on(0x1234), Outcome::Note);
        let old = FileSystem { types: Some(false), ..ext4() };
        assert_eq!(outcome(&disks(old), "disk.root"), Outcome::Problem);
        let fixed = FileSystem { read_only: true, ..ext4() };
        assert_eq!(outcome(&disks(fixed), "disk.root"), Outcome::Problem);
    }

    #[test]
    fn room_runs_out_in_two_steps() {
        let with = |free| {
            outcome(&disks(FileSystem { bytes: Share { free, all: 1000 }, ..ext4() }), "disk.root.space")
        };
        assert_eq!([500, 149, 20].map(with), [Outcome::Ok, Outcome::Warning, Outcome::Problem]);
        let inodes = FileSystem { inodes: Share { free: 1, all: 1000 }, ..ext4() };
        assert_eq!(outcome(&disks(inodes), "disk.root.inodes"), Outcome::Problem);
        let endless = disks(FileSystem { inodes: Share { free: 0, all: 0 }, ..ext4() });
        assert!(!checks(&endless).iter().any(|check| check.id == "disk.root.inodes"));
    }

    #[test]
    fn the_run_directory_belongs_into_memory() {
        let mut own = disks(ext4());
        own.run.found = Ok(ext4());
        assert_eq!(outcome(&own, "disk.run"), Outcome::Warning);
        own.run.found = Err("no".into());
        assert_eq!(outcome(&own, "disk.run"), Outcome::Problem);
    }

    #[test]
    fn project_quotas_are_an_option_of_the_mount_that_holds_the_path() {
        let table = "1 0 8:1 / / rw - ext4 /dev/a rw,prjquota\n2 1 8:2 / /var rw shared:1 - xfs /dev/b rw,noquota\n\
                     3 2 8:3 / /var/lib/podd rw - xfs /dev/c rw,pquota";
        let has = |path: &str| project_quota(table, Path::new(path));
        assert!(has("/etc") && !has("/var/lib") && has("/var/lib/podd/images") && has("/variable/x"));
    }

    #[test]
    fn a_directory_that_is_not_there_yet_is_judged_by_the_one_above() {
        assert_eq!(existing(Path::new("/no/such/directory")), Path::new("/"));
        assert_eq!(existing(Path::new("/proc/self")), Path::new("/proc/self"));
    }
}
