//! The log: from an event and the spans around it to one line, in one of three forms.
//!
//! ```text
//!  event ─┐                         ┌─► text.rs     standard error, for people
//!  spans ─┴─► Line (fields merged) ─┼─► text.rs     standard error, one JSON object
//!                                   └─► journal.rs  the journal's own protocol
//! ```
//!
//! A field of the event, or of an inner span, hides one of the same name further out, so each stands once. What a program
//! outside has written cannot begin a line of its own: control characters are escaped. A journal that does not
//! keep up is waited for 20 ms in a second, and no more.

mod journal;
mod line;
mod text;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::registry::LookupSpan;

use self::journal::Journal;
use self::line::{Fields, Line};
use crate::config::{LogFormat, LogLevel};
use crate::telemetry::metrics;

/// Where lines go.
pub(super) enum Lines {
    Text { colours: bool },
    Json,
    Journal(Journal),
}

impl Lines {
    /// As configured; `auto` is decided here.
    pub(super) fn open(format: LogFormat, journal: &Path) -> std::io::Result<Self> {
        let text = || Self::Text { colours: std::io::stderr().is_terminal() };
        match format {
            LogFormat::Text => Ok(text()),
            LogFormat::Json => Ok(Self::Json),
            LogFormat::Journald => Journal::open(journal).map(Self::Journal),
            LogFormat::Auto if journal::has_stderr() => {
                Ok(Journal::open(journal).map_or_else(|_| text(), Self::Journal))
            }
            LogFormat::Auto => Ok(text()),
        }
    }

    fn write(&self, line: &Line<'_>) {
        match self {
            Self::Text { colours } => to_stderr(&text::text(line, *colours)),
            Self::Json => to_stderr(&text::json(line)),
            Self::Journal(journal) => match journal.send(line) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => metrics().log_line_lost(),
                Err(_) => to_stderr(&text::text(line, false)),
            },
        }
    }
}

/// One write, so that lines of several threads do not mix.
fn to_stderr(line: &str) {
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().replace(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.add_missing(outer);
            }
        }
        self.write(&Line::new(event.metadata(), fields));
    }
}

/// The least severe level that is logged, which may change while the daemon runs.
#[derive(Debug, Clone)]
pub(super) struct Levels(Arc<AtomicU8>);

impl Levels {
    pub(super) fn new(level: LogLevel) -> Self {
        Self(Arc::new(AtomicU8::new(level as u8)))
    }

    pub(super) fn set(&self, level: LogLevel) {
        self.0.store(level as u8, Ordering::Relaxed);
        tracing::callsite::rebuild_interest_cache();
    }

    fn level(&self) -> LevelFilter {
        match self.0.load(Ordering::Relaxed) {
            0 => LevelFilter::ERROR,
            1 => LevelFilter::WARN,
            2 => LevelFilter::INFO,
            3 => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        }
    }

    /// Libraries have their say from warnings on: what HTTP/2 does frame by frame is nobody's business here.
    fn allow(&self, metadata: &Metadata<'_>) -> bool {
        let level = self.level();
        *metadata.level() <= if is_ours(metadata) { level } else { level.min(LevelFilter::WARN) }
    }
}

/// Whether podd itself says it.
pub(super) fn is_ours(metadata: &Metadata<'_>) -> bool {
    metadata.target().split("::").next() == Some("podd")
}

impl<S> Filter<S> for Levels {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        self.allow(metadata)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.allow(metadata) { Interest::always() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::time::Duration;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn the_journal_gets_fields_of_spans_and_levels_change_while_it_runs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let journal = UnixDatagram::bind(&path).unwrap();
        journal.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let levels = Levels::new(LogLevel::Info);
        let lines = Lines::open(LogFormat::Journald, &path).unwrap();
        let subscriber = tracing_subscriber::registry().with(lines.with_filter(levels.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("pod", pod = "p1", container = "outer");
            let _entered = span.enter();
            tracing::debug!("not yet");
            tracing::info!(container = "c1", code = 7, "two\nlines");
            levels.set(LogLevel::Debug);
            tracing::debug!("now");
            levels.set(LogLevel::Warn);
            tracing::info!("not any more");
            tracing::warn!("last");
        });
        let received = || {
            let mut bytes = [0; 4096];
            let length = journal.recv(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes[..length]).into_owned()
        };
        let first = received();
        assert!(first.contains("MESSAGE\n\u{9}\0\0\0\0\0\0\0two\nlines\n"), "{first:?}");
        for line in ["PRIORITY=6", "SYSLOG_IDENTIFIER=podd", "POD=p1", "CONTAINER=c1", "CODE=7"] {
            assert!(first.lines().any(|found| found == line), "{line} is not in {first:?}");
        }
        assert!(!first.contains("outer"), "{first:?}");
        assert!(received().contains("MESSAGE=now\nPRIORITY=7\n"));
        assert!(received().contains("MESSAGE=last\nPRIORITY=4\n"));
    }
}
