//! Plugins that fail, hang, babble or lie.

use std::time::Instant;

use super::*;

impl Node {
    /// Attaches a pod to a good plugin and a bad one; the error, after DEL of both has been asserted.
    async fn failing(&self, body: &str) -> String {
        self.scripts("1.0.0", &[("good", &format!("cat > $log/$CNI_COMMAND.json; {RESULT}")), ("bad", body)]);
        let network = self.network().await;
        let pod = self.pod();
        let error = network.attach(&pod).await.unwrap_err();
        assert_eq!(self.calls(), ["good ADD", "bad ADD", "bad DEL", "good DEL"], "{}", text(&error));
        assert_eq!(self.records(), 0);
        text(&error)
    }
}

/// Enough for two scripts to start on a busy machine.
const SHORT: Duration = Duration::from_secs(3);

/// Runs `body` as a plugin's ADD, with a DEL that works.
fn failing(body: &'static str, check: impl Fn(&str) + Send) {
    Node::run(|mut node| async move {
        if body.contains("sleep") {
            node.timeouts.add = SHORT;
        }
        let error = node.failing(&format!("[ $CNI_COMMAND = DEL ] && exit 0\n{body}")).await;
        check(&error);
        assert!(
            error.contains("\"bad\"") && error.contains("ADD") && error.contains("\"scripted\""),
            "{error}"
        );
    });
}

#[test]
fn b5_a_plugins_own_error_is_told_and_undone() {
    let body = r#"echo '{"cniVersion":"1.0.0","code":11,"msg":"no more addresses","details":"in pool a\u0007"}'
        echo the pool is empty >&2
        exit 1"#;
    failing(body, |error| {
        assert!(
            error.contains("no more addresses: in pool a (code 11); stderr: the pool is empty"),
            "{error}"
        );
    });
}

#[test]
fn b5_a_failure_without_a_message_is_told_and_undone() {
    failing("echo oops; echo why >&2; exit 3", |error| {
        assert!(error.contains("exit status: 3; stdout: oops; stderr: why"), "{error}");
    });
    failing("kill -9 $$", |error| assert!(error.contains("signal: 9"), "{error}"));
}

#[test]
fn success_with_garbage_is_a_failure() {
    failing("echo hello", |error| {
        assert!(error.contains("invalid result") && error.contains("hello"), "{error}")
    });
    failing("true", |error| assert!(error.contains("invalid result"), "{error}"));
    failing(r#"echo '{"ips":[{"address":"nowhere"}]}'"#, |error| {
        assert!(error.contains("nowhere"), "{error}")
    });
    failing(r#"printf '\377\376{}'"#, |error| assert!(error.contains("invalid result"), "{error}"));
}

#[test]
fn a_plugin_that_floods_is_stopped() {
    failing("exec yes", |error| assert!(error.contains("more than 1048576 bytes"), "{error}"));
    failing("yes problem >&2 & exec sleep 1000", |error| {
        assert!(error.contains("time was up") && error.len() < 2000, "{error}");
    });
}

#[test]
fn an_error_of_a_megabyte_is_cut() {
    let body = r#"printf '{"code":100,"msg":"'; head -c 900000 /dev/zero | tr '\0' x; echo '"}'; exit 1"#;
    failing(body, |error| assert!(error.contains("xxx... (code 100)") && error.len() < 1500, "{error}"));
}

#[test]
fn a_plugin_that_hangs_is_killed_with_its_children() {
    Node::run(|mut node| async move {
        node.timeouts.add = SHORT;
        let start = Instant::now();
        let error = node
            .failing(
                "[ $CNI_COMMAND = DEL ] && exit 0\nsleep 1000 & echo $! > $log/child; echo waiting >&2; wait",
            )
            .await;
        assert!(error.contains("time was up; stderr: waiting"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(15));
        let child = node.log("child");
        eventually("the end of the plugin's child", || !lives(&child)).await;
    });
}

#[test]
fn a_process_that_holds_the_pipes_does_not_hold_the_pod() {
    Node::run(|node| async move {
        node.scripts("1.0.0", &[("daemon", &format!("sleep 1000 & echo $! > $log/child\n{RESULT}"))]);
        let network = node.network().await;
        let pod = node.pod();
        let start = Instant::now();
        let got = network.attach(&pod).await;
        let child = node.log("child").trim().parse().unwrap();
        let child = rustix::process::Pid::from_raw(child).unwrap();
        rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
        assert_eq!(got.unwrap().ips.len(), 1);
        assert!(start.elapsed() < Duration::from_secs(15));
        fs::write(node.path("bin").join("daemon"), "").unwrap();
        assert!(text(&network.detach(&pod.pod).await.unwrap_err()).contains("cannot be run"));
        node.scripts("1.0.0", &[("daemon", "true")]);
        network.detach(&pod.pod).await.unwrap();
        node.finish(&[&pod]);
    });
}

#[test]
fn a_configuration_larger_than_a_pipe_may_stay_unread() {
    Node::run(|node| async move {
        node.scripts("1.0.0", &[("deaf", RESULT)]);
        let filler = "x".repeat(300_000);
        let list = serde_json::json!({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "deaf", "x": filler}]});
        node.configure("00-large.conflist", list.to_string());
        let network = node.network().await;
        let pod = node.pod();
        network.attach(&pod).await.unwrap();
        network.detach(&pod.pod).await.unwrap();
        node.finish(&[&pod]);
    });
}

#[test]
fn a_network_without_an_address_is_an_error() {
    Node::run(|node| async move {
        node.scripts("1.0.0", &[("l2", r#"echo '{"cniVersion":"1.0.0","interfaces":[]}'"#)]);
        let network = node.network().await;
        let pod = node.pod();
        let error = network.attach(&pod).await.unwrap_err();
        assert!(matches!(&error, NetworkError::NoAddress { network } if network == "scripted"), "{error}");
        assert_eq!(node.calls(), ["l2 ADD", "l2 DEL"]);
        node.finish(&[&pod]);
    });
}

#[test]
fn a_name_cannot_pass_for_another_argument() {
    Node::run(|node| async move {
        node.scripts("1.0.0", &[("plugin", RESULT)]);
        let network = node.network().await;
        let mut pod = node.pod();
        pod.name = "a;K8S_POD_NAMESPACE=kube-system".to_owned();
        let error = network.attach(&pod).await.unwrap_err().to_string();
        assert!(error.contains("K8S_POD_NAME"), "{error}");
        assert!(node.calls().is_empty());
        node.finish(&[&pod]);
    });
}
