//! The Model Context Protocol HTTP+SSE server transport as a sans-IO state machine.
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

extern crate alloc;
#[cfg(any(feature = "std", test))]
extern crate std;

mod answer;
mod arena;
mod config;
mod conn;
#[cfg(feature = "driver")]
pub mod driver;
mod entropy;
mod error;
mod event;
mod exchange;
pub mod http1;
pub mod jsonrpc;
mod limits;
mod metrics;
mod outbox;
mod peer;
mod policy;
mod request;
mod route;
mod server;
mod session;
pub mod sse;
mod tally;
#[cfg(test)]
mod testing;
mod time;
mod timers;
mod token;

pub use config::{Acknowledgement, Authorization, Config, ConfigBuilder};
pub use entropy::{Entropy, EntropyUnavailable};
pub use error::{AcceptError, Aftermath, ConfigError, Expired, Fault, SendError};
pub use event::{
    AuthTicket, CloseReason, ConnId, Deadline, Event, ForwardedPost, Interest, Outcome, Phase,
    PostTicket, Principal, Reach, Refusal, RequestHead, SessionId, Verdict,
};
pub use exchange::{Exchange, ResponseHead};
pub use limits::{Limits, Timeouts};
pub use metrics::Metrics;
pub use outbox::{Detached, Transmit};
pub use peer::Peer;
pub use server::Server;
pub use session::SessionView;
pub use sse::Frame;
#[cfg(feature = "std")]
pub use time::Clock;
pub use time::Time;
pub use timers::TimerKind;
pub use token::{SessionToken, Shard, TokenError};
