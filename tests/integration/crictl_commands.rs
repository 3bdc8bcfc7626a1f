//! Every command of the real crictl, and what its verbose JSON says: the keys that scripts for other runtimes read.
//!
//! The commands are those that `crictl --help` lists: one that a newer crictl has, and that is not run here, fails the test,
//! and so does a row of `docs/crictl.md` that is missing or too many.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::image::pushed_busybox;
use crate::common::{Node, PodSpec, cgroup_driver, eventually, free_port, oci_runtime};

/// crictl, and what it was asked for.
struct Crictl<'a> {
    node: &'a Node,
    ran: RefCell<BTreeSet<String>>,
}

impl Crictl<'_> {
    fn note(&self, args: &[&str]) {
        self.ran.borrow_mut().insert(args[0].to_owned());
    }

    async fn ok(&self, args: &[&str]) -> String {
        self.note(args);
        self.node.crictl_ok(args).await
    }

    async fn json(&self, args: &[&str]) -> Value {
        let said = self.ok(args).await;
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("crictl {args:?}: {error}: {said}"))
    }

    /// What it says when it fails, as it must.
    async fn fails(&self, args: &[&str]) -> String {
        self.note(args);
        let out = self.node.crictl(args).await;
        assert!(!out.status.success(), "crictl {args:?}: {out:?}");
        String::from_utf8_lossy(&out.stderr).into_owned()
    }

    fn spawn(&self, args: &[&str]) -> tokio::process::Child {
        self.note(args);
        let mut command = self.node.crictl_command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn write(&self, name: &str, json: &Value) -> String {
        let path = self.node.names.dir().join(name);
        fs::write(&path, json.to_string()).unwrap();
        path.display().to_string()
    }

    /// A pod's configuration; `pid` is the CRI's number of the mode of its PID namespace.
    fn pod_file(&self, name: &str, pid: i32) -> String {
        let config = PodSpec::new(self.node, name).0;
        let metadata = config.metadata.unwrap();
        let json = json!({
            "metadata": {
                "name": name, "namespace": metadata.namespace, "uid": metadata.uid, "attempt": 1
            },
            "hostname": name,
            "log_directory": config.log_directory,
            "annotations": { "tests/annotation": "kept" },
            "linux": {
                "cgroup_parent": self.node.names.cgroup_parent,
                "resources": { "memory_limit_in_bytes": 256 << 20 },
                "security_context": { "namespace_options": { "pid": pid } },
            },
        });
        self.write(&format!("{name}.pod.json"), &json)
    }

    /// A container's configuration: it answers each line of its input.
    fn container_file(&self, name: &str, image: &str, pid: i32) -> String {
        let answering = "while true; do echo answer | nc -l -p 8080 -w 5; done &";
        let script = format!(
            "echo hello; echo file > /file; trap 'exit 0' TERM; {answering} while read line; do echo got $line; done"
        );
        let json = json!({
            "metadata": { "name": name },
            "image": { "image": image },
            "command": ["/bin/sh", "-c", script],
            "stdin": true,
            "log_path": format!("{name}.log"),
            "linux": { "security_context": { "namespace_options": { "pid": pid } } },
        });
        self.write(&format!("{name}.container.json"), &json)
    }
}

/// The commands that crictl has, without aliases.
async fn listed(node: &Node) -> BTreeSet<String> {
    let help = node.crictl_ok(&["--help"]).await;
    let commands = help.lines().skip_while(|line| *line != "COMMANDS:").skip(1);
    let commands = commands.take_while(|line| line.starts_with("   "));
    let names = commands.filter_map(|line| line.split_whitespace().next());
    names.map(|name| name.trim_end_matches(',').to_owned()).filter(|name| name != "help").collect()
}

/// The commands in the first column of the table in `docs/crictl.md`.
fn documented() -> BTreeSet<String> {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/crictl.md")).unwrap();
    let cells =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |").map(|(cell, _)| cell));
    cells.filter(|cell| !cell.starts_with('.')).map(str::to_owned).collect()
}

/// Each key must be in the JSON and in the documentation's table of keys.
fn assert_keys(what: &str, found: &Value, keys: &[&str]) {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/crictl.md")).unwrap();
    let found = found.as_object().unwrap_or_else(|| panic!("{what} is no object: {found}"));
    let expected = BTreeSet::from_iter(keys.iter().copied());
    assert_eq!(BTreeSet::from_iter(found.keys().map(String::as_str)), expected, "{what}");
    for key in keys {
        assert!(
            page.contains(&format!("| `.{what}.{key}` |")),
            "docs/crictl.md does not tell of .{what}.{key}"
        );
    }
}

#[tokio::test]
async fn every_command_works_and_shows_what_scripts_look_for() {
    let node = Node::start().await;
    let crictl = Crictl { node: &node, ran: RefCell::default() };
    let commands = listed(&node).await;
    assert_eq!(commands, documented(), "docs/crictl.md and `crictl --help` differ");
    let mut events = crictl.spawn(&["events", "-o", "json"]);
    let mut output = events.stdout.take().unwrap();
    let heard = tokio::spawn(async move {
        let mut text = String::new();
        output.read_to_string(&mut text).await.map(|_| text)
    });

    eventually("crictl's subscription", || async {
        let info: Value = serde_json::from_str(&node.crictl_ok(&["info"]).await).unwrap();
        (info["events"]["readers"] == 1).then_some(())
    })
    .await;
    of_the_runtime(&crictl).await;
    let image = &pushed_busybox().await.reference;
    of_images(&crictl, image).await;
    let (pod, pod_config) = of_pods(&crictl).await;
    let container_config = crictl.container_file("shell", image, 1);
    let container = crictl.ok(&["create", &pod, &container_config, &pod_config]).await;
    crictl.ok(&["start", &container]).await;
    of_containers(&crictl, &pod, &container).await;
    of_streams(&crictl, &pod, &container).await;
    of_measures(&crictl).await;
    the_end(&crictl, image, &pod, &container).await;

    events.start_kill().unwrap();
    events.wait().await.unwrap();
    let heard = heard.await.unwrap().unwrap();
    let heard = serde_json::Deserializer::from_str(&heard).into_iter::<Value>().map(Result::unwrap);
    let told =
        Vec::from_iter(heard.filter(|event| event["containerId"] == container.as_str()).map(|event| {
            assert_eq!(event["podSandboxStatus"]["id"], pod.as_str());
            event["containerEventType"].as_str().unwrap().to_owned()
        }));
    let expected = ["CREATED", "STARTED", "STOPPED", "DELETED"].map(|kind| format!("CONTAINER_{kind}_EVENT"));
    assert_eq!(told, expected);
    assert_eq!(*crictl.ran.borrow(), commands, "commands that crictl has, and those that were run");
    drop(crictl);
    node.finish().await;
}

async fn of_the_runtime(crictl: &Crictl<'_>) {
    let version = crictl.ok(&["version"]).await;
    assert!(
        version.contains("RuntimeName:  podd") && version.contains("RuntimeApiVersion:  v1"),
        "{version}"
    );
    let info = crictl.json(&["info"]).await;
    let keys = [
        "status",
        "runtimeHandlers",
        "features",
        "config",
        "cniconfig",
        "lastCNILoadStatus",
        "rust",
        "objects",
        "confinement",
        "apparmor",
        "events",
        "pulls",
        "pullTotals",
    ];
    let found = info.as_object().unwrap();
    for key in keys {
        assert!(found.contains_key(key), "crictl info lacks {key}");
    }
    assert_eq!(info["config"]["default_runtime"], oci_runtime().as_str());
    assert_eq!(info["lastCNILoadStatus"], "OK");
    assert_eq!(info["cniconfig"]["Networks"][0]["Config"]["Plugins"][0]["Network"]["type"], "bridge");
    assert!(info["rust"].as_str().unwrap().starts_with("rustc 1."), "{}", info["rust"]);
    let handlers = info["runtimeHandlers"].as_array().unwrap();
    assert!(handlers.iter().any(|handler| handler["name"] == oci_runtime().as_str()), "{handlers:?}");
    assert!(crictl.json(&["info", "-q"]).await["config"].is_null(), "what is verbose is for who asks");

    let driver = crictl.ok(&["runtime-config"]).await;
    assert!(driver.to_lowercase().contains(&cgroup_driver()), "{driver}");
    crictl.ok(&["update-runtime-config", "--pod-cidr", "10.9.0.0/16"]).await;
    assert_eq!(crictl.ok(&["config", "--get", "timeout"]).await, "60");
    assert!(crictl.ok(&["completion", "bash"]).await.contains("complete "));
}

async fn of_images(crictl: &Crictl<'_>, image: &str) {
    assert!(crictl.ok(&["pull", image]).await.contains("sha256:"));
    let id = crictl.json(&["images", "-o", "json"]).await["images"][0]["id"].as_str().unwrap().to_owned();
    let inspected = crictl.json(&["inspecti", image]).await;
    assert_eq!(
        (&inspected["status"]["id"], &inspected["status"]["repoTags"][0]),
        (&json!(id), &json!(image))
    );
    let info = &inspected["info"];
    assert_keys("info", info, &["chainID", "layers", "imageSpec"]);
    assert!(info["chainID"].as_str().unwrap().starts_with("sha256:"), "{info}");
    assert_eq!(info["layers"].as_array().unwrap().last(), Some(&info["chainID"]));
    assert_eq!(
        info["imageSpec"]["rootfs"]["diff_ids"].as_array().unwrap().len(),
        info["layers"].as_array().unwrap().len()
    );
    assert_eq!(info["imageSpec"]["os"], "linux");
    let usage = crictl.json(&["imagefsinfo"]).await;
    let used = usage["status"]["imageFilesystems"][0]["usedBytes"]["value"].as_str().unwrap().parse::<u64>();
    assert!(used.unwrap() > 0, "{usage}");
}

/// The keys of `crictl inspectp`.
const POD_KEYS: [&str; 16] = [
    "pid",
    "processStatus",
    "netNamespaceClosed",
    "networkNamespace",
    "image",
    "runtimeHandler",
    "runtimeType",
    "runtimeOptions",
    "config",
    "runtimeSpec",
    "cniResult",
    "cgroup",
    "overhead",
    "resources",
    "limitedBy",
    "selinuxLevel",
];

/// Pods with and without a process of their own; the first goes on.
async fn of_pods(crictl: &Crictl<'_>) -> (String, String) {
    let node = crictl.node;
    let pod_config = crictl.pod_file("demo", 1);
    let pod = crictl.ok(&["runp", &pod_config]).await;
    node.remember(&pod);
    assert_eq!(crictl.ok(&["pods", "-q", "--no-trunc", "--name", "demo"]).await, pod);
    let inspected = crictl.json(&["inspectp", &pod]).await;
    let (status, info) = (&inspected["status"], &inspected["info"]);
    assert_keys("info", info, &POD_KEYS);
    assert_eq!((&info["pid"], &info["processStatus"]), (&json!(0), &json!("none")));
    assert_eq!((&info["netNamespaceClosed"], &info["runtimeType"]), (&json!(false), &json!(oci_runtime())));
    let runtime = info["runtimeOptions"]["path"].as_str().unwrap();
    assert!(fs::exists(runtime).unwrap(), "the runtime is not at {runtime}");
    assert_eq!(info["config"]["metadata"]["name"], "demo");
    assert_eq!(info["resources"]["linux"]["memory_limit_in_bytes"], 256 << 20);
    let eth0 = &info["cniResult"]["Interfaces"]["eth0"];
    assert_eq!(eth0["IPConfigs"][0]["IP"], status["network"]["ip"]);
    assert!(eth0["IPConfigs"][0]["Gateway"].as_str().unwrap().starts_with(&node.names.subnet), "{eth0}");
    assert_eq!(network_of(&info["runtimeSpec"]), info["networkNamespace"]);
    assert!(fs::exists(info["networkNamespace"].as_str().unwrap()).unwrap());
    (pod, pod_config)
}

/// What a script looks for that is to enter a pod's network.
fn network_of(spec: &Value) -> Value {
    let namespaces = spec["linux"]["namespaces"].as_array().unwrap();
    namespaces.iter().find(|namespace| namespace["type"] == "network").unwrap()["path"].clone()
}

async fn of_containers(crictl: &Crictl<'_>, pod: &str, container: &str) {
    assert_eq!(crictl.ok(&["ps", "-q", "--no-trunc"]).await, container);
    let inspected = crictl.json(&["inspect", container]).await;
    let info = &inspected["info"];
    let keys = [
        "sandboxID",
        "pid",
        "removing",
        "snapshotKey",
        "snapshotter",
        "runtimeType",
        "runtimeOptions",
        "privileged",
        "config",
        "runtimeSpec",
        "cgroup",
    ];
    assert_keys("info", info, &keys);
    assert_eq!((&info["sandboxID"], &info["snapshotKey"]), (&json!(pod), &json!(container)));
    assert_eq!((&info["snapshotter"], &info["runtimeType"]), (&json!("overlayfs"), &json!(oci_runtime())));
    assert_eq!((&info["removing"], &info["privileged"]), (&json!(false), &json!(false)));
    assert_eq!(info["config"]["metadata"]["name"], "shell");
    assert_eq!(info["runtimeSpec"]["process"]["args"][0], "/bin/sh");
    let pid = info["pid"].as_u64().unwrap();
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(command.starts_with("/bin/sh\0"), "the process {pid} is {command}");

    crictl.ok(&["update", "--cpu-share", "512", "--memory", &(64 << 20).to_string(), container]).await;
    let updated = crictl.json(&["inspect", container]).await;
    let limits = &updated["status"]["resources"]["linux"];
    assert_eq!(
        (&limits["cpuShares"], &limits["memoryLimitInBytes"]),
        (&json!("512"), &json!((64 << 20).to_string()))
    );
    let refused = crictl.fails(&["checkpoint", "--export", "/nowhere/checkpoint.tar", container]).await;
    assert!(refused.contains("Unimplemented") && refused.contains("CheckpointContainer"), "{refused}");
    assert!(!fs::exists("/nowhere").unwrap());
}

async fn of_streams(crictl: &Crictl<'_>, pod: &str, container: &str) {
    assert_eq!(crictl.ok(&["exec", container, "hostname"]).await, "demo");
    assert_eq!(crictl.ok(&["exec", "--sync", container, "hostname"]).await, "demo");
    let mut attached = crictl.spawn(&["attach", "-i", container]);
    let (mut stdin, mut stdout) = (attached.stdin.take().unwrap(), attached.stdout.take().unwrap());
    stdin.write_all(b"line\n").await.unwrap();
    let mut said = [0; 9];
    tokio::time::timeout(crate::common::PATIENCE, stdout.read_exact(&mut said)).await.unwrap().unwrap();
    assert_eq!(&said, b"got line\n");
    attached.kill().await.unwrap();
    let logged = || async {
        let logs = crictl.ok(&["logs", container]).await;
        (logs == "hello\ngot line").then_some(())
    };
    eventually("the log", logged).await;

    let port = free_port();
    let mut forwarding = crictl.spawn(&["port-forward", pod, &format!("{port}:8080")]);
    let answer = eventually("an answer through the forwarded port", || async {
        let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let mut text = String::new();
        socket.read_to_string(&mut text).await.ok()?;
        (!text.is_empty()).then_some(text)
    });
    assert_eq!(answer.await, "answer\n");
    forwarding.kill().await.unwrap();
}

async fn of_measures(crictl: &Crictl<'_>) {
    // What a writable layer takes is known when somebody has looked, in the background.
    let shell = eventually("stats with the writable layer", || async {
        let mut stats = crictl.json(&["stats", "-o", "json"]).await;
        let shell = stats["stats"][0].take();
        shell["writableLayer"].is_object().then_some(shell)
    })
    .await;
    assert_eq!(shell["attributes"]["metadata"]["name"], "shell");
    for path in ["/cpu/usageCoreNanoSeconds", "/memory/workingSetBytes"] {
        let value = shell.pointer(path).and_then(|number| number["value"].as_str()).map(str::parse::<u64>);
        assert!(value.is_some_and(|value| value.unwrap() > 0), "{path}: {shell}");
    }
    assert!(crictl.ok(&["stats"]).await.contains("shell"));
    let stats = crictl.json(&["statsp", "-o", "json"]).await;
    let demo = &stats["stats"][0];
    assert_eq!(demo["attributes"]["metadata"]["name"], "demo");
    assert_eq!(demo["linux"]["network"]["defaultInterface"]["name"], "eth0");
    assert_eq!(demo["linux"]["containers"][0]["attributes"]["metadata"]["name"], "shell");
    let metrics = crictl.json(&["metricsp", "-o", "json"]).await;
    let of_pod = &metrics["podMetrics"][0];
    assert!(!of_pod["containerMetrics"].as_array().unwrap().is_empty(), "{of_pod}");
    let described = crictl.json(&["metricdescs", "-o", "json"]).await;
    let described = described["descriptors"].as_array().unwrap();
    let named = |name: &Value| described.iter().any(|descriptor| descriptor["name"] == *name);
    assert!(of_pod["metrics"].as_array().unwrap().iter().all(|metric| named(&metric["name"])), "{of_pod}");
}

/// A pod whose containers share a PID namespace has a process; and everything goes again.
async fn the_end(crictl: &Crictl<'_>, image: &str, pod: &str, container: &str) {
    let pod_config = crictl.pod_file("shared", 0);
    let container_config = crictl.container_file("other", image, 0);
    let other = crictl.ok(&["run", &container_config, &pod_config]).await;
    let shared = crictl.json(&["inspect", &other]).await["info"]["sandboxID"].as_str().unwrap().to_owned();
    crictl.node.remember(&shared);
    let info = crictl.json(&["inspectp", &shared]).await["info"].clone();
    assert_eq!(info["processStatus"], "running");
    let command = fs::read_to_string(format!("/proc/{}/cmdline", info["pid"])).unwrap();
    assert!(command.starts_with("/pause\0"), "{command}");
    assert_eq!(info["runtimeSpec"]["process"]["args"][0], "/pause");
    assert_eq!(network_of(&info["runtimeSpec"]), info["networkNamespace"]);

    crictl.ok(&["stop", "--timeout", "20", container]).await;
    let info = crictl.json(&["inspect", container]).await["info"].clone();
    assert_eq!(info["pid"], 0, "a process that is no more has an ID");
    crictl.ok(&["rm", container]).await;
    crictl.ok(&["stopp", pod, &shared]).await;
    let info = crictl.json(&["inspectp", pod]).await["info"].clone();
    assert_eq!((&info["netNamespaceClosed"], &info["cniResult"]), (&json!(true), &Value::Null));
    crictl.ok(&["rmp", "--force", pod, &shared]).await;
    assert_eq!(crictl.ok(&["pods", "-q"]).await, "");
    assert_eq!(crictl.ok(&["ps", "-a", "-q"]).await, "");
    crictl.ok(&["rmi", image]).await;
    assert_eq!(crictl.ok(&["images", "-q"]).await, "");
}
