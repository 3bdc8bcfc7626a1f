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
    /// The client's annotations that podd obeys and hands on to the runtime: whole names, or `front*`.
    pub allowed_annotations: Vec<String>,
}

/// All of them, by name.
pub type Runtimes = BTreeMap<String, RuntimeConfig>;

impl RuntimeConfig {
    /// The built-in values of a handler of that name.
    pub fn named(name: &str, run_dir: &Path) -> Self {
        Self {
            path: Path::new("/usr/bin").join(name),
            root: run_dir.join(name),
            allowed_annotations: Vec::new(),
        }
    }

    fn read(&mut self, reader: &mut Reader<'_>) {
        reader.path("path", &mut self.path);
        reader.path("root", &mut self.root);
        reader.strings("allowed_annotations", &mut self.allowed_annotations);
    }

    fn render(&self, page: &mut Page) {
        page.key("path", print::path(&self.path), "its binary");
        page.key("root", print::path(&self.root), "its --root, on tmpfs");
        let allowed = print::list(self.allowed_annotations.iter().map(|pattern| print::text(pattern)));
        page.key("allowed_annotations", allowed, "of pods, obeyed and handed on: a name or front*");
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
