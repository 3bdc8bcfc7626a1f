//! From the edits of a spec file to those of a document. Numbers of device nodes that the file leaves out are the host's.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use oci_spec::runtime::{self, LinuxDeviceType, LinuxIntelRdt};

use super::document::{ContainerEdits, DeviceNode, Hook, IntelRdt, Mount, NO_PERMISSIONS};
use crate::spec::adjust::{DeviceEdit, Edits, HookStage};

/// A device node that the file describes, and the host does not have like that.
#[derive(Debug, thiserror::Error)]
#[error("device node {path}")]
pub struct NodeError {
    path: String,
    #[source]
    source: io::Error,
}

/// The edits that a file asks for.
pub(super) fn edits(asked: &ContainerEdits) -> Result<Edits, NodeError> {
    let pair =
        |entry: &String| entry.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    let node =
        |node: &DeviceNode| device(node).map_err(|source| NodeError { path: node.path.clone(), source });
    Ok(Edits {
        env: asked.env.iter().filter_map(pair).collect(),
        devices: asked.device_nodes.iter().map(node).collect::<Result<_, _>>()?,
        mounts: asked.mounts.iter().map(mount).collect(),
        hooks: asked.hooks.iter().filter_map(hook).collect(),
        additional_gids: asked.additional_gids.clone(),
        intel_rdt: asked.intel_rdt.as_ref().map(intel_rdt),
        block_io: None,
    })
}

fn device(node: &DeviceNode) -> io::Result<DeviceEdit> {
    let stated = match node.kind.as_str() {
        "b" => Some(LinuxDeviceType::B),
        "c" => Some(LinuxDeviceType::C),
        "u" => Some(LinuxDeviceType::U),
        "p" => Some(LinuxDeviceType::P),
        _ => None,
    };
    let (kind, major, minor) = match stated {
        Some(kind) if node.major != 0 || kind == LinuxDeviceType::P => (kind, node.major, node.minor),
        stated => look_up(node, stated)?,
    };
    Ok(DeviceEdit {
        path: PathBuf::from(&node.path),
        kind,
        major,
        minor,
        mode: node.file_mode,
        uid: node.uid,
        gid: node.gid,
        permissions: match node.permissions.as_str() {
            "" => "rwm".to_owned(),
            NO_PERMISSIONS => String::new(),
            letters => letters.to_owned(),
        },
    })
}

/// The node on the host, which must be of the type that the file states.
fn look_up(node: &DeviceNode, stated: Option<LinuxDeviceType>) -> io::Result<(LinuxDeviceType, i64, i64)> {
    let path = if node.host_path.is_empty() { &node.path } else { &node.host_path };
    let explain = |what: String| io::Error::other(format!("{path} on the host {what}"));
    let found = fs::metadata(path).map_err(|e| explain(format!("cannot be looked at: {e}")))?;
    let kind = match found.file_type() {
        kind if kind.is_block_device() => LinuxDeviceType::B,
        kind if kind.is_char_device() => LinuxDeviceType::C,
        kind if kind.is_fifo() => LinuxDeviceType::P,
        _ => return Err(explain("is not a device".to_owned())),
    };
    let same = |stated| stated == kind || (stated == LinuxDeviceType::U && kind == LinuxDeviceType::C);
    if !stated.is_none_or(same) {
        return Err(explain(format!("is not of type {}", node.kind)));
    }
    let (major, minor) = (rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
    Ok((stated.unwrap_or(kind), major.into(), minor.into()))
}

/// A mount without a type is a bind mount, also where its options do not say so.
fn mount(asked: &Mount) -> runtime::Mount {
    let mut options = asked.options.clone();
    let bind = options.iter().any(|option| option == "bind" || option == "rbind");
    let kind = match (asked.kind.as_str(), bind) {
        ("", true) => "bind",
        ("", false) => {
            options.push("rbind".to_owned());
            "bind"
        }
        (kind, _) => kind,
    };
    let mut mount = runtime::Mount::default();
    mount
        .set_destination(asked.container_path.clone())
        .set_source(Some(asked.host_path.clone()))
        .set_typ(Some(kind.to_owned()))
        .set_options(Some(options));
    mount
}

fn hook(asked: &Hook) -> Option<(HookStage, runtime::Hook)> {
    let mut hook = runtime::Hook::default();
    hook.set_path(asked.path.clone())
        .set_args(Some(asked.args.clone()).filter(|args| !args.is_empty()))
        .set_env(Some(asked.env.clone()).filter(|env| !env.is_empty()))
        .set_timeout(asked.timeout);
    Some((HookStage::of(&asked.hook_name)?, hook))
}

#[allow(deprecated, reason = "the CDI has these two by their old names")]
fn intel_rdt(asked: &IntelRdt) -> LinuxIntelRdt {
    let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let mut rdt = LinuxIntelRdt::default();
    rdt.set_clos_id(text(&asked.clos_id))
        .set_l3_cache_schema(text(&asked.l3_cache_schema))
        .set_mem_bw_schema(text(&asked.mem_bw_schema))
        .set_schemata(Some(asked.schemata.clone()).filter(|lines| !lines.is_empty()))
        .set_enable_cmt(Some(true).filter(|_| asked.enable_cmt))
        .set_enable_mbm(Some(true).filter(|_| asked.enable_mbm))
        .set_enable_monitoring(Some(true).filter(|_| asked.enable_monitoring));
    rdt
}
