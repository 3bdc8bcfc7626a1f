//! What lies about under the names of pods that are no more.

use podd::config::Config;
use podd::pod::leftovers::{self, Leftover, LeftoverKind};

use super::finding::Check;

/// How many of a kind are named.
const MOST_NAMED: usize = 3;

/// What was seen.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    pub(super) found: Vec<Leftover>,
    /// What could not be looked at.
    pub(super) unseen: Vec<String>,
}

/// Looks for it.
pub(super) fn observe(config: &Config) -> Observed {
    let (found, unseen) = leftovers::look(config);
    Observed { found, unseen }
}

/// Judges it.
pub(super) fn checks(observed: &Observed) -> Vec<Check> {
    let mut checks = Vec::new();
    if !observed.unseen.is_empty() {
        checks.push(Check::unseen("leftovers", observed.unseen.join("; ")));
    }
    use LeftoverKind::{Attachment, Monitor, Mount, Network, WritableLayer};
    for kind in [Network, Mount, Monitor, WritableLayer, Attachment] {
        let own: Vec<_> = observed.found.iter().filter(|thing| thing.kind == kind).collect();
        if !own.is_empty() {
            checks.push(of_kind(kind, &own));
        }
    }
    if checks.is_empty() {
        checks.push(Check::ok("leftovers", "nothing lies about that no pod or container has"));
    }
    checks
}

fn of_kind(kind: LeftoverKind, things: &[&Leftover]) -> Check {
    let (id, what, advice) = match kind {
        LeftoverKind::Network => (
            "leftovers.namespaces",
            "network namespaces without a pod",
            "ip netns delete NAME, unless another podd of this machine has records of them",
        ),
        LeftoverKind::Mount => {
            ("leftovers.mounts", "mounts without a pod", "umount them, and remove the files")
        }
        LeftoverKind::Monitor => (
            "leftovers.monitors",
            "monitors without a record: nobody stops their containers",
            "see what the containers do, then end them and the monitors (kill)",
        ),
        LeftoverKind::WritableLayer => (
            "leftovers.layers",
            "writable layers without a container",
            "start podd: it removes them at its start",
        ),
        LeftoverKind::Attachment => (
            "leftovers.addresses",
            "attachments without a pod, whose addresses may still be taken",
            "nothing while podd runs: it tries to give them back; else start it",
        ),
    };
    let mut names: Vec<_> =
        things.iter().take(MOST_NAMED).map(|thing| thing.path.display().to_string()).collect();
    if let Some(more) = things.len().checked_sub(MOST_NAMED).filter(|more| *more > 0) {
        names.push(format!("{more} more"));
    }
    Check::warning(id, format!("{what} ({}): {}", things.len(), names.join(", ")), advice)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Outcome;
    use super::*;

    #[test]
    fn what_is_left_is_counted_by_kind() {
        let thing =
            |kind, number: usize| Leftover { kind, id: "a".into(), path: format!("/run/{number}").into() };
        let clean = Observed { found: Vec::new(), unseen: Vec::new() };
        assert_eq!(checks(&clean)[0].outcome, Outcome::Ok);
        let mut found: Vec<_> = (0..5).map(|number| thing(LeftoverKind::Network, number)).collect();
        found.push(thing(LeftoverKind::Monitor, 9));
        let seen = checks(&Observed { found, ..clean.clone() });
        assert_eq!(seen.len(), 2);
        assert!(seen.iter().all(|check| check.outcome == Outcome::Warning));
        assert_eq!(seen[0].seen, "network namespaces without a pod (5): /run/0, /run/1, /run/2, 2 more");
        let blind = checks(&Observed { unseen: vec!["/run: no".into()], ..clean });
        assert_eq!(blind[0].outcome, Outcome::Note);
    }
}
