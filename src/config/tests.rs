use std::fs;
use std::path::Path;

use super::*;

fn load_text(text: &str, drop_ins: &[(&str, &str)], settings: &[&str]) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("podd.toml");
    fs::write(&file, text).unwrap();
    fs::create_dir(dir.path().join("podd.toml.d")).unwrap();
    for (name, text) in drop_ins {
        fs::write(dir.path().join("podd.toml.d").join(name), text).unwrap();
    }
    let settings: Vec<_> = settings.iter().map(|s| (*s).to_owned()).collect();
    load(Some(&file), &settings)
}

#[test]
fn drop_ins_and_flags_come_over_the_file() {
    let drop_ins =
        [("10-a.toml", "log_level = \"warn\""), ("20-b.toml", "log_level = \"debug\""), ("x.txt", "?")];
    let config = load_text(
        "log_level = \"error\"\nroot = \"/a\"",
        &drop_ins,
        &["root=/b", "images.max_parallel_layers=7"],
    );
    let config = config.unwrap();
    assert_eq!(config.log_level, LogLevel::Debug);
    assert_eq!(config.root, Path::new("/b"));
    assert_eq!(config.network.cache_dir, Path::new("/b/cni"), "it follows root");
    assert_eq!(config.images.max_parallel_layers, 7);
}

#[test]
fn all_mistakes_are_reported_at_once_with_file_key_and_what_is_allowed() {
    let security = "[security]\ncapabilities = [\"FLY\"]\nsysctls = [\"vm.swappiness=1\", \"net.ipv4.ip_forward\"]\n\
                    [selinux]\nfile_type = \"a:b\"\nmcs_range = 1\nhost_network_disable_selinux = \"no\"\n\
                    [seccomp]\nunset = \"none\"";
    let text = "sokcet = \"/x\"\nlog_level = \"loud\"\n[network]\nconf_dir = \"relative\"\n[images]\nmax_parallel_layers = 0";
    let drop_in = [("10-a.toml", "[runtimes.runc]\nbinary = 1\n[metrics]\naddress = \"nowhere\"")];
    let drop_ins = [drop_in[0], ("20-b.toml", security)];
    let error = load_text(text, &drop_ins, &["default_runtime=kata"]).unwrap_err().to_string();
    for expected in [
        "podd.toml: sokcet: unknown key; the keys here are root, run_dir, socket",
        "podd.toml: log_level: \"loud\" is not one of \"error\", \"warn\"",
        "podd.toml: network.conf_dir: \"relative\" is not an absolute path",
        "podd.toml: images.max_parallel_layers: 0 is not a whole number from 1 to 64",
        "10-a.toml: runtimes.runc.binary: unknown key; the keys here are path, root",
        "10-a.toml: metrics.address: \"nowhere\" is not an IP address and port",
        "security.capabilities: \"FLY\" is not a capability",
        "security.sysctls: \"vm.swappiness=1\": it belongs to the node",
        "security.sysctls: \"net.ipv4.ip_forward\": it is not of the form name=value",
        "selinux.file_type: \"a:b\" is not the name of a type",
        "20-b.toml: selinux.mcs_range: 1 is not a whole number from 2 to 1024",
        "20-b.toml: selinux.host_network_disable_selinux: \"no\" is neither true nor false",
        "20-b.toml: seccomp.unset: \"none\" is not one of \"unconfined\", \"runtime-default\"",
        "default_runtime: \"kata\" is not one of the runtimes: crun, runc",
    ] {
        assert!(error.contains(expected), "{expected}\nis not in\n{error}");
    }
}

#[test]
fn what_is_not_toml_is_reported_with_its_line() {
    let error = load_text("root = \"/a\"\n\n= 3", &[], &[]).unwrap_err().to_string();
    assert!(error.contains("podd.toml: line 3 is not TOML"), "{error}");
}

#[test]
fn a_named_file_that_is_missing_is_a_mistake() {
    let error = load(Some(Path::new("/nowhere/podd.toml")), &[]).unwrap_err().to_string();
    assert!(error.contains("/nowhere/podd.toml: cannot be read"), "{error}");
}

#[test]
fn the_printed_configuration_reads_back_as_itself() {
    let text =
        "root = \"/b\"\n[runtimes.\"my runtime\"]\npath = \"/x\"\n[metrics]\naddress = \"127.0.0.1:9\"";
    let config = load_text(text, &[], &[]).unwrap();
    assert_eq!(load_text(&render(&config), &[], &[]).unwrap(), config);
}

#[test]
fn the_shipped_file_is_the_printed_default() {
    let defaults = Config::defaults(Path::new("/var/lib/podd"), Path::new("/run/podd"));
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/podd.toml");
    assert_eq!(fs::read_to_string(shipped).unwrap(), render(&defaults), "write it anew with: podd config");
}
