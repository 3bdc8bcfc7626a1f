//! What can go wrong with a pod or a container, in the words that `kubectl describe pod` shows.

use std::error::Error;
use std::time::Duration;

pub(super) use super::stage::Stage;
pub use crate::telemetry::chain;

/// A cause from any leaf; its own text names the object.
pub type Cause = Box<dyn Error + Send + Sync>;

/// A failed operation on a pod or a container.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// No object has this ID or prefix.
    #[error("no {kind} has the ID {id:?}")]
    NotFound {
        /// `pod sandbox` or `container`.
        kind: &'static str,
        /// As the client wrote it.
        id: String,
    },
    /// Several objects' IDs begin so (B4).
    #[error("{count} {kind}s have an ID that begins with {prefix:?}; write more of it")]
    Ambiguous {
        /// `pod sandbox` or `container`.
        kind: &'static str,
        /// As the client wrote it.
        prefix: String,
        /// How many there are.
        count: usize,
    },
    /// A field that passes the edge but cannot be honoured.
    #[error("{field}: {text}")]
    Invalid {
        /// The message's field.
        field: String,
        /// What is wrong with it.
        text: String,
    },
    /// An image that cannot be mounted into the container.
    #[error("{field}: {text}")]
    ImageVolume {
        /// The message's field.
        field: String,
        /// Why.
        text: String,
    },
    /// The state does not allow it.
    #[error("{kind} {id} is {state}: {wanted}")]
    State {
        /// `pod sandbox` or `container`.
        kind: &'static str,
        /// Its ID.
        id: String,
        /// What it is now.
        state: &'static str,
        /// What the operation needs.
        wanted: &'static str,
    },
    /// A value that is right in itself, but not now.
    #[error("{field}: {text}")]
    NotNow {
        /// The message's field.
        field: String,
        /// What is in the way of it.
        text: String,
    },
    /// The name and attempt belong to an object that was asked for in other words.
    #[error("{name} exists already as {id}, {difference}; remove it first or raise the attempt")]
    Exists {
        /// The name and attempt in words.
        name: String,
        /// The ID that has them.
        id: String,
        /// Why that one is not the answer.
        difference: &'static str,
    },
    /// The image is not on the node.
    #[error("image {0:?} is not on the node; pull it first")]
    NoImage(String),
    /// No runtime is configured for the handler.
    #[error("runtime_handler: no runtime is configured for {name:?}; the handlers are {known}")]
    UnknownHandler {
        /// As the RuntimeClass names it.
        name: String,
        /// The configured ones.
        known: String,
    },
    /// A stage failed.
    #[error("{stage} of {object} failed after {} ms", took.as_millis())]
    Stage {
        /// The stage in words, such as `setting up the network`.
        stage: &'static str,
        /// What it was done for.
        object: String,
        /// How long it took.
        took: Duration,
        /// Why.
        #[source]
        source: Cause,
    },
    /// An exec ran out of its time (B12).
    #[error("command {command:?} in container {id} timed out after {} s", timeout.as_secs())]
    ExecTimeout {
        /// The container.
        id: String,
        /// The command's first word.
        command: String,
        /// The time that it had.
        timeout: Duration,
    },
    /// The daemon is going down.
    #[error("the daemon is stopping; try again")]
    Stopping,
}

impl PodError {
    /// Names the field of a message and what is wrong with it.
    pub fn invalid(field: impl Into<String>, text: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), text: text.into() }
    }
}
