//! Layers' archives that are made again of their files.

use std::process::{Command, Stdio};

use tar_core::EntryType;

use super::*;
use crate::image::archive::layer::write_layer;
use crate::image::extract::{Compression, FILES, LayerExpectation, Limits, extract_layer};

/// Unpacks an archive, and makes one of its files.
fn again(tar: &[u8]) -> Vec<u8> {
    let scratch = tempfile::tempdir().unwrap();
    let digest = Digest::of(tar);
    let expected = LayerExpectation { digest: digest.clone(), size: tar.len() as u64, diff_id: digest };
    extract_layer(tar, Compression::None, &expected, scratch.path(), &Limits::default()).unwrap();
    let mut made = Vec::new();
    write_layer(&scratch.path().join(FILES), &mut made).unwrap();
    made
}

fn listed(tar: &[u8]) -> String {
    let mut child = Command::new("tar")
        .args(["--numeric-owner", "--full-time", "--utc", "--xattrs", "-tvvf", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(tar).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success());
    // Columns are as wide as their content.
    let text = String::from_utf8(out.stdout).unwrap();
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n").collect()
}

/// An archive whose entries are in the order and form that podd writes.
#[test]
fn odd_entries_come_out_as_they_went_in() {
    let long = "x/".repeat(70) + "end";
    let tar = Tar::new()
        .directory("./", 0o1777)
        .entry("big", EntryType::Regular, &[7; 1000], |entry| {
            entry.mode(0o4755).unwrap().uid(4_000_000).unwrap().gid(3_000_000_000).unwrap();
        })
        .pax("early", "mtime", "-1.25")
        .device("null", EntryType::Char, 1, 3)
        .entry("pipe", EntryType::Fifo, b"", |_| {})
        .xattr("plain", EntryType::Regular, "user.x", b"\0\xff=\n")
        .hard_link("twin", "big")
        .file(".wh.gone", "")
        .file("o/.wh..wh..opq", "")
        .symlink("to", &"t/".repeat(80))
        .file(&long, "deep")
        .pax("nanos", "mtime", "5.000000001")
        .finish();
    let made = again(&tar);
    assert_eq!(again(&made), made);
    let list = listed(&made);
    for part in [
        "-rwsr-xr-x 4000000/3000000000 1000 2001",
        "crw-r--r-- 0/0 1,3 2001",
        "prw-r--r--",
        "hrwsr-xr-x 4000000/3000000000 0",
        "twin link to big",
        " .wh.gone",
        " o/.wh..wh..opq",
        &format!(" {long}"),
        &format!("to -> {}", "t/".repeat(80)),
        "1969-12-31",
        "1970-01-01 00:00:05.000000001",
        "drwxrwxrwt 0/0 0 1970-01-01 00:00:00 ./",
    ] {
        assert!(list.contains(part), "{part:?} is not in\n{list}");
    }
}

#[test]
fn an_empty_layer_is_its_root_alone() {
    let made = again(&Tar::new().finish());
    assert_eq!(listed(&made).lines().count(), 1);
    assert_eq!(made.len() % 512, 0);
}
