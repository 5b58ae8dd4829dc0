//! Services of `rmcp`, the official Rust SDK, over HTTP+SSE.
//!
//! The SDK had an SSE server until its release 0.10. [`SseServer`] has the same interface. Most programs for rmcp 3
//! only have to change the import; the section [Differences](#differences-from-010) lists what may need more:
//!
//! ```no_run
//! use mcp_sse_tokio::rmcp::SseServer; // was: rmcp::transport::sse_server::SseServer
//! # #[derive(Clone)]
//! # struct Counter;
//! # impl rmcp::ServerHandler for Counter {}
//!
//! # async fn serve() -> std::io::Result<()> {
//! let server = SseServer::serve(([127, 0, 0, 1], 8000).into()).await?;
//! let stopped = server.stopped();
//! let ct = server.with_service(|| Counter);
//! tokio::signal::ctrl_c().await?;
//! ct.cancel();
//! stopped.await; // New: waits until every stream has ended.
//! # Ok(())
//! # }
//! ```
//!
//! [`SessionTransport`] is one session as the SDK's [`Transport`]. A [`Session`] can be converted to it, so
//! `service.serve(session)` also works with sessions of [`Listener::serve`](crate::Listener::serve):
//!
//! ```no_run
//! use mcp_sse_tokio::{Config, Listener};
//! use rmcp::ServiceExt;
//! # struct Counter;
//! # impl rmcp::ServerHandler for Counter {}
//!
//! # async fn serve() -> std::io::Result<()> {
//! Listener::bind("127.0.0.1:8000", Config::default())?
//!     .serve(async |session| {
//!         if let Ok(running) = Counter.serve(session).await {
//!             let _ = running.waiting().await;
//!         }
//!     })
//!     .await
//! # }
//! ```
//!
//! # HTTP in a handler
//!
//! As with the SDK's own HTTP service, the extensions of each request and notification contain an
//! [`http::request::Parts`]. It describes the GET request that opened the session, so it is the same for all
//! messages of the session: method, path without the query, version and header fields. Header fields may contain
//! credentials, so their values are marked sensitive and are not printed. The extensions of the parts contain the
//! [`SessionId`](crate::SessionId) and, if there is one, the [`Principal`](crate::Principal).
//!
//! # Messages that the SDK cannot read
//!
//! A request with an unknown method is passed to the service. A message that fits none of the SDK's types does not
//! end the session. If it is a request, the client gets an error; if it is a response, the request of the service
//! fails with an error; if it is a notification, it is dropped. Each case is logged. If a result cannot be
//! encoded, or is larger than the client's queue, the client gets an error instead.
//!
//! # A session without `initialize`
//!
//! Some clients reconnect after their stream broke, and continue without a second handshake. The SDK's handshake would
//! refuse them, as 0.10 did. [`SseServer::with_service`] examines the first message, apart from pings and responses. If that message does not begin a handshake, the session is served without
//! one, and the capabilities of the client are unknown (`peer_info` is `None`). If such a client sends `initialize`
//! later, the service handles it like another request.
//!
//! # Differences from 0.10
//!
//! - The parts are those of the session's GET request. In 0.10 they were those of each POST.
//! - Sockets are served on a thread of their own, and services run on the runtime that has created the server.
//! - On a loopback address, `Host` and `Origin` are checked. [`SseServer::from_listener`] allows every setting of
//!   [`Config`](crate::Config).
//! - `with_service` serves sessions without `initialize` (see above).
//! - Cancelling gives services time to answer, and then ends every stream. [`SseServer::stopped`] waits for that.
//! - Dropping an `SseServer` stops the server. In 0.10, the server continued to answer 500.
//! - There is no `config` field. See [`SseServer::local_addr`] and
//!   [`SseServer::cancellation_token`].
//! - There is no `SseServer::new`, which returned an axum router, and `SseServer` is no `Stream` of transports.
//!
//! The SDK's feature `local`, which makes services `!Send`, cannot be used together with this module.

mod lifecycle;
mod server;
mod transport;

pub use rmcp::transport::Transport;
pub use server::{SseServer, SseServerConfig, SseServerTransport};
pub use tokio_util::sync::CancellationToken;
pub use transport::{SessionAdapter, SessionTransport, TransportError};

#[cfg(doc)]
use crate::Session;
