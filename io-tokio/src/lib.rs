//! The Model Context Protocol HTTP+SSE server transport on tokio.
//!
//! This crate is sockets, a timer and a way to spawn; everything else is `mcp-sse-driver`, which
//! has the [`Session`] and [`Handle`] that an application holds, and `mcp-sse-core` below it. It has the names and the
//! guarantees of `mcp-sse-smol`.
//!
//! ```no_run
//! use mcp_sse_tokio::{Config, Frame, Listener, jsonrpc::{Kind, code}};
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> std::io::Result<()> {
//!     let listener = Listener::bind("127.0.0.1:8000", Config::default())?;
//!     listener.serve_local(async |mut session| {
//!         while let Some(message) = session.recv().await {
//!             let (Kind::Request, Some(id)) = (message.kind(), message.id()) else { continue };
//!             let answer = match message.method() {
//!                 Some("ping") => Frame::result(id, &serde_json::json!({})),
//!                 _ => Frame::error(id, code::METHOD_NOT_FOUND, "there is no such method"),
//!             };
//!             let _gone = session.send(answer.expect("the id is JSON")).await;
//!         }
//!     }).await
//! }
//! ```
//!
//! One thread owns the sockets and the state. [`Listener::serve_local`] runs the handlers on that
//! thread too, where a message costs no wake-up across threads; [`Listener::serve`] puts the sockets
//! on a thread of their own and runs the handlers on the application's runtime, or hands it
//! every [`Session`]. With [`Listener::workers`] there are several such threads, and
//! [`Listener::serve_on_workers`] runs the handlers on them.
//!
//! The feature `rmcp` adds a module of that name, which serves services written with the official Rust
//! SDK.
//!
//! The library installs no signal handler, and reads no environment.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod door;
mod listener;
#[cfg(feature = "rmcp")]
pub mod rmcp;
mod socket;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tower")]
pub mod tower;

pub use listener::{Listener, ReturnsJoinHandle, serve, serve_local};
pub use mcp_sse_core::{
    Acknowledgement, Authorization, Cidr, CidrError, CloseReason, Config, ConfigBuilder,
    ConfigError, Disposition, Fault, Frame, HealthExtras, Limits, Metrics, Peer, Principal,
    ProtectedResource, Rate, RateError, Reach, Refusal, RequestHead, ResponseHead, SendError,
    SessionId, ShardId, StaticTokens, StaticTokensBuilder, StaticTokensError, Timeouts, Verdict,
    http1, jsonrpc, sse,
};
pub use mcp_sse_driver::{
    ADDRESSES_MAX, Closed, DECISIONS_MAX, Decision, ExchangeClient, ExchangeRequest, Handle,
    HandlerReturn, ReturnsFuture, ReturnsNothing, Session, SessionSender, Stopped, VerdictCache,
    WORKERS_MAX,
};
#[cfg(feature = "tls")]
pub use mcp_sse_driver::{Tls, TlsError, TlsProblem, rustls};
#[cfg(feature = "tower")]
pub use tower::{SseService, SseServiceBuilder};
