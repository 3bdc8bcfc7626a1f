//! From a stream's bytes to lines of the CRI log: `<time> stdout|stderr F|P <text>\n`.
//!
//! F ends a line of the stream, P is a part of one that is longer than [`LINE_LIMIT`] or that was never ended. How the
//! bytes were cut into reads shows nowhere in the result but in the times: what is not yet a whole line is held back.

use super::Stamp;
use crate::sys::memory::{Buffer, find_byte};

/// The most bytes of the stream in one line of the log, as the kubelet's log reader expects.
pub(crate) const LINE_LIMIT: usize = 16 << 10;

/// `<time> <stream> F ` before each text.
pub(crate) const HEAD: usize = Stamp::LEN + " stdout F ".len();

/// Where the tag stands in a head.
const TAG: usize = HEAD - 2;

/// Whole lines of the log that wait for their write.
const BATCH: usize = 128 << 10;

/// A container's output stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// Lines of the log, ready to be written. Never holds a part of one.
pub(crate) struct Batch {
    bytes: Buffer,
    len: usize,
}

impl Batch {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { bytes: Buffer::new(BATCH)?, len: 0 })
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    /// Gives the memory back to the kernel until the next use.
    pub(crate) fn release(&mut self) {
        self.clear();
        self.bytes.release();
    }

    fn has_room(&self) -> bool {
        self.bytes.len() - self.len > HEAD + LINE_LIMIT
    }

    fn push(&mut self, head: &[u8; HEAD], held: &[u8], text: &[u8]) {
        let record = &mut self.bytes[self.len..][..HEAD + held.len() + text.len() + 1];
        record[..HEAD].copy_from_slice(head);
        record[HEAD..][..held.len()].copy_from_slice(held);
        record[HEAD + held.len()..][..text.len()].copy_from_slice(text);
        record[HEAD + held.len() + text.len()] = b'\n';
        self.len += record.len();
    }
}

/// The state of one stream: what it has written of a line that is not complete.
pub(crate) struct Lines {
    stream: Stream,
    held: Buffer,
    len: usize,
}

impl Lines {
    pub(crate) fn new(stream: Stream) -> std::io::Result<Self> {
        Ok(Self { stream, held: Buffer::new(LINE_LIMIT)?, len: 0 })
    }

    /// Takes bytes from the front of `input` as long as the batch has room, and says how many.
    pub(crate) fn feed(&mut self, stamp: &Stamp, input: &[u8], batch: &mut Batch) -> usize {
        let (full, part) = (self.head(stamp, b'F'), self.head(stamp, b'P'));
        let mut used = 0;
        while used < input.len() && batch.has_room() {
            let rest = &input[used..];
            let space = LINE_LIMIT - self.len;
            let window = &rest[..rest.len().min(space + 1)];
            let held = &self.held[..self.len];
            match find_byte(b'\n', window) {
                Some(end) => {
                    batch.push(&full, held, &window[..end]);
                    self.len = 0;
                    used += end + 1;
                }
                None if window.len() > space => {
                    batch.push(&part, held, &window[..space]);
                    self.len = 0;
                    used += space;
                }
                None => {
                    self.held[self.len..][..window.len()].copy_from_slice(window);
                    self.len += window.len();
                    used += window.len();
                }
            }
        }
        used
    }

    /// The stream has ended: what it did not end with a newline becomes a part. The batch must have been written out.
    pub(crate) fn finish(&mut self, stamp: &Stamp, batch: &mut Batch) {
        if self.len > 0 {
            batch.push(&self.head(stamp, b'P'), &self.held[..self.len], &[]);
            self.len = 0;
        }
    }

    fn head(&self, stamp: &Stamp, tag: u8) -> [u8; HEAD] {
        let mut head = [b' '; HEAD];
        head[..Stamp::LEN].copy_from_slice(stamp.as_bytes());
        head[Stamp::LEN + 1..TAG - 1].copy_from_slice(match self.stream {
            Stream::Stdout => b"stdout",
            Stream::Stderr => b"stderr",
        });
        head[TAG] = tag;
        head
    }
}

/// How many bytes of container output stand in whole lines of a log.
pub(crate) fn payload(mut log: &[u8]) -> u64 {
    let mut count = 0;
    while let Some(end) = find_byte(b'\n', log) {
        let ended_by_newline = log.get(TAG) == Some(&b'F');
        count += (end.saturating_sub(HEAD) + usize::from(ended_by_newline)) as u64;
        log = &log[end + 1..];
    }
    count
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the log must be, said as simply as can be; the time is left out.
    fn reference(output: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut records = Vec::new();
        let mut lines: Vec<&[u8]> = output.split(|b| *b == b'\n').collect();
        let tail = lines.pop().unwrap();
        let mut add = |line: &[u8], last: u8| {
            let mut chunks = line.chunks(LINE_LIMIT).map(<[u8]>::to_vec).collect::<Vec<_>>();
            let end = chunks.pop().unwrap_or_default();
            records.extend(chunks.into_iter().map(|chunk| (b'P', chunk)));
            if last == b'F' || !end.is_empty() {
                records.push((last, end));
            }
        };
        lines.iter().for_each(|line| add(line, b'F'));
        add(tail, b'P');
        records
    }

    fn formatted(reads: &[&[u8]]) -> Vec<u8> {
        let stamp = Stamp::now();
        let (mut batch, mut lines) = (Batch::new().unwrap(), Lines::new(Stream::Stderr).unwrap());
        let mut log = Vec::new();
        for mut read in reads.iter().copied() {
            while !read.is_empty() {
                let used = lines.feed(&stamp, read, &mut batch);
                read = &read[used..];
                log.extend_from_slice(batch.as_bytes());
                batch.clear();
            }
        }
        lines.finish(&stamp, &mut batch);
        log.extend_from_slice(batch.as_bytes());
        log
    }

    fn parsed(log: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let lines = log.split_inclusive(|b| *b == b'\n');
        lines
            .map(|line| {
                assert_eq!(&line[Stamp::LEN..TAG], b" stderr ", "{}", String::from_utf8_lossy(line));
                (line[TAG], line[HEAD..line.len() - 1].to_vec())
            })
            .collect()
    }

    /// Output whose lines have the lengths that matter, around the limit and its double.
    fn output() -> impl Strategy<Value = Vec<u8>> {
        let length = prop_oneof![
            0usize..4,
            LINE_LIMIT - 2..LINE_LIMIT + 3,
            2 * LINE_LIMIT - 2..2 * LINE_LIMIT + 3,
            0usize..3 * LINE_LIMIT,
        ];
        let line = (length, any::<bool>(), 1u8..9);
        proptest::collection::vec(line, 0..12).prop_map(|lines| {
            let mut output = Vec::new();
            for (length, ended, byte) in lines {
                output.resize(output.len() + length, byte + b'a');
                output.extend(ended.then_some(b'\n'));
            }
            output
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn reads_of_any_size_give_the_reference(output in output(), cuts in proptest::collection::vec(0.0f64..1.0, 0..40)) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| (cut * output.len() as f64) as usize).collect();
            cuts.extend([0, output.len()]);
            cuts.sort_unstable();
            let reads: Vec<&[u8]> = cuts.windows(2).map(|w| &output[w[0]..w[1]]).collect();
            let log = formatted(&reads);
            prop_assert_eq!(parsed(&log), reference(&output));
            prop_assert_eq!(payload(&log), output.len() as u64);
        }
    }

    #[test]
    fn more_lines_than_a_batch_holds_are_all_written() {
        let output = vec![b'\n'; 3 * BATCH / HEAD];
        assert_eq!(parsed(&formatted(&[&output])), reference(&output));
    }

    #[test]
    fn one_byte_at_a_time() {
        let output = b"one\n\ntwo\nthree";
        let reads: Vec<&[u8]> = output.chunks(1).collect();
        let expected: [(u8, &[u8]); 4] = [(b'F', b"one"), (b'F', b""), (b'F', b"two"), (b'P', b"three")];
        assert_eq!(parsed(&formatted(&reads)), expected.map(|(tag, text)| (tag, text.to_vec())));
    }
}
