//! The log of real containers at full speed: what is written stands in it, once and in order, whatever happens to the file.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs::{self, File};
use std::path::Path;
use std::time::Instant;

use common::{Plan, Stage, run, wait};
use podd_monitor::protocol::{Report, Request};

/// The stream, the tag and the text of a line begin here.
const HEAD: usize = 31;
const NOTICE: &str = "stderr F podd-monitor: ";

fn kill(signal: &str, pid: u32) {
    run("kill", &[signal, &pid.to_string()]);
}

/// What a stream has said, put together again from the log.
fn output_of(log: &[u8], stream: &str) -> Vec<u8> {
    let mut output = Vec::new();
    for line in log.split_inclusive(|byte| *byte == b'\n') {
        assert_eq!(line.last(), Some(&b'\n'), "a torn line");
        let head = format!("{stream} ");
        let Some(rest) = line[HEAD..].strip_prefix(head.as_bytes()) else { continue };
        match rest.split_at(2) {
            (b"F ", text) => output.extend_from_slice(text),
            (b"P ", text) => output.extend_from_slice(&text[..text.len() - 1]),
            _ => panic!("{}", String::from_utf8_lossy(line)),
        }
    }
    output
}

/// Where two outputs differ first, without printing megabytes.
fn assert_same(found: &[u8], expected: &[u8]) {
    let differ = found.iter().zip(expected).position(|(a, b)| a != b);
    assert_eq!((found.len(), differ), (expected.len(), None));
}

#[test]
fn binary_data_of_two_streams_stands_in_the_log_byte_by_byte() {
    let script = "head -c 9000000 /dev/urandom >/tmp/a; head -c 3000001 /dev/urandom >/tmp/b; cat /tmp/a & cat /tmp/b >&2; wait";
    let stage = Stage::new("crun", &Plan::script(script));
    let (mut monitor, _) = stage.start();
    monitor.wait();
    let log = fs::read(&stage.settings.log_path).unwrap();
    for (stream, file) in [("stdout", "upper/tmp/a"), ("stderr", "upper/tmp/b")] {
        assert_same(&output_of(&log, stream), &fs::read(stage.path(file)).unwrap());
    }
}

#[test]
fn rotations_under_load_lose_and_tear_no_line() {
    const LINES: usize = 3_000_000;
    let stage = Stage::new("crun", &Plan::script(&format!("seq {LINES}")));
    let (mut monitor, _) = stage.start();
    let mut rotated = Vec::new();
    while monitor.process.try_wait().unwrap().is_none() {
        let name = stage.path(&format!("logs/{}", rotated.len()));
        fs::rename(&stage.settings.log_path, &name).unwrap();
        rotated.push(name);
        if monitor.client.try_send(&Request::ReopenLog).is_err() {
            break;
        }
        match monitor.client.try_report() {
            Some(Report::Done) => {}
            Some(Report::Exited(_)) | None => break,
            Some(other) => panic!("{other:?}"),
        }
    }
    monitor.wait();
    assert!(rotated.len() > 20, "{} rotations are no load", rotated.len());
    rotated.push(stage.settings.log_path.clone());
    // The last rotation may have come too late to be heard of.
    let logs = rotated.iter().map(|path| fs::read(path).unwrap_or_default());
    let output = output_of(&logs.collect::<Vec<_>>().concat(), "stdout");
    let expected = (1..=LINES).map(|n| format!("{n}\n")).collect::<String>();
    assert_same(&output, expected.as_bytes());
}

#[test]
fn a_log_stays_within_its_size_until_it_is_rotated_and_says_what_it_lost() {
    const MAX: u64 = 1 << 20;
    let script = "trap 'echo after; exit 0' USR1; seq 1000000; echo >/tmp/done; while :; do sleep 0.05; done";
    let mut stage = Stage::new("crun", &Plan::script(script));
    stage.settings.log_size_max = MAX;
    let (mut monitor, pid) = stage.start();
    wait("the container's last write", || stage.path("upper/tmp/done").exists());
    (0..4).for_each(|_| drop(monitor.client.ask(&Request::State)));
    let log = fs::read(&stage.settings.log_path).unwrap();
    assert!((MAX - 4096..=MAX).contains(&(log.len() as u64)), "{}", log.len());
    let lines = stage.log_lines();
    let reached = format!(
        "{NOTICE}the log has reached its limit of {MAX} bytes; output is dropped until it is rotated"
    );
    assert_eq!(lines.last(), Some(&reached));

    let kept = output_of(&log, "stdout").len();
    let rotated = stage.path("logs/rotated");
    fs::rename(&stage.settings.log_path, &rotated).unwrap();
    assert_eq!(monitor.client.ask(&Request::ReopenLog), Report::Done);
    kill("-USR1", pid);
    monitor.wait();
    let said = (1..=1_000_000).map(|n| format!("{n}\n").len()).sum::<usize>();
    let lost = format!(
        "{NOTICE}{} bytes of output were dropped (the log had its limit of {MAX} bytes)",
        said - kept
    );
    assert_eq!(stage.log_lines(), [lost.as_str(), "stdout F after"]);
}

#[test]
fn a_log_that_is_full_at_the_end_says_how_much_is_missing_within_its_size() {
    const MAX: u64 = 64 << 10;
    let mut stage = Stage::new("crun", &Plan::script("seq 100000"));
    stage.settings.log_size_max = MAX;
    let (mut monitor, _) = stage.start();
    monitor.wait();
    let log = fs::read(&stage.settings.log_path).unwrap();
    assert!(log.len() as u64 <= MAX, "{}", log.len());
    let (said, kept) =
        ((1..=100_000).map(|n| format!("{n}\n").len()).sum::<usize>(), output_of(&log, "stdout").len());
    let last = stage.log_lines().pop().unwrap();
    assert!(last.starts_with(&format!("{NOTICE}{} bytes", said - kept)), "{last}");
}

#[test]
fn a_log_grows_no_faster_than_its_rate_and_says_so_while_it_goes_on() {
    const RATE: u64 = 100_000;
    // The last words are more than may be logged at once, whenever they come.
    let script = "trap 'seq 20000; echo >/tmp/done; sleep 1000' USR1; while :; do seq 1000; done";
    let mut stage = Stage::new("crun", &Plan::script(script));
    stage.settings.log_rate = RATE;
    let (monitor, pid) = stage.start();
    let began = Instant::now();
    let size = || fs::metadata(&stage.settings.log_path).map_or(0, |file| file.len());
    wait("the third report", || stage.log().matches("bytes of output were dropped").count() == 3);
    let most = RATE as f64 * (began.elapsed().as_secs_f64() + 1.0) + 3.0 * 256.0;
    assert!((size() as f64) < most, "{} bytes where {most} are allowed", size());
    // What was dropped last is reported though nothing follows.
    kill("-USR1", pid);
    wait("the container's last write", || stage.path("upper/tmp/done").exists());
    let end = format!("(more came than {RATE} bytes a second)");
    wait("the last report", || stage.log_lines().last().is_some_and(|line| line.ends_with(&end)));
    drop(monitor);
}

/// A file system of so many MiB in a file of its own.
fn small_disk(image: &Path, at: &Path) {
    File::create(image).unwrap().set_len(4 << 20).unwrap();
    run("mkfs.ext4", &["-q", "-O", "^has_journal", image.to_str().unwrap()]);
    run("mount", &["-o", "loop", image.to_str().unwrap(), at.to_str().unwrap()]);
}

#[test]
fn a_full_disk_holds_up_nobody_and_is_over_when_there_is_room_again() {
    let script = "trap 'seq 1000; exit 0' USR1; seq 2000000; echo >/tmp/done; while :; do sleep 0.05; done";
    let stage = Stage::new("crun", &Plan::script(script));
    small_disk(&stage.path("disk"), &stage.path("logs"));
    let ballast = stage.path("logs/ballast");
    fs::write(&ballast, vec![1; 1 << 20]).unwrap();
    let (mut monitor, pid) = stage.start();
    wait("the container's last write", || stage.path("upper/tmp/done").exists());
    (0..4).for_each(|_| drop(monitor.client.ask(&Request::State)));
    let kept = output_of(&fs::read(&stage.settings.log_path).unwrap(), "stdout").len();
    let said: usize = (1..=2_000_000).map(|n: u32| format!("{n}\n").len()).sum();
    assert!((100_000..said).contains(&kept), "{kept} of {said}");

    fs::remove_file(ballast).unwrap();
    kill("-USR1", pid);
    monitor.wait();
    let log = fs::read(&stage.settings.log_path).unwrap();
    let lines = stage.log_lines();
    // On the brink of being full a small write may still find a place.
    let lost = lines.iter().filter_map(|line| line.strip_prefix(NOTICE)).map(|notice| {
        let end = " bytes of output were dropped (No space left on device)";
        notice.strip_suffix(end).and_then(|count| count.parse::<usize>().ok()).expect(notice)
    });
    assert_eq!(lost.sum::<usize>(), said - kept);
    let after: String = (1..=1000).map(|n| format!("{n}\n")).collect();
    let output = output_of(&log, "stdout");
    assert_same(&output[kept..], after.as_bytes());
}
