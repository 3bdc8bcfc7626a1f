//! Tokens: what a client was promised by gRPC, to be fetched once and soon from the streaming server (B29).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a promise holds.
const LIFETIME: Duration = Duration::from_secs(60);
/// How many may be open at a time.
const MAX: usize = 1000;

/// Promises by their tokens.
#[derive(Debug)]
pub(super) struct Tokens<T> {
    // Held for a map operation.
    open: Mutex<HashMap<String, (Instant, T)>>,
}

/// More promises are open than can be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{MAX} requests for exec, attach and port-forward wait for their clients; try again in a minute")]
pub struct TooMany;

impl<T> Tokens<T> {
    pub(super) fn new() -> Self {
        Self { open: Mutex::default() }
    }

    /// A new token; it cannot be guessed.
    pub(super) fn issue(&self, promise: T) -> Result<String, TooMany> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= MAX {
            open.retain(|_, (since, _)| since.elapsed() < LIFETIME);
        }
        if open.len() >= MAX {
            return Err(TooMany);
        }
        let token = crate::id::random_hex();
        open.insert(token.clone(), (Instant::now(), promise));
        Ok(token)
    }

    /// How many are open, those that are too old among them.
    pub(super) fn len(&self) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// What was promised; once.
    pub(super) fn redeem(&self, token: &str) -> Option<T> {
        let (since, promise) = self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(token)?;
        (since.elapsed() < LIFETIME).then_some(promise)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b29_a_token_is_good_once_and_there_are_not_too_many() {
        let tokens = Tokens::new();
        let token = tokens.issue(7).unwrap();
        assert_eq!(tokens.redeem("other"), None);
        assert_eq!((tokens.redeem(&token), tokens.redeem(&token)), (Some(7), None));
        let all: Vec<_> = (0..MAX).map(|n| tokens.issue(n).unwrap()).collect();
        assert_eq!(tokens.issue(0), Err(TooMany));
        assert_eq!(tokens.redeem(&all[3]), Some(3));
        assert!(tokens.issue(0).is_ok());
    }
}
