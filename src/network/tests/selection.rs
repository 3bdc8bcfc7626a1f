//! Which configuration is used, and what Status says when there is none.

use super::*;
use crate::network::NotReady;

/// A list of one plugin that exists.
fn list(name: &str) -> String {
    format!(r#"{{"cniVersion": "1.0.0", "name": "{name}", "plugins": [{{"type": "bridge"}}]}}"#)
}

fn selected(network: &Network) -> String {
    network.0.config.current().unwrap().name.clone()
}

#[test]
fn b23_without_a_configuration_the_reason_is_told() {
    Node::run(|node| async move {
        let network = node.network().await;
        let reason = network.status().unwrap_err().to_string();
        assert!(reason.contains("no CNI configuration in") && reason.contains("/conf"), "{reason}");
        let error = network.attach(&node.pod()).await.unwrap_err();
        assert!(matches!(error, NetworkError::NotReady(NotReady::NoConfig(_))), "{error}");
        fs::remove_dir(node.path("conf")).unwrap();
        assert_eq!(network.status().unwrap_err().to_string(), reason);
        fs::create_dir(node.path("conf")).unwrap();
        node.configure("README.txt", "hello");
        fs::create_dir(node.path("conf").join("20-directory.conf")).unwrap();
        assert_eq!(network.status().unwrap_err().to_string(), reason);
        node.configure("10-a.conflist", list("a"));
        network.status().unwrap();
    });
}

#[test]
fn b23_the_first_valid_file_by_name_counts_at_once() {
    Node::run(|node| async move {
        let network = node.network().await;
        node.configure("30-c.conf", r#"{"name": "c", "type": "bridge"}"#);
        assert_eq!(selected(&network), "c");
        node.configure("20-b.conflist", list("b"));
        assert_eq!(selected(&network), "b");
        node.configure("10-a.json", r#"{"name": "a", "type": "bridge", "cniVersion": "0.3.1"}"#);
        assert_eq!(selected(&network), "a");
        node.configure("10-a.json", "{");
        assert_eq!(selected(&network), "b");
        fs::remove_file(node.path("conf").join("20-b.conflist")).unwrap();
        assert_eq!(selected(&network), "c");
    });
}

#[test]
fn b23_every_broken_file_is_named_with_its_fault() {
    Node::run(|node| async move {
        let network = node.network().await;
        let cases = [
            ("01.conflist", "{", "EOF"),
            ("02.conflist", r#"{"name": "x", "plugins": []}"#, "has no plugins"),
            ("03.conflist", r#"{"name": "../x", "plugins": [{"type": "a"}]}"#, "has the name \"../x\""),
            ("04.conflist", r#"{"name": "x", "plugins": [{}]}"#, "without a type"),
            ("05.conflist", r#"{"name": "x", "plugins": [{"type": "../../bin/sh"}]}"#, "\"../../bin/sh\""),
            (
                "06.conflist",
                r#"{"cniVersion": "9.0.0", "name": "x", "plugins": [{"type": "a"}]}"#,
                "\"9.0.0\"",
            ),
            ("07.conf", r#"{"name": "x", "plugins": [{"type": "a"}]}"#, "without a type"),
            ("08.conf", r#"{"type": "bridge"}"#, "has the name \"\""),
            ("09.conflist", r#"{"disableGC": "maybe", "name": "x", "plugins": [{"type": "a"}]}"#, "maybe"),
            ("10.conf", "[]", "not valid"),
        ];
        for (file, text, _) in cases {
            node.configure(file, text);
        }
        node.configure("11.conf", " ".repeat(2 << 20));
        let reason = network.status().unwrap_err().to_string();
        for (file, _, fault) in cases {
            let named =
                reason.split("; ").find(|part| part.contains(file)).unwrap_or_else(|| panic!("{file}"));
            assert!(named.contains(fault), "{named}");
        }
        assert!(reason.contains("11.conf is larger than"), "{reason}");
    });
}

#[test]
fn the_highest_common_version_is_spoken() {
    Node::run(|node| async move {
        let network = node.network().await;
        let version = |versions: &str| {
            node.configure(
                "10.conflist",
                format!(r#"{{{versions} "name": "n", "plugins": [{{"type": "bridge"}}]}}"#),
            );
            network.0.config.current().unwrap().cni_version.to_string()
        };
        assert_eq!(version(""), "0.1.0");
        assert_eq!(version(r#""cniVersion": "0.4.0","#), "0.4.0");
        assert_eq!(version(r#""cniVersion": "1.0.0", "cniVersions": ["1.1.0", "0.3.1", "2.0.0"],"#), "1.1.0");
    });
}

#[test]
fn plugins_of_a_directory_join_the_list() {
    Node::run(|node| async move {
        let network = node.network().await;
        let kinds = || {
            let list = network.0.config.current().unwrap();
            list.plugins.iter().map(|p| p.kind().to_owned()).collect::<Vec<_>>()
        };
        node.configure("10.conflist", list("net"));
        fs::create_dir(node.path("conf").join("net")).unwrap();
        node.configure("net/20-more.conf", r#"{"type": "portmap"}"#);
        node.configure("net/10-less.conf", r#"{"type": "tuning"}"#);
        node.configure("net/ignored.conflist", "{");
        assert_eq!(kinds(), ["bridge", "tuning", "portmap"]);
        node.configure("net/20-more.conf", r#"{"type": "firewall"}"#);
        assert_eq!(kinds(), ["bridge", "tuning", "firewall"]);
        node.configure("10.conflist", list("net").replacen('{', r#"{"loadOnlyInlinedPlugins": true, "#, 1));
        assert_eq!(kinds(), ["bridge"]);
    });
}
