//! What every adapter needs beside the core, without a runtime.
//!
//! Knows: sockets behind a trait, wakers, the `Session` handle, and one turn of the loop that
//! connects them to a [`Server`](mcp_sse_core::Server). Does not know: any runtime; an adapter brings
//! sockets, a timer and a way to spawn.
//!
//! An adapter runs three kinds of tasks on one thread:
//!
//! - one that accepts, while [`Shard::poll_accepting`] says so, and gives each socket to
//!   [`Shard::accept`];
//! - one for each connection, which is [`Shard::connection`] and nothing else: it reads;
//! - one that polls [`Shard::poll_turn`]: it serves the clock, moves messages between the core and
//!   the handles, and writes; it hands out the connections and sessions that begin. Tasks that read only
//!   wake it, so that one turn writes what many reads brought about: answers and events for one socket
//!   leave together.
//!
//! With several shards there are these for each of them, on a thread of its own
//! ([`Bound::on_threads`]), and where the system does not deal connections out, one that accepts for
//! all ([`Usher`]). Posts for each other's sessions, and what each has open, the shards see to by
//! themselves.
//!
//! [`Session`] and [`Handle`] are the application's: `Send`, and at home on any executor.

#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

mod addresses;
mod bound;
mod control;
mod decisions;
mod descriptors;
mod exchange;
pub mod guide;
mod handle;
mod handler;
mod lobby;
mod log_throttle;
mod session;
mod shard;
mod shard_mailbox;
mod shard_set;
mod slots;
mod socket;
#[cfg(feature = "tls")]
mod tls;
mod turn;
#[cfg(unix)]
mod unix;
mod verdicts;
mod worker_count;
mod workers;

pub use addresses::{ADDRESSES_MAX, RoundRobin};
pub use bound::{Bound, Door};
pub use decisions::{Authorizer, DECISIONS_MAX};
pub use descriptors::Descriptors;
pub use exchange::{ExchangeClient, ExchangeRequest};
pub use handle::{Handle, ShardControl, Stopped, shard_control};
pub use handler::{HandlerReturn, ReturnsFuture, ReturnsNothing};
pub use lobby::{Arrival, Seat, Usher};
pub use log_throttle::LogThrottle;
/// How many lines of one cause were left out of the log.
pub use mcp_sse_core::SuppressedLines;
/// The version of rustls whose configuration [`Tls::from_config`] takes.
#[cfg(feature = "tls")]
pub use rustls;
pub use session::{Closed, Session, SessionSender};
pub use shard::{AcceptTrouble, Shard};
pub use socket::Socket;
#[cfg(feature = "tls")]
pub use tls::{Secure, Secured, Tls, TlsError, TlsProblem, Upgrade};
pub use turn::{Timer, Turn};
#[cfg(unix)]
pub use unix::{SocketFile, UnixDoor};
pub use verdicts::{Decision, VerdictCache};
pub use worker_count::WORKERS_MAX;
pub use workers::{Entrance, Serves, Threads, Worker, run_each, shard_control_of};

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
