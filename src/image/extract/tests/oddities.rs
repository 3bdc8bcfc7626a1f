//! What archives may hold that no one means to write: ends in odd places, names twice, sparse forms, PAX records at odds with
//! each other, and more content than anyone asked for.

use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::process::Command;

use flate2::write::GzEncoder;
use tar_core::EntryType;

use super::*;

/// One way to make the name `x`, and what it is then.
type Way = (&'static str, fn(Tar) -> Tar, fn(&Unpacked) -> bool);

const WAYS: [Way; 8] = [
    ("file", |tar| tar.file("x", "content"), |layer| layer.stat("x").is_file()),
    ("directory", |tar| tar.directory("x", 0o711), |layer| layer.stat("x").is_dir()),
    ("child", |tar| tar.file("x/child", ""), |layer| layer.stat("x").is_dir()),
    ("link", |tar| tar.symlink("x", "/nowhere"), |layer| layer.stat("x").is_symlink()),
    ("hard link", |tar| tar.hard_link("x", "other"), |layer| layer.read("x") == "other"),
    (
        "device",
        |tar| tar.device("x", EntryType::Char, 1, 3),
        |layer| layer.stat("x").file_type().is_char_device() && !layer.is_whiteout("x"),
    ),
    (
        "FIFO",
        |tar| tar.entry("x", EntryType::Fifo, b"", |_| {}),
        |layer| layer.stat("x").file_type().is_fifo(),
    ),
    ("whiteout", |tar| tar.file(".wh.x", ""), |layer| layer.is_whiteout("x")),
];

/// The later of two entries has the name, but a whiteout spares what its own layer has.
#[test]
fn every_kind_of_entry_takes_the_place_of_every_other() {
    for (first, make_first, is_first) in WAYS {
        for (second, make_second, is_second) in WAYS {
            let tar = make_second(make_first(Tar::new().file("other", "other"))).file("after", "x");
            let result = unpack_bytes(&tar.finish());
            if second == "child" && !matches!(first, "child" | "directory" | "link" | "whiteout") {
                assert!(result.is_err(), "{first}, then {second}: a file has no children");
                continue;
            }
            let layer = result.unwrap_or_else(|e| panic!("{first}, then {second}: {e}"));
            let is_right = match (first, second) {
                (_, "whiteout") => is_first(&layer),
                ("link", "child") => layer.path("nowhere/child").exists() && is_first(&layer),
                _ => is_second(&layer),
            };
            assert!(is_right, "{first}, then {second}");
            assert_eq!(layer.read("after"), "x");
            assert!(!layer.scratch.path().join("discarded").exists());
        }
    }
}

#[test]
fn links_to_what_comes_later_or_lies_outside_are_refused() {
    for tar in [
        Tar::new().hard_link("h", "later").file("later", ""),
        Tar::new().symlink("out", "/etc").hard_link("h", "out/hostname"),
        Tar::new().symlink("up", "..").hard_link("h", "up/up/outside"),
        Tar::new().directory("d", 0o755).symlink("d/l", "/").hard_link("h", "d/l"),
    ] {
        match unpack_bytes(&tar.finish()) {
            Err(error) => assert!(error.to_string().contains("not in this layer"), "{error}"),
            // A link to a link is one to the link itself, wherever that leads.
            Ok(layer) => assert_eq!(std::fs::read_link(layer.path("h")).unwrap(), Path::new("/")),
        }
    }
}

#[test]
fn whiteouts_of_odd_names() {
    let layer = unpack_tar(
        Tar::new()
            .file("d/before", "x")
            .file("d/.wh..wh..opq", "")
            .file("d/after", "y")
            .file(".wh..wh.x", "")
            .file("e/.wh..hidden", "")
            .file("e/.wh.a b", "")
            .entry(".wh.dir", EntryType::Directory, b"", |_| {})
            .entry(".wh.full", EntryType::Regular, b"content", |_| {})
            .file("end", "z"),
    );
    assert!(layer.is_opaque("d"));
    assert_eq!((layer.read("d/before"), layer.read("d/after")), ("x".to_owned(), "y".to_owned()));
    for name in ["e/.hidden", "e/a b", "dir", "full"] {
        assert!(layer.is_whiteout(name), "{name}");
    }
    assert_eq!(layer.read("end"), "z");
    for name in [".wh.", ".wh..", ".wh..."] {
        assert!(refusal(Tar::new().file(name, "")).contains("must name a file"), "{name}");
    }
}

#[test]
fn what_follows_the_end_is_no_part_of_the_layer() {
    let mut tar = Tar::new().file("f", "x").finish();
    tar.extend(Tar::new().file("late", "x").finish());
    let layer = unpack_bytes(&tar).unwrap();
    assert!(layer.path("f").exists() && !layer.path("late").exists());
}

/// However an archive is cut: it is an error, or everything before the cut is there, whole.
#[test]
fn an_archive_cut_anywhere_is_never_half_of_a_file() {
    let long = "n".repeat(150);
    let tar = Tar::new()
        .file("a", &"content ".repeat(100))
        .xattr("b", EntryType::Regular, "user.a", b"1")
        .file(&long, "x")
        .finish();
    for cut in (0..tar.len()).step_by(37).chain((0..tar.len()).step_by(512)) {
        let Ok(layer) = unpack_bytes(&tar[..cut]) else { continue };
        assert!(cut % 512 == 0 || cut > tar.len() - 1024, "cut at {cut}");
        for (name, length) in [("a", 800), ("b", 0), (long.as_str(), 1)] {
            assert!(!layer.path(name).exists() || layer.stat(name).len() == length, "{name}, cut at {cut}");
        }
    }
}

/// GNU tar's four ways to write a sparse file.
#[test]
fn sparse_files_of_every_form_come_out_the_same() {
    let source = tempfile::tempdir().unwrap();
    let script = "for n in 1 2 3 4 5 6 7 8 9 10 11 12; do
        printf data$n | dd of=s bs=1 seek=$((n * 70000)) conv=notrunc 2>/dev/null
    done; truncate -s 2000000 s";
    assert!(Command::new("sh").args(["-ec", script]).current_dir(source.path()).status().unwrap().success());
    let content = std::fs::read(source.path().join("s")).unwrap();
    assert!(content.windows(6).any(|window| window == b"data12"));
    for form in ["--format=gnu", "--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0"] {
        let pax = if form.starts_with("--format") { form } else { "--format=pax" };
        let output = Command::new("tar").args(["-cS", pax, form, "-C"]).arg(source.path()).arg("s").output();
        let tar = output.unwrap().stdout;
        assert!(tar.len() < 200_000, "{form}: it is not sparse");
        let layer = unpack_bytes(&tar).unwrap_or_else(|e| panic!("{form}: {e}"));
        assert!(std::fs::read(layer.path("s")).unwrap() == content, "{form}");
    }
}

#[test]
fn pax_records_at_odds_with_themselves() {
    let twice = Tar::new().entry("x", EntryType::Regular, b"", |entry| {
        entry.add_pax("path", "first").add_pax("path", "second").add_pax("mtime", "-7.25");
    });
    let layer = unpack_tar(twice);
    assert!(layer.path("second").exists() && !layer.path("first").exists() && !layer.path("x").exists());
    let time = layer.stat("second");
    assert_eq!((time.mtime(), time.mtime_nsec()), (-8, 750_000_000));
    for (key, value, reason) in [
        ("size", "x", "not a number"),
        ("size", "-1", "not a number"),
        ("gid", "1e3", "not a number"),
        ("uid", "18446744073709551616", "not a number"),
        ("path", "a/../../b", "\"..\""),
        ("path", &"p".repeat(5000), "tar archive"),
        ("comment", &"c".repeat(2 << 20), "tar archive"),
    ] {
        let message = refusal(Tar::new().pax("x", key, value));
        assert!(message.contains(reason), "{key}: {message}");
    }
    // A time that cannot be is no reason to refuse an image.
    for value in ["x", "", "9999999999999999999999", "1.5.5"] {
        unpack_tar(Tar::new().pax("x", "mtime", value));
    }
}

/// A few kilobytes that unpack to what no disk holds: in a file, in what is not kept, after the end.
#[test]
fn bombs_are_stopped_at_the_limit() {
    let zeros = vec![0; 32 << 20];
    let ignored = Tar::new().entry(".wh..wh.x", EntryType::Regular, &zeros, |_| {}).finish();
    let after_the_end = [Tar::new().file("f", "x").finish(), zeros.clone()].concat();
    let many = (0..40)
        .fold(Tar::new(), |tar, n| tar.entry(&n.to_string(), EntryType::Regular, &zeros[..1 << 20], |_| {}));
    for tar in [ignored, after_the_end, many.finish()] {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&tar).unwrap();
        for blob in [encoder.finish().unwrap(), zstd::encode_all(&tar[..], 1).unwrap()] {
            assert!(blob.len() * 50 < tar.len());
            let scratch = tempfile::tempdir().unwrap();
            let limits = Limits { max_unpacked_bytes: 8 << 20, ..Limits::default() };
            let error = extract(&blob, &tar, scratch.path(), &limits).unwrap_err();
            assert!(matches!(error, ExtractError::Limit { limit, .. } if limit == 8 << 20), "{error}");
            extract(&blob, &tar, &scratch.path().join("again"), &Limits::default()).unwrap();
        }
    }
}
