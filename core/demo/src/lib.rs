//! A small MCP server to try clients with, and what the programs that serve it share.
//!
//! Knows: the demo's messages ([`protocol`]), the flags of a server (`options`), what is printed on start
//! ([`banner`]), the log ([`logging`]), and the signals that end a program ([`signals`]). Does not know: a
//! runtime, sockets; the programs do.
//!
//! It is used by the command `mcp-sse` and by the examples of `mcp-sse-core` and of the adapters.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod banner;
pub mod listen_address;
pub mod logging;
#[cfg(feature = "driver")]
pub mod options;
pub mod protocol;
#[cfg(feature = "driver")]
mod serve;
pub mod signals;

pub use protocol::answer;
#[cfg(feature = "driver")]
pub use serve::serve;
