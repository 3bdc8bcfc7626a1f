//! Layers seen as one tree, as overlayfs would show them, without a mount.
//!
//! Whiteouts, opaque directories and files that hide directories are respected. Each step is one name below an open
//! directory, and links are followed by hand within the stack, so that nothing outside the layers is ever reached.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::sys::fs;

/// As Linux does (MAXSYMLINKS).
const MAX_LINKS: usize = 40;

/// How deep a resolution may go: each level keeps a handle for each layer.
const MAX_DEPTH: usize = 32;

/// One directory of the merged tree: what each layer has of it, topmost first.
pub(crate) struct Stack {
    parts: Vec<OwnedFd>,
}

/// What a name stands for.
pub(crate) enum Found {
    /// Nothing, or something hidden.
    Nothing,
    /// A directory.
    Directory(Stack),
    /// A symbolic link to this target.
    Link(Vec<u8>),
    /// A regular file, open.
    File(File),
    /// A device, FIFO or socket.
    Other,
}

/// What a path leads to in the end.
pub(crate) enum Node {
    Directory,
    /// A regular file, open.
    File(File),
    /// A device, FIFO or socket.
    Other,
}

impl Stack {
    /// The root of the tree of these layers, topmost first.
    pub(crate) fn open(layers: &[PathBuf]) -> io::Result<Self> {
        let mut parts = Vec::with_capacity(layers.len());
        for layer in layers {
            let part = fs::open_directory(layer)?;
            let opaque = fs::is_opaque(part.as_fd())?;
            parts.push(part);
            if opaque {
                break;
            }
        }
        Ok(Self { parts })
    }

    /// The topmost part, which gives a merged directory its metadata.
    pub(crate) fn top(&self) -> Option<BorrowedFd<'_>> {
        self.parts.first().map(AsFd::as_fd)
    }

    /// In how many layers it is: as many handles are open for it.
    pub(crate) fn width(&self) -> usize {
        self.parts.len()
    }

    /// What `name` is in this directory.
    pub(crate) fn look_up(&self, name: &[u8]) -> Result<Found, Errno> {
        let mut parts = Vec::new();
        for dir in &self.parts {
            let stat = match fs::stat_at(dir.as_fd(), name) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(e),
            };
            if fs::file_type(&stat) == FileType::Directory {
                let part = fs::open_directory_beneath(dir.as_fd(), name)?;
                let opaque = fs::is_opaque(part.as_fd())?;
                parts.push(part);
                if opaque {
                    break;
                }
                continue;
            }
            if !parts.is_empty() || fs::is_whiteout(&stat) {
                break;
            }
            return Ok(match fs::file_type(&stat) {
                FileType::Symlink => Found::Link(fs::read_link(dir.as_fd(), name)?),
                FileType::RegularFile => Found::File(fs::open_file_beneath(dir.as_fd(), name)?.into()),
                _ => Found::Other,
            });
        }
        Ok(if parts.is_empty() { Found::Nothing } else { Found::Directory(Self { parts }) })
    }

    /// The content of the file at `path`; `None` when there is no such regular file. More than `max` bytes are an error.
    pub(crate) fn read_file(&self, path: &[u8], max: u64) -> io::Result<Option<Vec<u8>>> {
        let Some((_, Node::File(file))) = self.find(path)? else { return Ok(None) };
        let mut content = Vec::new();
        file.take(max.saturating_add(1)).read_to_end(&mut content)?;
        if content.len() as u64 > max {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("it is larger than {max} bytes"),
            ));
        }
        Ok(Some(content))
    }

    /// What `path` stands for, through links that stay in the tree, and the path that leads there without any.
    pub(crate) fn find(&self, path: &[u8]) -> io::Result<Option<(PathBuf, Node)>> {
        // Names still to go, the next one last; and the directories on the way down, the root not among them.
        let mut pending: Vec<Vec<u8>> = reversed(path);
        let mut descent: Vec<(Vec<u8>, Self)> = Vec::new();
        let mut links = 0;
        while let Some(name) = pending.pop() {
            if links > MAX_LINKS || descent.len() > MAX_DEPTH {
                return Err(Errno::LOOP.into());
            }
            if name == b".." {
                descent.pop();
                continue;
            }
            let node = match descent.last().map_or(self, |(_, directory)| directory).look_up(&name)? {
                Found::Nothing => return Ok(None),
                Found::Directory(directory) => {
                    descent.push((name, directory));
                    continue;
                }
                Found::Link(target) => {
                    links += 1;
                    if target.starts_with(b"/") {
                        descent.clear();
                    }
                    pending.extend(reversed(&target));
                    continue;
                }
                Found::File(file) => Node::File(file),
                Found::Other => Node::Other,
            };
            return Ok(pending.is_empty().then(|| (path_to(&descent).join(fs::path_of(&name)), node)));
        }
        Ok(Some((path_to(&descent), Node::Directory)))
    }
}

fn path_to(descent: &[(Vec<u8>, Stack)]) -> PathBuf {
    descent.iter().map(|(name, _)| fs::path_of(name)).collect()
}

fn reversed(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path.split(|&b| b == b'/').filter(|name| !name.is_empty() && *name != b".");
    names.rev().map(<[u8]>::to_vec).collect()
}
