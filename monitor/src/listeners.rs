//! Those who listen to a container's output beside its log (CRI `Attach`), each through a pipe of its own.
//!
//! A listener that takes nothing for a second, while the container has more to say, is cut off: nobody who looks on may hold
//! up the container for longer, and nothing is left out for one that stays.

use std::fs::File;
use std::io::{self, Write, pipe};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::sys::descriptor::{Poll, enlarge_pipe, poll, set_nonblocking};

/// How many may listen to one stream.
const MAX: usize = 16;
/// How much a listener may lag behind before it holds up the container, in bytes.
const LAG: i32 = 1 << 20;
/// How long it may do so.
const PATIENCE: Duration = Duration::from_secs(1);

/// The listeners of one stream. Their pipes end with this.
#[derive(Default)]
pub(crate) struct Listeners(Vec<File>);

impl Listeners {
    /// One more; it is given the end of the pipe to read from.
    pub(crate) fn add(&mut self) -> io::Result<OwnedFd> {
        if self.0.len() >= MAX {
            return Err(io::Error::other("too many are attached already"));
        }
        let (read, write) = pipe()?;
        set_nonblocking(write.as_fd())?;
        enlarge_pipe(write.as_fd(), LAG);
        self.0.push(File::from(OwnedFd::from(write)));
        Ok(read.into())
    }

    /// Tells all of them; those that are gone, or too slow, are forgotten.
    pub(crate) fn tell(&mut self, bytes: &[u8]) {
        self.0.retain_mut(|listener| tell(listener, bytes).is_ok());
    }
}

fn tell(listener: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !bytes.is_empty() {
        match listener.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() || !poll(&mut [Poll::output(listener)], Some(left))? {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::thread;

    use super::*;

    #[test]
    fn all_listeners_hear_all_and_a_stuck_one_is_cut_off() {
        let mut listeners = Listeners::default();
        let (stuck, heard) = (File::from(listeners.add().unwrap()), File::from(listeners.add().unwrap()));
        let listening = thread::spawn(move || {
            let mut all = Vec::new();
            { heard }.read_to_end(&mut all).map(|_| all)
        });
        let piece = vec![7; 256 << 10];
        for _ in 0..12 {
            listeners.tell(&piece);
        }
        assert_eq!(listeners.0.len(), 1, "the one that reads stays");
        drop(listeners);
        assert_eq!(listening.join().unwrap().unwrap().len(), 12 * piece.len());
        let mut rest = Vec::new();
        { stuck }.read_to_end(&mut rest).unwrap();
        assert_eq!(rest.len(), 1 << 20, "what it was told before");
    }
}
