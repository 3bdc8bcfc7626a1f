//! Every message survives the wire in any cut of the bytes, and nothing from outside can make the decoder panic or grow.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use super::frame::Writer;
use super::*;

fn settings() -> Settings {
    Settings {
        container_id: "c1".to_owned(),
        state_dir: "/run/podd/c1".into(),
        cgroup_procs: vec!["/sys/fs/cgroup/a/cgroup.procs".into(), "/sys/fs/cgroup/b/cgroup.procs".into()],
        mount_point: "/run/podd/mnt".into(),
        overlay: Overlay {
            lower: (0..200).map(|i| PathBuf::from(format!("/layers/{i}"))).collect(),
            upper: "/u".into(),
            work: "/w".into(),
            options: vec!["index=off".to_owned()],
            owned: true,
        },
        user_namespace: Some(UserNamespace { path: "/run/podd/user".into(), uid: 100_000, gid: 200_000 }),
        create: vec!["/usr/bin/crun".into(), "create".into(), "c1".into()],
        delete: vec!["/usr/bin/crun".into(), "delete".into(), OsString::from("c1")],
        pid_file: "/run/podd/c1/pid".into(),
        runtime_log: "/run/podd/c1/log".into(),
        create_timeout: Duration::from_millis(1500),
        terminal: true,
        stdin: false,
        log_path: "/var/log/pods/x/0.log".into(),
        log_size_max: 1 << 40,
        log_rate: 1_000_000,
        log_rate_burst: 7,
        exit_file: "/run/podd/exits/c1".into(),
        oom_file: PathBuf::new(),
        volumes: vec![vec!["/layers/1".into(), "/layers/0".into()], vec!["/layers/0".into()]],
        directories: vec!["/data".into(), "/srv/more".into()],
        links: vec![("/etc/mtab".into(), "/proc/mounts".into())],
    }
}

fn reports() -> Vec<Report> {
    let exit = Exit { pid: 7, exit_code: 137, signal: 9, oom_killed: true, finished_at: 1 << 60 };
    vec![
        Report::Hello(VERSION),
        Report::Created { pid: 4_000_000, start_time: u64::MAX },
        Report::Timing(Timing { began: 1 << 60, mount: 350_000, create: u64::MAX }),
        Report::Failed { stage: Stage::Overlay, text: "no such file".to_owned() },
        Report::Failed { stage: Stage::Unknown(77), text: String::new() },
        Report::Warning("cgroup".to_owned()),
        Report::Done,
        Report::Refused("not now".to_owned()),
        Report::State { pid: 1, start_time: 2, alive: false },
        Report::Exited(exit),
        Report::Unknown(999),
    ]
}

fn requests() -> Vec<Request> {
    vec![
        Request::Hello(VERSION),
        Request::Settings(Box::new(settings())),
        Request::Commit,
        Request::ReopenLog,
        Request::State,
        Request::Resize { width: 80, height: 25 },
        Request::CloseStdin,
        Request::Attach { stdin: true, stdout: false, stderr: true },
        Request::Unknown(12_345),
    ]
}

#[test]
fn requests_and_reports_survive_the_wire_byte_by_byte() {
    let wire: Vec<u8> = requests().iter().flat_map(Request::encode).collect();
    let (mut frames, mut seen) = (Frames::new(MAX_SETTINGS_FRAME), Vec::new());
    for byte in wire {
        frames.push(&[byte]);
        while let Some((kind, payload)) = frames.take().unwrap() {
            seen.push(Request::decode(kind, payload).unwrap());
        }
    }
    assert_eq!(seen, requests());

    let wire: Vec<u8> = reports().iter().flat_map(Report::encode).collect();
    let (mut frames, mut seen) = (Frames::new(MAX_CONTROL_FRAME), Vec::new());
    frames.push(&wire);
    while let Some((kind, payload)) = frames.take().unwrap() {
        seen.push(Report::decode(kind, payload).unwrap());
    }
    assert_eq!(seen, reports());
}

#[test]
fn a_long_text_is_cut_at_a_character() {
    let frame = Report::Refused("ä".repeat(MAX_TEXT)).encode();
    let mut frames = Frames::new(MAX_CONTROL_FRAME);
    frames.push(&frame);
    let (kind, payload) = frames.take().unwrap().unwrap();
    assert_eq!(Report::decode(kind, payload).unwrap(), Report::Refused("ä".repeat(MAX_TEXT / 2)));
}

#[test]
fn unknown_settings_are_skipped_unless_they_are_critical() {
    let frame = |tag| {
        let writer = settings().encode(Writer::new(2)).u16(tag).u32(3).bytes(b"new");
        Request::decode(2, &writer.finish()[6..])
    };
    assert_eq!(frame(0x0777).unwrap(), Request::Settings(Box::new(settings())));
    assert_eq!(frame(0x8777), Err(ProtocolError::UnknownCriticalSetting(0x8777)));
}

#[test]
fn an_older_monitor_passes_over_the_limits_of_logs() {
    let tags = |settings: Settings| {
        let payload = &settings.encode(Writer::new(2)).finish()[6..];
        let (mut rest, mut tags) = (payload, Vec::new());
        while let Some((head, more)) = rest.split_first_chunk::<6>() {
            let length = u32::from_le_bytes([head[2], head[3], head[4], head[5]]) as usize;
            tags.push(u16::from_le_bytes([head[0], head[1]]));
            rest = &more[length..];
        }
        tags
    };
    let without = Settings { log_size_max: 0, log_rate: 0, log_rate_burst: 0, ..settings() };
    let known = tags(without);
    let new: Vec<_> = tags(settings()).into_iter().filter(|tag| !known.contains(tag)).collect();
    assert_eq!(new.len(), 3);
    assert!(new.iter().all(|tag| tag & 0x8000 == 0), "{new:?}");
}

#[test]
fn a_missing_setting_is_named() {
    let incomplete = Settings { exit_file: PathBuf::new(), ..settings() };
    let frame = Request::Settings(Box::new(incomplete)).encode();
    let error = Request::decode(2, &frame[6..]).unwrap_err();
    assert_eq!(error.to_string(), "setting exit_file is missing");
}

#[test]
fn a_frame_over_the_limit_is_refused_by_its_header() {
    let mut frames = Frames::new(MAX_CONTROL_FRAME);
    frames.push(&[0xff, 0xff, 0xff, 0x7f, 1, 0]);
    assert!(matches!(frames.take(), Err(ProtocolError::TooLong { length: 0x7fff_ffff, .. })));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(kind in 0u16..80, payload in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Request::decode(kind, &payload);
        let _ = Report::decode(kind, &payload);
    }
}
