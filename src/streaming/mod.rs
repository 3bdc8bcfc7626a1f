//! Exec, attach and port-forward, as far as they are spoken over HTTP.
//!
//! A client is given a URL with a token by gRPC (`tokens.rs`), asks the streaming server for it, and the connection becomes
//! one of SPDY/3.1 or a WebSocket (`negotiate.rs`).
//!
//! ```text
//!  GET /exec/TOKEN ─► negotiate ─┬─► spdy/ ───────────┬─► session.rs: stdin, stdout, stderr, sizes, error ─► pump.rs ─► pipes
//!                                └─► websocket/ ──────┤                                                          or terminal
//!  GET /portforward/TOKEN ───────────► (as above) ────┴─► forward.rs: pairs of data and error ─► sockets in the pod
//! ```

mod exec;
mod forward;
#[cfg(podd_fuzzing)]
pub mod fuzzing;
mod inbox;
mod negotiate;
mod pump;
mod server;
mod session;
pub mod spdy;
mod status;
mod tokens;
pub mod websocket;

pub use server::{Promise, StartError, Streaming};
pub use session::{Ending, Input, Output, Session, Sizes, Streams, TerminalSize};
pub use status::Outcome;
pub use tokens::TooMany;
