//! User namespaces: which IDs a pod asks for, and what a container in one can and cannot have.
//!
//! A pod's user namespace is named twice in a document, by its path and by its mappings: runc before 1.2 and crun count
//! with the mappings, also where they join by path.

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Mount};

use super::{SpecError, SpecInput, security};
use crate::api::{self, NamespaceMode};
use crate::sys::namespace::{IdMaps, IdRange};

/// The field that asks for a user namespace, in a pod's configuration and in a container's.
const FIELD: &str = "linux.security_context.namespace_options.userns_options";

/// The IDs that are asked for; `None` is the node's own user namespace.
pub fn requested(options: Option<&api::NamespaceOption>) -> Result<Option<IdMaps>, SpecError> {
    let Some(asked) = options.and_then(|options| options.userns_options.as_ref()) else { return Ok(None) };
    match NamespaceMode::try_from(asked.mode) {
        Ok(NamespaceMode::Node) if asked.uids.is_empty() && asked.gids.is_empty() => Ok(None),
        Ok(NamespaceMode::Node) => {
            Err(SpecError::invalid(FIELD, "mode NODE is the node's user namespace, which takes no mappings"))
        }
        Ok(NamespaceMode::Pod) => {
            let (uids, gids) = (range("uids", &asked.uids)?, range("gids", &asked.gids)?);
            Ok(Some(IdMaps { uids, gids }))
        }
        Ok(NamespaceMode::Container | NamespaceMode::Target) | Err(_) => {
            let why = format!("{} is not one of POD, NODE", asked.mode);
            Err(SpecError::invalid(format!("{FIELD}.mode"), why))
        }
    }
}

/// One mapping, as the kubelet sends it: the pod's IDs begin with 0, and the host's root is none of them.
fn range(name: &str, mappings: &[api::IdMapping]) -> Result<IdRange, SpecError> {
    let invalid = |why: String| Err(SpecError::invalid(format!("{FIELD}.{name}"), why));
    let [mapping] = mappings else {
        return invalid(format!("mode POD takes one mapping, and not {}", mappings.len()));
    };
    if mapping.container_id != 0 {
        return invalid(format!("container_id is {}, but a pod's IDs begin with 0", mapping.container_id));
    }
    if mapping.host_id == 0 {
        return invalid("host_id is 0: the pod's root would be the host's".to_owned());
    }
    match in_range(mapping) {
        Ok(()) => Ok(IdRange { host: mapping.host_id, count: mapping.length }),
        Err(why) => invalid(why),
    }
}

fn in_range(mapping: &api::IdMapping) -> Result<(), String> {
    // The last number of 32 bits is no ID: it means none.
    let fits = |first: u32| first.checked_add(mapping.length).is_some();
    match mapping.length > 0 && fits(mapping.host_id) && fits(mapping.container_id) {
        true => Ok(()),
        false => Err(format!(
            "host_id {}, container_id {} and length {} do not make a range of IDs",
            mapping.host_id, mapping.container_id, mapping.length
        )),
    }
}

/// The IDs of the pod, which are the container's too. A container without namespace options has the pod's.
pub(super) fn check(input: &SpecInput<'_>) -> Result<Option<IdMaps>, SpecError> {
    let pod = input.pod.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let pod = requested(pod.and_then(|context| context.namespace_options.as_ref()))?;
    let options = security(input).namespace_options.as_ref();
    if options.is_some() && requested(options)? != pod {
        return Err(SpecError::invalid(FIELD, "it is not what the pod was made with"));
    }
    let Some(ids) = pod else { return Ok(None) };
    if options.is_some_and(|options| options.pid() == NamespaceMode::Node) {
        let field = "linux.security_context.namespace_options.pid";
        return Err(SpecError::invalid(field, "NODE does not go with a user namespace"));
    }
    let user = input.user;
    let groups = user.additional_gids.iter().chain([&user.gid]);
    if let Some(gid) = groups.into_iter().find(|gid| **gid >= ids.gids.count) {
        return Err(unmapped("run_as_group or supplemental_groups", "group", *gid, ids.gids));
    }
    if user.uid >= ids.uids.count {
        return Err(unmapped("run_as_user", "user", user.uid, ids.uids));
    }
    Ok(Some(ids))
}

fn unmapped(field: &str, kind: &str, id: u32, ids: IdRange) -> SpecError {
    let why = format!("{kind} {id} is not in the pod's user namespace, which has {} of them", ids.count);
    SpecError::invalid(format!("linux.security_context.{field}"), why)
}

/// A range in the terms of the runtime.
pub(super) fn mapping(ids: IdRange) -> LinuxIdMapping {
    of_runtime(ids.host, 0, ids.count)
}

fn of_runtime(host: u32, container: u32, size: u32) -> LinuxIdMapping {
    let mapping = LinuxIdMappingBuilder::default().host_id(host).container_id(container).size(size);
    mapping.build().expect("every field is given")
}

/// Has a volume show the owners that the client wants, which the runtime has to be able to.
pub(super) fn map_volume(
    input: &SpecInput<'_>,
    asked: &api::Mount,
    mount: &mut Mount,
    field: impl Fn(&str) -> String,
) -> Result<(), SpecError> {
    let mappings = [("uidMappings", &asked.uid_mappings), ("gidMappings", &asked.gid_mappings)];
    if mappings.iter().all(|(_, mappings)| mappings.is_empty()) {
        return Ok(());
    }
    for (name, mappings) in mappings {
        if mappings.is_empty() {
            let why = "it is empty, but users and groups are mapped together or not at all";
            return Err(SpecError::invalid(field(name), why));
        }
        let wrong = mappings.iter().find_map(|mapping| in_range(mapping).err());
        wrong.map_or(Ok(()), |why| Err(SpecError::invalid(field(name), why)))?;
    }
    if let Err(why) = &input.features.id_mapped_mounts {
        return Err(SpecError::unsupported(field("uidMappings"), why.clone()));
    }
    let all = |mappings: &[api::IdMapping]| {
        let one = |asked: &api::IdMapping| of_runtime(asked.host_id, asked.container_id, asked.length);
        Some(mappings.iter().map(one).collect::<Vec<_>>())
    };
    mount.set_uid_mappings(all(&asked.uid_mappings)).set_gid_mappings(all(&asked.gid_mappings));
    if let Some(options) = mount.options_mut() {
        options.push("idmap".to_owned());
    }
    Ok(())
}
