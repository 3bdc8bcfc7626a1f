//! Plugins that an earlier daemon started and did not live to see the end of.
//!
//! A killed daemon's ADD goes on without it. A DEL beside it would undo half and let the ADD finish the rest, so the ADD
//! has to be over first. A plugin, and whatever it runs, is known by its environment: it names the pod.

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use crate::id::PodId;

/// How long a plugin may go on before it is killed; one takes some 50 ms.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a killed one may take to be gone.
const DYING: Duration = Duration::from_secs(2);
/// How often they are looked for.
const PAUSE: Duration = Duration::from_millis(5);

/// What stands before the pod's ID in a plugin's environment (CNI specification, section 3, "Parameters").
const VARIABLE: &[u8] = b"CNI_CONTAINERID=";

/// Returns when no plugin runs for any of these pods. One that takes too long is killed; DEL then cleans up after it.
pub(super) async fn settled(pods: &HashSet<PodId>) {
    if pods.is_empty() {
        return;
    }
    let began = Instant::now();
    loop {
        let running = running(pods);
        if running.is_empty() {
            return;
        }
        if began.elapsed() > PATIENCE + DYING {
            tracing::error!(?running, "plugins of an earlier daemon cannot be killed");
            return;
        }
        if began.elapsed() > PATIENCE {
            tracing::warn!(?running, "killing plugins of an earlier daemon");
            for pid in running.into_iter().filter_map(Pid::from_raw) {
                // Gone already is as good; the next look tells.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        sleep(PAUSE).await;
    }
}

/// The processes whose environment names one of these pods.
fn running(pods: &HashSet<PodId>) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let names_a_pod = |variable: &[u8]| {
        let id = variable.strip_prefix(VARIABLE).and_then(|id| std::str::from_utf8(id).ok());
        id.is_some_and(|id| pods.contains(id))
    };
    pids.filter(|pid| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(names_a_pod)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[tokio::test]
    async fn a_plugin_of_a_dead_daemon_is_waited_for() {
        let pod = PodId::generate();
        let mut plugin = Command::new("sh")
            .args(["-c", "sleep 0.3; true"])
            .env("CNI_CONTAINERID", pod.as_str())
            .spawn()
            .unwrap();
        let reaper = std::thread::spawn(move || plugin.wait().unwrap());
        let pods = HashSet::from([pod]);
        // Between fork and exec it has the environment of the test.
        while running(&pods).is_empty() {
            tokio::task::yield_now().await;
        }
        settled(&pods).await;
        assert!(running(&pods).is_empty());
        assert!(reaper.join().unwrap().success(), "it was not killed");
        settled(&HashSet::from([PodId::generate()])).await;
    }
}
