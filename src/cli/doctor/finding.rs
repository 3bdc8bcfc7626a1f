//! What one check came to.

use serde::Serialize;

/// How bad it is; the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    /// As it should be.
    Ok,
    /// Good to know; nothing has to be done.
    Note,
    /// Something that pods may ask for cannot be had, or is slower or less safe than it could be.
    Warning,
    /// Pods do not run, or what runs is in danger.
    Problem,
}

/// One check: what was looked at, what was seen, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    /// `area.subject`; stable.
    pub(super) id: String,
    pub(super) outcome: Outcome,
    pub(super) seen: String,
    /// Of an `ok` there is none.
    #[serde(rename = "do", skip_serializing_if = "Option::is_none")]
    pub(super) advice: Option<String>,
}

impl Check {
    pub(super) fn ok(id: impl Into<String>, seen: impl Into<String>) -> Self {
        Self { id: id.into(), outcome: Outcome::Ok, seen: seen.into(), advice: None }
    }

    pub(super) fn note(id: impl Into<String>, seen: impl Into<String>, advice: &str) -> Self {
        Self::found(id, Outcome::Note, seen, advice)
    }

    pub(super) fn warning(id: impl Into<String>, seen: impl Into<String>, advice: &str) -> Self {
        Self::found(id, Outcome::Warning, seen, advice)
    }

    pub(super) fn problem(id: impl Into<String>, seen: impl Into<String>, advice: &str) -> Self {
        Self::found(id, Outcome::Problem, seen, advice)
    }

    /// What could not be looked at is no finding about the node.
    pub(super) fn unseen(id: impl Into<String>, why: impl Into<String>) -> Self {
        Self::note(id, format!("could not be looked at: {}", why.into()), "run podd doctor as root")
    }

    fn found(id: impl Into<String>, outcome: Outcome, seen: impl Into<String>, advice: &str) -> Self {
        let advice = (!advice.is_empty()).then(|| advice.to_owned());
        Self { id: id.into(), outcome, seen: seen.into(), advice }
    }
}

/// An error with all its causes, in one line.
pub(super) fn whole(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
