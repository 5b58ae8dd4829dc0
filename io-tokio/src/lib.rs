//! The Model Context Protocol HTTP+SSE server transport on tokio.
//!
//! This crate is sockets, a timer and a way to spawn; everything else is `mcp-sse-driver`, which has
//! the [`Session`] and [`Handle`] that an application holds, and `mcp-sse-core` below it. It has the
//! names and the guarantees of `mcp-sse-smol`.
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
//! The module [`guide`] has a guide each to handlers, authentication, TLS, Unix sockets, workers, proxies,
//! axum and rmcp, and limits.
//!
//! The library installs no signal handler, and reads no environment.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

#[cfg(feature = "rmcp")]
pub mod rmcp;
pub mod runtime;
#[cfg(feature = "tower")]
pub mod tower;

use core::future::Ready;
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
use tokio::task::JoinHandle;
#[cfg(feature = "tower")]
pub use tower::{SseService, SseServiceBuilder};

/// A listening socket with a configuration: a server that does not serve yet.
///
/// Its methods need no runtime until the server serves.
/// [`serve_local`](mcp_sse_driver::Listener::serve_local) needs one with I/O and time; its future is not
/// `Send`, so give it to `block_on` or to a `LocalSet`.
///
/// [`serve`](mcp_sse_driver::Listener::serve) and
/// [`serve_on_workers`](mcp_sse_driver::Listener::serve_on_workers) have threads with current-thread
/// runtimes of their own. With `serve`, the futures of handlers are spawned on the runtime that runs
/// the future of `serve`, so a handler that blocks its thread delays the other tasks of that runtime
/// only. A handler may spawn a task itself and return its [`JoinHandle`]: that runtime is
/// [entered](tokio::runtime::Handle::enter) meanwhile. If the future of `serve` runs on no tokio
/// runtime, as under another executor's `block_on`, handlers run on the server's threads, and must not
/// block.
///
/// An [authorizer](mcp_sse_driver::Listener::authorize) runs on the server's threads. To have it run on the
/// application's runtime, take the runtime's [`Handle`](tokio::runtime::Handle) into the closure and spawn.
///
/// # Examples
///
/// ```
/// use mcp_sse_tokio::{Config, Listener, Session};
///
/// async fn serve_one(mut session: Session) {
///     while let Some(message) = session.recv().await {
///         println!("{:?}", message.method());
///     }
/// }
///
/// # #[tokio::main]
/// # async fn main() -> std::io::Result<()> {
/// let listener = Listener::bind("127.0.0.1:0", Config::default())?;
/// # listener.handle().shutdown();
/// listener
///     .serve(|session| {
///         println!("{} has begun", session.id());
///         tokio::spawn(serve_one(session)) // On the runtime of `main`.
///     })
///     .await
/// # }
/// ```
pub type Listener = mcp_sse_driver::Listener<runtime::Tokio>;

/// The [form](HandlerReturn) of a handler that has spawned a task for its session and returns the task's
/// [`JoinHandle`], for which the server does not wait.
#[derive(Debug)]
pub enum ReturnsJoinHandle {}

impl<T> HandlerReturn<ReturnsJoinHandle> for JoinHandle<T> {
    type Serving = Ready<()>;

    fn serving(self) -> Option<Ready<()>> {
        None
    }
}

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
