//! From the files and flags to the effective configuration.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use toml::Table;

use super::read::{Problem, Reader};
use super::{
    AppArmorConfig, BlockIoConfig, CdiConfig, CgroupConfig, CgroupDriver, Config, ContainersConfig,
    DevicesConfig, DiskConfig, ImagesConfig, LogFormat, LogLevel, MetricsConfig, MonitorConfig, MountsConfig,
    NetworkConfig, NriConfig, SeccompConfig, SecurityConfig, SelinuxConfig, StreamingConfig, TracingConfig,
    runtimes,
};

/// The file that is read when `--config` names none; it need not exist.
pub const DEFAULT_FILE: &str = "/etc/podd/podd.toml";

/// The signature policy that need not exist: without it every image is accepted.
pub const DEFAULT_POLICY: &str = "/etc/containers/policy.json";

/// The longest path that a unix socket's address holds, in bytes (`sun_path` less its terminating zero, unix(7)).
const SOCKET_PATH_MAX: usize = 107;

const DRIVERS: [(&str, CgroupDriver); 3] =
    [("auto", CgroupDriver::Auto), ("systemd", CgroupDriver::Systemd), ("cgroupfs", CgroupDriver::Cgroupfs)];

const LEVELS: [(&str, LogLevel); 5] = [
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];

const FORMATS: [(&str, LogFormat); 4] = [
    ("auto", LogFormat::Auto),
    ("text", LogFormat::Text),
    ("json", LogFormat::Json),
    ("journald", LogFormat::Journald),
];

/// Every mistake that the configuration holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// In the order in which the sources are read.
    pub problems: Vec<Problem>,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration has {} mistake(s)", self.problems.len())?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

/// One layer of configuration: where it comes from and what it says.
struct Source {
    name: String,
    table: Table,
}

/// Reads `file` (or [`DEFAULT_FILE`]), its drop-ins and the `key=value` settings of the command line.
pub fn load(file: Option<&Path>, settings: &[String]) -> Result<Config, ConfigError> {
    let mut problems = Vec::new();
    let sources = sources(file, settings, &mut problems);
    let base = |key: &str, otherwise: &str| {
        let last = sources.iter().rev().find_map(|source| source.table.get(key)?.as_str());
        PathBuf::from(last.unwrap_or(otherwise))
    };
    let mut config = Config::defaults(&base("root", "/var/lib/podd"), &base("run_dir", "/run/podd"));
    for source in sources {
        apply(&mut config, Reader::new(&source.name, source.table, &mut problems));
    }
    check(&config, &mut problems);
    if problems.is_empty() { Ok(config) } else { Err(ConfigError { problems }) }
}

impl Config {
    /// The built-in values, for these two directories.
    pub fn defaults(root: &Path, run_dir: &Path) -> Self {
        Self {
            root: root.to_owned(),
            run_dir: run_dir.to_owned(),
            socket: run_dir.join("podd.sock"),
            default_runtime: "crun".to_owned(),
            cgroup_driver: CgroupDriver::Auto,
            log_level: LogLevel::Info,
            log_format: LogFormat::Auto,
            journal_socket: "/run/systemd/journal/socket".into(),
            abandoned_after_seconds: 240,
            runtimes: runtimes::defaults(run_dir),
            cgroup: CgroupConfig::defaults(),
            apparmor: AppArmorConfig::defaults(),
            containers: ContainersConfig::defaults(),
            devices: DevicesConfig::defaults(),
            cdi: CdiConfig::defaults(),
            blockio: BlockIoConfig::defaults(),
            disk: DiskConfig::defaults(),
            monitor: MonitorConfig::defaults(),
            mounts: MountsConfig::defaults(),
            network: NetworkConfig::defaults(root),
            images: ImagesConfig::defaults(),
            streaming: StreamingConfig::defaults(),
            metrics: MetricsConfig::defaults(),
            tracing: TracingConfig::defaults(),
            nri: NriConfig::defaults(),
            security: SecurityConfig::defaults(),
            seccomp: SeccompConfig::defaults(),
            selinux: SelinuxConfig::defaults(),
        }
    }
}

fn apply(config: &mut Config, mut reader: Reader<'_>) {
    let run_dir = config.run_dir.clone();
    reader.path("root", &mut config.root);
    reader.path("run_dir", &mut config.run_dir);
    reader.path("socket", &mut config.socket);
    reader.string("default_runtime", &mut config.default_runtime);
    reader.word("cgroup_driver", &DRIVERS, &mut config.cgroup_driver);
    reader.word("log_level", &LEVELS, &mut config.log_level);
    reader.word("log_format", &FORMATS, &mut config.log_format);
    reader.path("journal_socket", &mut config.journal_socket);
    reader.number("abandoned_after_seconds", 1..=86_400, &mut config.abandoned_after_seconds);
    runtimes::read(&mut reader, &mut config.runtimes, &run_dir);
    reader.section("cgroup", |reader| config.cgroup.read(reader));
    reader.section("apparmor", |reader| config.apparmor.read(reader));
    reader.section("containers", |reader| config.containers.read(reader));
    reader.section("devices", |reader| config.devices.read(reader));
    reader.section("cdi", |reader| config.cdi.read(reader));
    reader.section("blockio", |reader| config.blockio.read(reader));
    reader.section("disk", |reader| config.disk.read(reader));
    reader.section("monitor", |reader| config.monitor.read(reader));
    reader.section("mounts", |reader| config.mounts.read(reader));
    reader.section("network", |reader| config.network.read(reader));
    reader.section("images", |reader| config.images.read(reader));
    reader.section("streaming", |reader| config.streaming.read(reader));
    reader.section("metrics", |reader| config.metrics.read(reader));
    reader.section("tracing", |reader| config.tracing.read(reader));
    reader.section("nri", |reader| config.nri.read(reader));
    reader.section("security", |reader| config.security.read(reader));
    reader.section("seccomp", |reader| config.seccomp.read(reader));
    reader.section("selinux", |reader| config.selinux.read(reader));
    reader.finish();
}

/// What only the whole can show to be wrong.
fn check(config: &Config, problems: &mut Vec<Problem>) {
    let mut problem = |key: &str, text: String| {
        let source = "effective configuration".to_owned();
        problems.push(Problem { source, key: key.to_owned(), text });
    };
    if !config.runtimes.contains_key(&config.default_runtime) {
        let names: Vec<_> = config.runtimes.keys().map(String::as_str).collect();
        let text = format!("{:?} is not one of the runtimes: {}", config.default_runtime, names.join(", "));
        problem("default_runtime", text);
    }
    if config.socket.as_os_str().len() > SOCKET_PATH_MAX {
        problem("socket", format!("a unix socket's path has at most {SOCKET_PATH_MAX} bytes"));
    }
    if !config.monitor.cgroup.is_empty()
        && crate::cgroup::CgroupPath::new(&config.monitor.cgroup).map_or(true, |path| path.is_root())
    {
        problem("monitor.cgroup", "not a path of a cgroup below the root, without \"..\"".to_owned());
    }
    for pattern in &config.images.pinned {
        if let Err(text) = crate::image::pinned::Pattern::parse(pattern) {
            problem("images.pinned", text);
        }
    }
    if config.streaming.tls_cert.as_os_str().is_empty() != config.streaming.tls_key.as_os_str().is_empty() {
        problem("streaming.tls_key", "tls_cert and tls_key need each other".to_owned());
    }
    if config.metrics.tls_cert.as_os_str().is_empty() != config.metrics.tls_key.as_os_str().is_empty() {
        problem("metrics.tls_key", "tls_cert and tls_key need each other".to_owned());
    }
    if config.metrics.socket.as_os_str().len() > SOCKET_PATH_MAX {
        problem("metrics.socket", format!("a unix socket's path has at most {SOCKET_PATH_MAX} bytes"));
    }
    config.tracing.check(&mut problem);
    config.security.check(&mut problem);
    config.selinux.check(&mut problem);
    if config.network.plugin_dirs.is_empty() {
        problem("network.plugin_dirs", "an empty list: no plugin could be found".to_owned());
    }
}

fn sources(file: Option<&Path>, settings: &[String], problems: &mut Vec<Problem>) -> Vec<Source> {
    let path = file.unwrap_or(Path::new(DEFAULT_FILE));
    let mut sources = Vec::new();
    let may_be_absent = file.is_none();
    match fs::read_to_string(path) {
        Ok(text) => sources.extend(parse(path.display().to_string(), &text, problems)),
        Err(e) if e.kind() == io::ErrorKind::NotFound && may_be_absent => {}
        Err(e) => problems.push(unreadable(path, &e)),
    }
    for path in drop_ins(path, problems) {
        match fs::read_to_string(&path) {
            Ok(text) => sources.extend(parse(path.display().to_string(), &text, problems)),
            Err(e) => problems.push(unreadable(&path, &e)),
        }
    }
    for setting in settings {
        sources.extend(parse(format!("--set {setting}"), &quoted(setting), problems));
    }
    sources
}

/// The files `*.toml` of the directory beside `file` whose name is the file's with `.d`, by name.
fn drop_ins(file: &Path, problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    let mut directory = file.as_os_str().to_owned();
    directory.push(".d");
    let directory = PathBuf::from(directory);
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(e) => {
            if e.kind() != io::ErrorKind::NotFound {
                problems.push(unreadable(&directory, &e));
            }
            return Vec::new();
        }
    };
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    paths
}

fn parse(name: String, text: &str, problems: &mut Vec<Problem>) -> Option<Source> {
    match text.parse::<Table>() {
        Ok(table) => Some(Source { name, table }),
        Err(e) => {
            let line =
                e.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            let text = format!("line {line} is not TOML: {}", e.message());
            problems.push(Problem { source: name, key: String::new(), text });
            None
        }
    }
}

/// Lets a text be given on the command line without TOML's quotes.
fn quoted(setting: &str) -> String {
    match setting.split_once('=') {
        Some((key, value)) if format!("v = {value}").parse::<Table>().is_err() => {
            format!("{key} = {}", toml::Value::String(value.to_owned()))
        }
        _ => setting.to_owned(),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    Problem {
        source: path.display().to_string(),
        key: String::new(),
        text: format!("cannot be read: {error}"),
    }
}
