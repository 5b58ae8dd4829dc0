#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![cfg_attr(not(test), warn(clippy::indexing_slicing))]
//! The Model Context Protocol HTTP+SSE server transport as a sans-IO state machine.

extern crate alloc;
#[cfg(any(feature = "std", test))]
extern crate std;

mod entropy;
mod error;
pub mod http1;
pub mod jsonrpc;
pub mod sse;
mod time;

pub use entropy::{Entropy, EntropyUnavailable};
pub use error::{AcceptError, Aftermath, ConfigError, Expired, Fault, SendError};
#[cfg(feature = "std")]
pub use time::Clock;
pub use time::Time;

/// Placeholder until the configuration lands.
#[derive(Debug)]
pub struct ConfigBuilder;
impl ConfigBuilder {
    /// Placeholder.
    pub fn build(self) {}
}
