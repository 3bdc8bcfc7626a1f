//! Layers as a real overlay shows them, and as [`Stack`] does without one.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use tar_core::EntryType;

use super::*;

/// Runs a script in a container's root filesystem, mounted in a mount namespace that ends with it.
fn in_overlay(rootfs: &crate::image::rootfs::RootFs, script: &str) -> String {
    let mount = tempfile::tempdir().unwrap();
    let lower: Vec<_> = rootfs.lower.iter().map(|path| path.to_str().unwrap()).collect();
    let script = format!(
        "mount -t overlay overlay -o lowerdir={},upperdir={},workdir={} {dir} && cd {dir} && {script}",
        lower.join(":"),
        rootfs.upper.display(),
        rootfs.work.display(),
        dir = mount.path().display(),
    );
    let output = Command::new("unshare").args(["-m", "sh", "-ec", &script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn odd_layers() -> Layers {
    let base = Tar::new()
        .entry("./", EntryType::Directory, b"", |e| {
            e.mode(0o751).unwrap().gid(9).unwrap();
        })
        .directory("tmp", 0o1777)
        .entry("home/", EntryType::Directory, b"", |e| {
            e.mode(0o2770).unwrap().uid(12).unwrap().gid(13).unwrap();
            e.add_pax("SCHILY.xattr.user.k", b"v");
        })
        .file("home/old", "1")
        .file("etc/passwd", "root")
        .file("etc/hosts", "hosts")
        .file("opt/a", "1")
        .file("opt/b", "1")
        .file("data/x", "1")
        .file("gone/deep/f", "1")
        .symlink("lib", "usr/lib")
        .file("usr/lib/real", "r")
        .symlink("link", "etc");
    let middle =
        Tar::new().file("tmp/x", "x").file("home/new", "2").file("etc/.wh.hosts", "").file(".wh.gone", "");
    let top = Tar::new()
        .file("tmp/y", "y")
        .file("gone/deep/g", "2")
        .file("opt/.wh..wh..opq", "")
        .file("opt/c", "3")
        .file("data", "now a file")
        .file("lib/own", "o")
        .symlink("etc/alias", "/link/../etc/./passwd")
        .symlink("etc/out", "../../../../etc/passwd")
        .symlink("etc/loop", "loop");
    [base, middle, top].into_iter().map(Tar::finish).collect()
}

#[test]
fn an_overlay_shows_what_the_layers_mean() {
    let root = tempfile::tempdir().unwrap();
    let store = reopen(root.path());
    let image = pull(&store, "x:1", &odd_layers());
    let container = ContainerId::generate();
    let rootfs = store.prepare_rootfs(&image, &container).unwrap();
    let script =
        "find . -mindepth 1 | sort | tr '\\n' ' '; stat -c '%n %a %u %g' . tmp home gone gone/deep; cat data";
    let shown = in_overlay(&rootfs, script);
    let expected = "./data ./etc ./etc/alias ./etc/loop ./etc/out ./etc/passwd ./gone ./gone/deep ./gone/deep/g \
                    ./home ./home/new ./home/old ./lib ./lib/own ./link ./opt ./opt/c ./tmp ./tmp/x ./tmp/y \
                    ./usr ./usr/lib ./usr/lib/real \
                    . 751 0 9\ntmp 1777 0 0\nhome 2770 12 13\ngone 755 0 0\ngone/deep 755 0 0\nnow a file";
    assert_eq!(shown, expected);
    let home = fs::open_directory(&rootfs.lower[1].join("home")).unwrap();
    assert_eq!(fs::xattr(std::os::fd::AsFd::as_fd(&home), b"user.k"), Ok(Some(b"v".to_vec())));
    let time = rootfs.lower[1].join("home").metadata().unwrap().modified().unwrap();
    assert_eq!(time, std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000));
    store.remove_rootfs(&container).unwrap();
    assert_trash_empties(root.path());
}

#[test]
fn implied_directories_at_any_depth_look_like_those_below() {
    let root = tempfile::tempdir().unwrap();
    let store = reopen(root.path());
    // Deeper than ways are kept open, with a neighbour on each level whose name comes between a directory's and its children's.
    const DEPTH: u32 = 70;
    let (mut base, mut middle, mut top, mut path) = (Tar::new(), Tar::new(), Tar::new(), String::new());
    let mode = |depth: u32| 0o700 + (depth & 0o77);
    for depth in 0..DEPTH {
        path += if depth == 0 { "a" } else { "/a" };
        base = base.directory(&path, mode(depth)).directory(&format!("{path}-b"), 0o500);
        top = top.file(&format!("{path}-b/x"), "x");
    }
    (middle, top) = (middle.file(&format!("{path}/x"), "x"), top.file(&format!("{path}/y"), "y"));
    let image = pull(&store, "x:1", &vec![base.finish(), middle.finish(), top.finish()]);
    let rootfs = store.prepare_rootfs(&image, &ContainerId::generate()).unwrap();
    let mut at = rootfs.lower[0].clone();
    for depth in 0..DEPTH {
        let mode_of = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode_of(&at.join("a-b")), 0o500, "{depth}");
        at.push("a");
        assert_eq!(mode_of(&at), mode(depth), "{depth}");
    }
}

#[test]
fn files_are_read_as_the_overlay_would_show_them() {
    let root = tempfile::tempdir().unwrap();
    let store = reopen(root.path());
    let image = pull(&store, "x:1", &odd_layers());
    let read =
        |path: &str| store.read_file(&image, path, 100).unwrap().map(|b| String::from_utf8(b).unwrap());
    let cases = [
        ("/etc/passwd", Some("root")),
        ("etc/alias", Some("root")),
        ("etc/out", Some("root")),
        ("link/passwd", Some("root")),
        ("data", Some("now a file")),
        ("tmp/x", Some("x")),
        ("opt/c", Some("3")),
        ("opt/a", None),
        ("etc/hosts", None),
        ("gone/deep/f", None),
        ("data/x", None),
        ("lib/own", Some("o")),
        ("lib/real", None),
        ("etc", None),
        ("", None),
        ("../../../../../../etc/hostname", None),
    ];
    for (path, content) in cases {
        assert_eq!(read(path).as_deref(), content, "{path}");
    }
    assert!(store.read_file(&image, "etc/loop", 100).is_err());
    assert_eq!(store.read_file(&image, "data", 3).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
}

#[test]
fn an_opaque_root_hides_all_layers_below() {
    let root = tempfile::tempdir().unwrap();
    let store = reopen(root.path());
    let opaque = Tar::new().file(".wh..wh..opq", "").file("b", "2").finish();
    let image = pull(&store, "x:1", &vec![layer("a"), opaque, layer("c")]);
    let rootfs = store.prepare_rootfs(&image, &ContainerId::generate()).unwrap();
    assert_eq!(rootfs.lower.len(), 2);
    assert_eq!(in_overlay(&rootfs, "echo *"), "b c\n");
    assert_eq!(store.read_file(&image, "a", 10).unwrap(), None);
}

#[test]
fn an_image_without_layers_has_an_empty_root() {
    let root = tempfile::tempdir().unwrap();
    let store = reopen(root.path());
    let image = pull(&store, "scratch:1", &Vec::new());
    let rootfs = store.prepare_rootfs(&image, &ContainerId::generate()).unwrap();
    assert_eq!(in_overlay(&rootfs, "touch f; ls; stat -c %a ."), "f\n755\n");
    assert_eq!(store.read_file(&image, "etc/passwd", 10).unwrap(), None);
}
