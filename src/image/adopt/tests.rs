//! Databases, whole and damaged. What real stores give is tested from outside, with the programs that made them.

use proptest::prelude::*;

use super::bolt::{Bolt, Bucket, Value};

const PAGE: usize = 512;

/// A page with a header and what follows.
fn page(number: u64, flags: u16, count: u16, body: &[u8]) -> Vec<u8> {
    let mut page = number.to_ne_bytes().to_vec();
    page.extend(flags.to_ne_bytes());
    page.extend(count.to_ne_bytes());
    page.extend(0u32.to_ne_bytes());
    page.extend_from_slice(body);
    assert!(page.len() <= PAGE);
    page
}

fn padded(mut page: Vec<u8>) -> Vec<u8> {
    page.resize(PAGE, 0);
    page
}

/// The elements of a leaf.
fn leaf(entries: &[(u32, &[u8], &[u8])]) -> Vec<u8> {
    let (mut heads, mut tail) = (Vec::new(), Vec::new());
    for (index, (flags, key, value)) in entries.iter().enumerate() {
        let position = (entries.len() - index) * 16 + tail.len();
        for number in [*flags as usize, position, key.len(), value.len()] {
            heads.extend(u32::try_from(number).unwrap().to_ne_bytes());
        }
        tail.extend_from_slice(key);
        tail.extend_from_slice(value);
    }
    [heads, tail].concat()
}

fn branch(entries: &[(&[u8], u64)]) -> Vec<u8> {
    let (mut heads, mut tail) = (Vec::new(), Vec::new());
    for (index, (key, number)) in entries.iter().enumerate() {
        let position = (entries.len() - index) * 16 + tail.len();
        heads.extend(u32::try_from(position).unwrap().to_ne_bytes());
        heads.extend(u32::try_from(key.len()).unwrap().to_ne_bytes());
        heads.extend(number.to_ne_bytes());
        tail.extend_from_slice(key);
    }
    [heads, tail].concat()
}

fn meta(number: u64, transaction: u64, root: u64) -> Vec<u8> {
    let mut body = Vec::new();
    for word in [0xED0C_DAEDu32, 2, u32::try_from(PAGE).unwrap(), 0] {
        body.extend(word.to_ne_bytes());
    }
    for word in [root, 0, 2, 9, transaction] {
        body.extend(word.to_ne_bytes());
    }
    let sum = body.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    body.extend(sum.to_ne_bytes());
    padded(page(number, 4, 0, &body))
}

/// A root that is a branch over two leaves, with a bucket inside a value and one on a page of its own.
fn database() -> Vec<u8> {
    let inline = page(0, 2, 1, &leaf(&[(0, b"inner", b"one")]));
    let inline = [&[0; 16][..], &inline].concat();
    let outside = [&6u64.to_ne_bytes()[..], &[0; 8]].concat();
    [
        meta(0, 7, 3),
        meta(1, 6, 99),
        padded(page(2, 16, 0, b"")),
        padded(page(3, 1, 2, &branch(&[(b"a", 4), (b"m", 5)]))),
        padded(page(4, 2, 2, &leaf(&[(0, b"a", b"first"), (1, b"b", &inline)]))),
        padded(page(5, 2, 2, &leaf(&[(1, b"m", &outside), (0, b"z", b"last")]))),
        padded(page(6, 2, 1, &leaf(&[(0, b"far", b"two")]))),
    ]
    .concat()
}

fn count(bucket: Bucket<'_>, depth: usize) -> Result<usize, &'static str> {
    let mut sum = 0;
    for (_, value) in bucket.entries()? {
        sum += match value {
            Value::Bucket(inner) if depth > 0 => count(inner, depth - 1)?,
            Value::Bucket(_) | Value::Bytes(_) => 1,
        };
    }
    Ok(sum)
}

#[test]
fn buckets_are_found_on_pages_and_in_values() {
    let bolt = Bolt::of(database()).ok().unwrap();
    let root = bolt.root().unwrap();
    let keys: Vec<_> = root.entries().unwrap().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, [b"a", b"b", b"m", b"z"]);
    assert_eq!(root.bytes("z").unwrap(), Some(&b"last"[..]));
    assert_eq!(root.bytes("b").unwrap(), None);
    assert_eq!(root.bytes("nothing").unwrap(), None);
    assert_eq!(root.bucket(&["b"]).unwrap().unwrap().bytes("inner").unwrap(), Some(&b"one"[..]));
    assert_eq!(root.bucket(&["m"]).unwrap().unwrap().bytes("far").unwrap(), Some(&b"two"[..]));
    assert!(root.bucket(&["m", "far"]).unwrap().is_none());
    assert_eq!(count(root, 4), Ok(4));
}

#[test]
fn the_later_of_the_valid_transactions_counts() {
    let mut bytes = database();
    // The second one would lead to a page that is not there.
    bytes[PAGE..2 * PAGE].copy_from_slice(&meta(1, 8, 99));
    assert!(Bolt::of(bytes.clone()).ok().unwrap().root().is_err());
    bytes[PAGE + 20] ^= 1;
    assert!(Bolt::of(bytes.clone()).ok().unwrap().root().is_ok());
    bytes[..PAGE].fill(0);
    assert!(Bolt::of(bytes.clone()).is_err());
    bytes[PAGE..2 * PAGE].copy_from_slice(&meta(1, 8, 3));
    assert!(Bolt::of(bytes).ok().unwrap().root().is_ok());
    for bytes in [vec![], vec![0; 100], vec![0xff; 10_000]] {
        assert!(Bolt::of(bytes).is_err());
    }
}

#[test]
fn circles_end() {
    let mut bytes = database();
    bytes[3 * PAGE..4 * PAGE].copy_from_slice(&padded(page(3, 1, 1, &branch(&[(b"a", 3)]))));
    let bolt = Bolt::of(bytes).ok().unwrap();
    assert!(bolt.root().unwrap().entries().is_err());
    assert!(bolt.root().unwrap().get(b"a").is_err());
}

proptest! {
    #[test]
    fn damage_is_an_error_and_never_a_panic(at in 0usize..7 * PAGE, byte: u8, length in 0usize..7 * PAGE) {
        let mut bytes = database();
        bytes[at] = byte;
        for bytes in [bytes.clone(), bytes[..length].to_vec()] {
            if let Ok(bolt) = Bolt::of(bytes)
                && let Ok(root) = bolt.root()
            {
                let _ = count(root, 4);
                for key in ["a", "b", "m", "z"] {
                    let _ = root.get(key.as_bytes()).map(drop);
                }
            }
        }
    }
}
