//! One spec file: its form, and what must hold of it (the CDI's SPEC.md, 0.3.0 to 1.1.0).
//!
//! A key that is not known is a mistake, as it would be an edit that the container does not get.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use super::name::{check_device, check_kind};
use crate::spec::adjust::HookStage;
use crate::yaml::{self, YamlError};

/// The versions that are read, in their order.
const VERSIONS: [&str; 8] = ["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];

/// The device nodes' way to say that the cgroup grants nothing.
pub(super) const NO_PERMISSIONS: &str = "none";

/// How a spec file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `*.json`
    Json,
    /// `*.yaml`
    Yaml,
}

/// A spec file that is wrong.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It is not UTF-8, JSON, or of the form that the specification gives.
    #[error("{0}")]
    Form(#[from] serde_json::Error),
    /// It is not YAML.
    #[error("{0}")]
    Yaml(#[from] YamlError),
    /// It is not UTF-8.
    #[error("not UTF-8")]
    Encoding,
    /// It says what the specification does not allow.
    #[error("{field}: {why}")]
    Invalid {
        /// The place in the document.
        field: String,
        /// What is wrong there.
        why: String,
    },
}

/// A spec file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Document {
    cdi_version: String,
    /// `vendor/class`
    pub kind: String,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
    /// The devices.
    pub devices: Vec<Device>,
    /// What each container gets that has one of the devices.
    #[serde(default)]
    pub container_edits: ContainerEdits,
}

/// A device that a container may have.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Device {
    /// Its own name.
    pub name: String,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
    /// What a container gets that has it.
    pub container_edits: ContainerEdits,
}

/// Changes to a container's document, as the file has them.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct ContainerEdits {
    pub env: Vec<String>,
    pub device_nodes: Vec<DeviceNode>,
    pub hooks: Vec<Hook>,
    pub mounts: Vec<Mount>,
    pub intel_rdt: Option<IntelRdt>,
    #[serde(rename = "additionalGids")]
    pub additional_gids: Vec<u32>,
}

/// A device node.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct DeviceNode {
    pub path: String,
    pub host_path: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub major: i64,
    pub minor: i64,
    pub file_mode: Option<u32>,
    pub permissions: String,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

/// A mount.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct Mount {
    pub host_path: PathBuf,
    pub container_path: PathBuf,
    #[serde(rename = "type")]
    pub kind: String,
    pub options: Vec<String>,
}

/// A hook.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct Hook {
    pub hook_name: String,
    pub path: PathBuf,
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub timeout: Option<i64>,
}

/// A class of Intel's Resource Director Technology.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct IntelRdt {
    #[serde(rename = "closID")]
    pub clos_id: String,
    pub l3_cache_schema: String,
    pub mem_bw_schema: String,
    pub schemata: Vec<String>,
    #[serde(rename = "enableCMT")]
    pub enable_cmt: bool,
    #[serde(rename = "enableMBM")]
    pub enable_mbm: bool,
    pub enable_monitoring: bool,
}

/// Reads and checks one file's text.
pub fn parse(bytes: &[u8], form: Form) -> Result<Document, DocumentError> {
    let text = std::str::from_utf8(bytes).map_err(|_| DocumentError::Encoding)?;
    let value: Value = match form {
        Form::Json => serde_json::from_str(text)?,
        Form::Yaml => yaml::parse(text)?,
    };
    let document: Document = serde_json::from_value(value)?;
    document.check()?;
    Ok(document)
}

impl Document {
    fn check(&self) -> Result<(), DocumentError> {
        check_kind(&self.kind).map_err(|why| invalid("kind", format!("{:?}: {why}", self.kind)))?;
        if self.devices.is_empty() {
            return Err(invalid("devices", "there is none"));
        }
        self.container_edits.check("containerEdits")?;
        for (n, device) in self.devices.iter().enumerate() {
            let field = format!("devices[{n}]");
            check_device(&device.name)
                .map_err(|why| invalid(format!("{field}.name"), format!("{:?}: {why}", device.name)))?;
            if self.devices[..n].iter().any(|other| other.name == device.name) {
                return Err(invalid(
                    format!("{field}.name"),
                    format!("{:?} stands there twice", device.name),
                ));
            }
            if device.container_edits == ContainerEdits::default() {
                return Err(invalid(format!("{field}.containerEdits"), "there is none"));
            }
            device.container_edits.check(&format!("{field}.containerEdits"))?;
        }
        self.check_version()
    }

    /// The version must be one that knows what the file uses.
    fn check_version(&self) -> Result<(), DocumentError> {
        let stated = self.cdi_version.strip_prefix('v').unwrap_or(&self.cdi_version);
        let known = VERSIONS.join(", ");
        let rank = |version: &str| VERSIONS.iter().position(|known| *known == version);
        let field = "cdiVersion";
        let stated = rank(stated)
            .ok_or_else(|| invalid(field, format!("{:?} is not one of {known}", self.cdi_version)))?;
        let edits =
            || self.devices.iter().map(|device| &device.container_edits).chain([&self.container_edits]);
        let class_dot = self.kind.split_once('/').is_some_and(|(_, class)| class.contains('.'));
        let annotated =
            !self.annotations.is_empty() || self.devices.iter().any(|d| !d.annotations.is_empty());
        let digit = |device: &Device| !device.name.starts_with(|c: char| c.is_ascii_alphabetic());
        let rdt = |edits: &ContainerEdits| edits.intel_rdt.clone().unwrap_or_default();
        let uses = [
            ("1.1.0", edits().any(|e| rdt(e).enable_monitoring || !rdt(e).schemata.is_empty())),
            ("0.7.0", edits().any(|e| e.intel_rdt.is_some() || !e.additional_gids.is_empty())),
            ("0.6.0", class_dot || annotated),
            ("0.5.0", self.devices.iter().any(digit)),
            ("0.5.0", edits().any(|e| e.device_nodes.iter().any(|node| !node.host_path.is_empty()))),
            ("0.4.0", edits().any(|e| e.mounts.iter().any(|mount| !mount.kind.is_empty()))),
        ];
        match uses.iter().find(|(_, used)| *used) {
            Some((least, _)) if rank(least) > Some(stated) => {
                let why =
                    format!("{:?} is too low for what the file uses, which needs {least}", self.cdi_version);
                Err(invalid(field, why))
            }
            _ => Ok(()),
        }
    }
}

impl ContainerEdits {
    fn check(&self, field: &str) -> Result<(), DocumentError> {
        check_env(&self.env, &format!("{field}.env"))?;
        for (n, node) in self.device_nodes.iter().enumerate() {
            node.check(&format!("{field}.deviceNodes[{n}]"))?;
        }
        for (n, mount) in self.mounts.iter().enumerate() {
            for (key, path) in [("hostPath", &mount.host_path), ("containerPath", &mount.container_path)] {
                check_path(path, &format!("{field}.mounts[{n}].{key}"))?;
            }
        }
        for (n, hook) in self.hooks.iter().enumerate() {
            hook.check(&format!("{field}.hooks[{n}]"))?;
        }
        let class = self.intel_rdt.as_ref().map_or("", |rdt| rdt.clos_id.as_str());
        if class != "/" && (class == "." || class == ".." || class.contains(['/', '\n', '\0'])) {
            return Err(invalid(
                format!("{field}.intelRdt.closID"),
                format!("{class:?} is not a file's name"),
            ));
        }
        Ok(())
    }
}

impl DeviceNode {
    fn check(&self, field: &str) -> Result<(), DocumentError> {
        check_path(&PathBuf::from(&self.path), &format!("{field}.path"))?;
        if !self.host_path.is_empty() {
            check_path(&PathBuf::from(&self.host_path), &format!("{field}.hostPath"))?;
        }
        if !["", "b", "c", "u", "p"].contains(&self.kind.as_str()) {
            let why = format!("{:?} is not one of b, c, u and p", self.kind);
            return Err(invalid(format!("{field}.type"), why));
        }
        if self.major < 0 || self.minor < 0 {
            return Err(invalid(format!("{field}.major"), "a device's number is not negative"));
        }
        let letters = self.permissions.bytes().all(|letter| b"rwm".contains(&letter));
        match letters || self.permissions == NO_PERMISSIONS {
            true => Ok(()),
            false => {
                let why =
                    format!("{:?} is neither of the letters r, w and m, nor \"none\"", self.permissions);
                Err(invalid(format!("{field}.permissions"), why))
            }
        }
    }
}

impl Hook {
    fn check(&self, field: &str) -> Result<(), DocumentError> {
        if HookStage::of(&self.hook_name).is_none() {
            let known: Vec<_> = HookStage::ALL.iter().map(|stage| stage.name()).collect();
            let why = format!("{:?} is not one of {}", self.hook_name, known.join(", "));
            return Err(invalid(format!("{field}.hookName"), why));
        }
        check_path(&self.path, &format!("{field}.path"))?;
        if self.timeout.is_some_and(|seconds| seconds <= 0) {
            return Err(invalid(format!("{field}.timeout"), "it is not above zero"));
        }
        check_env(&self.env, &format!("{field}.env"))
    }
}

fn check_env(env: &[String], field: &str) -> Result<(), DocumentError> {
    let good = |entry: &String| entry.find('=').is_some_and(|at| at > 0) && !entry.contains('\0');
    match env.iter().find(|entry| !good(entry)) {
        Some(entry) => Err(invalid(field, format!("{entry:?} is not NAME=value"))),
        None => Ok(()),
    }
}

fn check_path(path: &std::path::Path, field: &str) -> Result<(), DocumentError> {
    let text = path.to_string_lossy();
    match path.is_absolute() && !text.contains('\0') {
        true => Ok(()),
        false => Err(invalid(field, format!("{text:?} is not an absolute path"))),
    }
}

fn invalid(field: impl Into<String>, why: impl Into<String>) -> DocumentError {
    DocumentError::Invalid { field: field.into(), why: why.into() }
}
