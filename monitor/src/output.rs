//! From the container's pipes or terminal to its log.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::listeners::Listeners;
use crate::log::{Batch, Limits, Lines, LogFile, Stamp, Stream};
use crate::sys::descriptor::{Poll, poll, readable_bytes};
use crate::sys::memory::Buffer;

/// The most that one read takes.
const READ: usize = 64 << 10;

/// How long the streams must be silent after the init's end, where another process holds them, to count as finished.
const SILENCE: Duration = Duration::from_millis(100);

/// How long such a process is listened to at most.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The output streams of one container with its log.
pub(crate) struct Output {
    sources: [Option<Source>; 2],
    log: LogFile,
    batch: Batch,
    buffer: Buffer,
    /// Whether more than a page of the buffers has been in use since they were last released.
    swollen: bool,
}

struct Source {
    file: File,
    lines: Lines,
    listeners: Listeners,
}

/// What a read brought.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    Bytes(usize),
    Nothing,
    End,
}

impl Output {
    pub(crate) fn new(log_path: &Path, limits: Limits) -> io::Result<Self> {
        Ok(Self {
            sources: [None, None],
            log: LogFile::open(log_path, limits)?,
            batch: Batch::new()?,
            buffer: Buffer::new(READ)?,
            swollen: false,
        })
    }

    /// Sets what is read: pipes, or a terminal as the only stream.
    pub(crate) fn attach(&mut self, stdout: Option<OwnedFd>, stderr: Option<OwnedFd>) -> io::Result<()> {
        let source = |fd: Option<OwnedFd>, stream| -> io::Result<Option<Source>> {
            fd.map(|fd| {
                Ok(Source {
                    file: File::from(fd),
                    lines: Lines::new(stream)?,
                    listeners: Listeners::default(),
                })
            })
            .transpose()
        };
        self.sources = [source(stdout, Stream::Stdout)?, source(stderr, Stream::Stderr)?];
        Ok(())
    }

    /// Lets someone listen to a stream, 0 or 1, from now on; `None` when there is no such stream (any more).
    pub(crate) fn listen(&mut self, index: usize) -> io::Result<Option<OwnedFd>> {
        self.sources[index].as_mut().map(|source| source.listeners.add()).transpose()
    }

    /// What to wait for.
    pub(crate) fn awaited(&self) -> [Poll; 2] {
        self.sources.each_ref().map(|s| s.as_ref().map_or(Poll::NONE, |s| Poll::input(&s.file)))
    }

    /// Moves one read's worth of a stream to the log.
    pub(crate) fn pump(&mut self, index: usize) {
        self.read(index);
    }

    /// Moves what is left to the log, after the init's end.
    ///
    /// What is in a pipe then is all of it, unless a process that shares no PID namespace with the init holds the other
    /// side: such a one is listened to for a moment.
    pub(crate) fn drain(&mut self) {
        for index in 0..self.sources.len() {
            let mut left = self.sources[index].as_ref().map_or(0, |s| readable_bytes(s.file.as_fd()));
            while left > 0 {
                match self.read(index) {
                    Taken::Bytes(count) => left = left.saturating_sub(count),
                    Taken::Nothing | Taken::End => break,
                }
            }
        }
        let end = Instant::now() + LAST_WORDS;
        while self.sources.iter().any(Option::is_some) && Instant::now() < end {
            let mut awaited = self.awaited();
            if !matches!(poll(&mut awaited, Some(SILENCE)), Ok(true)) {
                break;
            }
            (0..awaited.len()).filter(|i| awaited[*i].is_ready()).for_each(|i| self.pump(i));
        }
        (0..self.sources.len()).for_each(|index| self.finish(index));
        self.log.report_dropped();
    }

    /// Opens the log path anew.
    pub(crate) fn reopen_log(&mut self) -> io::Result<()> {
        self.log.reopen()
    }

    /// Whether [`Self::rest`] has something to do.
    pub(crate) fn wants_rest(&self) -> bool {
        self.swollen || self.log.owes_report()
    }

    /// After a burst: says what was dropped of it, and gives its memory back to the kernel. Nothing in the buffers is in use
    /// between two calls.
    pub(crate) fn rest(&mut self) {
        if self.log.owes_report() {
            self.log.report_dropped();
        }
        self.batch.release();
        self.buffer.release();
        self.swollen = false;
    }

    fn read(&mut self, index: usize) -> Taken {
        let Some(source) = &mut self.sources[index] else { return Taken::End };
        let count = match source.file.read(&mut self.buffer) {
            Ok(0) => 0,
            Ok(count) => count,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Taken::Nothing;
            }
            // A terminal gives EIO when its last process has closed it.
            Err(_) => 0,
        };
        if count == 0 {
            self.finish(index);
            return Taken::End;
        }
        self.swollen |= count > 4096;
        let (stamp, mut input) = (Stamp::now(), &self.buffer[..count]);
        source.listeners.tell(input);
        while !input.is_empty() {
            let used = source.lines.feed(&stamp, input, &mut self.batch);
            input = &input[used..];
            self.log.write(&mut self.batch);
        }
        Taken::Bytes(count)
    }

    /// Closes a stream and writes what it has not ended.
    fn finish(&mut self, index: usize) {
        if let Some(mut source) = self.sources[index].take() {
            source.lines.finish(&Stamp::now(), &mut self.batch);
            self.log.write(&mut self.batch);
        }
    }
}
