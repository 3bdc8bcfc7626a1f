//! Every kind of entry, and what becomes of it.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::process::Command;

use tar_core::{EntryType, SparseEntry};

use super::*;

#[test]
fn files_and_directories_keep_owner_mode_and_time() {
    let tar = Tar::new()
        .entry("./", EntryType::Directory, b"", |e| {
            e.mode(0o750).unwrap().uid(7).unwrap();
        })
        .entry("bin/", EntryType::Directory, b"", |e| {
            e.mode(0o2775).unwrap().gid(50).unwrap();
        })
        .entry("bin/su", EntryType::Regular, b"#!", |e| {
            e.mode(0o4755).unwrap().uid(1000).unwrap().gid(2_000_000).unwrap();
            e.add_pax("mtime", "1234567890.123456789");
        })
        .entry("tmp", EntryType::Directory, b"", |e| {
            e.mode(0o1777).unwrap();
        });
    let layer = unpack_tar(tar);
    assert_eq!(layer.access(""), (0o750, 7, 0));
    assert_eq!(layer.access("bin"), (0o2775, 0, 50));
    assert_eq!(layer.access("bin/su"), (0o4755, 1000, 2_000_000));
    assert_eq!(layer.access("tmp"), (0o1777, 0, 0));
    assert_eq!(layer.read("bin/su"), "#!");
    let file = layer.stat("bin/su");
    assert_eq!((file.mtime(), file.mtime_nsec()), (1_234_567_890, 123_456_789));
    assert_eq!(
        layer.stat("bin").mtime(),
        1_000_000_000,
        "a directory's time is set after its children are made"
    );
    assert_eq!(layer.implied(), Vec::<&str>::new());
    assert_eq!(layer.extracted.inodes, 4);
    assert_eq!(layer.extracted.bytes, 3 * 4096);
}

#[test]
fn directories_listed_after_their_children_or_never() {
    let layer = unpack_tar(Tar::new().file("a/b/f", "x").directory("a/b", 0o700).file("c/f", "y"));
    assert_eq!(layer.access("a/b").0, 0o700);
    assert_eq!(layer.access("a").0, 0o755);
    assert_eq!(layer.implied(), ["", "a", "c"]);
}

#[test]
fn links_and_devices() {
    let tar = Tar::new()
        .file("f", "text")
        .hard_link("h", "./f")
        .symlink("s", "/etc/passwd")
        .hard_link("hs", "s")
        .device("null", EntryType::Char, 1, 3)
        .device("disk", EntryType::Block, 8, 300)
        .entry("pipe", EntryType::Fifo, b"", |e| {
            e.mode(0o620).unwrap().uid(5).unwrap();
        })
        .entry("own", EntryType::Symlink, b"", |e| {
            e.link_name("f").uid(9).unwrap();
        });
    let layer = unpack_tar(tar);
    assert_eq!(layer.stat("f").ino(), layer.stat("h").ino());
    assert_eq!(layer.stat("s").ino(), layer.stat("hs").ino());
    assert_eq!(std::fs::read_link(layer.path("s")).unwrap(), Path::new("/etc/passwd"));
    let null = layer.stat("null");
    assert!(null.file_type().is_char_device() && null.rdev() == rustix::fs::makedev(1, 3));
    let disk = layer.stat("disk");
    assert!(disk.file_type().is_block_device() && disk.rdev() == rustix::fs::makedev(8, 300));
    assert!(layer.stat("pipe").file_type().is_fifo());
    assert_eq!(layer.access("pipe"), (0o620, 5, 0));
    assert_eq!(layer.stat("own").uid(), 9);
    assert_eq!(layer.stat("f").uid(), 0);
    assert_eq!(layer.stat("own").mtime(), 1_000_000_000);
}

#[test]
fn extended_attributes_are_kept_but_for_those_of_overlays() {
    let capability: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let tar = Tar::new()
        .entry("ping", EntryType::Regular, b"x", |e| {
            e.uid(3).unwrap();
            e.add_pax("SCHILY.xattr.security.capability", capability);
            e.add_pax("SCHILY.xattr.user.note", b"a=b\n");
        })
        .xattr("d", EntryType::Directory, "trusted.overlay.opaque", b"y")
        .xattr("e", EntryType::Directory, "trusted.other", b"1")
        .xattr("r", EntryType::Regular, "trusted.overlay.redirect", b"/etc")
        .entry("s", EntryType::Symlink, b"", |e| {
            e.link_name("ping").add_pax("SCHILY.xattr.trusted.link", b"2");
            e.add_pax("SCHILY.xattr.user.impossible", b"3");
        });
    let layer = unpack_tar(tar);
    let attributes = |path: &str| {
        let file = std::fs::File::open(layer.path(path)).unwrap();
        let mut names = fs::xattr_names(std::os::fd::AsFd::as_fd(&file)).unwrap();
        names.sort();
        let pairs = names.into_iter().map(|name| {
            let value = fs::xattr(std::os::fd::AsFd::as_fd(&file), &name).unwrap().unwrap();
            (String::from_utf8(name).unwrap(), value)
        });
        pairs.collect::<Vec<_>>()
    };
    let expected = [
        ("security.capability".to_owned(), capability.to_vec()),
        ("user.note".to_owned(), b"a=b\n".to_vec()),
    ];
    assert_eq!(attributes("ping"), expected);
    assert_eq!(attributes("d"), []);
    assert_eq!(attributes("e"), [("trusted.other".to_owned(), b"1".to_vec())]);
    assert_eq!(attributes("r"), []);
    let mut value = [0; 8];
    assert_eq!(rustix::fs::lgetxattr(layer.path("s"), "trusted.link", value.as_mut_slice()), Ok(1));
}

#[test]
fn whiteouts_take_overlay_form_and_spare_their_own_layer() {
    let tar = Tar::new()
        .file("etc/.wh.gone", "")
        .file("opt/.wh..wh..opq", "")
        .file(".wh..wh.plnk/1.2", "aufs")
        .file(".wh..wh.aufs", "")
        .file("early", "mine")
        .file(".wh.early", "")
        .file(".wh.late", "")
        .file("late", "mine")
        .directory("full", 0o711)
        .file("full/f", "x")
        .file(".wh.full", "")
        .file(".wh.fresh", "")
        .directory("fresh", 0o711)
        .file(".wh.deep", "")
        .file("deep/f", "x");
    let layer = unpack_tar(tar);
    assert!(layer.is_whiteout("etc/gone"));
    assert!(layer.is_opaque("opt") && !layer.is_opaque("etc"));
    assert!(!layer.path(".wh..wh.plnk").exists() && !layer.path(".wh..wh.aufs").exists());
    assert_eq!((layer.read("early"), layer.read("late")), ("mine".to_owned(), "mine".to_owned()));
    for directory in ["full", "fresh", "deep"] {
        assert!(layer.is_opaque(directory), "nothing of the layers below may show in {directory}");
    }
    assert_eq!((layer.read("full/f"), layer.access("fresh").0), ("x".to_owned(), 0o711));
    assert_eq!(layer.implied(), ["", "etc", "opt"]);
}

#[test]
fn the_last_of_several_entries_wins() {
    let tar = Tar::new()
        .file("f", "first")
        .hard_link("other", "f")
        .file("f", "second")
        .directory("d", 0o700)
        .file("d/sub/f", "x")
        .file("d", "now a file")
        .file("g", "x")
        .directory("g", 0o711)
        .symlink("l", "f")
        .file("l", "own")
        .file("kept/f", "x")
        .directory("kept", 0o711)
        .hard_link("f", "f");
    let layer = unpack_tar(tar);
    assert_eq!((layer.read("f"), layer.read("other")), ("second".to_owned(), "first".to_owned()));
    assert_eq!(layer.read("d"), "now a file");
    assert_eq!(layer.access("g").0, 0o711);
    assert_eq!(layer.read("l"), "own");
    assert!(layer.stat("l").is_file() && layer.path("kept/f").exists());
    assert!(!layer.scratch.path().join("discarded").exists(), "what was replaced is deleted");
}

#[test]
fn a_path_through_a_link_of_the_same_layer_stays_inside() {
    let tar = Tar::new()
        .symlink("lib", "usr/lib")
        .file("lib/a", "1")
        .symlink("abs", "/usr/share")
        .file("abs/b", "2")
        .symlink("usr/up", "../../../..")
        .file("usr/up/c", "3")
        .directory("usr/lib", 0o711);
    let layer = unpack_tar(tar);
    assert_eq!(layer.read("usr/lib/a"), "1");
    assert_eq!(layer.read("usr/share/b"), "2");
    assert_eq!(layer.read("c"), "3");
    assert_eq!(layer.access("usr/lib").0, 0o711);
    assert_eq!(layer.implied(), ["", "usr", "usr/share"]);
}

/// What was known of a path is forgotten when a later entry changes it.
#[test]
fn replaced_directories_are_found_anew() {
    let tar = Tar::new()
        .symlink("l", "real")
        .file("l/a", "1")
        .directory("l", 0o755)
        .file("l/b", "2")
        .file("d/e/f", "3")
        .symlink("d/e", "/other")
        .file("d/e/g", "4")
        .file("p/q/.wh.deep", "")
        .file("p/q/deep/r/f", "5")
        .file("deep/r/g", "6");
    let layer = unpack_tar(tar);
    assert_eq!((layer.read("real/a"), layer.read("l/b")), ("1".to_owned(), "2".to_owned()));
    assert!(!layer.path("real/b").exists() && !layer.path("d/e/f").exists());
    assert_eq!(layer.read("other/g"), "4");
    assert_eq!((layer.read("p/q/deep/r/f"), layer.read("deep/r/g")), ("5".to_owned(), "6".to_owned()));
}

#[test]
fn sparse_files_have_holes() {
    let map = [SparseEntry { offset: 4096, length: 5 }, SparseEntry { offset: 1 << 20, length: 3 }];
    let layer = unpack_tar(Tar::new().sparse("s", &map, 2 << 20, b"helloend").file("after", "x"));
    let content = std::fs::read(layer.path("s")).unwrap();
    assert_eq!(content.len(), 2 << 20);
    assert_eq!(
        (&content[4096..4101], &content[1 << 20..(1 << 20) + 3]),
        (b"hello".as_slice(), b"end".as_slice())
    );
    assert!(content[..4096].iter().all(|&b| b == 0));
    assert!(layer.stat("s").blocks() * 512 < 1 << 20);
    assert_eq!(layer.read("after"), "x");
}

/// The same tree, written by GNU tar in its own and in the PAX format.
#[test]
fn archives_of_gnu_tar_come_out_as_they_went_in() {
    let source = tempfile::tempdir().unwrap();
    let script = format!(
        "cd {}; umask 022; mkdir -p a/{long}/{long}; echo deep > a/{long}/{long}/{long}; ln a/{long}/{long}/{long} hard
         ln -s {long}/{long} soft; truncate -s 1M sparse; printf x >> sparse; mkfifo pipe; mknod dev c 1 5
         touch -d '1960-01-01 00:00:00.5 UTC' old; chown 3000000:4 old; chmod 6711 old",
        source.path().display(),
        long = "n".repeat(120),
    );
    assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    for options in [["--format=gnu", "--sparse"].as_slice(), &["--format=pax", "--sparse", "--xattrs"]] {
        let tar = Command::new("tar")
            .args(options)
            .args(["-c", "--numeric-owner", "-C"])
            .args([source.path().as_os_str(), ".".as_ref()])
            .output()
            .unwrap();
        assert!(tar.status.success());
        let layer = unpack_bytes(&tar.stdout).unwrap();
        let listing = |root: &Path| {
            let find = "find . -printf '%P %y %m %U %G %s %n %l %T@\\n' | sort; cat hard; md5sum sparse";
            let output = Command::new("sh").args(["-c", find]).current_dir(root).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let (there, here) = (listing(source.path()), listing(&layer.path("")));
        // The GNU format has whole seconds only, rounded down.
        let whole = |text: &str| text.lines().map(|l| without_fraction(l).to_owned()).collect::<Vec<_>>();
        match options[0] {
            "--format=pax" => assert_eq!(here, there),
            _ => assert_eq!(whole(&here), whole(&there)),
        }
        assert_eq!(layer.stat("old").mtime(), -315_619_200);
    }
}

fn without_fraction(line: &str) -> &str {
    line.rsplit_once('.').map_or(line, |(whole, _)| whole)
}
