//! The CRI's unix socket: made with its directory, mode 0660; a stale one is replaced, a live one refused.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// The socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Something answers there.
    #[error("another process is serving on {}; stop it first, or set another `socket`", .0.display())]
    Live(PathBuf),
    /// Another kind of file has the name.
    #[error("{} exists and is no socket; remove it, or set another `socket`", .0.display())]
    NoSocket(PathBuf),
    /// The file system refused.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was being done, as a verb.
        operation: &'static str,
        /// The path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Binds the socket under a temporary name and renames it into place, so that nobody ever meets it with a wrong mode.
pub(crate) fn bind(path: &Path) -> Result<UnixListener, ListenError> {
    let fail = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| ListenError::Io { operation, path, source }
    };
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(fail("make the directory", directory))?;
    }
    refuse_a_live_one(path)?;
    let temporary = path.with_extension("new");
    let _ = fs::remove_file(&temporary);
    let listener = UnixListener::bind(&temporary).map_err(fail("bind", &temporary))?;
    fs::set_permissions(&temporary, Permissions::from_mode(0o660))
        .map_err(fail("set the mode of", &temporary))?;
    fs::rename(&temporary, path).map_err(fail("rename to", path))?;
    Ok(listener)
}

fn refuse_a_live_one(path: &Path) -> Result<(), ListenError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => Err(ListenError::NoSocket(path.to_owned())),
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => Err(ListenError::Live(path.to_owned())),
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(source) => Err(ListenError::Io { operation: "probe", path: path.to_owned(), source }),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(ListenError::Io { operation: "look at", path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/podd.sock");
        drop(bind(&path).unwrap());
        let listener = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert!(matches!(bind(&path), Err(ListenError::Live(_))));
        drop(listener);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn another_kind_of_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("podd.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path), Err(ListenError::NoSocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
