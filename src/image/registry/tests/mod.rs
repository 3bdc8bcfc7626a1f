//! The registry client against a registry with faults, and against a real one.

mod auth;
mod blobs;
mod fault;
mod manifests;
mod real;
mod signatures;
mod tls;
