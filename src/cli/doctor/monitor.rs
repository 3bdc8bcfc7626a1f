//! The monitor's binary, without which no container starts.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use podd::config::Config;
use podd::monitor::speaks;
use podd::pod::{monitor_path, needs_linker};
use tokio::process::Command;
use tokio::time::timeout;

use super::finding::{Check, whole};

/// It prints a line.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was seen of it.
#[derive(Debug, Clone)]
pub(super) enum Monitor {
    Missing(String),
    Found {
        path: PathBuf,
        /// What it says of its version, or why it does not.
        version: Result<String, String>,
        /// Whether it needs libraries of the node.
        dynamic: bool,
    },
}

/// Looks at it.
pub(super) async fn observe(config: &Config) -> Monitor {
    match monitor_path(config) {
        Err(error) => Monitor::Missing(whole(&error)),
        Ok(path) => {
            let version = version(&path).await;
            let dynamic = needs_linker(&path).unwrap_or(false);
            Monitor::Found { path, version, dynamic }
        }
    }
}

async fn version(path: &Path) -> Result<String, String> {
    let found = path.metadata().map_err(|e| e.to_string())?;
    if found.permissions().mode() & 0o111 == 0 {
        return Err("it is not executable".to_owned());
    }
    let mut command = Command::new(path);
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    match timeout(PATIENCE, command.output()).await {
        Err(_) => Err(format!("{} --version did not end within {} s", path.display(), PATIENCE.as_secs())),
        Ok(Err(e)) => Err(e.to_string()),
        Ok(Ok(output)) => Ok(String::from_utf8_lossy(&output.stdout).trim().chars().take(200).collect()),
    }
}

/// Judges it.
pub(super) fn checks(monitor: &Monitor) -> Vec<Check> {
    const ID: &str = "monitor.binary";
    let (path, version, dynamic) = match monitor {
        Monitor::Missing(why) => {
            return vec![Check::problem(
                ID,
                why.clone(),
                "install podd-monitor beside podd, or set monitor.path",
            )];
        }
        Monitor::Found { path, version, dynamic } => (path.display(), version, dynamic),
    };
    let binary = match version.as_ref().map(|line| (line, speaks(line))) {
        Err(why) => Check::problem(ID, format!("{path}: {why}"), "install the podd-monitor of this podd"),
        Ok((line, Err(why))) => Check::problem(
            ID,
            format!("{path} says {line:?}: {why}"),
            "install the podd-monitor of this podd",
        ),
        Ok((line, Ok(()))) => Check::ok(ID, format!("{line} at {path}")),
    };
    let linking = match dynamic {
        false => Check::ok("monitor.linking", "static"),
        true => Check::warning(
            "monitor.linking",
            "it needs libraries of the node: pods that share a PID namespace cannot be run",
            "install the one that contrib/build.sh builds",
        ),
    };
    vec![binary, linking]
}

#[cfg(test)]
mod tests {
    use super::super::finding::Outcome;
    use super::*;

    fn outcomes(monitor: &Monitor) -> Vec<Outcome> {
        checks(monitor).iter().map(|check| check.outcome).collect()
    }

    fn found(version: Result<&str, &str>, dynamic: bool) -> Monitor {
        let version = version.map(str::to_owned).map_err(str::to_owned);
        Monitor::Found { path: "/usr/bin/podd-monitor".into(), version, dynamic }
    }

    #[test]
    fn a_monitor_must_be_there_answer_and_speak_the_protocol() {
        use Outcome::{Ok as Fine, Problem, Warning};
        let protocol = podd::monitor::protocol::VERSION;
        let good = format!("podd-monitor 0.1.0 (protocol {protocol})");
        assert_eq!(outcomes(&found(Ok(&good), false)), [Fine, Fine]);
        assert_eq!(outcomes(&found(Ok(&good), true)), [Fine, Warning]);
        let other = format!("podd-monitor 9.0.0 (protocol {}.0)", protocol.major + 1);
        assert_eq!(outcomes(&found(Ok(&other), false))[0], Problem);
        assert_eq!(outcomes(&found(Ok("hello"), false))[0], Problem);
        assert_eq!(outcomes(&found(Err("not executable"), false))[0], Problem);
        assert_eq!(outcomes(&Monitor::Missing("not there".into())), [Problem]);
    }
}
