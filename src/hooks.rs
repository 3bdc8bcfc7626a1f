//! Hooks that the node gives its containers: JSON files of oci-hooks(5), version 1.0.0.
//!
//! A file says which program runs, at which stages, and for which containers. The files are read anew for each container, as
//! whoever installs one expects it to count from then on; of files with one name, that in the last directory counts. A file
//! that is wrong is an error and no file is passed over: a hook that does not run may be one that should have kept something out.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Hook;
use regex::{Regex, RegexBuilder};
use serde::Deserialize;

use crate::spec::adjust::{Edits, HookStage};

/// The only version of the format that is read.
const VERSION: &str = "1.0.0";

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The most memory that one pattern may take once compiled, in bytes.
const MAX_PATTERN: usize = 1 << 20;

/// A hook that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("hook {}", path.display())]
pub struct HookError {
    path: PathBuf,
    #[source]
    source: HookProblem,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum HookProblem {
    #[error("cannot be read")]
    Unreadable(#[source] io::Error),
    #[error("is not of the form of oci-hooks(5)")]
    Form(#[from] serde_json::Error),
    #[error("{field}: {why}")]
    Invalid { field: &'static str, why: String },
}

/// The container that hooks are chosen for.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The client's annotations, of pod and container.
    pub annotations: &'a BTreeMap<String, String>,
    /// The first word of its command.
    pub command: &'a str,
    /// Whether the client asks for bind mounts.
    pub has_bind_mounts: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: String,
    hook: Program,
    when: When,
    stages: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Program {
    path: PathBuf,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    timeout: Option<i64>,
}

/// All conditions that are there must hold, and there must be one.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct When {
    always: Option<bool>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    commands: Vec<String>,
    has_bind_mounts: Option<bool>,
}

/// Reads all files, so that a mistake is known before a container needs them.
pub fn check(directories: &[PathBuf]) -> Result<(), HookError> {
    let nobody = Subject { annotations: &BTreeMap::new(), command: "", has_bind_mounts: false };
    matching(directories, &nobody).map(drop)
}

/// The hooks for a container, in the order of the files' names.
pub fn matching(directories: &[PathBuf], subject: &Subject<'_>) -> Result<Edits, HookError> {
    let mut edits = Edits::default();
    for path in files(directories)?.into_values() {
        let hooks = hooks_of(&path, subject).map_err(|source| HookError { path, source })?;
        edits.hooks.extend(hooks);
    }
    Ok(edits)
}

/// By name; a directory that is missing is empty.
fn files(directories: &[PathBuf]) -> Result<BTreeMap<std::ffi::OsString, PathBuf>, HookError> {
    let mut files = BTreeMap::new();
    for directory in directories {
        let unreadable =
            |error| HookError { path: directory.clone(), source: HookProblem::Unreadable(error) };
        let entries = match fs::read_dir(directory) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            entries => entries.map_err(unreadable)?,
        };
        for entry in entries {
            let path = entry.map_err(unreadable)?.path();
            if let Some(name) = path.file_name()
                && path.extension().is_some_and(|extension| extension == "json")
            {
                files.insert(name.to_owned(), path);
            }
        }
    }
    Ok(files)
}

/// The file's hook once for each of its stages, if it is for this container. The file is checked in any case.
fn hooks_of(path: &Path, subject: &Subject<'_>) -> Result<Vec<(HookStage, Hook)>, HookProblem> {
    let document: Document = serde_json::from_slice(&read(path).map_err(HookProblem::Unreadable)?)?;
    if document.version != VERSION {
        return Err(invalid("version", format!("{:?} is not {VERSION}", document.version)));
    }
    let stage = |name: &String| {
        let known = || HookStage::ALL.map(HookStage::name).join(", ");
        HookStage::of(name).ok_or_else(|| invalid("stages", format!("{name:?} is not one of {}", known())))
    };
    let stages = document.stages.iter().map(stage).collect::<Result<Vec<_>, _>>()?;
    let hook = document.hook.hook()?;
    match document.when.holds(subject)? {
        true => Ok(stages.into_iter().map(|stage| (stage, hook.clone())).collect()),
        false => Ok(Vec::new()),
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MAX_FILE {
        true => Err(io::Error::other(format!("it has more than {MAX_FILE} bytes"))),
        false => Ok(bytes),
    }
}

impl Program {
    fn hook(self) -> Result<Hook, HookProblem> {
        if !self.path.is_absolute() || !self.path.is_file() {
            let why = format!("{} is not the absolute path of a program", self.path.display());
            return Err(invalid("hook.path", why));
        }
        if self.timeout.is_some_and(|seconds| seconds <= 0) {
            return Err(invalid("hook.timeout", "it is not above zero".to_owned()));
        }
        let mut hook = Hook::default();
        hook.set_path(self.path)
            .set_args(Some(self.args).filter(|args| !args.is_empty()))
            .set_env(Some(self.env).filter(|env| !env.is_empty()))
            .set_timeout(self.timeout);
        Ok(hook)
    }
}

impl When {
    fn holds(&self, subject: &Subject<'_>) -> Result<bool, HookProblem> {
        let mut conditions = Vec::new();
        conditions.extend(self.always);
        conditions.extend(self.has_bind_mounts.map(|wanted| wanted && subject.has_bind_mounts));
        for (key, value) in &self.annotations {
            let (key, value) = (pattern("when.annotations", key)?, pattern("when.annotations", value)?);
            let mut all = subject.annotations.iter();
            conditions.push(all.any(|(name, text)| key.is_match(name) && value.is_match(text)));
        }
        let commands = self.commands.iter().map(|command| pattern("when.commands", command));
        let commands = commands.collect::<Result<Vec<_>, _>>()?;
        if !commands.is_empty() {
            conditions.push(commands.iter().any(|command| command.is_match(subject.command)));
        }
        Ok(!conditions.is_empty() && conditions.iter().all(|holds| *holds))
    }
}

fn pattern(field: &'static str, text: &str) -> Result<Regex, HookProblem> {
    let built = RegexBuilder::new(text).size_limit(MAX_PATTERN).build();
    built.map_err(|error| invalid(field, format!("{text:?} is not a pattern: {error}")))
}

fn invalid(field: &'static str, why: String) -> HookProblem {
    HookProblem::Invalid { field, why }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn document(when: &Value) -> Value {
        let hook = json!({"path": "/bin/true", "args": ["true", "x"], "env": ["A=1"], "timeout": 5});
        json!({"version": "1.0.0", "hook": hook, "when": when, "stages": ["prestart", "poststop"]})
    }

    fn chosen(when: &Value, subject: &Subject<'_>) -> bool {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.json"), document(when).to_string()).unwrap();
        fs::write(dir.path().join("a.txt"), "not one").unwrap();
        let found = matching(&[dir.path().to_owned()], subject).unwrap().hooks;
        match found.as_slice() {
            [] => false,
            [(HookStage::Prestart, a), (HookStage::Poststop, b)] => a == b && a.timeout() == Some(5),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_hook_is_for_containers_of_which_all_its_conditions_hold() {
        let annotations = BTreeMap::from([("a.io/trace".to_owned(), "on".to_owned())]);
        let subject = Subject { annotations: &annotations, command: "/usr/bin/nginx", has_bind_mounts: true };
        for (when, expected) in [
            (json!({"always": true}), true),
            (json!({"always": false}), false),
            (json!({}), false),
            (json!({"annotations": {"^a\\.io/trace$": "^on$"}}), true),
            (json!({"annotations": {"^a\\.io/": "off"}}), false),
            (json!({"annotations": {"trace": "on", "other": ""}}), false),
            (json!({"commands": ["/sh$", "\\w+/nginx$"]}), true),
            (json!({"commands": ["^nginx"]}), false),
            (json!({"hasBindMounts": true}), true),
            (json!({"hasBindMounts": true, "commands": ["^x"]}), false),
        ] {
            assert_eq!(chosen(&when, &subject), expected, "{when}");
        }
        let bare = Subject { has_bind_mounts: false, ..subject };
        assert!(!chosen(&json!({"hasBindMounts": true}), &bare));
    }

    #[test]
    fn files_come_in_the_order_of_their_names_and_the_last_directory_counts() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        for (dir, name, arg) in [(0, "b.json", "0b"), (0, "a.json", "0a"), (1, "b.json", "1b")] {
            let mut document = document(&json!({"always": true}));
            document["hook"]["args"] = json!([arg]);
            document["stages"] = json!(["createRuntime"]);
            fs::write(dirs[dir].path().join(name), document.to_string()).unwrap();
        }
        let mut directories: Vec<_> = dirs.iter().map(|dir| dir.path().to_owned()).collect();
        directories.push("/no/such/directory".into());
        let nobody = Subject { annotations: &BTreeMap::new(), command: "", has_bind_mounts: false };
        let hooks = matching(&directories, &nobody).unwrap().hooks;
        let args: Vec<_> = hooks.iter().map(|(_, hook)| hook.args().clone().unwrap().remove(0)).collect();
        assert_eq!(args, ["0a", "1b"]);
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_its_name() {
        let always = json!({"always": true});
        for (change, words) in [
            (json!({"version": "0.1.0"}), "version: \"0.1.0\" is not 1.0.0"),
            (json!({"stages": ["later"]}), "stages: \"later\" is not one of prestart, createRuntime"),
            (json!({"when": {"commands": ["("]}}), "when.commands: \"(\" is not a pattern"),
            (json!({"when": {"annotations": {"a": "("}}}), "when.annotations: \"(\" is not a pattern"),
            (json!({"when": {"never": true}}), "is not of the form of oci-hooks(5): unknown field `never`"),
            (json!({"hook": {"path": "true"}}), "hook.path: true is not the absolute path of a program"),
            (json!({"hook": {"path": "/bin/true", "timeout": 0}}), "hook.timeout: it is not above zero"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("x.json");
            let mut document = document(&always);
            document.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            fs::write(&path, document.to_string()).unwrap();
            let error = check(&[dir.path().to_owned()]).unwrap_err();
            let text = format!("{:#}", anyhow::Error::from(error));
            assert!(text.starts_with(&format!("hook {}: {words}", path.display())), "{text}");
        }
    }
}
