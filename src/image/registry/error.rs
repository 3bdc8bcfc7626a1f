//! What can go wrong between this node and a registry, in words for `kubectl describe pod`.
//!
//! A [`RegistryError`] names the stage, the object, the HTTP status and the registry's own message. What came from
//! outside is cut, stripped of control characters and of URL queries; credentials and tokens never get here.

use std::error::Error;
use std::io;

use http::StatusCode;
use serde::Deserialize;

/// The longest text of a registry that is repeated.
const LONGEST_MESSAGE: usize = 256;
/// The longest text about one of several endpoints; an event of Kubernetes has room for 1024 characters.
const LONGEST_SHORT: usize = 160;
/// What is shorter occurs in texts by chance.
const SHORTEST_SECRET: usize = 4;

/// The step of a pull that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stage {
    /// Reading the credentials that a pull should use.
    #[error("read credentials for")]
    ReadCredentials,
    /// Fetching and checking a manifest or an index.
    #[error("resolve manifest")]
    ResolveManifest,
    /// Fetching and checking the image's configuration.
    #[error("fetch config")]
    FetchConfig,
    /// Asking the token service for a token.
    #[error("fetch token for")]
    FetchToken,
    /// Fetching a layer.
    #[error("fetch blob")]
    FetchBlob,
    /// Fetching what is attached to a manifest to sign it.
    #[error("fetch signatures of")]
    FetchSignatures,
}

/// What a failure means to who asked for the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ErrorKind {
    /// The registry does not have it.
    #[error("not found")]
    NotFound,
    /// The registry wants credentials, or others than were given.
    #[error("not authorized")]
    Unauthorized,
    /// The registry knows who asks and refuses.
    #[error("access denied")]
    Denied,
    /// The registry cannot be reached or does not work at present; trying again later may help.
    #[error("registry unavailable")]
    Unavailable,
    /// A document or blob is larger than it may be.
    #[error("too large")]
    TooLarge,
    /// The registry's answer, or the image, is not as the specification says or as podd can use it.
    #[error("invalid")]
    Invalid,
    /// Bytes are not those that their digest promises.
    #[error("digest mismatch")]
    DigestMismatch,
    /// The node's own configuration has no endpoint that may be asked.
    #[error("refused by the configuration of this node")]
    Refused,
}

/// A failed step of a pull.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{stage} {object}{}: {kind}{}{}{}",
    place_text(.endpoint), status_text(*.status), detail_text(.detail), others_text(.others)
)]
pub struct RegistryError {
    stage: Stage,
    object: String,
    kind: ErrorKind,
    status: Option<u16>,
    detail: String,
    /// Whether there was no connection at all.
    unreachable: bool,
    /// Where it was asked for, if not at the registry of the image's own name.
    endpoint: Option<String>,
    /// What the other endpoints answered.
    others: Vec<String>,
}

impl RegistryError {
    /// What the failure means.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The step that failed.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// The HTTP status, where the registry answered.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// Whether asking again later may help.
    pub(super) fn may_pass(&self) -> bool {
        self.kind == ErrorKind::Unavailable
    }

    /// Whether there was no connection at all.
    pub(super) fn is_unreachable(&self) -> bool {
        self.unreachable
    }

    /// What went wrong, without where and with what.
    pub(super) fn short(&self) -> String {
        let text = format!("{}{}{}", self.kind, status_text(self.status), detail_text(&self.detail));
        cut(&text, LONGEST_SHORT)
    }

    /// The same as the outcome of asking several endpoints.
    pub(super) fn combined(self, endpoint: Option<String>, others: Vec<String>) -> Self {
        Self { endpoint, others, ..self }
    }
}

impl From<RegistryError> for io::Error {
    fn from(error: RegistryError) -> Self {
        io::Error::other(error)
    }
}

fn status_text(status: Option<u16>) -> String {
    status.map(|status| format!(" (HTTP {status})")).unwrap_or_default()
}

fn place_text(endpoint: &Option<String>) -> String {
    endpoint.as_ref().map(|endpoint| format!(" at {endpoint}")).unwrap_or_default()
}

fn others_text(others: &[String]) -> String {
    if others.is_empty() { String::new() } else { format!(" (the others: {})", others.join("; ")) }
}

fn detail_text(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(": {detail}") }
}

/// What an error has to name: made at the start of a step, turned into errors where it fails.
#[derive(Debug, Clone)]
pub(super) struct Context {
    stage: Stage,
    object: String,
}

impl Context {
    pub(super) fn new(stage: Stage, object: impl Into<String>) -> Self {
        Self { stage, object: object.into() }
    }

    /// The same object in another stage.
    pub(super) fn at(&self, stage: Stage) -> Self {
        Self { stage, object: self.object.clone() }
    }

    pub(super) fn error(&self, kind: ErrorKind, detail: impl Into<String>) -> RegistryError {
        let detail = clean(&detail.into());
        let (stage, object) = (self.stage, self.object.clone());
        let (status, unreachable, endpoint, others) = (None, false, None, Vec::new());
        RegistryError { stage, object, kind, status, detail, unreachable, endpoint, others }
    }

    pub(super) fn invalid(&self, detail: impl Into<String>) -> RegistryError {
        self.error(ErrorKind::Invalid, detail)
    }

    pub(super) fn unavailable(&self, detail: impl Into<String>) -> RegistryError {
        self.error(ErrorKind::Unavailable, detail)
    }

    /// An answer that is no success, with the registry's own words.
    pub(super) fn status(&self, status: StatusCode, message: impl Into<String>) -> RegistryError {
        let kind = match status {
            StatusCode::NOT_FOUND => ErrorKind::NotFound,
            StatusCode::UNAUTHORIZED => ErrorKind::Unauthorized,
            StatusCode::FORBIDDEN => ErrorKind::Denied,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => ErrorKind::Unavailable,
            status if status.is_server_error() => ErrorKind::Unavailable,
            _ => ErrorKind::Invalid,
        };
        RegistryError { status: Some(status.as_u16()), ..self.error(kind, message) }
    }

    /// A request that got no answer.
    pub(super) fn transport(&self, error: reqwest::Error) -> RegistryError {
        let (unreachable, error) = (error.is_connect(), error.without_url());
        let root = root_cause(&error);
        let detail =
            if unreachable { format!("cannot connect: {root}") } else { format!("connection lost: {root}") };
        RegistryError { unreachable, ..self.unavailable(detail) }
    }

    /// A registry that cannot be spoken to.
    pub(super) fn unreachable(&self, detail: impl Into<String>) -> RegistryError {
        RegistryError { unreachable: true, ..self.unavailable(detail) }
    }
}

/// An error with all its causes, each said once.
pub(super) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}

/// The first cause of an error, which says most of it: the layers of an HTTP client above it say that they have failed.
fn root_cause(error: &dyn Error) -> String {
    let mut at = error;
    while let Some(cause) = at.source() {
        at = cause;
    }
    at.to_string()
}

/// The registry's own words in the body of a failure, without any of the `secrets` that it may echo: the `errors` of the
/// distribution specification, or plain text.
pub(super) fn message_of(body: &[u8], secrets: &[String]) -> String {
    let redact = |text: &str| {
        let secrets = secrets.iter().filter(|secret| secret.len() >= SHORTEST_SECRET);
        secrets.fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
    };
    clean(&redact(&words_of(body)))
}

fn words_of(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        errors: Vec<Item>,
        #[serde(default)]
        details: String,
    }
    #[derive(Deserialize)]
    struct Item {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    if let Ok(body) = serde_json::from_slice::<Body>(body) {
        let items = body.errors.iter().take(3).map(|item| match item.message.is_empty() {
            true => item.code.clone(),
            false => item.message.clone(),
        });
        let said = items.collect::<Vec<_>>().join("; ");
        return if said.is_empty() { body.details } else { said };
    }
    let text = String::from_utf8_lossy(body);
    if text.trim_start().starts_with(['<', '{']) { String::new() } else { text.into_owned() }
}

/// One line of bounded length, without control characters and without the queries of URLs (they may be signatures).
fn clean(text: &str) -> String {
    let line: String = text.chars().map(|c| if is_invisible(c) { ' ' } else { c }).collect();
    let words = line.split_whitespace().map(|word| match word.split_once("://") {
        Some((_, rest)) => match rest.find(['?', '#']) {
            Some(end) => &word[..word.len() - rest.len() + end],
            None => word,
        },
        None => word,
    });
    cut(&words.collect::<Vec<_>>().join(" "), LONGEST_MESSAGE)
}

fn cut(text: &str, longest: usize) -> String {
    match text.char_indices().nth(longest) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// Control characters, and those that hide text or turn its direction.
fn is_invisible(c: char) -> bool {
    let is_format =
        matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    c.is_control() || is_format
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_stage_object_status_and_message() {
        let context = Context::new(Stage::ResolveManifest, "r.io/app:v1");
        let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
        let error = context.status(StatusCode::NOT_FOUND, message_of(body, &[]));
        let text = "resolve manifest r.io/app:v1: not found (HTTP 404): manifest unknown";
        assert_eq!(error.to_string(), text);
        assert_eq!((error.kind(), error.status()), (ErrorKind::NotFound, Some(404)));
    }

    #[test]
    fn what_a_registry_says_is_tamed() {
        let text = message_of(b"see https://x.io/blob?X-Sig=secret\x1b[31m\r\n\xe2\x80\xaenow", &[]);
        assert_eq!(text, "see https://x.io/blob [31m now");
        assert_eq!(message_of(b"<html>", &[]), "");
        assert_eq!(message_of(&[b'a'; 9000], &[]).len(), LONGEST_MESSAGE + 3);
        assert_eq!(message_of(br#"{"details":"bad login"}"#, &[]), "bad login");
        let cut = format!("{}hush-password", "a".repeat(LONGEST_MESSAGE - 4));
        let text = message_of(cut.as_bytes(), &["hush-password".to_owned()]);
        assert!(text.ends_with("aaa***") && !text.contains("hush"), "{text}");
    }
}
