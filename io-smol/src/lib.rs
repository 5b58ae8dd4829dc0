//! The Model Context Protocol HTTP+SSE server transport on smol.
//!
//! This crate is sockets, a timer and a way to spawn; everything else is `mcp-sse-driver`, which
//! has the [`Session`] and [`Handle`] that an application holds, and `mcp-sse-core` below it.
//!
//! ```no_run
//! use mcp_sse_smol::{Config, Frame, Listener, jsonrpc::{Kind, code}};
//!
//! fn main() -> std::io::Result<()> {
//!     let listener = Listener::bind("127.0.0.1:8000", Config::default())?;
//!     smol::block_on(listener.serve_local(async |mut session| {
//!         while let Some(message) = session.recv().await {
//!             let (Kind::Request, Some(id)) = (message.kind(), message.id()) else { continue };
//!             let answer = match message.method() {
//!                 Some("ping") => Frame::result(id, &serde_json::json!({})),
//!                 _ => Frame::error(id, code::METHOD_NOT_FOUND, "there is no such method"),
//!             };
//!             let _gone = session.send(answer.expect("the id is JSON")).await;
//!         }
//!     }))
//! }
//! ```
//!
//! One thread owns the sockets and the state. [`Listener::serve_local`] runs the handlers on that
//! thread too, where a message costs no wake-up across threads; [`Listener::serve`] puts the sockets
//! on a thread of their own and runs the handlers where the application awaits it, or hands every
//! [`Session`] to whatever executor it has. With [`Listener::workers`] there are several such threads,
//! and [`Listener::serve_on_workers`] runs the handlers on them.
//!
//! The crate is built on `async-io` and `async-executor`, the parts of the crate `smol` that it needs, and
//! not on `smol` itself, so that an application that has only these parts does not pay for file systems,
//! processes and a thread pool. Applications can use `smol`, as the examples here do; it re-exports the
//! same parts.
//!
//! The module [`guide`] has a guide each to handlers, authentication, TLS, Unix sockets, workers, proxies,
//! axum and rmcp, and limits.
//!
//! The library installs no signal handler, and reads no environment.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod runtime;

use std::io;
use std::net::ToSocketAddrs;

pub use mcp_sse_core::{
    Authorization, Cidr, CidrError, CloseReason, Config, ConfigBuilder, ConfigError, Disposition,
    Fault, Frame, HealthExtras, Limits, Metrics, Peer, Principal, ProtectedResource, Rate,
    RateError, Reach, Refusal, RequestHead, ResponseHead, SendError, SessionId, ShardId,
    StaticTokens, StaticTokensBuilder, StaticTokensError, Timeouts, Verdict, http1, jsonrpc, sse,
};
#[doc(inline)]
pub use mcp_sse_driver::guide;
pub use mcp_sse_driver::{
    ADDRESSES_MAX, Closed, DECISIONS_MAX, DECISIONS_PER_ADDRESS_MAX, Decision, ExchangeClient,
    ExchangeRequest, Handle, HandlerReturn, ReturnsFuture, ReturnsNothing, Session, SessionSender,
    Stopped, VerdictCache, WORKERS_MAX,
};
#[cfg(feature = "tls")]
pub use mcp_sse_driver::{Tls, TlsError, TlsProblem, rustls};

/// A listening socket with a configuration: a server that does not serve yet.
///
/// Its methods need no executor until the server serves. Then any executor will do: sockets are watched by
/// `async-io`, and the tasks of a server run on an executor of their own, as a part of the future of
/// [`serve_local`](mcp_sse_driver::Listener::serve_local) or on the server's threads.
/// With [`serve`](mcp_sse_driver::Listener::serve), the futures of handlers run as a part of its future: on
/// the thread that blocks on it, or on the executor on which it was spawned.
pub type Listener = mcp_sse_driver::Listener<runtime::Smol>;

/// Binds `address` and serves on this thread: [`Listener::bind`](mcp_sse_driver::Listener::bind),
/// then [`Listener::serve_local`](mcp_sse_driver::Listener::serve_local).
///
/// # Errors
///
/// Those of [`Listener::bind`](mcp_sse_driver::Listener::bind) and
/// [`Listener::serve_local`](mcp_sse_driver::Listener::serve_local).
pub async fn serve_local<H, F>(
    address: impl ToSocketAddrs,
    config: Config,
    handler: H,
) -> io::Result<()>
where
    H: Fn(Session) -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    Listener::bind(address, config)?.serve_local(handler).await
}

/// Binds `address` and serves on a thread of its own:
/// [`Listener::bind`](mcp_sse_driver::Listener::bind), then
/// [`Listener::serve`](mcp_sse_driver::Listener::serve).
///
/// # Errors
///
/// Those of [`Listener::bind`](mcp_sse_driver::Listener::bind) and
/// [`Listener::serve`](mcp_sse_driver::Listener::serve).
pub async fn serve<Form, R: HandlerReturn<Form>>(
    address: impl ToSocketAddrs,
    config: Config,
    handler: impl FnMut(Session) -> R + Send + 'static,
) -> io::Result<()> {
    Listener::bind(address, config)?.serve(handler).await
}
