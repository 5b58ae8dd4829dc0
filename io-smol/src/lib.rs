//! The Model Context Protocol HTTP+SSE server transport on smol.
//!
//! This crate provides smol's sockets, timer and tasks for `mcp-sse-driver`, which has the [`Session`] and [`Handle`]
//! that an application uses. The protocol itself is in `mcp-sse-core`.
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
//! One thread owns the sockets and the state. [`Listener::serve_local`] also runs the handlers on that
//! thread, so a message needs no wake-up of another thread. [`Listener::serve`] runs the sockets
//! on a thread of their own, and the handlers where the application awaits it or on any executor of the application.
//! With [`Listener::workers`] there are several threads with sockets,
//! and [`Listener::serve_on_workers`] runs the handlers on them.
//!
//! The crate depends on `async-io` and `async-executor`, which are parts of `smol`, and not on `smol` itself. So an
//! application that uses only these parts does not compile smol's file system, process and thread pool support.
//! Applications can use `smol`, as the examples here do, because it re-exports the same parts.
//!
//! The module [`guide`] has a guide each to handlers, authentication, TLS, Unix sockets, workers, proxies, replicas,
//! reconnection, axum and rmcp, and limits.
//!
//! The library installs no signal handler, and reads no environment variables.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod runtime;

use std::io;
use std::net::ToSocketAddrs;

pub use mcp_sse_core::{
    Authorization, Cidr, CidrError, CloseReason, Config, ConfigBuilder, ConfigError, Disposition,
    DurationHistogram, Fault, Frame, HealthExtras, Limits, Metrics, MetricsPage, Peer, Principal,
    ProtectedResource, Rate, RateError, Reach, Refusal, RequestHead, ResponseHead, SendError,
    SessionId, ShardId, SizeHistogram, StaticTokens, StaticTokensBuilder, StaticTokensError,
    Timeouts, TraceParent, Verdict, http1, jsonrpc, sse,
};
#[doc(inline)]
pub use mcp_sse_driver::guide;
#[cfg(feature = "prometheus")]
#[doc(inline)]
pub use mcp_sse_driver::prometheus;
pub use mcp_sse_driver::{
    ADDRESSES_MAX, Closed, DECISIONS_MAX, DECISIONS_PER_ADDRESS_MAX, Decision, ExchangeClient,
    ExchangeRequest, Handle, HandlerReturn, MetricsWatch, ReplaceTokensError, ReturnsFuture,
    ReturnsNothing, Session, SessionSender, Stopped, VerdictCache, WORKERS_MAX,
};
#[cfg(feature = "tls")]
pub use mcp_sse_driver::{Tls, TlsError, TlsProblem, rustls};

/// A listening socket with a configuration: a server that does not serve yet.
///
/// Its methods need no executor until the server serves. The methods that serve work on any executor, because
/// `async-io` watches the sockets, and the tasks of a server run on an executor of their own. That executor is part
/// of the future of [`serve_local`](mcp_sse_driver::Listener::serve_local), or runs on the server's threads. With
/// [`serve`](mcp_sse_driver::Listener::serve), the futures of handlers are part of its future: they run on the thread
/// that blocks on it, or on the executor on which it was spawned.
pub type Listener = mcp_sse_driver::Listener<runtime::Smol>;

/// Binds `address` and serves on this thread. This is [`Listener::bind`](mcp_sse_driver::Listener::bind)
/// followed by [`Listener::serve_local`](mcp_sse_driver::Listener::serve_local).
///
/// # Errors
///
/// Returns the errors of [`Listener::bind`](mcp_sse_driver::Listener::bind) and
/// [`Listener::serve_local`](mcp_sse_driver::Listener::serve_local).
///
/// # Panics
///
/// Panics if `handler` panics.
///
/// # Examples
///
/// ```no_run
/// use mcp_sse_smol::{Config, serve_local};
///
/// smol::block_on(serve_local("127.0.0.1:8000", Config::default(), async |mut session| {
///     while let Some(message) = session.recv().await {
///         println!("{:?}", message.method());
///     }
/// }))?;
/// # Ok::<(), std::io::Error>(())
/// ```
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

/// Binds `address` and serves on a thread of its own. This is
/// [`Listener::bind`](mcp_sse_driver::Listener::bind) followed by
/// [`Listener::serve`](mcp_sse_driver::Listener::serve).
///
/// # Errors
///
/// Returns the errors of [`Listener::bind`](mcp_sse_driver::Listener::bind) and
/// [`Listener::serve`](mcp_sse_driver::Listener::serve).
///
/// # Panics
///
/// Panics if `handler` has panicked.
///
/// # Examples
///
/// ```no_run
/// use mcp_sse_smol::{Config, serve};
///
/// smol::block_on(serve("127.0.0.1:8000", Config::default(), async |mut session| {
///     while let Some(message) = session.recv().await {
///         println!("{:?}", message.method());
///     }
/// }))?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub async fn serve<Form, R: HandlerReturn<Form>>(
    address: impl ToSocketAddrs,
    config: Config,
    handler: impl FnMut(Session) -> R + Send + 'static,
) -> io::Result<()> {
    Listener::bind(address, config)?.serve(handler).await
}
