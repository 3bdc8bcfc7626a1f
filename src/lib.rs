//! podd: a container runtime for Kubernetes nodes and nothing else.

pub mod api;
pub mod cgroup;
pub mod config;
pub mod cri;
pub mod id;
pub mod image;
pub mod monitor;
pub mod network;
pub mod pod;
pub mod record;
pub mod runtime;
pub mod spec;
pub mod sys;
