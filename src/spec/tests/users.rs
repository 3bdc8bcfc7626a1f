//! Documents of containers in a user namespace, and what is refused of them.

use super::*;
use crate::sys::namespace::{IdMaps, IdRange};

fn options(change: impl FnOnce(&mut Value)) -> Value {
    let ids = |host: u32| json!([{"host_id": host, "container_id": 0, "length": 65536}]);
    let mut options =
        json!({"pid": 1, "userns_options": {"mode": 0, "uids": ids(100_000), "gids": ids(200_000)}});
    change(&mut options);
    options
}

/// A container, and a pod around it, with these namespace options.
fn case(options: &Value, more: &Value) -> Case {
    let mut config = json!({
        "metadata": {"name": "c", "attempt": 0},
        "linux": {"security_context": {"namespace_options": options}},
    });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    let mut case = Case { userns: true, ..Case::new(config) }.with_sources(SourcePropagation::Shared);
    case.pod = serde_json::from_value(json!({"linux": {"security_context": {"namespace_options": options}}}))
        .unwrap();
    case
}

fn refused(options: &Value) -> String {
    let options: api::NamespaceOption = serde_json::from_value(options.clone()).unwrap();
    userns::requested(Some(&options)).unwrap_err().to_string()
}

fn volume() -> Value {
    let ids = json!([{"host_id": 100_000, "container_id": 0, "length": 65536}]);
    json!({"mounts": [{"container_path": "/v", "host_path": "/v", "readonly": true, "recursive_read_only": true,
                       "uid_mappings": ids, "gid_mappings": ids}]})
}

#[test]
fn a_request_is_one_range_for_users_and_one_for_groups() {
    let asked: api::NamespaceOption = serde_json::from_value(options(|_| ())).unwrap();
    let range = |host| IdRange { host, count: 65536 };
    let wanted = IdMaps { uids: range(100_000), gids: range(200_000) };
    assert_eq!(userns::requested(Some(&asked)), Ok(Some(wanted)));
    assert_eq!(userns::requested(None), Ok(None));
    assert_eq!(userns::requested(Some(&api::NamespaceOption::default())), Ok(None));
    let field = "linux.security_context.namespace_options.userns_options";
    for (name, change) in [
        (".mode: 1 is not one of POD, NODE", json!({"mode": 1})),
        (".mode: 9 is not one of POD, NODE", json!({"mode": 9})),
        (": mode NODE", json!({"mode": 2})),
        (".uids: mode POD takes one mapping, and not 0", json!({"uids": []})),
        (".gids: mode POD takes one mapping, and not 2", json!({"gids": [{"host_id": 1}, {"host_id": 2}]})),
        (".uids: container_id is 7", json!({"uids": [{"host_id": 1, "container_id": 7, "length": 1}]})),
        (".gids: host_id is 0", json!({"gids": [{"host_id": 0, "container_id": 0, "length": 1}]})),
        (".gids: host_id 1,", json!({"gids": [{"host_id": 1, "container_id": 0, "length": 0}]})),
        (
            ".uids: host_id 2,",
            json!({"uids": [{"host_id": 2, "container_id": 0, "length": 4_294_967_295u32}]}),
        ),
    ] {
        let changed = options(|options| {
            for (key, value) in change.as_object().unwrap() {
                options["userns_options"][key] = value.clone();
            }
        });
        let text = refused(&changed);
        assert!(text.starts_with(&format!("{field}{name}")), "{name}: {text}");
    }
}

#[test]
fn a_document_names_the_namespace_and_its_ids() {
    let document = case(&options(|_| ()), &volume()).json();
    let namespaces = document["linux"]["namespaces"].as_array().unwrap();
    assert!(namespaces.contains(&json!({"type": "user", "path": "/run/podd/ns/user"})), "{namespaces:?}");
    let ids = |host: u32| json!([{"hostID": host, "containerID": 0, "size": 65536}]);
    assert_eq!(document["linux"]["uidMappings"], ids(100_000));
    assert_eq!(document["linux"]["gidMappings"], ids(200_000));
    let mounts = document["mounts"].as_array().unwrap();
    let at = |path: &str| mounts.iter().find(|mount| mount["destination"] == path).unwrap();
    assert_eq!(at("/v")["uidMappings"], ids(100_000));
    assert_eq!(at("/v")["gidMappings"], ids(100_000));
    assert_eq!(at("/v")["options"], json!(["rbind", "rprivate", "rro", "idmap"]));
    assert_eq!(at("/sys")["type"], "sysfs");
}

#[test]
fn on_the_hosts_network_sys_is_the_hosts() {
    let case = Case { host_network: true, ..case(&options(|_| ()), &json!({})) };
    let document = case.json();
    let mounts = document["mounts"].as_array().unwrap();
    let sys: Vec<_> = mounts.iter().filter(|mount| mount["destination"] == "/sys").collect();
    assert_eq!(sys.len(), 1);
    assert_eq!((&sys[0]["type"], &sys[0]["source"]), (&json!("bind"), &json!("/sys")));
    assert!(sys[0]["options"].as_array().unwrap().contains(&json!("rro")));
}

#[test]
fn what_the_runtime_cannot_do_is_refused_with_what_it_takes() {
    let mut case = case(&options(|_| ()), &volume());
    case.features.id_mapped_mounts = Err("it needs another".to_owned());
    assert_eq!(case.refusal(), "mounts[0] (\"/v\").uidMappings is not supported here: it needs another");
    case.features.recursive_read_only = Err("it needs a third".to_owned());
    assert_eq!(
        case.refusal(),
        "mounts[0] (\"/v\").recursive_read_only is not supported here: it needs a third"
    );
}

#[test]
fn a_container_has_the_users_of_its_pod() {
    let own = options(|_| ());
    let field = "linux.security_context.namespace_options";
    let mut other = case(&own, &json!({}));
    other.config.linux =
        serde_json::from_value(json!({"security_context": {"namespace_options": {"pid": 1}}})).unwrap();
    assert!(other.refusal().starts_with(&format!("{field}.userns_options: it is not what the pod")));
    other.config.linux = None;
    assert_eq!(
        other.json()["linux"]["uidMappings"][0]["hostID"],
        100_000,
        "without options it has the pod's"
    );
    let node = case(&options(|options| options["pid"] = json!(2)), &json!({}));
    assert!(node.refusal().starts_with(&format!("{field}.pid: NODE does not go")));
    for (change, text) in [
        (ResolvedUser { uid: 65536, ..other.user.clone() }, "run_as_user: user 65536 is not in"),
        (ResolvedUser { gid: 70000, ..other.user }, "run_as_group or supplemental_groups: group 70000"),
    ] {
        let refusal = Case { user: change, ..case(&own, &json!({})) }.refusal();
        assert!(refusal.contains(text), "{refusal}");
    }
}
