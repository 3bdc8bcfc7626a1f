//! Exec, attach and port-forward.

mod inbox;
pub mod spdy;
pub mod websocket;
