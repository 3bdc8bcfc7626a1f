//! Begins the log and the export of spans, and ends them.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use opentelemetry_otlp::ExporterBuildError;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::log::{Levels, Lines, is_ours};
use super::trace;
use crate::config::{Config, LogFormat, LogLevel};

/// How long the last spans may take to be sent.
const FLUSH: Duration = Duration::from_secs(3);

/// The log or the traces cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The journal does not listen.
    #[error("log_format = \"journald\", but nothing can be sent to {}; is it the journal's socket?", path.display())]
    Journal {
        /// Its socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The collector's address.
    #[error("tracing.endpoint: {0}")]
    Endpoint(String),
    /// What sends spans cannot be made.
    #[error("spans cannot be exported")]
    Exporter(#[from] ExporterBuildError),
}

/// The log and the traces of this process.
pub struct Running {
    levels: Levels,
    spans: Option<SdkTracerProvider>,
}

/// Begins both as configured; to be called once, within the async runtime.
pub fn start(config: &Config) -> Result<Running, StartError> {
    let lines = Lines::open(config.log_format, &config.journal_socket)
        .map_err(|source| StartError::Journal { path: config.journal_socket.clone(), source })?;
    let levels = Levels::new(config.log_level);
    let lines = lines.with_filter(levels.clone());
    if config.tracing.endpoint.is_empty() {
        tracing_subscriber::registry().with(lines).init();
        return Ok(Running { levels, spans: None });
    }
    let uri = config.tracing.uri().map_err(StartError::Endpoint)?;
    let (provider, tracer) = trace::open(&config.tracing, &uri)?;
    let spans = tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_threads(false)
        .with_location(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        // Stages are spans of the level "debug"; of the log's lines a trace has those that are worth it.
        .with_filter(
            FilterFn::new(|metadata| {
                let level = if metadata.is_span() { LevelFilter::DEBUG } else { LevelFilter::INFO };
                is_ours(metadata) && *metadata.level() <= level
            })
            .with_max_level_hint(LevelFilter::DEBUG),
        );
    tracing_subscriber::registry().with(lines).with(spans).init();
    Ok(Running { levels, spans: Some(provider) })
}

/// Begins a log as text, for a command.
pub fn start_plain(level: LogLevel) {
    if let Ok(lines) = Lines::open(LogFormat::Text, "".as_ref()) {
        tracing_subscriber::registry().with(lines.with_filter(Levels::new(level))).init();
    }
}

impl Running {
    /// Sets the least severe level that is logged.
    pub fn set_level(&self, level: LogLevel) {
        self.levels.set(level);
    }

    /// Sends the last spans. Blocks, for a bounded time.
    pub fn stop(self) {
        if let Some(spans) = self.spans
            && let Err(error) = spans.shutdown_with_timeout(FLUSH)
        {
            tracing::warn!("the last spans are lost: {error}");
        }
    }
}
