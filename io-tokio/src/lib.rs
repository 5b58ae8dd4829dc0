//! The Model Context Protocol HTTP+SSE server transport on tokio.
//!
//! This crate provides tokio's sockets, timer and tasks for `mcp-sse-driver`, which has the [`Session`] and
//! [`Handle`] that an application uses. The protocol itself is in `mcp-sse-core`. The crate `mcp-sse-smol` has the
//! same names.
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
//! One thread owns the sockets and the state. [`Listener::serve_local`] also runs the handlers on that
//! thread, so a message needs no wake-up of another thread. [`Listener::serve`] runs the sockets
//! on a thread of their own, and the handlers on the application's runtime.
//! With [`Listener::workers`] there are several threads with sockets, and
//! [`Listener::serve_on_workers`] runs the handlers on them.
//!
//! The feature `rmcp` adds the module `rmcp`, which serves services that are written with the official Rust SDK. The
//! feature `tower` adds `SseService`, which serves inside another HTTP server such as axum. The feature `tls` adds
//! [`Listener::tls`](mcp_sse_driver::Listener).
//!
//! The module [`guide`] has a guide each to handlers, authentication, TLS, Unix sockets, workers, proxies, replicas,
//! reconnection, axum and rmcp, and limits.
//!
//! The library installs no signal handler, and reads no environment variables.

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
use tokio::task::JoinHandle;
#[cfg(feature = "tower")]
pub use tower::{SseService, SseServiceBuilder};

/// A listening socket with a configuration: a server that does not serve yet.
///
/// Its methods need no runtime until the server serves.
/// [`serve_local`](mcp_sse_driver::Listener::serve_local) needs a runtime with I/O and time. Its future is not
/// `Send`, so it must be run with `block_on` or on a `LocalSet`.
///
/// [`serve`](mcp_sse_driver::Listener::serve) and
/// [`serve_on_workers`](mcp_sse_driver::Listener::serve_on_workers) start threads with current-thread
/// runtimes of their own. With `serve`, the futures of handlers are spawned on the runtime that runs
/// the future of `serve`, so a handler that blocks its thread delays only other tasks of that runtime.
/// A handler may also spawn a task itself and return its [`JoinHandle`], because that runtime is
/// [entered](tokio::runtime::Handle::enter) while the handler is called. If the future of `serve` does not run on a
/// tokio runtime, for example in the `block_on` of another executor, handlers run on the server's threads, and must
/// not block.
///
/// An [authorizer](mcp_sse_driver::Listener::authorize) runs on the server's threads. To run it on the
/// application's runtime, move the runtime's [`Handle`](tokio::runtime::Handle) into the closure and spawn a task.
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

/// The [form](HandlerReturn) of a handler that spawns a task for its session and returns the task's
/// [`JoinHandle`]. The server does not wait for the task.
#[derive(Debug)]
pub enum ReturnsJoinHandle {}

impl<T> HandlerReturn<ReturnsJoinHandle> for JoinHandle<T> {
    type Serving = Ready<()>;

    fn serving(self) -> Option<Ready<()>> {
        None
    }
}

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
/// Panics if `handler` panics, and outside a tokio runtime with I/O and time.
///
/// # Examples
///
/// ```no_run
/// use mcp_sse_tokio::{Config, serve_local};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// serve_local("127.0.0.1:8000", Config::default(), async |mut session| {
///     while let Some(message) = session.recv().await {
///         println!("{:?}", message.method());
///     }
/// })
/// .await
/// # }
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
/// use mcp_sse_tokio::{Config, serve};
///
/// # #[tokio::main]
/// # async fn main() -> std::io::Result<()> {
/// serve("127.0.0.1:8000", Config::default(), async |mut session| {
///     while let Some(message) = session.recv().await {
///         println!("{:?}", message.method());
///     }
/// })
/// .await
/// # }
/// ```
pub async fn serve<Form, R: HandlerReturn<Form>>(
    address: impl ToSocketAddrs,
    config: Config,
    handler: impl FnMut(Session) -> R + Send + 'static,
) -> io::Result<()> {
    Listener::bind(address, config)?.serve(handler).await
}
