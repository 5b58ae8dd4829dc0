//! The Model Context Protocol HTTP+SSE server transport (protocol revision 2024-11-05) as a sans-IO
//! state machine.
//!
//! [`Server`] owns every connection and every session of one shard. Its inputs are bytes, ends of
//! input, completed writes, disconnects and the time. Its outputs are events for the application,
//! the connections that a driver has to look at, bytes for sockets, and the next deadline. It opens
//! no socket, reads no clock and starts no thread, and the same inputs always give the same
//! outputs. For smol and tokio there are adapters that drive it: `mcp-sse-smol` and
//! `mcp-sse-tokio`.
//!
//! # The loop
//!
//! ```
//! use mcp_sse_core::{
//!     Config, Entropy, EntropyUnavailable, Event, Frame, Interest, Peer, Server, Time,
//! };
//!
//! # struct Dice(u8);
//! # impl Entropy for Dice {
//! #     fn fill(&mut self, dest: &mut [u8]) -> Result<(), EntropyUnavailable> {
//! #         dest.fill_with(|| { self.0 = self.0.wrapping_mul(5).wrapping_add(1); self.0 });
//! #         Ok(())
//! #     }
//! # }
//! # fn entropy() -> Dice { Dice(7) }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let now = Time::ZERO; // by the driver's clock, in microseconds
//! let mut server = Server::new(Config::default(), Box::new(entropy()), now);
//!
//! // A socket was accepted, and bytes were read from it.
//! let conn = server.accept(Peer::local(), now)?;
//! server.handle_input(conn, b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n", now);
//!
//! // Events for the application.
//! while let Some(event) = server.poll_event() {
//!     match event {
//!         Event::Opened { session, .. } => {
//!             let hello = Frame::message(br#"{"jsonrpc":"2.0","method":"notifications/hello"}"#)?;
//!             server.send(session, &hello, now)?;
//!         }
//!         Event::Message { message, .. } => println!("{:?}", message.method()),
//!         other => println!("{other:?}"),
//!     }
//! }
//! // Connections that need attention, and what to do with each.
//! while let Some(conn) = server.poll_wake() {
//!     if let Interest::Io { write: true, .. } = server.interest(conn) {
//!         let mut socket = Vec::new(); // anything that is `std::io::Write`
//!         let count = server.transmit(conn).write_to(&mut socket)?;
//!         server.handle_written(conn, count, now);
//!     }
//! }
//! // When to call again if nothing else happens.
//! let deadline = server.poll_timeout().expect("a heartbeat is due");
//! server.handle_timeout(deadline.at);
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//!
//! - Results never depend on how input is split into calls, and no input causes a panic.
//! - Every resource has a named limit: see [`Limits`] and [`Timeouts`].
//! - A mistake of a peer becomes an answer ([`Fault`]), a mistake of the caller a returned error.
//! - The handle of a connection or session that is gone never matches another one, and posts to
//!   unknown, ended and foreign sessions are answered identically.
//! - A frame is encoded once for all sessions to which it is sent. A post allocates its body only.
//!
//! # Modules that can be used alone
//!
//! [`http1`] is a strict HTTP/1.1 server codec, [`sse`] encodes and decodes event streams, and
//! [`jsonrpc`] parses the envelope of a message. [`Server::exchange`] runs the server behind an
//! existing HTTP server.
//!
//! # Guides
//!
//! [`guide::event_loop`] drives the core without a runtime, [`guide::limits`] lists every limit.
//!
//! # Features
//!
//! `std` (default): [`Clock`] and vectored writes. Without it the behaviour is the same. The code
//! that the adapters share is in the package `mcp-sse-driver`.
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

extern crate alloc;
#[cfg(any(feature = "std", test))]
#[cfg_attr(test, macro_use)]
extern crate std;

mod answer;
mod arena;
mod client_info;
mod config;
mod conn;
mod counter;
mod entropy;
mod error;
mod error_text;
mod event;
mod exchange;
pub mod guide;
mod health_extras;
pub mod http1;
mod instance_id;
mod jitter;
pub mod jsonrpc;
mod limits;
mod line_throttle;
mod log_values;
mod metrics;
mod metrics_page;
mod outbox;
mod peer;
mod policy;
mod principal;
mod principal_table;
mod request;
mod route;
mod server;
mod session;
mod session_ref;
pub mod sse;
#[cfg(test)]
mod testing;
mod time;
mod timers;
mod token;
mod trace_context;

pub use config::{Authorization, Config, ConfigBuilder};
pub use entropy::{Entropy, EntropyUnavailable};
pub use error::{AcceptError, ConfigError, Disposition, Expired, Fault, NoStaticTokens, SendError};
pub use event::{
    AuthTicket, CloseReason, ConnId, Deadline, Delivery, Event, ForwardedPost, Interest,
    LookupAnswer, LookupTicket, Outcome, PostTicket, QueuedPostId, Reach, Refusal, RequestHead,
    ServerPhase, SessionId, SessionLookup, Verdict,
};
pub use exchange::{Exchange, ResponseHead};
pub use health_extras::HealthExtras;
pub use instance_id::InstanceId;
pub use limits::{Limits, Timeouts};
pub use line_throttle::{LineThrottle, SuppressedLines};
pub use metrics::{DurationHistogram, Metrics, SizeHistogram};
pub use metrics_page::MetricsPage;
pub use outbox::{Detached, Transmit};
pub use peer::Peer;
pub use policy::bearer::{StaticTokens, StaticTokensBuilder, StaticTokensError};
pub use policy::cidr::{Cidr, CidrError};
pub use policy::rate::{Rate, RateError};
pub use policy::resource::ProtectedResource;
pub use principal::Principal;
pub use server::Server;
pub use session::SessionView;
pub use sse::Frame;
#[cfg(feature = "std")]
pub use time::Clock;
pub use time::Time;
pub use timers::TimerKind;
pub use token::{SessionToken, ShardId, TokenError};
pub use trace_context::TraceParent;
