//! The daemon's tests from outside: a real podd on its socket, a real registry, real CNI plugins, real crun or runc.
//!
//! `common` holds the node under test, the images and the registries; every other module is one topic. A test that
//! proves a numbered behaviour names it in its documentation (B1, B2 ...). The OCI runtime is the one that
//! `PODD_TEST_RUNTIME` names (crun or runc); root is needed. `tests/run.sh` brings what is needed and runs all of it, and
//! `apparmor` on a node that it makes for that.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::large_futures,
    clippy::cloned_ref_to_slice_refs,
    unreachable_pub
)]

mod apparmor;
mod common;
mod config_cli;
mod containers;
mod containers_life;
mod crictl;
mod crictl_commands;
mod devices;
mod disk;
mod disk_quota;
mod events;
mod exec_sync;
mod handlers;
mod image_volumes;
mod images;
mod images_adopt;
mod images_archive;
mod images_auth;
mod images_export;
mod images_faults;
mod images_policy;
mod images_preload;
mod images_progress;
mod images_registries;
mod images_store;
mod logs;
mod mounts;
mod pods;
mod pods_network;
mod pods_pids;
mod recovery;
mod resources;
mod security;
mod server;
mod stats;
mod streaming;
mod streaming_forward;
mod streaming_sessions;
mod telemetry;
mod tools;
mod userns;
