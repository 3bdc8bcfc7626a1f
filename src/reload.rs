//! SIGHUP: the configuration is read again. The log's level is set anew; of everything else that has changed is said that it
//! waits for a restart, because the rest of the daemon was made from what it was.

use anyhow::Context;
use podd::config::Config;
use podd::telemetry::Running;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Sources;

/// The one key that a reload changes.
const LEVEL: &str = "log_level";

/// Who waits for the signal.
pub(crate) struct Reloads {
    task: JoinHandle<Running>,
    stop: CancellationToken,
}

/// Reads the configuration again whenever the signal comes.
pub(crate) fn watch(sources: Sources, made_from: Config, telemetry: Running) -> anyhow::Result<Reloads> {
    let mut hangup = signal(SignalKind::hangup()).context("watching for SIGHUP")?;
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let task = tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = hangup.recv() => reload(sources.clone(), &made_from, &telemetry),
                () = stopping.cancelled() => return telemetry,
            }
        }
    });
    Ok(Reloads { task, stop })
}

impl Reloads {
    /// Ends the wait, and sends the last spans.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        if let Ok(telemetry) = self.task.await {
            let _ = tokio::task::spawn_blocking(move || telemetry.stop()).await;
        }
    }
}

fn reload(sources: Sources, made_from: &Config, telemetry: &Running) {
    let config = match sources.load() {
        Ok(config) => config,
        Err(error) => return tracing::error!("SIGHUP: the configuration in force stays: {error}"),
    };
    let level = serde_json::to_value(config.log_level).unwrap_or_default();
    // Said while the old level holds, and as a warning: it tells why lines are missing from here on.
    tracing::warn!("SIGHUP: the log's level is {} from here on", level.as_str().unwrap_or_default());
    telemetry.set_level(config.log_level);
    let changed = changed(made_from, &config);
    if !changed.is_empty() {
        tracing::warn!(keys = changed.join(", "), "SIGHUP: other keys have changed; restart podd for them");
    }
}

/// The keys, with their sections, whose values differ.
fn changed(old: &Config, new: &Config) -> Vec<String> {
    let mut keys = Vec::new();
    if let (Ok(old), Ok(new)) = (serde_json::to_value(old), serde_json::to_value(new)) {
        compare("", &old, &new, &mut keys);
    }
    keys.retain(|key| key != LEVEL);
    keys
}

fn compare(at: &str, old: &Value, new: &Value, keys: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let names: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
            for name in names {
                let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                let get =
                    |object: &serde_json::Map<String, Value>| object.get(name).cloned().unwrap_or_default();
                compare(&path, &get(old), &get(new), keys);
            }
        }
        (old, new) if old != new => keys.push(at.to_owned()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use podd::config::LogLevel;

    use super::*;

    #[test]
    fn what_has_changed_is_named_but_for_the_level() {
        let old = Config::defaults(Path::new("/a"), Path::new("/b"));
        let mut new = old.clone();
        assert!(changed(&old, &new).is_empty());
        new.log_level = LogLevel::Trace;
        assert!(changed(&old, &new).is_empty());
        new.metrics.socket = "/m".into();
        new.runtimes.remove("runc");
        new.abandoned_after_seconds += 1;
        let changed = changed(&old, &new);
        assert!(changed.contains(&"metrics.socket".to_owned()), "{changed:?}");
        assert!(changed.contains(&"abandoned_after_seconds".to_owned()), "{changed:?}");
        assert!(changed.iter().any(|key| key.starts_with("runtimes.runc")), "{changed:?}");
    }
}
