//! A new file system for each turn.
//!
//! On one that was in use, ext4 searches at each new file through all the inodes freed in the last minutes, which it does not
//! give out again so soon. Whoever pulls after others have deleted what they pulled would measure that, and not the pull.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{UnmountFlags, unmount};

use crate::common::{program, random_tag};

/// Holds either image several times; only what is written takes space.
const SIZE: u64 = 8 << 30;

/// An ext4 in a file, mounted.
pub struct Disk {
    file: PathBuf,
    device: String,
    path: PathBuf,
}

impl Disk {
    /// Makes and mounts one.
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!("podd-bench-{}", random_tag()));
        let file = path.with_extension("ext4");
        File::create(&file).unwrap().set_len(SIZE).unwrap();
        fs::create_dir(&path).unwrap();
        // As a disk would, the device bypasses the cache of the file system that the file is on: nothing is copied twice.
        let mut losetup = Command::new(program("losetup"));
        losetup.args(["--find", "--show", "--direct-io=on"]).arg(&file);
        let device = String::from_utf8(losetup.output().unwrap().stdout).unwrap().trim().to_owned();
        let disk = Self { file, device, path };
        run(Command::new(program("mkfs.ext4")).args(["-q", "-F", "-E", "nodiscard"]).arg(&disk.device));
        // The tables of inodes are not initialised behind the back of what is measured.
        run(Command::new(program("mount")).args(["-o", "noinit_itable", &disk.device]).arg(&disk.path));
        disk
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
        run(Command::new(program("losetup")).args(["--detach", &self.device]));
        let _ = fs::remove_dir(&self.path);
        let _ = fs::remove_file(&self.file);
    }
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}
