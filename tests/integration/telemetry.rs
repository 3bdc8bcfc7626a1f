//! What operators see: timelines, metrics, traces, the log.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::trace::v1::Span;
use podd::api;
use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tonic::{Request, Response, Status};

use crate::common::requests::Pod;
use crate::common::{ContainerSpec, Node, PodSpec, eventually, free_port};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One scrape by hand: the head and the body.
async fn get(mut to: impl AsyncRead + AsyncWrite + Unpin, line: &str, accept: &str) -> (String, String) {
    let request = format!("{line} HTTP/1.1\r\nHost: podd\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
    to.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    to.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_lowercase(), body.to_owned())
}

async fn scrape(port: u16) -> String {
    let (head, body) =
        get(TcpStream::connect(("127.0.0.1", port)).await.unwrap(), "GET /metrics", "*/*").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    body
}

/// The value of a series, by the beginning of its line up to the value.
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{series} is not in\n{text}")).trim().parse().unwrap()
}

async fn timeline(node: &mut Node, pod: &str) -> Vec<Value> {
    let request = api::PodSandboxStatusRequest { pod_sandbox_id: pod.to_owned(), verbose: true };
    let info = node.runtime.pod_sandbox_status(request).await.unwrap().into_inner().info;
    serde_json::from_str(&info["timeline"]).unwrap()
}

#[tokio::test]
async fn a_pods_timeline_tells_where_the_time_of_its_start_went() {
    let mut node = Node::start().await;
    let began = podd::pod::now();
    let pod = node.run_pod(PodSpec::new(&node, "timed")).await;
    node.run(&pod, ContainerSpec::waiting("c")).await;
    let broken = ContainerSpec::waiting("broken").with(|config| config.command = vec!["/no/such".to_owned()]);
    node.try_create(&pod, broken).await.unwrap_err();
    let ended = podd::pod::now();
    let entries = timeline(&mut node, &pod.id).await;
    let find = |stage: &str| {
        let found = entries.iter().find(|entry| entry["stage"] == stage);
        found.unwrap_or_else(|| panic!("{stage} is not in {entries:#?}"))
    };
    for stage in [
        "writing the files",
        "making the namespaces",
        "running CNI ADD",
        "setting up the network",
        "making the writable layer",
        "starting the monitor",
        "mounting the root filesystem",
        "running the runtime's create",
        "creating the container with its runtime",
        "starting the container with its runtime",
    ] {
        let (start, took) =
            (find(stage)["startedAt"].as_i64().unwrap(), find(stage)["durationNanos"].as_i64());
        assert!(began <= start && start + took.unwrap() <= ended, "{stage}: {:?}", find(stage));
        assert!(find(stage)["object"].as_str().is_some_and(|object| !object.is_empty()));
    }
    let plugins = entries.iter().filter(|entry| entry["stage"] == "running CNI ADD");
    assert_eq!(plugins.map(|entry| entry["object"].clone()).next().unwrap(), "bridge");
    let of = |stage: &str| {
        let start = find(stage)["startedAt"].as_i64().unwrap();
        start..=start + find(stage)["durationNanos"].as_i64().unwrap()
    };
    let whole = of("creating the container with its runtime");
    for inner in ["starting the monitor", "mounting the root filesystem", "running the runtime's create"] {
        let inner = of(inner);
        assert!(
            whole.contains(inner.start()) && whole.contains(inner.end()),
            "{inner:?} is not in {whole:?}"
        );
    }
    let failed: Vec<_> = entries.iter().filter(|entry| entry.get("error").is_some()).collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(failed[0]["error"].as_str().unwrap().contains("/no/such"), "{failed:?}");
    node.restart().await;
    assert!(timeline(&mut node, &pod.id).await.is_empty(), "it is of one daemon");
    node.finish().await;
}

/// Names in the first column of the document's tables, without what labels add.
fn documented() -> BTreeSet<String> {
    let document = fs::read_to_string("docs/metrics.md").unwrap();
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `podd_"));
    rows.map(|row| format!("podd_{}", row.split('`').next().unwrap())).collect()
}

/// The families of a scrape, as its TYPE lines name them.
fn families(text: &str) -> BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

/// Lets happen whatever is counted only when it happens.
async fn have_everything_happen(node: &mut Node) -> Pod {
    let pod = node.run_pod(PodSpec::new(node, "counted")).await;
    let id = node.run(&pod, ContainerSpec::waiting("c")).await;
    node.exec_ok(&id, "true").await;
    node.crictl_ok(&["exec", &id, "true"]).await;
    let code = node.run_to_end(&pod, ContainerSpec::script("short", "exit 3")).await.0;
    assert_eq!(code, 3);
    node.exec("no-such-container", "true", 1).await.unwrap_err();
    node.pull("127.0.0.1:1/none:1").await.unwrap_err();
    fs::write(
        node.names.cni_conf_dir().join("10-podd-test.conflist"),
        r#"{"cniVersion":"1.0.0","name":"broken","plugins":[{"type":"tuning"}]}"#,
    )
    .unwrap();
    node.try_run_pod(&PodSpec::new(node, "unconnected")).await.unwrap_err();
    node.names.write_cni_conf();
    pod
}

#[tokio::test]
async fn a_scrape_has_all_that_is_documented_and_nothing_else() {
    let port = free_port();
    let mut node = Node::start_with(&format!("metrics.address = \"127.0.0.1:{port}\"\n")).await;
    // A writable layer whose container is gone, for the next daemon to find.
    node.kill9();
    let orphan = node.names.root().join("containers").join("0".repeat(64));
    fs::create_dir_all(orphan.join("upper")).unwrap();
    node.start_again().await;
    have_everything_happen(&mut node).await;
    let text = scrape(port).await;
    // What docs/observability.md shows a part of: --nocapture has it.
    println!("{text}");
    assert_eq!(families(&text), documented(), "docs/metrics.md (right) is not what is scraped (left)");
    for (series, at_least) in [
        ("podd_cri_operation_seconds_count{rpc=\"RunPodSandbox\"}", 2.0),
        ("podd_cri_operation_errors_total{rpc=\"ExecSync\",code=\"NOT_FOUND\"}", 1.0),
        ("podd_stage_seconds_count{stage=\"making the namespaces\"}", 2.0),
        ("podd_stage_seconds_count{stage=\"mounting the root filesystem\"}", 2.0),
        ("podd_stage_errors_total{stage=\"setting up the network\"}", 1.0),
        ("podd_cni_plugin_seconds_count{plugin=\"bridge\",command=\"ADD\"}", 1.0),
        ("podd_cni_plugin_errors_total{plugin=\"tuning\",command=\"ADD\"}", 1.0),
        ("podd_pulls_total{result=\"succeeded\"}", 1.0),
        ("podd_pull_errors_total{kind=\"unavailable\"}", 1.0),
        ("podd_pull_layers_total{origin=\"fetched\"}", 1.0),
        ("podd_pull_bytes_total", 1000.0),
        ("podd_unpacked_bytes_total", 1000.0),
        ("podd_pull_retries_total", 1.0),
        ("podd_pods{state=\"ready\"}", 1.0),
        ("podd_containers{state=\"running\"}", 1.0),
        ("podd_containers{state=\"exited\"}", 1.0),
        ("podd_monitors{state=\"alive\"}", 1.0),
        ("podd_container_exits_total{reason=\"Error\"}", 1.0),
        ("podd_leaks_found_total{kind=\"writable_layer\"}", 1.0),
        ("podd_leaks_repaired_total{kind=\"writable_layer\"}", 1.0),
        ("podd_streaming_sessions_begun_total{kind=\"exec\"}", 1.0),
        ("podd_images", 1.0),
        ("podd_image_store_bytes", 1000.0),
        ("podd_process_open_fds", 5.0),
        ("podd_process_threads", 2.0),
        ("podd_process_resident_memory_bytes", 1e6),
        ("podd_process_start_time_seconds", 1e9),
    ] {
        assert!(value(&text, series) >= at_least, "{series} is {}", value(&text, series));
    }
    for series in
        ["podd_cri_operations_in_flight{rpc=\"RunPodSandbox\"}", "podd_queue_length{queue=\"undo\"}"]
    {
        assert_eq!(value(&text, series), 0.0, "{series}");
    }
    let dashboard = fs::read_to_string("contrib/grafana/podd.json").unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let mut named = BTreeSet::new();
    metrics_in(&dashboard, &mut named);
    assert!(named.len() > 20, "{named:?}");
    let there: BTreeSet<_> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let unknown: Vec<_> = named.iter().filter(|name| !there.contains(name.as_str())).collect();
    assert!(unknown.is_empty(), "the dashboard names {unknown:?}, which no scrape has");
    node.finish().await;
}

/// The names in the queries of a dashboard.
fn metrics_in(value: &Value, named: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(query) if key == "expr" || key == "query" => {
                        let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                        named.extend(words.filter(|word| word.starts_with("podd_")).map(str::to_owned));
                    }
                    other => metrics_in(other, named),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| metrics_in(value, named)),
        _ => {}
    }
}

#[tokio::test]
async fn metrics_are_served_on_a_socket_and_over_tls_and_only_there() {
    let (port, dir) = (free_port(), tempfile::tempdir().unwrap());
    certificate(dir.path());
    let (cert, key, socket) =
        (dir.path().join("cert.pem"), dir.path().join("key.pem"), dir.path().join("metrics.sock"));
    let mut node = Node::start_configured(&format!(
        "[metrics]\naddress = \"127.0.0.1:{port}\"\nsocket = \"{}\"\ntls_cert = \"{}\"\ntls_key = \"{}\"\n",
        socket.display(),
        cert.display(),
        key.display()
    ))
    .await;
    let unix = || async { UnixStream::connect(&socket).await.unwrap() };
    let (head, body) = get(unix().await, "GET /metrics", "*/*").await;
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("podd_build_info{") && !body.contains("# EOF"), "{body}");
    let accept = format!("{OPENMETRICS};q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1");
    let (head, body) = get(unix().await, "GET /metrics", &accept).await;
    assert!(head.contains(&format!("content-type: {OPENMETRICS}")), "{head}");
    assert!(body.ends_with("# EOF\n"), "{body}");
    for (line, status) in
        [("GET /", "404"), ("GET /metrics/x", "404"), ("POST /metrics", "405"), ("DELETE /metrics", "405")]
    {
        let (head, _) = get(unix().await, line, "*/*").await;
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{line}: {head}");
    }
    for _ in 0..2 {
        let certificate_now = fs::read(&cert).unwrap();
        let (_, body) = get(tls(port, &certificate_now).await.unwrap(), "GET /metrics", "*/*").await;
        assert!(body.contains("podd_build_info{"), "{body}");
        certificate(dir.path());
        assert!(tls(port, &certificate_now).await.is_err(), "the old certificate is still shown");
    }
    node.terminate().await;
    assert!(!socket.exists(), "the socket outlives the daemon");
    node.start_again().await;
    node.finish().await;
}

/// A certificate that is its own authority and that of a server, as strict verifiers want it.
fn certificate(dir: &Path) {
    let config = "[req]\ndistinguished_name=dn\nx509_extensions=ext\nprompt=no\n[dn]\nCN=localhost\n\
                  [ext]\nsubjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n";
    fs::write(dir.join("req.conf"), config).unwrap();
    let mut openssl = std::process::Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    openssl.args(["-days", "2", "-config"]).arg(dir.join("req.conf"));
    openssl.arg("-keyout").arg(dir.join("key.pem")).arg("-out").arg(dir.join("cert.pem"));
    assert!(openssl.stderr(std::process::Stdio::null()).status().unwrap().success());
}

async fn tls(port: u16, root: &[u8]) -> std::io::Result<impl AsyncRead + AsyncWrite + Unpin + use<>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(root).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), socket).await
}

#[tokio::test]
async fn idle_connections_do_not_keep_scrapers_out_for_long() {
    let port = free_port();
    let node = Node::start_with(&format!("metrics.address = \"127.0.0.1:{port}\"\n")).await;
    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.push(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    }
    eventually("a scrape in spite of clients that say nothing", || async {
        let socket = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let mut socket = socket;
        socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.ok()?;
        answer.contains("podd_build_info").then_some(())
    })
    .await;
    drop(idle);
    node.finish().await;
}

/// A collector that keeps what it is sent.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let spans = request.into_inner().resource_spans;
        let spans = spans.into_iter().flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans);
        self.0.lock().unwrap().extend(spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> (Self, u16) {
        let (collector, port) = (Self::default(), free_port());
        let service = TraceServiceServer::new(collector.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve(([127, 0, 0, 1], port).into()));
        (collector, port)
    }

    fn spans(&self) -> BTreeMap<String, Span> {
        self.0.lock().unwrap().iter().map(|span| (span.name.clone(), span.clone())).collect()
    }
}

#[tokio::test]
async fn the_kubelets_trace_goes_on_through_every_stage_of_a_pods_start() {
    let (collector, port) = Collector::start().await;
    let mut node = Node::start_configured(&format!("[tracing]\nendpoint = \"127.0.0.1:{port}\"\n")).await;
    let spec = PodSpec::new(&node, "traced");
    let (trace, caller) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let run = api::RunPodSandboxRequest { config: Some(spec.0.clone()), runtime_handler: String::new() };
    let mut request = Request::new(run);
    request.metadata_mut().insert("traceparent", format!("00-{trace}-{caller}-01").parse().unwrap());
    let id = node.runtime.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
    node.remember(&id);
    let pod = Pod { id, config: spec.0 };
    // Without a caller's decision nothing is traced, because the rate is zero.
    node.run(&pod, ContainerSpec::waiting("untraced")).await;
    let spans = eventually("the spans of RunPodSandbox", || async {
        let spans = collector.spans();
        spans.contains_key("RunPodSandbox").then_some(spans)
    })
    .await;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let rpc = &spans["RunPodSandbox"];
    assert_eq!(hex(&rpc.parent_span_id), caller);
    for span in spans.values() {
        assert_eq!(hex(&span.trace_id), trace, "{}", span.name);
        assert!(span.start_time_unix_nano >= rpc.start_time_unix_nano, "{}", span.name);
        assert!(span.end_time_unix_nano <= rpc.end_time_unix_nano, "{}", span.name);
    }
    let parent = |name: &str| {
        let span = spans.get(name).unwrap_or_else(|| panic!("{name} is not in {:?}", spans.keys()));
        spans.values().find(|other| other.span_id == span.parent_span_id).map(|other| other.name.clone())
    };
    assert_eq!(parent("pod").as_deref(), Some("RunPodSandbox"));
    for stage in ["writing the files", "making the namespaces", "setting up the network"] {
        assert_eq!(parent(stage).as_deref(), Some("pod"), "{stage}");
    }
    assert_eq!(parent("running CNI ADD").as_deref(), Some("setting up the network"));
    assert!(!spans.contains_key("CreateContainer"), "{:?}", spans.keys());
    node.finish().await;
}

/// Prints a span and what is within it: beginning and duration in milliseconds, name, object.
fn show(all: &[Span], span: &Span, zero: u64, depth: usize) {
    let milliseconds = |nanos: u64| nanos as f64 / 1e6;
    let text = |key: &str| {
        let value = span.attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?;
        match value.value.as_ref()? {
            any_value::Value::StringValue(text) => Some(text.clone()),
            _ => None,
        }
    };
    let (start, end) = (span.start_time_unix_nano, span.end_time_unix_nano);
    println!(
        "{:8.2} {:8.2}  {:indent$}{}  {}",
        milliseconds(start.saturating_sub(zero)),
        milliseconds(end - start),
        "",
        span.name,
        text("object").unwrap_or_default(),
        indent = depth * 2
    );
    let mut inner: Vec<_> = all.iter().filter(|other| other.parent_span_id == span.span_id).collect();
    inner.sort_by_key(|span| span.start_time_unix_nano);
    for span in inner {
        show(all, span, zero, depth + 1);
    }
}

#[tokio::test]
async fn a_sampled_start_is_traced_down_to_the_runtime_and_flushed_at_the_end() {
    let (collector, port) = Collector::start().await;
    let mut node = Node::start_configured(&format!(
        "[tracing]\nendpoint = \"http://127.0.0.1:{port}\"\nsampling_rate_per_million = 1000000\n"
    ))
    .await;
    let pod = node.run_pod(PodSpec::new(&node, "traced")).await;
    node.run(&pod, ContainerSpec::waiting("c")).await;
    assert!(node.terminate().await.success());
    let spans = collector.spans();
    for name in
        ["CreateContainer", "StartContainer", "mounting the root filesystem", "running the runtime's create"]
    {
        assert!(spans.contains_key(name), "{name} is not in {:?}", spans.keys());
    }
    // What docs/observability.md shows: --nocapture has it.
    let all = collector.0.lock().unwrap().clone();
    for rpc in ["RunPodSandbox", "CreateContainer", "StartContainer"] {
        show(&all, &spans[rpc], spans[rpc].start_time_unix_nano, 0);
    }
    let create = &spans["creating the container with its runtime"];
    assert_eq!(spans["mounting the root filesystem"].parent_span_id, create.span_id);
    node.start_again().await;
    node.finish().await;
}

#[tokio::test]
async fn a_collector_that_is_not_there_costs_a_warning() {
    let port = free_port();
    let mut node = Node::start_configured(&format!(
        "[tracing]\nendpoint = \"127.0.0.1:1\"\nsampling_rate_per_million = 1000000\n\
         [metrics]\naddress = \"127.0.0.1:{port}\"\n"
    ))
    .await;
    node.run_pod(PodSpec::new(&node, "untraceable")).await;
    let client = node.runtime.clone();
    eventually("several batches that are lost", || {
        let mut client = client.clone();
        async move {
            client.version(api::VersionRequest::default()).await.unwrap();
            (value(&scrape(port).await, "podd_span_batches_lost_total") >= 3.0).then_some(())
        }
    })
    .await;
    assert_eq!(node.log().matches("spans are lost").count(), 1, "{}", node.log());
    node.finish().await;
}

fn hang_up(node: &Node) {
    let pid = i32::try_from(node.daemon_pid()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::HUP).unwrap();
}

fn set(node: &Node, text: &str) {
    let drop_ins = node.names.config_file().with_extension("toml.d");
    fs::create_dir_all(&drop_ins).unwrap();
    fs::write(drop_ins.join("99-level.toml"), text).unwrap();
}

#[tokio::test]
async fn sighup_sets_the_level_and_says_what_waits_for_a_restart() {
    let mut node = Node::start_configured("").await;
    let said = async |words: &'static str, node: &Node| {
        eventually(words, || async { node.log().contains(words).then_some(()) }).await;
    };
    set(&node, "log_level = \"warn\"\nabandoned_after_seconds = 1000\n");
    hang_up(&node);
    said("the log's level is warn from here on", &node).await;
    said("keys=abandoned_after_seconds", &node).await;
    node.run_pod(PodSpec::new(&node, "silent")).await;
    assert!(!node.log().contains("pod is ready"), "{}", node.log());
    set(&node, "log_level = \"nonsense\"\n");
    hang_up(&node);
    said("the configuration in force stays", &node).await;
    set(&node, "log_level = \"debug\"\n");
    hang_up(&node);
    said("the log's level is debug from here on", &node).await;
    node.run_pod(PodSpec::new(&node, "loud")).await;
    said("pod is ready", &node).await;
    said("stage=\"making the namespaces\"", &node).await;
    node.finish().await;
}

/// What comes to a journal, until it is to stop; then nothing listens there any more.
fn read_journal(
    journal: UnixDatagram,
    lines: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
) -> std::thread::JoinHandle<()> {
    journal.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    std::thread::spawn(move || {
        let mut bytes = vec![0; 256 << 10];
        while !stop.load(Ordering::Relaxed) {
            if let Ok(length) = journal.recv(&mut bytes) {
                lines.lock().unwrap().push(String::from_utf8_lossy(&bytes[..length]).into_owned());
            }
        }
    })
}

#[tokio::test]
async fn the_journal_gets_the_pod_and_the_container_of_each_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let (lines, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
    let journal = read_journal(UnixDatagram::bind(&path).unwrap(), Arc::clone(&lines), Arc::clone(&stop));
    let mut node =
        Node::start_with(&format!("log_format = \"journald\"\njournal_socket = \"{}\"\n", path.display()))
            .await;
    let pod = node.run_pod(PodSpec::new(&node, "journalled")).await;
    let container = node.run(&pod, ContainerSpec::waiting("c")).await;
    let (of_pod, of_container) = (format!("\nPOD={}\n", pod.id), format!("\nCONTAINER={container}\n"));
    let lines = || lines.lock().unwrap().clone();
    let has = |words: &[&str]| lines().iter().any(|line| words.iter().all(|word| line.contains(word)));
    // The last one; the thread that reads may be behind.
    let last = ["MESSAGE=container is started\n", &of_pod, &of_container];
    eventually("the container's line in the journal", || async { has(&last).then_some(()) }).await;
    assert!(
        has(&["MESSAGE=pod is ready\n", "PRIORITY=6\n", "SYSLOG_IDENTIFIER=podd\n", &of_pod]),
        "{:#?}",
        lines()
    );
    assert!(
        has(&["STAGE=making the namespaces\n", &of_pod]),
        "a stage's line has the span's pod: {:#?}",
        lines()
    );
    assert!(has(&["STAGE=running CNI ADD\n", "OBJECT=bridge\n", &of_pod]), "{:#?}", lines());
    assert!(node.log().is_empty(), "{}", node.log());
    // A journal that went away does not hold the daemon up; what it does not take goes to standard error.
    stop.store(true, Ordering::Relaxed);
    journal.join().unwrap();
    fs::remove_file(&path).unwrap();
    node.stop_pod(&pod.id).await;
    assert!(node.log().contains("pod is stopped"), "{}", node.log());
    node.finish().await;
}

#[tokio::test]
async fn json_is_one_object_per_line() {
    let mut node = Node::start_with("log_format = \"json\"\n").await;
    let pod = node.run_pod(PodSpec::new(&node, "structured")).await;
    let log = node.log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ready = lines.iter().find(|line| line["message"] == "pod is ready").unwrap();
    assert_eq!((&ready["pod"], &ready["level"]), (&Value::from(pod.id), &Value::from("info")));
    node.finish().await;
}

#[test]
fn the_unit_reloads_by_the_signal() {
    let unit = fs::read_to_string("contrib/systemd/podd.service").unwrap();
    assert!(unit.lines().any(|line| line == "ExecReload=/bin/kill -HUP $MAINPID"), "{unit}");
    assert!(Path::new("/bin/kill").exists());
}
