//! Which images may be used: the node's signature policy (containers-policy.json(5)) and the decision by it.
//!
//! ```text
//!   files ──document──▶ Policy ──scope──▶ Ruling ──decide──▶ accepted, or a Refusal
//!                                           ▲ requirements: keys, identity
//!   signatures of the registry, or of the image's record ─┘
//! ```
//!
//! [`Policy::parse`] and [`Ruling::decide`] are pure but for the reading of key files, which the caller lends. Where policy
//! files lie and when they are read again is [`Policies`]'s business; signatures are fetched and kept elsewhere.
//!
//! Invariants: a requirement that podd cannot check refuses, it is never passed over; a policy that cannot be read refuses
//! everything; a list of requirements is never empty.

mod document;
mod files;
mod identity;
mod keys;
mod scope;
mod signature;
mod strict;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

pub use self::document::{InvalidPolicy, LARGEST_POLICY};
pub use self::files::{Policies, PolicyError, PolicyFile};
pub use self::scope::Scope;
pub use self::signature::{Flaw, LARGEST_PAYLOAD, LARGEST_SIGNATURE, Signature};

use self::identity::SignedIdentity;
use self::keys::KeySource;
use super::reference::Reference;

/// How many flawed signatures a refusal describes; the others are only counted.
const MOST_FLAWS: usize = 3;

/// Gives the content of a key's file.
pub type ReadKey<'a> = &'a dyn Fn(&Path) -> io::Result<Vec<u8>>;

/// What a policy file says. Transports other than `docker` are checked when it is parsed, and then not used: podd has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    default: Vec<Requirement>,
    docker: BTreeMap<String, Vec<Requirement>>,
}

/// One thing that an image has to satisfy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    AcceptAnything,
    Reject,
    SigstoreSigned {
        keys: KeySource,
        identity: SignedIdentity,
    },
    /// Valid, but not among what podd can check: it refuses, by this name.
    Unsupported(String),
}

/// The part of a policy that decides about one image.
#[derive(Debug, Clone, Copy)]
pub struct Ruling<'a> {
    image: Option<&'a Reference>,
    scope: Scope<'a>,
    requirements: &'a [Requirement],
}

/// What has to be known to decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Nothing: every image is accepted, or refused.
    Nothing,
    /// The signatures of the image.
    Signatures,
}

/// Why a policy does not let an image be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("scope {scope} requires {requirement:?} (number {number} of {count}): {why}")]
pub struct Refusal {
    /// The scope that decided.
    pub scope: String,
    /// The type of the requirement that does not hold.
    pub requirement: String,
    /// Its place in the scope's list, from 1.
    pub number: usize,
    /// How many requirements the scope has.
    pub count: usize,
    /// Why it does not hold.
    pub why: Why,
}

/// Why a requirement does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// The policy wants none of these images.
    #[error("images of this scope are not to be used")]
    Rejected,
    /// The policy asks for what podd cannot check.
    #[error("podd cannot check that, so it refuses every image of this scope")]
    Unsupported,
    /// A key of the policy cannot be used; then none is, so that it is noticed.
    #[error("{0}")]
    Key(String),
    /// There is nothing to verify.
    #[error("the image has no sigstore signature (tag sha256-<digest>.sig in its repository)")]
    NoSignature,
    /// No signature is accepted.
    #[error("{}", flaws(.0))]
    Flawed(Vec<Flaw>),
}

impl Policy {
    /// A policy that accepts every image, for nodes without one.
    pub fn accept_anything() -> Self {
        Self { default: vec![Requirement::AcceptAnything], docker: BTreeMap::new() }
    }

    /// What the policy says about the image of that name. An image without any name falls under the defaults.
    pub fn ruling<'a>(&'a self, image: Option<&'a Reference>) -> Ruling<'a> {
        let (scope, requirements) = self.lookup(image);
        Ruling { image, scope, requirements }
    }
}

impl Ruling<'_> {
    /// Whether signatures matter: not where something refuses in any case.
    pub fn demand(&self) -> Demand {
        let mut demand = Demand::Nothing;
        for requirement in self.requirements {
            match requirement {
                Requirement::AcceptAnything => {}
                Requirement::Reject | Requirement::Unsupported(_) => return Demand::Nothing,
                Requirement::SigstoreSigned { .. } => demand = Demand::Signatures,
            }
        }
        demand
    }

    /// Whether the image may be used, with what is attached to it. Every requirement has to hold; of the signatures, one
    /// that holds is enough.
    pub fn decide(&self, signatures: &[Signature], read: ReadKey<'_>) -> Result<(), Refusal> {
        // What refuses in any case comes first: it is what the operator has to know.
        let (certain, open): (Vec<_>, Vec<_>) =
            self.requirements.iter().enumerate().partition(|(_, requirement)| requirement.is_certain());
        for (index, requirement) in certain.into_iter().chain(open) {
            requirement.check(self.image, signatures, read).map_err(|why| Refusal {
                scope: self.scope.to_string(),
                requirement: requirement.name().to_owned(),
                number: index + 1,
                count: self.requirements.len(),
                why,
            })?;
        }
        Ok(())
    }
}

impl Requirement {
    fn name(&self) -> &str {
        match self {
            Self::AcceptAnything => "insecureAcceptAnything",
            Self::Reject => "reject",
            Self::SigstoreSigned { .. } => "sigstoreSigned",
            Self::Unsupported(what) => what,
        }
    }

    /// Whether it says the same about every image.
    fn is_certain(&self) -> bool {
        match self {
            Self::AcceptAnything | Self::Reject | Self::Unsupported(_) => true,
            Self::SigstoreSigned { .. } => false,
        }
    }

    fn check(
        &self,
        image: Option<&Reference>,
        signatures: &[Signature],
        read: ReadKey<'_>,
    ) -> Result<(), Why> {
        let (keys, identity) = match self {
            Self::AcceptAnything => return Ok(()),
            Self::Reject => return Err(Why::Rejected),
            Self::Unsupported(_) => return Err(Why::Unsupported),
            Self::SigstoreSigned { keys, identity } => (keys, identity),
        };
        let keys = keys.load(read).map_err(Why::Key)?;
        if signatures.is_empty() {
            return Err(Why::NoSignature);
        }
        let mut flaws = Vec::new();
        for signature in signatures {
            match signature.verify(&keys, |signed| identity.accepts(image, signed)) {
                Ok(()) => return Ok(()),
                Err(flaw) => flaws.push(flaw),
            }
        }
        Err(Why::Flawed(flaws))
    }
}

fn flaws(flaws: &[Flaw]) -> String {
    let mut said: Vec<String> = Vec::new();
    for flaw in flaws {
        let text = flaw.to_string();
        if !said.contains(&text) {
            said.push(text);
        }
    }
    let more = said.len().saturating_sub(MOST_FLAWS);
    said.truncate(MOST_FLAWS);
    let count = flaws.len();
    let of = if count == 1 { "its signature is not" } else { "none of its signatures is" };
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("{of} accepted: {}{more}", said.join("; "))
}
