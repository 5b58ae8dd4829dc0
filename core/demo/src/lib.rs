//! A small MCP server for trying out clients, and the code that is shared by the programs that serve it.
//!
//! Knows: the demo's messages ([`protocol`]), the flags of a server (`options`), the text that is printed on start
//! ([`banner`]), the log ([`logging`]), and the signals that end a program ([`signals`]). Does not know: sockets or a
//! runtime, which are the programs' own.
//!
//! The command `mcp-sse` and the examples of `mcp-sse-core` and of the adapters use it.

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
