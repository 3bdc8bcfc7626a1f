//! What a pod's record is for: crashes, restarts, cancelled calls, failing DELs.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::*;
use crate::network::{PortMapping, Protocol};

/// A plugin that keeps what it is given.
const KEEPING: &str = "cat > $log/$CNI_COMMAND.json";

#[test]
fn plugins_are_told_what_the_specification_says() {
    Node::run(|node| async move {
        let body = format!("cat > $log/last.$CNI_COMMAND.json; {RESULT}");
        node.scripts("1.0.0", &[("first", &format!("{KEEPING}; {RESULT}")), ("last", &body)]);
        let network = node.network().await;
        let mut pod = node.pod();
        pod.port_mappings = vec![PortMapping {
            protocol: Protocol::Udp,
            container_port: 53,
            host_port: 5353,
            host_ip: Some([127, 0, 0, 1].into()),
        }];
        pod.dns.servers = vec!["10.0.0.10".to_owned()];
        network.attach(&pod).await.unwrap();
        network.detach(&pod.pod).await.unwrap();
        let document = |name: &str| serde_json::from_str::<Value>(&node.log(name)).unwrap();

        let ports =
            json!([{"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1"}]);
        let mut expected = json!({
            "type": "first", "name": "scripted", "cniVersion": "1.0.0", "unknown": {"kept": true},
            "runtimeConfig": {"portMappings": ports},
        });
        assert_eq!(document("ADD.json"), expected);
        expected["prevResult"] = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.7/24"}]});
        assert_eq!(document("DEL.json"), expected);
        expected["type"] = json!("last");
        assert_eq!(document("last.ADD.json"), expected);
        assert_eq!(document("last.DEL.json"), expected);

        let environment = node.log("first.ADD.env");
        for line in [
            "CNI_COMMAND=ADD".to_owned(),
            format!("CNI_CONTAINERID={}", pod.pod),
            format!("CNI_NETNS={}", pod.netns.display()),
            "CNI_IFNAME=eth0".to_owned(),
            format!("CNI_PATH={}:/usr/lib/cni", node.path("bin").display()),
            format!(
                "CNI_ARGS=IgnoreUnknown=1;K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_NAMESPACE=shop;\
                 K8S_POD_NAME=web-0;K8S_POD_UID=1234",
                pod.pod
            ),
        ] {
            assert!(environment.lines().any(|l| l == line), "{line} is not in {environment}");
        }
        assert_eq!(node.calls(), ["first ADD", "last ADD", "last DEL", "first DEL"]);
        node.finish(&[&pod]);
    });
}

#[test]
fn the_record_is_there_before_the_plugin_runs() {
    Node::run(|node| async move {
        node.scripts(
            "1.0.0",
            &[("plugin", &format!("ls {} > $log/cache; {RESULT}", node.path("cache").display()))],
        );
        let network = node.network().await;
        let pod = node.pod();
        network.attach(&pod).await.unwrap();
        assert_eq!(node.log("cache").trim(), format!("{}.json", pod.pod));
        network.detach(&pod.pod).await.unwrap();
        node.finish(&[&pod]);
    });
}

#[test]
fn a_cancelled_attachment_can_be_released() {
    Node::run(|node| async move {
        let body = "[ $CNI_COMMAND = DEL ] && exit 0; echo $$ > $log/pid; exec sleep 1000";
        node.scripts("1.0.0", &[("slow", body)]);
        let network = node.network().await;
        let pod = node.pod();
        let cancelled = async {
            eventually("the start of the plugin", || !node.log("pid").trim().is_empty()).await;
        };
        tokio::select! {
            attached = network.attach(&pod) => panic!("{attached:?}"),
            () = cancelled => {}
        }
        let pid = node.log("pid");
        eventually("the end of the plugin", || !lives(&pid)).await;
        assert_eq!(node.records(), 1);
        network.detach(&pod.pod).await.unwrap();
        assert_eq!(node.calls(), ["slow ADD", "slow DEL"]);
        node.finish(&[&pod]);
    });
}

#[test]
fn after_a_restart_only_orphans_are_released() {
    Node::run(|node| async move {
        node.scripts("1.0.0", &[("plugin", RESULT)]);
        let network = node.network().await;
        let (kept, orphan, damaged) = (node.pod(), node.pod(), PodId::generate());
        network.attach(&kept).await.unwrap();
        network.attach(&orphan).await.unwrap();
        drop(network);
        // A power cut may tear the result, which is not flushed; the intent alone has to do.
        fs::write(node.path("cache").join(format!("{}.result", orphan.pod)), "").unwrap();
        fs::write(node.path("cache").join(format!("{damaged}.json")), "{").unwrap();
        fs::write(node.path("cache").join("x.json.tmp"), "{").unwrap();
        fs::write(node.path("cache").join("README"), "").unwrap();
        let restarted = node.network().await;
        let released = restarted.release_orphans(&HashSet::from([kept.pod.clone()])).await;
        assert_eq!(released.len(), 2);
        for (pod, result) in released {
            assert_eq!(result.is_ok(), pod == orphan.pod, "{result:?}");
            if let Err(error) = result {
                assert!(pod == damaged && error.to_string().contains("is damaged"), "{error}");
            }
        }
        assert_eq!(node.calls(), ["plugin ADD", "plugin ADD", "plugin DEL"]);
        restarted.detach(&kept.pod).await.unwrap();
        for name in [format!("{damaged}.json"), "README".to_owned()] {
            fs::remove_file(node.path("cache").join(name)).unwrap();
        }
        node.finish(&[&kept, &orphan]);
    });
}

/// B6: a plugin that can never undo its part, such as one that refuses its own configuration, keeps no other's.
#[test]
fn b6_a_release_goes_on_past_a_plugin_that_fails() {
    Node::run(|node| async move {
        let stubborn = format!("[ $CNI_COMMAND = DEL -a ! -e $log/ready ] && exit 7; {RESULT}");
        node.scripts("1.0.0", &[("giver", RESULT), ("stubborn", &stubborn)]);
        let network = node.network().await;
        let pod = node.pod();
        network.attach(&pod).await.unwrap();
        let error = text(&network.detach(&pod.pod).await.unwrap_err());
        assert!(error.contains("stubborn") && error.contains("exit status: 7"), "{error}");
        assert_eq!(node.calls(), ["giver ADD", "stubborn ADD", "stubborn DEL", "giver DEL"]);
        fs::write(node.path("log").join("ready"), "").unwrap();
        network.detach(&pod.pod).await.unwrap();
        node.finish(&[&pod]);
    });
}

/// B6: the stop goes on, and the address is not forgotten.
#[test]
fn b6_a_failing_release_is_tried_again() {
    Node::run(|node| async move {
        let body = format!("[ $CNI_COMMAND = DEL -a ! -e $log/ready ] && exit 7; {RESULT}");
        node.scripts("1.0.0", &[("stubborn", &body)]);
        let network = node.network().await;
        let pod = node.pod();
        network.attach(&pod).await.unwrap();
        let error = text(&network.detach(&pod.pod).await.unwrap_err());
        assert!(
            error.contains("stubborn") && error.contains("DEL") && error.contains("exit status: 7"),
            "{error}"
        );
        assert_eq!(node.records(), 2);
        let background = network.clone();
        let task = tokio::spawn(async move { background.retry_pending().await });
        fs::write(node.path("log").join("ready"), "").unwrap();
        eventually("the release", || node.records() == 0).await;
        task.abort();
        assert_eq!(node.calls(), ["stubborn ADD", "stubborn DEL", "stubborn DEL"]);
        node.finish(&[&pod]);
    });
}

#[test]
fn a_plugin_that_is_gone_keeps_the_record() {
    Node::run(|node| async move {
        node.scripts("1.0.0", &[("passing", RESULT)]);
        let network = node.network().await;
        let pod = node.pod();
        network.attach(&pod).await.unwrap();
        let (binary, away) = (node.path("bin").join("passing"), node.path("away"));
        fs::rename(&binary, &away).unwrap();
        let error = network.detach(&pod.pod).await.unwrap_err();
        assert!(matches!(&error, NetworkError::Missing(m) if m.plugin == "passing"), "{error}");
        let missing = network.attach(&node.pod()).await.unwrap_err().to_string();
        assert!(missing.contains("\"passing\" of network \"scripted\" is not installed in"), "{missing}");
        assert_eq!(network.status().unwrap_err().to_string(), missing);
        fs::rename(&away, &binary).unwrap();
        network.detach(&pod.pod).await.unwrap();
        node.finish(&[&pod]);
    });
}

#[test]
fn a_second_attachment_replaces_the_first() {
    Node::run(|node| async move {
        node.scripts("1.0.0", &[("plugin", RESULT)]);
        let network = node.network().await;
        let pod = node.pod();
        network.attach(&pod).await.unwrap();
        network.attach(&pod).await.unwrap();
        network.detach(&pod.pod).await.unwrap();
        assert_eq!(node.calls(), ["plugin ADD", "plugin DEL", "plugin ADD", "plugin DEL"]);
        node.finish(&[&pod]);
    });
}

#[test]
fn collection_names_the_valid_attachments() {
    Node::run(|node| async move {
        let body = format!("{KEEPING}; [ $CNI_COMMAND = GC ] && exit 1; {RESULT}");
        node.scripts("1.1.0", &[("old", &body), ("new", &format!("{KEEPING}; {RESULT}"))]);
        let network = node.network().await;
        let pod = node.pod();
        network.attach(&pod).await.unwrap();
        let failures = network.gc().await.unwrap_err();
        assert!(failures.len() == 1 && text(&failures[0]).contains("\"old\" failed to GC"), "{failures:?}");
        let told: Value = serde_json::from_str(&node.log("GC.json")).unwrap();
        assert_eq!(told["cni.dev/valid-attachments"], json!([{"containerID": pod.pod, "ifname": "eth0"}]));
        assert_eq!(node.calls()[2..], ["old GC", "new GC"]);
        network.detach(&pod.pod).await.unwrap();
        node.finish(&[&pod]);
    });
}

#[test]
fn plugins_of_the_newest_version_are_asked_whether_they_are_ready() {
    Node::run(|node| async move {
        let body = r#"[ -e $log/ready ] || { echo '{"code": 50, "msg": "the agent is down"}'; exit 1; }"#;
        node.scripts("1.0.0", &[("plugin", body)]);
        let network = node.network().await;
        network.probe().await.unwrap();
        assert!(node.calls().is_empty());
        node.scripts("1.1.0", &[("plugin", body)]);
        let error = text(&network.probe().await.unwrap_err());
        assert!(error.contains("STATUS") && error.contains("the agent is down (code 50)"), "{error}");
        fs::write(node.path("log").join("ready"), "").unwrap();
        network.probe().await.unwrap();
        assert_eq!(node.calls(), ["plugin STATUS", "plugin STATUS"]);
    });
}
