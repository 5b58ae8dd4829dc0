//! The Model Context Protocol HTTP+SSE server transport (protocol revision 2024-11-05) as a sans-IO
//! state machine.
//!
//! [`Server`] is a value that owns every connection and every session of one shard. Bytes, ends of
//! input, write completions, disconnects and the time go in; events for the application, wake-ups for
//! the driver, bytes for sockets and one next deadline come out. It opens no socket, reads no clock,
//! spawns nothing, and behaves identically for the same inputs. If you run smol or tokio, you want
//! `mcp-sse-smol` or `mcp-sse-tokio` instead, which drive it for you.
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
//! let now = Time::ZERO; // your clock's, in microseconds
//! let mut server = Server::new(Config::default(), Box::new(entropy()), now);
//!
//! // A socket was accepted, and said something.
//! let conn = server.accept(Peer::local(), now)?;
//! server.handle_input(conn, b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n", now);
//!
//! // What the application has to know.
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
//! // Whom to look at again, and what to do there.
//! while let Some(conn) = server.poll_wake() {
//!     if let Interest::Io { write: true, .. } = server.interest(conn) {
//!         let mut socket = Vec::new(); // anything that is `std::io::Write`
//!         let count = server.transmit(conn).write_to(&mut socket)?;
//!         server.handle_written(conn, count, now);
//!     }
//! }
//! // When to come back if nothing else happens.
//! let deadline = server.poll_timeout().expect("a heartbeat is due");
//! server.handle_timeout(deadline.at);
//! # Ok(())
//! # }
//! ```
//!
//! # What it promises
//!
//! - How input is cut into calls never changes what happens, and no input panics.
//! - Everything has a limit with a name: see [`Limits`] and [`Timeouts`].
//! - The peer's mistakes are answers, the caller's are values, ours are assertions.
//! - A handle of something that is gone misses, and every wrong session id looks the same.
//! - A frame is encoded once, however many sessions it goes to; a post allocates its body and nothing
//!   else, and nothing is hashed.
//!
//! # Parts that stand alone
//!
//! [`http1`] is a strict HTTP/1.1 server codec, [`sse`] encodes and decodes event streams, [`jsonrpc`]
//! reads the envelope of a message. [`Server::exchange`] is the whole machine for whoever has an HTTP
//! server already.
//!
//! # Features
//!
//! `std` (default): [`Clock`], vectored writes. It changes nothing of how the machine behaves. What
//! adapters share beside this crate is `mcp-sse-driver`.
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

extern crate alloc;
#[cfg(any(feature = "std", test))]
extern crate std;

mod answer;
mod arena;
mod client_info;
mod config;
mod conn;
mod counter;
mod entropy;
mod error;
mod event;
mod exchange;
mod fault_log_throttle;
mod health_extras;
pub mod http1;
pub mod jsonrpc;
mod limits;
mod metrics;
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
mod throttle;
mod time;
mod timers;
mod token;

pub use config::{Acknowledgement, Authorization, Config, ConfigBuilder};
pub use entropy::{Entropy, EntropyUnavailable};
pub use error::{AcceptError, ConfigError, Disposition, Expired, Fault, SendError};
pub use event::{
    AuthTicket, CloseReason, ConnId, Deadline, Delivery, Event, ForwardedPost, Interest,
    LookupAnswer, LookupTicket, Outcome, PostTicket, QueuedPostId, Reach, Refusal, RequestHead,
    ServerPhase, SessionId, SessionLookup, Verdict,
};
pub use exchange::{Exchange, ResponseHead};
pub use health_extras::HealthExtras;
pub use limits::{Limits, Timeouts};
pub use metrics::Metrics;
pub use outbox::{Detached, Transmit};
pub use peer::Peer;
pub use policy::bearer::{StaticTokens, StaticTokensBuilder, StaticTokensError};
pub use policy::cidr::{Cidr, CidrError};
pub use policy::rate::{Rate, RateError};
pub use policy::resource::ProtectedResource;
pub use principal::Principal;
pub use principal_table::PrincipalView;
pub use server::Server;
pub use session::SessionView;
pub use sse::Frame;
pub use throttle::{Throttle, Unsaid};
#[cfg(feature = "std")]
pub use time::Clock;
pub use time::Time;
pub use timers::TimerKind;
pub use token::{SessionToken, ShardId, TokenError};
