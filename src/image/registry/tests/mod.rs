//! The registry client against a registry with faults, and against a real one.

mod auth;
mod blobs;
mod endpoints;
mod fault;
mod manifests;
mod proxy;
mod real;
mod signatures;
mod tls;
