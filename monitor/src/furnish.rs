//! What the root filesystem is given before the runtime gets it: directories and links that the image lacks.
//!
//! They are made through the mounted overlay, so that the directories above them keep the image's owners and modes. What is
//! there already stays, whatever it is.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use crate::failure::Described;
use crate::sys::tree::{make_directory, make_link, open_directory_in};

/// Of a directory that nobody asks to have another mode.
const MODE: libc::mode_t = 0o755;

/// Makes `directories`, with all above them, and `links`, whose directories have to be there: else they are left out.
pub(crate) fn furnish(
    root: &Path,
    directories: &[PathBuf],
    links: &[(PathBuf, PathBuf)],
) -> Result<(), String> {
    if directories.is_empty() && links.is_empty() {
        return Ok(());
    }
    let mut options = File::options();
    let opened = options.read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(root);
    let opened = opened.described(format_args!("open {}", root.display()))?;
    directories.iter().try_for_each(|path| make_all(&opened, path))?;
    links.iter().try_for_each(|(at, target)| link(&opened, at, target))
}

fn make_all(root: &File, path: &Path) -> Result<(), String> {
    let mut parent = PathBuf::new();
    for component in path.components() {
        let Component::Normal(name) = component else { continue };
        let made = open_directory_in(root, &parent).and_then(|parent| make_directory(&parent, name, MODE));
        match made {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(format!("make the directory {} in the image: {error}", path.display()));
            }
            _ => parent.push(name),
        }
    }
    Ok(())
}

fn link(root: &File, at: &Path, target: &Path) -> Result<(), String> {
    let (Some(parent), Some(name)) = (at.parent(), at.file_name()) else { return Ok(()) };
    let made = open_directory_in(root, parent).and_then(|parent| make_link(&parent, name, target));
    match made {
        Err(error)
            if !matches!(
                error.kind(),
                ErrorKind::AlreadyExists | ErrorKind::NotFound | ErrorKind::NotADirectory
            ) =>
        {
            Err(format!("make the link {} in the image: {error}", at.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn what_is_missing_is_made_within_the_tree_and_what_is_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::create_dir(root.join("real")).unwrap();
        fs::write(root.join("file"), "kept").unwrap();
        symlink("/real", root.join("absolute")).unwrap();
        symlink("../../../..", root.join("real/up")).unwrap();
        let directories = ["/a/b/c", "/absolute/x", "/real/up/y", "/file", "/etc", "/"].map(PathBuf::from);
        let links = [("/etc/mtab", "/proc/mounts"), ("/no/where", "/x"), ("/file", "/x")]
            .map(|(at, target)| (PathBuf::from(at), PathBuf::from(target)));
        for _ in 0..2 {
            furnish(&root, &directories, &links).unwrap();
        }
        for made in ["a/b/c", "real/x", "y"] {
            assert_eq!(fs::metadata(root.join(made)).unwrap().permissions().mode() & 0o7777, 0o755, "{made}");
        }
        assert_eq!(fs::read_to_string(root.join("file")).unwrap(), "kept");
        assert_eq!(fs::read_link(root.join("etc/mtab")).unwrap(), Path::new("/proc/mounts"));
        assert!(!root.join("no").exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "something is outside the tree");
        let error = furnish(&root, &[PathBuf::from("/file/below")], &[]).unwrap_err();
        assert!(error.starts_with("make the directory /file/below in the image: "), "{error}");
    }
}
