//! The log file, and what happens when it cannot be written, or may not be.
//!
//! A failing write drops what it could not write and never waits: the container goes on. So does a limit (`limits.rs`). What
//! was dropped is counted by its cause, and the next write that works first says so in the log. The file always ends at the
//! end of a line: a torn line is cut off, or, where that fails, ended by a newline.

use std::fmt::Arguments;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::limits::{Limits, whole_lines};
use super::lines::payload;
use super::{Batch, Stamp};
use crate::sys::memory::error_text;

/// The longest line of the monitor's own, in bytes.
const NOTICE: usize = 256;
/// What is kept free below the limit of the file's size, for lines of the monitor's own: one when the limit is reached, and
/// one for each cause at the container's end.
const RESERVE: u64 = 4 * NOTICE as u64;

/// The log of one container.
pub(crate) struct LogFile {
    path: PathBuf,
    /// `None` without a path: output is thrown away.
    file: Option<File>,
    limits: Limits,
    /// The file's size when it reached its limit; smaller, it has been emptied.
    full: Option<u64>,
    /// Whether the file ends within a line.
    torn: bool,
    lost: Lost,
    /// Why the disk did not take what it lost last.
    cause: i32,
}

/// Bytes of container output that are lost and not yet reported in the log, by their cause.
#[derive(Debug, Clone, Copy, Default)]
struct Lost {
    disk: u64,
    size: u64,
    rate: u64,
}

impl LogFile {
    /// Opens the log; an empty path stands for none.
    pub(crate) fn open(path: &Path, limits: Limits) -> io::Result<Self> {
        let file = if path.as_os_str().is_empty() { None } else { Some(open(path)?) };
        let path = path.to_owned();
        Ok(Self { path, file, limits, full: None, torn: false, lost: Lost::default(), cause: 0 })
    }

    /// Opens the path anew after a rotation. If that fails the old file stays in use.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        if self.file.is_some() {
            self.file = Some(open(&self.path)?);
            self.torn = false;
            self.full = None;
            if self.room().is_none_or(|room| room > 0) {
                self.report_dropped();
            }
        }
        Ok(())
    }

    /// Writes the batch out and empties it.
    pub(crate) fn write(&mut self, batch: &mut Batch) {
        if self.file.is_some() && !batch.as_bytes().is_empty() {
            self.record(batch.as_bytes());
        }
        batch.clear();
    }

    /// Writes what the limits and the disk allow of these lines, and counts the rest.
    fn record(&mut self, lines: &[u8]) {
        let admitted = match &mut self.limits.rate {
            Some(rate) => rate.admit(lines, Instant::now()),
            None => lines.len(),
        };
        let (lines, too_fast) = lines.split_at(admitted);
        let fitting = self.room().map_or(lines.len(), |room| whole_lines(lines, room));
        let (lines, too_much) = lines.split_at(fitting);
        if !lines.is_empty() {
            let written = if self.report_dropped() { self.append(lines) } else { 0 };
            self.lost.disk += payload(&lines[written..]);
        }
        self.lost.rate += payload(too_fast);
        if !too_much.is_empty() {
            self.lost.size += payload(too_much);
            self.say_full();
        }
    }

    /// How many bytes of lines the limit of the size leaves; `None` where there is no limit. Looks at the file each time,
    /// which somebody may have emptied in place.
    fn room(&mut self) -> Option<u64> {
        let max = self.limits.size?;
        let size = self.size();
        let room = max.saturating_sub(size.saturating_add(RESERVE));
        if self.full.is_some_and(|full| size < full) {
            self.full = None;
        }
        Some(if self.full.is_some() { 0 } else { room })
    }

    /// Says once that the file has reached its limit.
    fn say_full(&mut self) {
        if let (None, Some(max)) = (self.full, self.limits.size) {
            self.notice(format_args!(
                "the log has reached its limit of {max} bytes; output is dropped until it is rotated"
            ));
            self.full = Some(self.size());
        }
    }

    fn size(&self) -> u64 {
        self.file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |file| file.size())
    }

    /// Whether there is something to report that may be reported before the next output.
    pub(crate) fn owes_report(&self) -> bool {
        self.lost.rate > 0 && self.full.is_none()
    }

    /// Says in the log how much is missing from it, if anything is; false if the log still cannot be written.
    pub(crate) fn report_dropped(&mut self) -> bool {
        let Lost { disk, size, rate } = self.lost;
        if disk > 0 {
            let mut text = [0u8; 96];
            let cause = error_text(self.cause, &mut text);
            if !self.notice(format_args!("{disk} bytes of output were dropped ({cause})")) {
                return false;
            }
            self.lost.disk = 0;
        }
        if size > 0 {
            let max = self.limits.size.unwrap_or_default();
            let said =
                format_args!("{size} bytes of output were dropped (the log had its limit of {max} bytes)");
            if !self.notice(said) {
                return false;
            }
            self.lost.size = 0;
        }
        if rate > 0 {
            let max = self.limits.rate.as_ref().map_or(0, |rate| rate.bytes_per_second);
            let said =
                format_args!("{rate} bytes of output were dropped (more came than {max} bytes a second)");
            if !self.notice(said) {
                return false;
            }
            self.lost.rate = 0;
        }
        true
    }

    /// Writes a line of the monitor's own; false if it cannot be written.
    fn notice(&mut self, text: Arguments<'_>) -> bool {
        let mut line = [0u8; NOTICE];
        let mut rest = &mut line[..];
        let made = rest.write_all(Stamp::now().as_bytes());
        let made = made.and_then(|()| writeln!(rest, " stderr F podd-monitor: {text}"));
        let len = NOTICE - rest.len();
        made.is_ok() && self.append(&line[..len]) == len
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

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::super::limits::Rate;
    use super::super::lines::{HEAD, LINE_LIMIT};
    use super::super::{Lines, Stream};
    use super::*;

    /// What is done to a log, one after the other.
    #[derive(Debug, Clone)]
    enum Step {
        /// So many lines of that length.
        Lines(usize, usize),
        Rotate,
        /// Emptied in place, as an operator in need does it.
        Empty,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let lines = (1usize..60, prop_oneof![0usize..200, LINE_LIMIT - 3..LINE_LIMIT + 3]);
        let step = prop_oneof![
            6 => lines.prop_map(|(count, length)| Step::Lines(count, length)),
            1 => Just(Step::Rotate),
            1 => Just(Step::Empty),
        ];
        proptest::collection::vec(step, 1..30)
    }

    /// Bytes of output that stand in the log's lines, and bytes that its notices say were dropped.
    fn account(log: &[u8]) -> (u64, u64) {
        let (mut kept, mut dropped) = (0, 0);
        for line in log.split_inclusive(|byte| *byte == b'\n') {
            assert_eq!(line.last(), Some(&b'\n'), "a torn line");
            match std::str::from_utf8(&line[HEAD..]).unwrap().strip_prefix("podd-monitor: ") {
                Some(notice) => dropped += notice.split(' ').next().unwrap().parse().unwrap_or(0),
                None => kept += payload(line),
            }
        }
        (kept, dropped)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// The file never exceeds its limit, and what it has and what it says that it lost are all that there was.
        #[test]
        fn within_its_limits_a_log_accounts_for_every_byte(
            steps in steps(),
            size in 65_536u64..200_000,
            rate in proptest::option::of(1u64..100_000),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("log");
            let rate = rate.map(|rate| Rate::new(rate, 0, Instant::now()));
            let mut log = LogFile::open(&path, Limits { size: Some(size), rate }).unwrap();
            let (mut lines, mut batch) = (Lines::new(Stream::Stdout).unwrap(), Batch::new().unwrap());
            let (mut said, mut kept, mut dropped) = (0, 0, 0);
            let mut count = |path: &Path| {
                let (more_kept, more_dropped) = account(&fs::read(path).unwrap());
                (kept, dropped) = (kept + more_kept, dropped + more_dropped);
            };
            for step in steps {
                match step {
                    Step::Lines(number, length) => {
                        let text = format!("{}\n", "x".repeat(length)).repeat(number);
                        said += text.len() as u64;
                        let mut rest = text.as_bytes();
                        while !rest.is_empty() {
                            let used = lines.feed(&Stamp::now(), rest, &mut batch);
                            rest = &rest[used..];
                            log.write(&mut batch);
                        }
                    }
                    Step::Rotate => {
                        let rotated = dir.path().join("rotated");
                        fs::rename(&path, &rotated).unwrap();
                        log.reopen().unwrap();
                        count(&rotated);
                    }
                    Step::Empty => {
                        count(&path);
                        OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
                    }
                }
                prop_assert!(fs::metadata(&path).unwrap().len() <= size);
            }
            log.report_dropped();
            count(&path);
            prop_assert!(fs::metadata(&path).unwrap().len() <= size);
            prop_assert_eq!(kept + dropped, said);
        }
    }
}
