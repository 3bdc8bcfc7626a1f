//! The CRI v1 messages and services, generated from `proto/api.proto`.
#![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::unwrap_used)]
tonic::include_proto!("runtime.v1");
