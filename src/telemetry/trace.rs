//! Traces: spans of this process, sent to a collector by OTLP over gRPC.
//!
//! A batch is sent at most every [`DELAY`]; what a full queue does not hold is dropped, and a collector that cannot be reached
//! costs its batches, which are counted, and a warning now and then. Whether an operation is traced is decided by its caller,
//! where that sends a `traceparent` (W3C Trace Context), as the kubelet does; else by the sampling rate.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{Span as _, Tracer, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, SpanData, SpanExporter,
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::metrics::metrics;
use crate::config::TracingConfig;

/// The time from a span's end to its export.
const DELAY: Duration = Duration::from_secs(2);
/// How many ended spans wait for it.
const QUEUE: usize = 4096;
/// How many of them go at once.
const BATCH: usize = 512;
/// How long one export may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is said that exports fail.
const COMPLAINT: Duration = Duration::from_secs(60);

/// There once spans are exported.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Begins to export spans; to be called once, within the async runtime, which carries the connection.
pub(super) fn open(
    config: &TracingConfig,
    uri: &http::Uri,
) -> Result<(SdkTracerProvider, SdkTracer), ExporterBuildError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(uri.to_string())
        .with_timeout(PATIENCE)
        .build()?;
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(QUEUE)
        .with_max_export_batch_size(BATCH)
        .with_scheduled_delay(DELAY)
        .build();
    let exporter = Reporting { exporter, complained: Mutex::default() };
    let rate = config.sampling_rate_per_million as f64 / 1e6;
    let resource = Resource::builder_empty()
        .with_service_name("podd")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new(
            "host.name",
            rustix::system::uname().nodename().to_string_lossy().into_owned(),
        ))
        .build();
    let provider = SdkTracerProvider::builder()
        .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(rate))))
        .with_resource(resource)
        .build();
    let tracer = provider.tracer("podd");
    let _ = TRACER.set(tracer.clone());
    Ok((provider, tracer))
}

/// Makes a span part of the trace that a request's headers name.
pub fn continue_from(span: &Span, headers: &HeaderMap) {
    if TRACER.get().is_some() && headers.contains_key("traceparent") {
        let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers));
        // It fails where the span is not traced, and then there is nothing to be part of.
        let _ = span.set_parent(parent);
    }
}

/// A span within another that was over before anybody knew of it.
pub(super) fn past(parent: &Span, name: &'static str, object: &str, started_at: i64, took: Duration) {
    let Some(tracer) = TRACER.get() else { return };
    let start = UNIX_EPOCH + Duration::from_nanos(u64::try_from(started_at).unwrap_or_default());
    let mut span = tracer
        .span_builder(name)
        .with_start_time(start)
        .with_attributes([KeyValue::new("object", object.to_owned())])
        .start_with_context(tracer, &parent.context());
    span.end_with_timestamp(start + took);
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(|name| name.as_str()).collect()
    }
}

/// An exporter whose failures are counted, and told now and then.
#[derive(Debug)]
struct Reporting {
    exporter: opentelemetry_otlp::SpanExporter,
    // Held to read or set the time of the last complaint.
    complained: Mutex<Option<Instant>>,
}

impl Reporting {
    fn report(&self, error: &dyn std::error::Error) {
        metrics().span_batch_lost();
        let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        if complained.is_none_or(|last| last.elapsed() >= COMPLAINT) {
            *complained = Some(Instant::now());
            drop(complained);
            tracing::warn!("spans are lost: the collector does not take them: {}", super::chain(error));
        }
    }
}

impl SpanExporter for Reporting {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.exporter.export(batch).await.inspect_err(|error| self.report(error))
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
