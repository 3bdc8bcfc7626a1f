//! The log file, and what happens when it cannot be written.
//!
//! A failing write drops what it could not write and never waits: the container goes on. What was dropped is counted, and
//! the next write that works first says so in the log. The file always ends at the end of a line: a torn line is cut off,
//! or, where that fails, ended by a newline.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::lines::payload;
use super::{Batch, Stamp};
use crate::sys::memory::error_text;

/// The log of one container.
pub(crate) struct LogFile {
    path: PathBuf,
    /// `None` without a path: output is thrown away.
    file: Option<File>,
    /// Whether the file ends within a line.
    torn: bool,
    /// Bytes of container output that are lost and not yet reported in the log.
    dropped: u64,
    /// Why the last of them were lost.
    cause: i32,
}

impl LogFile {
    /// Opens the log; an empty path stands for none.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = if path.as_os_str().is_empty() { None } else { Some(open(path)?) };
        Ok(Self { path: path.to_owned(), file, torn: false, dropped: 0, cause: 0 })
    }

    /// Opens the path anew after a rotation. If that fails the old file stays in use.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        if self.file.is_some() {
            self.file = Some(open(&self.path)?);
            self.torn = false;
            self.report_dropped();
        }
        Ok(())
    }

    /// Writes the batch out and empties it.
    pub(crate) fn write(&mut self, batch: &mut Batch) {
        if self.file.is_some() && !batch.as_bytes().is_empty() {
            if self.report_dropped() {
                let written = self.append(batch.as_bytes());
                self.dropped += payload(&batch.as_bytes()[written..]);
            } else {
                self.dropped += payload(batch.as_bytes());
            }
        }
        batch.clear();
    }

    /// Says in the log how much is missing from it, if anything is; false if the log still cannot be written.
    pub(crate) fn report_dropped(&mut self) -> bool {
        if self.dropped == 0 {
            return true;
        }
        let mut line = [0u8; 256];
        let mut rest = &mut line[..];
        let mut cause = [0u8; 96];
        let written = rest.write_all(Stamp::now().as_bytes()).and_then(|()| {
            let (dropped, cause) = (self.dropped, error_text(self.cause, &mut cause));
            writeln!(rest, " stderr F podd-monitor: {dropped} bytes of output were dropped ({cause})")
        });
        let len = 256 - rest.len();
        if written.is_err() || self.append(&line[..len]) < len {
            return false;
        }
        self.dropped = 0;
        true
    }

    /// Appends whole lines and says how many bytes of them stand in the file, which is again a number of whole lines.
    fn append(&mut self, bytes: &[u8]) -> usize {
        let Some(file) = &mut self.file else { return bytes.len() };
        if self.torn {
            if let Err(error) = file.write_all(b"\n") {
                self.cause = error.raw_os_error().unwrap_or(0);
                return 0;
            }
            self.torn = false;
        }
        let mut done = 0;
        while done < bytes.len() {
            let error = match file.write(&bytes[done..]) {
                Ok(0) => io::ErrorKind::WriteZero.into(),
                Ok(count) => {
                    done += count;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            self.cause = error.raw_os_error().unwrap_or(0);
            let whole = bytes[..done].iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
            self.torn = whole < done && cut(file, (done - whole) as u64).is_err();
            return whole;
        }
        done
    }
}

/// Takes `count` bytes off the file's end.
fn cut(file: &File, count: u64) -> io::Result<()> {
    let size = file.metadata()?.size();
    file.set_len(size.saturating_sub(count))
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}
