//! A new file system for each turn.
//!
//! On one that was in use, ext4 searches at each new file through all the inodes freed in the last minutes, which it does not
//! give out again so soon. Whoever pulls after others have deleted what they pulled would measure that, and not the pull.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{UnmountFlags, unmount};

use crate::common::{program, random_tag};

/// Holds either image twice: packed and unpacked.
const MEBIBYTES: u64 = 4 << 10;

/// A block device in a file. As a disk's, each of its blocks has a place before it is written to: to one in a file with holes
/// the file system below would have to give one at each write, which costs as much as the write.
pub struct Device {
    file: PathBuf,
    name: String,
}

impl Device {
    /// Makes one.
    pub fn new() -> Self {
        let file = std::env::temp_dir().join(format!("podd-bench-{}.ext4", random_tag()));
        let mut zeros = Command::new(program("dd"));
        zeros.args(["if=/dev/zero", "bs=1M", "oflag=direct", "status=none", &format!("count={MEBIBYTES}")]);
        run(zeros.arg(format!("of={}", file.display())));
        // As a disk would, the device bypasses the cache of the file system that the file is on: nothing is copied twice.
        let mut losetup = Command::new(program("losetup"));
        losetup.args(["--find", "--show", "--direct-io=on"]).arg(&file);
        let name = String::from_utf8(losetup.output().unwrap().stdout).unwrap().trim().to_owned();
        Self { file, name }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        run(Command::new(program("losetup")).args(["--detach", &self.name]));
        let _ = fs::remove_file(&self.file);
    }
}

/// An ext4, mounted.
pub struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Makes and mounts one in place of what the device held before.
    pub fn new(device: &Device) -> Self {
        let path = std::env::temp_dir().join(format!("podd-bench-{}", random_tag()));
        fs::create_dir(&path).unwrap();
        run(Command::new(program("mkfs.ext4")).args(["-q", "-F", "-E", "nodiscard", &device.name]));
        // The tables of inodes are not initialised behind the back of what is measured.
        run(Command::new(program("mount")).args(["-o", "noinit_itable", &device.name]).arg(&path));
        Self { path }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.path, UnmountFlags::empty()) {
            eprintln!("unmounting {}: {error}", self.path.display());
        }
        let _ = fs::remove_dir(&self.path);
    }
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}
