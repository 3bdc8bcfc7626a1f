//! Layers that mean harm, or are broken.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use tar_core::{EntryType, SparseEntry};

use super::*;

#[test]
fn paths_that_leave_the_layer_are_refused() {
    for path in ["../x", "a/../../x", "a/..", "/../x"] {
        let message = refusal(Tar::new().file(path, "evil"));
        assert!(message.contains("must not contain \"..\""), "{message}");
    }
    assert!(refusal(Tar::new().hard_link("h", "../../etc/passwd")).contains("\"..\""));
    let layer = unpack_tar(Tar::new().file("/etc/x", "1").file("//y", "2"));
    assert_eq!((layer.read("etc/x"), layer.read("y")), ("1".to_owned(), "2".to_owned()));
}

#[test]
fn links_lead_nowhere_else() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    std::fs::write(outside.path().join("secret"), "s").unwrap();
    let layer =
        unpack_tar(Tar::new().symlink("out", target).file("out/f", "x").symlink("f2", "/proc/self/root"));
    assert_eq!(fs::names(outside.path()).unwrap(), ["secret"]);
    assert_eq!(layer.read(&format!("{}/f", &target[1..])), "x");

    let layer = Tar::new().symlink("out", target).hard_link("h", "out/secret");
    assert!(refusal(layer).contains("not in this layer"));
    let layer = unpack_tar(Tar::new().symlink("s", &format!("{target}/secret")).file("s", "new"));
    assert_eq!(layer.read("s"), "new");
    assert_eq!(std::fs::read_to_string(outside.path().join("secret")).unwrap(), "s");

    let many = Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", "");
    assert!(refusal(many).contains("too many symbolic links"));
}

#[test]
fn what_would_act_on_other_layers_or_makes_no_sense_is_refused() {
    let cases = [
        (Tar::new().device("x", EntryType::Char, 0, 0), "hide files of other layers"),
        (Tar::new().file(".wh.", ""), "a whiteout must name a file"),
        (Tar::new().file("a/.wh...", ""), "a whiteout must name a file"),
        (Tar::new().file("f", "").file("f/x", ""), "not a directory"),
        (Tar::new().hard_link("h", "lower/file"), "not in this layer"),
        (Tar::new().file(".wh.f", "").hard_link("h", "f"), "not in this layer"),
        (Tar::new().directory("d", 0o755).hard_link("h", "d"), "not in this layer"),
        (Tar::new().symlink("s", ""), "must have a target"),
        (Tar::new().symlink("./", "x"), "root must be a directory"),
        (Tar::new().entry("x", EntryType::Other(b'M'), b"", |_| {}), "not supported"),
        (Tar::new().pax("x", "path", "a\0b"), "NUL"),
        (Tar::new().pax("x", "uid", "-1"), "not a number"),
        (Tar::new().pax("x", "uid", "4294967295"), "user ID"),
        (Tar::new().sparse("s", &[SparseEntry { offset: 9, length: 3 }], 10, b"abc"), "sparse map"),
        (Tar::new().file(&"n".repeat(300), ""), "cannot make"),
    ];
    for (tar, reason) in cases {
        let message = refusal(tar);
        assert!(message.contains(reason), "{reason}: {message}");
    }
}

#[test]
fn limits_hold() {
    let scratch = || tempfile::tempdir().unwrap();
    let check = |tar: Tar, limits: Limits, reason: &str| {
        let (tar, scratch) = (tar.finish(), scratch());
        let message = extract(&tar, &tar, scratch.path(), &limits).unwrap_err().to_string();
        assert!(message.contains(reason), "{reason}: {message}");
    };
    let many = (0..20).fold(Tar::new(), |tar, n| tar.file(&n.to_string(), ""));
    check(many, Limits { max_entries: 10, ..Limits::default() }, "limit of 10 files");
    check(
        Tar::new().file("a/b/c/d/e", ""),
        Limits { max_entries: 3, ..Limits::default() },
        "limit of 3 files",
    );
    let large = Tar::new().file("f", &"x".repeat(10_000));
    check(large, Limits { max_unpacked_bytes: 8192, ..Limits::default() }, "limit of 8192 unpacked bytes");
    let hole = Tar::new().sparse("s", &[SparseEntry { offset: 0, length: 1 }], 1 << 50, b"x");
    check(hole, Limits::default(), "unpacked bytes");
    let claim = Tar::new().pax("f", "size", &u64::MAX.to_string());
    check(claim, Limits::default(), "unpacked bytes");
    let attribute = Tar::new().xattr("f", EntryType::Regular, "user.big", &vec![b'x'; 2 << 20]);
    check(attribute, Limits::default(), "tar archive");
}

/// Depth is refused, not survived by luck: neither in one path, nor step by step through links.
#[test]
fn deep_paths_cost_nothing() {
    let start = Instant::now();
    let deep = Tar::new().pax("x", "path", &"d/".repeat(10_000));
    assert!(refusal(deep).contains("tar archive"));
    let steps = "d/".repeat(500);
    let mut tar = Tar::new();
    for n in 0..30 {
        let from = if n == 0 { String::new() } else { format!("l{}/", n - 1) };
        tar = tar
            .directory(&format!("{from}{steps}"), 0o755)
            .symlink(&format!("l{n}"), &format!("{from}{steps}"));
    }
    assert!(refusal(tar).contains("nested deeper"));
    let many = (0..2_000).fold(Tar::new(), |tar, n| tar.file(&format!("{}{n}", "d/".repeat(400)), ""));
    assert_eq!(unpack_tar(many).extracted.inodes, 2_401);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

/// The files in and around a staging directory after an attempt to unpack.
fn outside_is_untouched(tar: &[u8]) {
    let scratch = tempfile::tempdir().unwrap();
    let staging = scratch.path().join("staging");
    std::fs::create_dir(&staging).unwrap();
    let limits = Limits { max_unpacked_bytes: 1 << 24, max_entries: 1_000, ..Limits::default() };
    let _ = extract(tar, tar, &staging, &limits);
    assert_eq!(fs::names(scratch.path()).unwrap(), ["staging"]);
    let inside = fs::names(&staging).unwrap();
    assert!(
        inside.iter().all(|name| name == FILES || name == INVENTORY || name == "discarded"),
        "{inside:?}"
    );
}

/// One entry with hostile parts in valid form.
fn any_entry() -> impl Strategy<Value = (u8, String, String)> {
    let part = prop::sample::select(vec!["a", "b", "..", ".", "", ".wh.a", ".wh..wh..opq", "c/d", "/", "l"]);
    let path = prop::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"));
    (prop::sample::select(b"0123456S7".to_vec()), path.clone(), path)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        outside_is_untouched(&bytes);
    }

    #[test]
    fn damaged_archives_do_no_harm(at in 0usize..4096, byte: u8, cut in 0usize..8192) {
        let mut tar = Tar::new().directory("a", 0o755).symlink("a/l", "../..").file("a/l/f", "text")
            .xattr("x", EntryType::Regular, "user.a", b"1").hard_link("h", "x").finish();
        let len = tar.len();
        tar[at % len] = byte;
        tar.truncate(cut);
        outside_is_untouched(&tar);
    }

    #[test]
    fn odd_archives_do_no_harm(entries in prop::collection::vec(any_entry(), 0..12)) {
        let tar = entries.iter().fold(Tar::new(), |tar, (kind, path, link)| {
            tar.entry(path, EntryType::from_byte(*kind), b"", |entry| {
                entry.link_name(link);
            })
        });
        outside_is_untouched(&tar.finish());
    }
}
