//! Services of `rmcp`, the official Rust SDK, over HTTP+SSE.
//!
//! The SDK had an SSE server until its release 0.10. [`SseServer`] has that one's shape, so moving
//! over is a change of import:
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
//! stopped.await; // New: every stream has ended in order.
//! # Ok(())
//! # }
//! ```
//!
//! Below it is [`SessionTransport`], one session as the SDK's [`Transport`]; and as a [`Session`]
//! turns into one by itself, `service.serve(session)` works wherever sessions come from, so with
//! [`Listener::serve`](crate::Listener::serve) too.
//!
//! # What a handler sees of HTTP
//!
//! As with the SDK's own HTTP service, the extensions of each request and notification hold an
//! [`http::request::Parts`]. They are those of the GET that opened the session, the same for all
//! its messages: method, path without the query, version and fields. Fields may hold credentials,
//! so their values are marked sensitive and print as such. The parts' own extensions hold the
//! [`SessionId`](crate::SessionId) and, if there is one, the [`Principal`](crate::Principal).
//!
//! # What the SDK cannot read
//!
//! Unknown methods are the service's to judge. A message that fits none of the SDK's types never
//! ends the session: a request is answered with an error, a response becomes an error for whoever
//! waits for it, a notification is dropped; and a line in the log says so. A result that cannot be
//! encoded, or is larger than any queue, turns into an error for the client.
//!
//! # A session without `initialize`
//!
//! Some clients open their stream again by themselves after it broke, and go on without a second
//! handshake. The SDK's handshake would refuse them. [`SseServer::with_service`] looks at the first
//! message that decides, and serves such a session as if the handshake had been: what the client
//! can do is not known then (`peer_info` is `None`). A client that does greet later is listened to.
//!
//! # Differences from 0.10
//!
//! - The parts are those of the session's GET; 0.10 had those of each POST.
//! - Sockets live on a thread of their own, handlers on the runtime that called.
//! - On a loopback connection, `Host` and `Origin` are checked. Whatever [`Config`](crate::Config)
//!   offers can be set with [`SseServer::from_listener`].
//! - The SDK's handshake decided about first messages, so `with_service` refused what is described
//!   above.
//! - Cancelling gives handlers that run a moment to answer and then ends every stream in order;
//!   [`SseServer::stopped`] waits for that.
//! - A dropped `SseServer` stops; 0.10's went on to answer 500.
//! - There is no `config` field; see [`SseServer::local_addr`] and
//!   [`SseServer::cancellation_token`].
//! - There is no `SseServer::new`, which gave an axum router, and no `Stream` of transports.
//!
//! The SDK's feature `local`, which gives up `Send`, cannot be used together with this one.

mod lifecycle;
mod server;
mod transport;

pub use rmcp::transport::Transport;
pub use server::{SseServer, SseServerConfig, SseServerTransport};
pub use tokio_util::sync::CancellationToken;
pub use transport::{SessionAdapter, SessionTransport, TransportError};

#[cfg(doc)]
use crate::Session;
