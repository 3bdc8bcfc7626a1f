//! Loading the configuration, and taking up what has changed.

use std::fs;
use std::path::Path;

use crate::image::registries::*;

fn paths(root: &Path) -> Paths {
    Paths {
        registries_conf: root.join("registries.conf"),
        certs_dir: root.join("certs.d"),
        hosts_dir: root.join("hosts.d"),
    }
}

fn endpoints(snapshot: &Snapshot, reference: &str) -> Vec<String> {
    let plan = snapshot.plan(&reference.parse().unwrap());
    let shown = plan.endpoints.iter().map(|e| {
        let namespace = e.namespace.as_deref().map(|ns| format!("?ns={ns}")).unwrap_or_default();
        format!("{}{}{}{namespace}", e.authority, e.root, e.reference.repository())
    });
    shown.chain(plan.refused.clone()).collect()
}

fn mirror(host: &str, mirror: &str) -> String {
    format!("[[registry]]\nlocation = \"{host}\"\n[[registry.mirror]]\nlocation = \"{mirror}\"\n")
}

#[test]
fn missing_files_are_defaults() {
    let root = tempfile::tempdir().unwrap();
    let registries = Registries::open(paths(root.path())).unwrap();
    assert_eq!(endpoints(&registries.refreshed(), "r.io/a"), ["r.io/v2/a"]);
    Registries::open(Paths::default()).unwrap();
}

#[test]
fn drop_ins_are_laid_over_in_order_and_changes_are_seen() {
    let root = tempfile::tempdir().unwrap();
    let drop_ins = root.path().join("registries.conf.d");
    fs::create_dir(&drop_ins).unwrap();
    fs::write(root.path().join("registries.conf"), mirror("r.io", "main.io")).unwrap();
    fs::write(drop_ins.join("20.conf"), mirror("r.io", "twenty.io")).unwrap();
    fs::write(drop_ins.join("10.conf"), mirror("r.io", "ten.io")).unwrap();
    fs::write(drop_ins.join("30.conf.bak"), mirror("r.io", "never.io")).unwrap();
    let registries = Registries::open(paths(root.path())).unwrap();
    assert_eq!(endpoints(&registries.in_force(), "r.io/a")[0], "twenty.io/v2/a");
    fs::remove_file(drop_ins.join("20.conf")).unwrap();
    assert_eq!(endpoints(&registries.in_force(), "r.io/a")[0], "twenty.io/v2/a", "nobody has asked");
    assert_eq!(endpoints(&registries.refreshed(), "r.io/a")[0], "ten.io/v2/a");
    fs::write(drop_ins.join("10.conf"), "").unwrap();
    assert_eq!(endpoints(&registries.refreshed(), "r.io/a")[0], "main.io/v2/a");
}

#[test]
fn a_broken_file_stops_a_start_and_leaves_a_running_daemon_as_it_was() {
    let root = tempfile::tempdir().unwrap();
    let main = root.path().join("registries.conf");
    fs::write(&main, mirror("r.io", "m.io")).unwrap();
    let registries = Registries::open(paths(root.path())).unwrap();
    fs::write(&main, "[[registry]]\nlocation = 3\n").unwrap();
    for _ in 0..2 {
        assert_eq!(endpoints(&registries.refreshed(), "r.io/a")[0], "m.io/v2/a");
    }
    let error = Registries::open(paths(root.path())).unwrap_err();
    assert!(error.to_string().contains("registries.conf cannot be used"), "{error}");
    fs::remove_file(&main).unwrap();
    assert_eq!(endpoints(&registries.refreshed(), "r.io/a")[0], "r.io/v2/a");
}

#[test]
fn a_blocked_registry_names_its_file() {
    let root = tempfile::tempdir().unwrap();
    let main = root.path().join("registries.conf");
    fs::write(&main, "[[registry]]\nlocation = \"r.io\"\nblocked = true").unwrap();
    let snapshot = Registries::open(paths(root.path())).unwrap().in_force();
    assert_eq!(endpoints(&snapshot, "r.io/a"), [format!("registry r.io is blocked in {}", main.display())]);
}

#[test]
fn hosts_come_before_mirrors_and_the_server_is_the_registry() {
    let root = tempfile::tempdir().unwrap();
    let host = |name: &str, text: &str| {
        let directory = root.path().join("hosts.d").join(name);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("hosts.toml"), text).unwrap();
    };
    host("docker.io", "server = \"https://hub.io\"\n[host.\"https://mirror.io/x\"]\n");
    host("r.io_5000_", "[host.\"http://port.io\"]\n");
    host("_default", "[host.\"https://any.io\"]\n");
    fs::write(
        root.path().join("registries.conf"),
        mirror("docker.io", "conf.io/hub") + &mirror("s.io", "conf.io"),
    )
    .unwrap();
    let registries = Registries::open(paths(root.path())).unwrap();
    let snapshot = registries.in_force();
    assert_eq!(
        endpoints(&snapshot, "app"),
        [
            "mirror.io/x/v2/library/app?ns=docker.io",
            "conf.io/v2/hub/library/app",
            "hub.io/v2/library/app?ns=docker.io"
        ]
    );
    assert_eq!(endpoints(&snapshot, "r.io:5000/a"), ["port.io/v2/a?ns=r.io:5000", "r.io:5000/v2/a"]);
    assert_eq!(endpoints(&snapshot, "s.io/a"), ["any.io/v2/a?ns=s.io", "conf.io/v2/a", "s.io/v2/a"]);
    host("_default", "[host.\"https://new.io\"]\n");
    assert_eq!(endpoints(&registries.refreshed(), "s.io/a")[0], "new.io/v2/a?ns=s.io", "written in place");
    host("t.io", "server = \"https://t.io\"\n[host.\"https://t.io\"]\nskip_verify = true\n");
    let plan = registries.refreshed().plan(&"t.io/a".parse().unwrap());
    let [only] = plan.endpoints.as_slice() else { panic!("{plan:?}") };
    assert_eq!((only.role, only.trust.verify), (Role::Origin, false));
    host("u.io", "skip_verify = true\nca = \"ca.pem\"\n[header]\nx-key = \"hush\"\n");
    let plan = registries.refreshed().plan(&"u.io/a".parse().unwrap());
    let [only] = plan.endpoints.as_slice() else { panic!("{plan:?}") };
    assert_eq!((only.trust.verify, only.trust.ca.len(), only.headers.len()), (false, 1, 1));
    assert!(!format!("{plan:?}").contains("hush"), "{plan:?}");
    host("s.io", "");
    assert_eq!(endpoints(&registries.refreshed(), "s.io/a"), ["conf.io/v2/a", "s.io/v2/a"]);
    fs::write(root.path().join("hosts.d/s.io/hosts.toml"), "server = 1").unwrap();
    assert!(Registries::open(paths(root.path())).is_err());
    assert_eq!(endpoints(&registries.refreshed(), "s.io/a").len(), 2);
}

#[test]
fn a_directory_of_certificates_alone_is_for_the_registry() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("hosts.d/r.io");
    fs::create_dir_all(&directory).unwrap();
    for name in ["ca.crt", "client.cert", "client.key"] {
        fs::write(directory.join(name), "").unwrap();
    }
    let plan = Registries::open(paths(root.path())).unwrap().in_force().plan(&"r.io/a".parse().unwrap());
    let trust = &plan.endpoints[0].trust;
    assert_eq!(trust.ca, [directory.join("ca.crt")]);
    assert_eq!(trust.client, [(directory.join("client.cert"), directory.join("client.key"))]);
    assert_eq!(trust.directory, Some(root.path().join("certs.d/r.io")));
}
