//! Mounts the root filesystem, in the child and its own mount namespace.
//!
//! Layers are given one by one with the file system context calls (`lowerdir+`, Linux 6.7). An older kernel takes all
//! options in one page, so there each directory is opened and named by its number: mount(2) is called in `/proc/self/fd`
//! with `lowerdir=5:6:7`, and hundreds of layers fit. Linux 6.5 and 6.6 refuse the parameter at once; before, the kernel only
//! collects what it is given and refuses the whole at the end, without a word about it.

use std::env;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use podd_monitor::protocol::Overlay;

use crate::failure::Described;
use crate::sys::mount::{Context, mount};

/// The longest value of a parameter that fsconfig(2) takes, without its NUL.
const LONGEST_VALUE: usize = 255;

/// Mounts `overlay` on `target`.
pub(crate) fn mount_overlay(overlay: &Overlay, target: &Path) -> Result<(), String> {
    match mount_by_context(overlay, target)? {
        Attempt::Mounted => Ok(()),
        Attempt::NotSupported => mount_by_numbers(overlay, target),
    }
}

enum Attempt {
    Mounted,
    NotSupported,
}

fn mount_by_context(overlay: &Overlay, target: &Path) -> Result<Attempt, String> {
    let context = match Context::open("overlay") {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => return Ok(Attempt::NotSupported),
        opened => opened.described("open an overlay file system")?,
    };
    let explain = |error: io::Error| context.message().unwrap_or_else(|| error.to_string());
    let mut open = Vec::new();
    for layer in &overlay.lower {
        match context.set("lowerdir+", Some(&value(layer, &mut open)?)) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => return Ok(Attempt::NotSupported),
            set => set.map_err(|e| format!("add layer {}: {}", layer.display(), explain(e)))?,
        }
    }
    let writable = [("upperdir", &overlay.upper), ("workdir", &overlay.work)];
    for (key, path) in writable.into_iter().filter(|(_, path)| !path.as_os_str().is_empty()) {
        let set = context.set(key, Some(&value(path, &mut open)?));
        set.map_err(|e| format!("set {key} {}: {}", path.display(), explain(e)))?;
    }
    for option in &overlay.options {
        let set = match option.split_once('=') {
            Some((key, value)) => context.set(key, Some(value.as_bytes())),
            None => context.set(option, None),
        };
        set.map_err(|e| format!("set option {option}: {}", explain(e)))?;
    }
    let count = overlay.lower.len();
    match context.mount(target) {
        Ok(()) => Ok(Attempt::Mounted),
        Err(error) => match context.message() {
            None if error.raw_os_error() == Some(libc::EINVAL) => Ok(Attempt::NotSupported),
            message => {
                let text = message.unwrap_or_else(|| error.to_string());
                Err(format!("mount an overlay of {count} layers on {}: {text}", target.display()))
            }
        },
    }
}

/// A directory as the value of a parameter: its path, or, where that is too long, the path of a descriptor.
fn value(path: &Path, open: &mut Vec<File>) -> Result<Vec<u8>, String> {
    if path.as_os_str().len() <= LONGEST_VALUE {
        return Ok(path.as_os_str().as_bytes().to_vec());
    }
    let directory = open_directory(path)?;
    let value = format!("/proc/self/fd/{}", directory.as_raw_fd());
    open.push(directory);
    Ok(value.into_bytes())
}

fn mount_by_numbers(overlay: &Overlay, target: &Path) -> Result<(), String> {
    let mut open = Vec::new();
    let mut number = |path: &PathBuf| -> Result<String, String> {
        let directory = open_directory(path)?;
        let number = directory.as_raw_fd().to_string();
        open.push(directory);
        Ok(number)
    };
    let lower = overlay.lower.iter().map(&mut number).collect::<Result<Vec<_>, _>>()?.join(":");
    let mut options = format!("lowerdir={lower}");
    if !overlay.upper.as_os_str().is_empty() {
        let (upper, work) = (number(&overlay.upper)?, number(&overlay.work)?);
        options.push_str(&format!(",upperdir={upper},workdir={work}"));
    }
    for option in &overlay.options {
        options.push(',');
        options.push_str(&quoted(option));
    }
    env::set_current_dir("/proc/self/fd").described("change to /proc/self/fd")?;
    let mounted = mount("overlay", target, options.as_bytes());
    env::set_current_dir("/").described("change to /")?;
    let count = overlay.lower.len();
    mounted.map_err(|e| format!("mount an overlay of {count} layers on {}: {e}", target.display()))
}

/// In mount(2)'s list a value with commas of its own (`context`) stands in quotes, which SELinux takes off.
fn quoted(option: &str) -> String {
    match option.split_once('=') {
        Some((key, value)) if value.contains(',') => format!("{key}=\"{value}\""),
        _ => option.to_owned(),
    }
}

fn open_directory(path: &Path) -> Result<File, String> {
    File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(path)
        .described(format_args!("open {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;
    use std::thread;

    use super::*;
    use crate::sys::mount::unshare_mounts;

    /// Mounts `count` layers in a mount namespace of a thread, which both end with it, and reads each layer's file.
    fn layers_show(count: usize, mount: fn(&Overlay, &Path) -> Result<(), String>) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_owned();
        let seen = thread::spawn(move || {
            unshare_mounts().unwrap();
            assert!(Command::new("mount").args(["--make-rprivate", "/"]).status().unwrap().success());
            crate::sys::mount::mount("tmpfs", &root, b"").unwrap();
            let path = |name: &str| {
                let path = root.join(name);
                fs::create_dir(&path).unwrap();
                path
            };
            let lower: Vec<PathBuf> =
                (0..count).map(|i| path(&format!("a-layer-of-the-image-{i}"))).collect();
            lower.iter().enumerate().for_each(|(i, layer)| {
                fs::write(layer.join("top"), i.to_string()).unwrap();
                fs::write(layer.join(format!("file-{i}")), "").unwrap();
            });
            let (upper, work, target) = (path("upper"), path("work"), path("target"));
            let options = vec!["index=off".to_owned()];
            mount(&Overlay { lower, upper, work, options, owned: false }, &target).unwrap();
            (fs::read_dir(&target).unwrap().count(), fs::read_to_string(target.join("top")).unwrap())
        });
        assert_eq!(seen.join().unwrap(), (count + 1, "0".to_owned()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "a mount has come through to the host");
    }

    #[test]
    fn a_value_with_commas_is_quoted() {
        assert_eq!(quoted("index=off"), "index=off");
        assert_eq!(quoted("volatile"), "volatile");
        assert_eq!(quoted("context=u:r:t:s0:c1,c2"), "context=\"u:r:t:s0:c1,c2\"");
    }

    #[test]
    fn two_hundred_layers_by_numbers() {
        layers_show(200, mount_by_numbers);
    }

    #[test]
    fn two_hundred_layers_by_context_or_what_the_kernel_has() {
        layers_show(200, mount_overlay);
    }

    #[test]
    fn a_missing_layer_is_named() {
        let overlay = Overlay { lower: vec!["/does/not/exist".into()], ..Overlay::default() };
        for attempt in [mount_overlay, mount_by_numbers] {
            let error = attempt(&overlay, Path::new("/nowhere")).unwrap_err();
            assert!(error.contains("/does/not/exist"), "{error}");
        }
    }
}
