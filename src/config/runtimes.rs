//! `[runtimes.NAME]`: the OCI runtimes by the name of their RuntimeClass handler.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::print::{self, Page};
use super::read::Reader;

/// One OCI runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuntimeConfig {
    /// Its binary.
    pub path: PathBuf,
    /// Its `--root`, on tmpfs.
    pub root: PathBuf,
    /// Whose command line it speaks.
    pub kind: RuntimeKind,
    /// Words for it before each operation.
    pub args: Vec<String>,
    /// The longest that a create may take, in seconds.
    pub create_timeout_seconds: u64,
    /// A document that its containers' documents start from; empty: none.
    pub base_spec: PathBuf,
    /// The client's annotations that podd obeys and hands on to the runtime: whole names, or `front*`.
    pub allowed_annotations: Vec<String>,
    /// Annotations that are obeyed and handed on where the client has none of that name that is allowed.
    pub default_annotations: BTreeMap<String, String>,
    /// Whether a privileged container gets none of the host's devices that it does not ask for.
    pub privileged_without_host_devices: bool,
    /// Whether such a container may use all devices nonetheless, once it has made nodes for them.
    pub privileged_without_host_devices_all_devices_allowed: bool,
}

/// Whose command line a runtime speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeKind {
    /// As it calls itself when asked for its version.
    Auto,
    /// crun's.
    Crun,
    /// runc's.
    Runc,
    /// That which all have in common.
    Other,
}

const KINDS: [(&str, RuntimeKind); 4] = [
    ("auto", RuntimeKind::Auto),
    ("crun", RuntimeKind::Crun),
    ("runc", RuntimeKind::Runc),
    ("other", RuntimeKind::Other),
];

/// All of them, by name.
pub type Runtimes = BTreeMap<String, RuntimeConfig>;

impl RuntimeConfig {
    /// The built-in values of a handler of that name.
    pub fn named(name: &str, run_dir: &Path) -> Self {
        Self {
            path: Path::new("/usr/bin").join(name),
            root: run_dir.join(name),
            kind: RuntimeKind::Auto,
            args: Vec::new(),
            create_timeout_seconds: 240,
            base_spec: PathBuf::new(),
            allowed_annotations: Vec::new(),
            default_annotations: BTreeMap::new(),
            privileged_without_host_devices: false,
            privileged_without_host_devices_all_devices_allowed: false,
        }
    }

    fn read(&mut self, reader: &mut Reader<'_>) {
        reader.path("path", &mut self.path);
        reader.path("root", &mut self.root);
        reader.word("kind", &KINDS, &mut self.kind);
        reader.strings("args", &mut self.args);
        reader.number("create_timeout_seconds", 1..=86_400, &mut self.create_timeout_seconds);
        reader.optional_path("base_spec", &mut self.base_spec);
        reader.strings("allowed_annotations", &mut self.allowed_annotations);
        reader.map("default_annotations", &mut self.default_annotations);
        let (without, allowed) = (
            &mut self.privileged_without_host_devices,
            &mut self.privileged_without_host_devices_all_devices_allowed,
        );
        reader.flag("privileged_without_host_devices", without);
        reader.flag("privileged_without_host_devices_all_devices_allowed", allowed);
    }

    fn render(&self, page: &mut Page) {
        page.key("path", print::path(&self.path), "its binary");
        page.key("root", print::path(&self.root), "its --root, on tmpfs");
        page.key("kind", print::word(&self.kind), "auto, crun, runc or other: whose command line it speaks");
        let args = print::list(self.args.iter().map(|word| print::text(word)));
        page.key("args", args, "words for it before each operation");
        page.key("create_timeout_seconds", self.create_timeout_seconds, "the longest that a create may take");
        page.key("base_spec", print::path(&self.base_spec), "an OCI document to start from; empty: none");
        let allowed = print::list(self.allowed_annotations.iter().map(|pattern| print::text(pattern)));
        page.key("allowed_annotations", allowed, "of pods, obeyed and handed on: a name or front*");
        let defaults = print::map(self.default_annotations.iter());
        page.key("default_annotations", defaults, "obeyed and handed on where a pod has none of the name");
        let without = self.privileged_without_host_devices;
        page.key("privileged_without_host_devices", without, "none of them for privileged containers");
        let allowed = self.privileged_without_host_devices_all_devices_allowed;
        let comment = "yet they may use all";
        page.key("privileged_without_host_devices_all_devices_allowed", allowed, comment);
    }
}

/// Those that are there without a word in a file.
pub(super) fn defaults(run_dir: &Path) -> Runtimes {
    let runtime = |name: &str| (name.to_owned(), RuntimeConfig::named(name, run_dir));
    BTreeMap::from([runtime("crun"), runtime("runc")])
}

/// Reads all sections; a name that is new begins with the defaults.
pub(super) fn read(reader: &mut Reader<'_>, runtimes: &mut Runtimes, run_dir: &Path) {
    let new = |name: &str| RuntimeConfig::named(name, run_dir);
    reader.named_sections("runtimes", runtimes, new, |reader, runtime| runtime.read(reader));
}

/// Renders one section for each.
pub(super) fn render(runtimes: &Runtimes, page: &mut Page) {
    for (name, runtime) in runtimes {
        page.section(&format!("runtimes.{}", print::key(name)), "an OCI runtime by its handler's name");
        runtime.render(page);
    }
}
