//! A container of busybox with a real runtime, below a real monitor. All of it is removed when the test ends.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic)]

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use podd_monitor::protocol::{
    CONSOLE_SOCKET, CONTROL_SOCKET, Frames, LOCK_FILE, MAX_CONTROL_FRAME, Overlay, Report, Request, Settings,
    VERSION,
};
use tempfile::TempDir;

pub const RUNTIMES: [&str; 2] = ["crun", "runc"];

/// The binary under test: this build's, or the one that PODD_MONITOR names, such as the static one.
pub fn monitor_binary() -> String {
    env::var("PODD_MONITOR").unwrap_or_else(|_| env!("CARGO_BIN_EXE_podd-monitor").to_owned())
}

const PATIENCE: Duration = Duration::from_secs(20);

/// What a test's container is made of.
pub struct Plan {
    pub script: String,
    pub terminal: bool,
    pub pid_namespace: bool,
    pub memory_limit: Option<u64>,
}

impl Plan {
    pub fn script(script: &str) -> Self {
        Self { script: script.to_owned(), terminal: false, pid_namespace: true, memory_limit: None }
    }
}

/// A container's directories and settings.
pub struct Stage {
    pub dir: TempDir,
    pub runtime: &'static str,
    pub id: String,
    pub settings: Settings,
}

/// A started monitor with the connection on which it was started.
pub struct Monitor {
    pub process: Child,
    pub client: Client,
}

impl Stage {
    pub fn new(runtime: &'static str, plan: &Plan) -> Self {
        let dir = tempfile::Builder::new().prefix("podd-monitor-").tempdir().unwrap();
        let id = dir.path().file_name().unwrap().to_str().unwrap().to_owned();
        let path = |name: &str| dir.path().join(name);
        for name in ["layer", "upper", "work", "state", "mnt", "bundle", "exits", "logs", "runtime"] {
            fs::create_dir(path(name)).unwrap();
        }
        make_root(&path("layer"));
        let mnt = path("mnt");
        run("mount", &["--bind", mnt.to_str().unwrap(), mnt.to_str().unwrap()]);
        run("mount", &["--make-private", mnt.to_str().unwrap()]);
        fs::write(path("bundle/config.json"), config(plan, &mnt.join("rootfs"), &id)).unwrap();
        let settings = settings(runtime, plan, dir.path(), &id);
        Self { dir, runtime, id, settings }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts the monitor and sends it the settings.
    pub fn launch(&self) -> Monitor {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let lock = File::create(self.path("state").join(LOCK_FILE)).unwrap();
        lock.lock().unwrap();
        let process = Command::new(monitor_binary())
            .args(["run", &self.id])
            .stdin(OwnedFd::from(theirs))
            .stdout(OwnedFd::from(lock))
            .spawn()
            .unwrap();
        ours.write_all(&Request::Hello(VERSION).encode()).unwrap();
        ours.write_all(&Request::Settings(Box::new(self.settings.clone())).encode()).unwrap();
        Monitor { process, client: Client::new(ours) }
    }

    /// Launches, expects the container and gives its init's pid.
    pub fn create(&self) -> (Monitor, u32) {
        let mut monitor = self.launch();
        let told = monitor.client.report();
        let Report::Timing(timing) = told else { panic!("{}: {told:?}", self.runtime) };
        assert!(timing.began > 0 && timing.mount > 0 && timing.create > 0, "{timing:?}");
        match monitor.client.report() {
            Report::Created { pid, .. } => (monitor, pid),
            other => panic!("{}: {other:?}", self.runtime),
        }
    }

    /// Creates, commits and starts.
    pub fn start(&self) -> (Monitor, u32) {
        let (mut monitor, pid) = self.create();
        monitor.client.send(&Request::Commit);
        self.start_init();
        (monitor, pid)
    }

    pub fn start_init(&self) {
        let output = self.runtime(&["start", &self.id]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    pub fn runtime(&self, arguments: &[&str]) -> Output {
        let root = self.path("runtime");
        Command::new(self.runtime).arg("--root").arg(root).args(arguments).output().unwrap()
    }

    pub fn connect(&self) -> Client {
        // Through the directory's descriptor, because the path may be too long for a socket address.
        let directory = File::open(self.path("state")).unwrap();
        let path = format!("/proc/self/fd/{}/{CONTROL_SOCKET}", directory.as_raw_fd());
        let mut stream = UnixStream::connect(path).unwrap();
        stream.write_all(&Request::Hello(VERSION).encode()).unwrap();
        Client::new(stream)
    }

    pub fn monitor_lives(&self) -> bool {
        File::open(self.path("state").join(LOCK_FILE)).unwrap().try_lock_shared().is_err()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.settings.log_path).unwrap_or_default()
    }

    /// Stream, tag and text of the log's lines.
    pub fn log_lines(&self) -> Vec<String> {
        self.log().lines().map(|line| line[31..].to_owned()).collect()
    }

    pub fn exit_record(&self) -> Option<String> {
        fs::read_to_string(&self.settings.exit_file).ok()
    }

    pub fn wait_for_log(&self, text: &str) {
        wait(&format!("{text:?} in the log"), || self.log().contains(text));
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.runtime(&["delete", "--force", &self.id]);
        for name in ["mnt", "logs"] {
            let _ = Command::new("umount").arg(self.path(name)).stderr(Stdio::null()).status();
        }
        // The runtime leaves a cgroup behind in which the kernel has not buried the last process yet.
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let cgroup = hierarchy.path().join(&self.id);
            if hierarchy.path().join("cgroup.procs").exists() {
                wait("the cgroup's end", || !cgroup.exists() || fs::remove_dir(&cgroup).is_ok());
            } else {
                // Where no hierarchy is mounted, crun makes plain directories.
                let _ = fs::remove_dir_all(&cgroup);
            }
        }
    }
}

impl Monitor {
    /// Waits until the monitor has ended by itself.
    pub fn wait(&mut self) {
        wait("the monitor's end", || self.process.try_wait().unwrap().is_some());
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The daemon's side of a connection.
pub struct Client {
    stream: UnixStream,
    frames: Frames,
}

impl Client {
    fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, frames: Frames::new(MAX_CONTROL_FRAME) }
    }

    pub fn send(&mut self, request: &Request) {
        self.try_send(request).unwrap();
    }

    /// An error when the monitor has closed the connection.
    pub fn try_send(&mut self, request: &Request) -> io::Result<()> {
        self.stream.write_all(&request.encode())
    }

    /// Asks and gives the answer.
    pub fn ask(&mut self, request: &Request) -> Report {
        self.send(request);
        self.report()
    }

    /// The next report but the greeting.
    pub fn report(&mut self) -> Report {
        self.try_report().expect("the monitor has closed the connection")
    }

    /// The next report but the greeting; `None` when the monitor has closed the connection.
    pub fn try_report(&mut self) -> Option<Report> {
        loop {
            while let Some((kind, payload)) = self.frames.take().unwrap() {
                match Report::decode(kind, payload).unwrap() {
                    Report::Hello(version) => assert_eq!(version, VERSION),
                    report => return Some(report),
                }
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(count) => self.frames.push(&bytes[..count]),
                Err(e) => assert_eq!(e.kind(), ErrorKind::Interrupted, "the monitor is silent"),
            }
        }
    }
}

/// Polls a condition until it holds.
pub fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

pub fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
}

/// A root filesystem of busybox alone.
fn make_root(root: &Path) {
    for name in ["bin", "proc", "dev", "sys", "tmp"] {
        fs::create_dir(root.join(name)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in ["sh", "cat", "echo", "ls", "sleep", "seq", "stty", "tail", "wc", "yes", "dd", "head"] {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
}

fn config(plan: &Plan, root: &Path, id: &str) -> String {
    let Plan { script, terminal, .. } = plan;
    let pid = if plan.pid_namespace { r#"{"type":"pid"},"# } else { "" };
    let resources = match plan.memory_limit {
        Some(limit) => format!(r#","resources":{{"memory":{{"limit":{limit},"swap":{limit}}}}}"#),
        None => String::new(),
    };
    format!(
        r#"{{"ociVersion":"1.0.2","root":{{"path":{root:?}}},
        "process":{{"terminal":{terminal},"user":{{"uid":0,"gid":0}},"cwd":"/",
          "args":["/bin/sh","-c",{script:?}],"env":["PATH=/bin"],
          "capabilities":{{"bounding":["CAP_KILL"],"effective":["CAP_KILL"],"permitted":["CAP_KILL"]}}}},
        "mounts":[{{"destination":"/proc","type":"proc","source":"proc"}},
          {{"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["mode=755"]}},
          {{"destination":"/dev/pts","type":"devpts","source":"devpts","options":["newinstance","ptmxmode=0666"]}}],
        "linux":{{"cgroupsPath":"/{id}",
          "namespaces":[{pid}{{"type":"mount"}},{{"type":"ipc"}},{{"type":"uts"}},{{"type":"network"}}]{resources}}}}}"#
    )
}

fn settings(runtime: &str, plan: &Plan, dir: &Path, id: &str) -> Settings {
    let path = |name: &str| dir.join(name);
    let find = |bin: &&str| Path::new(bin).join(runtime).exists();
    let bin = ["/usr/bin", "/usr/sbin"].into_iter().find(find).expect("crun and runc are installed");
    let runtime: Vec<OsString> =
        vec![format!("{bin}/{runtime}").into(), "--root".into(), path("runtime").into()];
    let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
    let log = path("state/runtime.log").to_str().unwrap().to_owned();
    let (bundle, pid_file) = (path("bundle").into_os_string(), path("state/pid").into_os_string());
    let mut create = runtime.clone();
    create.extend(words(&["--log", &log, "--log-format", "json", "create", "--bundle"]));
    create.extend([bundle, "--pid-file".into(), pid_file]);
    if plan.terminal {
        create.extend(words(&["--console-socket", CONSOLE_SOCKET]));
    }
    create.push(id.into());
    let mut delete = runtime;
    delete.extend(words(&["delete", "--force", id]));
    Settings {
        user_namespace: None,
        container_id: id.to_owned(),
        state_dir: path("state"),
        cgroup_procs: Vec::new(),
        mount_point: path("mnt"),
        overlay: Overlay {
            lower: vec![path("layer")],
            upper: path("upper"),
            work: path("work"),
            options: vec!["index=off".to_owned()],
            owned: false,
        },
        create,
        delete,
        pid_file: path("state/pid"),
        runtime_log: path("state/runtime.log"),
        create_timeout: Duration::from_secs(20),
        terminal: plan.terminal,
        stdin: false,
        log_path: path("logs/0.log"),
        exit_file: path("exits/exit"),
        oom_file: PathBuf::from(format!("/sys/fs/cgroup/memory/{id}/memory.oom_control")),
        ..Settings::default()
    }
}
