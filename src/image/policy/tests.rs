//! Policies as they are written, and decisions with keys and signatures that openssl has made.

mod crypto;
mod decisions;
mod documents;
