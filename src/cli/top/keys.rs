//! From what a keyboard sends to what is meant.

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Quit,
    Sort,
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
}

/// By the bytes that a terminal sends; the longest first.
const KEYS: [(&[u8], Key); 22] = [
    (b"\x1b[5~", Key::PageUp),
    (b"\x1b[6~", Key::PageDown),
    (b"\x1b[1~", Key::First),
    (b"\x1b[4~", Key::Last),
    (b"\x1b[A", Key::Up),
    (b"\x1bOA", Key::Up),
    (b"\x1b[B", Key::Down),
    (b"\x1bOB", Key::Down),
    (b"\x1b[H", Key::First),
    (b"\x1bOH", Key::First),
    (b"\x1b[F", Key::Last),
    (b"\x1bOF", Key::Last),
    (b"q", Key::Quit),
    (b"Q", Key::Quit),
    (b"\x03", Key::Quit),
    (b"s", Key::Sort),
    (b"k", Key::Up),
    (b"j", Key::Down),
    (b" ", Key::PageDown),
    (b"b", Key::PageUp),
    (b"g", Key::First),
    (b"G", Key::Last),
];

/// The keys in what was read at once; what means nothing is passed over.
pub(super) fn keys(mut bytes: &[u8]) -> Vec<Key> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = KEYS.iter().find(|(sequence, _)| bytes.starts_with(sequence));
        found.extend(key.map(|(_, key)| *key));
        bytes = &bytes[key.map_or_else(|| unknown(bytes), |(sequence, _)| sequence.len())..];
    }
    found
}

/// How long a sequence is that means nothing here: of an escape sequence all, so that its letters are not taken for keys.
fn unknown(bytes: &[u8]) -> usize {
    match bytes {
        [0x1b, b'[' | b'O', rest @ ..] => {
            let end = rest.iter().position(|byte| matches!(byte, 0x40..=0x7e));
            end.map_or(bytes.len(), |end| end + 3)
        }
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_one_or_many_at_a_time() {
        assert_eq!(keys(b"q"), [Key::Quit]);
        assert_eq!(keys(b"jj\x1b[A\x1bOBs"), [Key::Down, Key::Down, Key::Up, Key::Down, Key::Sort]);
        assert_eq!(
            keys(b"\x1b[5~\x1b[6~gG\x03"),
            [Key::PageUp, Key::PageDown, Key::First, Key::Last, Key::Quit]
        );
    }

    #[test]
    fn what_means_nothing_is_passed_over_as_a_whole() {
        assert_eq!(keys(b"\x1b[1;5Cq"), [Key::Quit]);
        assert_eq!(keys(b"\x1b[24~x\x1b"), []);
        assert_eq!(keys(b"\x1b[1;5"), []);
        assert_eq!(keys(b""), []);
    }
}
