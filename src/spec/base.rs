//! What a container gets before the client and the image have said anything: the operator's variables and limits, and a
//! handler's own document (`runtimes.NAME.base_spec`).
//!
//! ```text
//!   process.env                                             comes first: image and client win
//!   process.rlimits, hooks                                  taken; the operator's ulimits win
//!   mounts                                                  taken where nothing else is mounted
//!   annotations, process.{oomScoreAdj, ioPriority, scheduler},     taken where nothing else says it
//!   linux.{sysctl, resources but devices, intelRdt, personality}
//! ```
//!
//! Everything else of that document is podd's to say. It is not taken, and what a file has of it is told at the start.

use std::path::{Path, PathBuf};
use std::{fs, io};

use oci_spec::runtime::{Hooks, Mount, PosixRlimit, Spec};
use serde_json::{Map, Value, json};

use super::SpecError;
use crate::config::{ContainersConfig, Ulimit};

/// The largest document that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// What is taken of a document where nothing else says it.
const FILLED: [&str; 8] = [
    "/annotations",
    "/process/oomScoreAdj",
    "/process/ioPriority",
    "/process/scheduler",
    "/linux/sysctl",
    "/linux/resources",
    "/linux/intelRdt",
    "/linux/personality",
];

/// What is taken in its own way.
const TAKEN: [&str; 5] = ["/ociVersion", "/process/env", "/process/rlimits", "/mounts", "/hooks"];

/// What a container gets before the client and the image have said anything.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Base {
    /// Variables, by name.
    pub env: Vec<(String, String)>,
    /// Resource limits of the first process and of those that are executed beside it.
    pub rlimits: Vec<PosixRlimit>,
    mounts: Vec<Mount>,
    hooks: Option<Hooks>,
    /// The rest, in the form of a document.
    filling: Map<String, Value>,
}

/// A handler's document that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {}, the value of runtimes.{handler}.base_spec", path.display())]
pub struct BaseError {
    handler: String,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Base {
    /// The operator's variables and limits, over those of a handler's document if it has one. Also gives what of the document
    /// is not taken.
    pub fn new(
        containers: &ContainersConfig,
        handler: &str,
        base_spec: &Path,
    ) -> Result<(Self, Vec<String>), BaseError> {
        let (mut base, mut left) = (Self::default(), Vec::new());
        if !base_spec.as_os_str().is_empty() {
            let error =
                |source| BaseError { handler: handler.to_owned(), path: base_spec.to_owned(), source };
            (base, left) = read(base_spec).map_err(error)?;
        }
        base.env.retain(|(name, _)| !containers.env.iter().any(|variable| variable.name == *name));
        let env = containers.env.iter().map(|variable| (variable.name.clone(), variable.value.clone()));
        base.env.extend(env);
        for limit in containers.ulimits.iter().filter_map(rlimit) {
            base.rlimits.retain(|other| other.typ() != limit.typ());
            base.rlimits.push(limit);
        }
        Ok((base, left))
    }

    /// Adds to a document what only this one says.
    pub(super) fn complete(&self, spec: &mut Spec) -> Result<(), SpecError> {
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        for mount in &self.mounts {
            if !mounts.iter().any(|other| other.destination() == mount.destination()) {
                mounts.push(mount.clone());
            }
        }
        mounts.sort_by_key(|mount| mount.destination().components().count());
        spec.set_mounts(Some(mounts));
        if spec.hooks().is_none() {
            spec.set_hooks(self.hooks.clone());
        }
        if self.filling.is_empty() {
            return Ok(());
        }
        let unreadable =
            |error: serde_json::Error| SpecError::unsupported("runtime_handler", error.to_string());
        let mut document = serde_json::to_value(&*spec).map_err(unreadable)?;
        fill(&mut document, &Value::Object(self.filling.clone()));
        *spec = serde_json::from_value(document).map_err(unreadable)?;
        Ok(())
    }
}

/// Puts in what is not there; what is there stays.
fn fill(target: &mut Value, filling: &Value) {
    let (Value::Object(target), Value::Object(filling)) = (target, filling) else { return };
    for (key, value) in filling {
        match target.get_mut(key) {
            Some(inner) => fill(inner, value),
            None => drop(target.insert(key.clone(), value.clone())),
        }
    }
}

fn rlimit(limit: &Ulimit) -> Option<PosixRlimit> {
    let name = format!("RLIMIT_{}", limit.name.to_ascii_uppercase());
    serde_json::from_value(json!({"type": name, "soft": limit.soft, "hard": limit.hard})).ok()
}

fn read(path: &Path) -> io::Result<(Base, Vec<String>)> {
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let length = fs::metadata(path)?.len();
    if length > MAX_FILE {
        return Err(invalid(format!("it has {length} bytes, more than {MAX_FILE}")));
    }
    let text = fs::read(path)?;
    let mut document: Value = serde_json::from_slice(&text)?;
    if let Some(resources) = document.pointer_mut("/linux/resources").and_then(Value::as_object_mut) {
        resources.remove("devices");
    }
    // Whatever is wrong with the form is said here, and not by a container.
    let _: Spec = serde_json::from_slice(&text)?;
    let list = |pointer: &str| document.pointer(pointer).cloned().filter(|value| !value.is_null());
    let env: Vec<String> = serde_json::from_value(list("/process/env").unwrap_or(json!([])))?;
    let split = |entry: &String| {
        let pair = entry.split_once('=').filter(|(name, _)| !name.is_empty() && !entry.contains('\0'));
        let pair = pair.map(|(name, value)| (name.to_owned(), value.to_owned()));
        pair.ok_or_else(|| invalid(format!("process.env: {entry:?} is not NAME=value")))
    };
    let base = Base {
        env: env.iter().map(split).collect::<Result<_, _>>()?,
        rlimits: serde_json::from_value(list("/process/rlimits").unwrap_or(json!([])))?,
        mounts: serde_json::from_value(list("/mounts").unwrap_or(json!([])))?,
        hooks: serde_json::from_value(list("/hooks").unwrap_or(Value::Null))?,
        filling: filling(&document),
    };
    if let Some(mount) = base.mounts.iter().find(|mount| !mount.destination().is_absolute()) {
        return Err(invalid(format!("mounts: {:?} is not an absolute path", mount.destination())));
    }
    Ok((base, left(&document)))
}

/// The part of a document that [`FILLED`] names.
fn filling(document: &Value) -> Map<String, Value> {
    let mut filling = Map::new();
    for pointer in FILLED {
        let Some(value) = document.pointer(pointer).filter(|value| !empty(value)) else { continue };
        let (section, key) = pointer[1..].split_once('/').unwrap_or(("", &pointer[1..]));
        let target = match section {
            "" => Some(&mut filling),
            section => filling.entry(section).or_insert_with(|| json!({})).as_object_mut(),
        };
        if let Some(target) = target {
            target.insert(key.to_owned(), value.clone());
        }
    }
    filling
}

/// What a document has that is not taken.
fn left(document: &Value) -> Vec<String> {
    let mut left = Vec::new();
    for (key, value) in document.as_object().into_iter().flatten() {
        let nested = if ["process", "linux"].contains(&key.as_str()) { value.as_object() } else { None };
        match nested {
            Some(inner) => left.extend(inner.iter().map(|(inner, value)| (format!("/{key}/{inner}"), value))),
            None => left.push((format!("/{key}"), value)),
        }
    }
    left.retain(|(pointer, value)| {
        !empty(value) && !FILLED.contains(&pointer.as_str()) && !TAKEN.contains(&pointer.as_str())
    });
    left.into_iter().map(|(pointer, _)| pointer[1..].replace('/', ".")).collect()
}

fn empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}
