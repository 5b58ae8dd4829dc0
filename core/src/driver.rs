//! What every adapter needs beside the core, without a runtime: feature `driver`.
//!
//! Knows: sockets behind a trait, wakers, the `Session` handle, and one turn of the loop that
//! connects them to a [`Server`](crate::Server). Does not know: any runtime; an adapter brings
//! sockets, a timer and a way to spawn.
//!
//! An adapter runs three kinds of tasks on one thread:
//!
//! - one that accepts, while [`Shard::poll_accepting`] says so, and gives each socket to
//!   [`Shard::accept`];
//! - one for each connection, which is [`Shard::connection`] and nothing else: it reads;
//! - one that polls [`Shard::poll_turn`]: it serves the clock, moves messages between the core and
//!   the handles, and writes; it hands out the connections and sessions that begin. Tasks that read only wake it, so that one turn writes what many reads
//!   brought about: answers and events for one socket leave together.
//!
//! [`Session`] and [`Handle`] are the application's: `Send`, and at home on any executor.

mod attention;
mod bound;
mod exchange;
mod handle;
mod session;
mod shard;
#[cfg(feature = "tls")]
mod tls;
mod turn;
#[cfg(unix)]
mod unix;

pub use bound::{Bound, Door};
pub use exchange::{Conversation, ExchangeRequest};
pub use handle::{Controls, Handle, Stopped, controls};
pub use session::{Closed, Session, SessionSender};
pub use shard::{AcceptTrouble, Shard, Socket};
#[cfg(feature = "tls")]
pub use tls::{Secure, Secured, Tls, TlsError, TlsProblem, Upgrade};
pub use turn::{Timer, Turn};
#[cfg(unix)]
pub use unix::{SocketFile, UnixDoor};

#[cfg(test)]
mod tests;
