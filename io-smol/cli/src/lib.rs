//! The parts of the command `mcp-sse` that other programs use too.
//!
//! Knows: the [`demo`] server, the bridge to servers on stdio, the flags of whatever serves
//! (`options`), what is printed on start ([`greeting`]), the log ([`logging`]), the limit on descriptors,
//! and the signals that ask to [`stop`]. Does not know: a runtime, but for the bridge; programs do.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

#[cfg(all(unix, feature = "smol"))]
pub mod bridge;
pub mod demo;
#[cfg(all(unix, feature = "smol"))]
pub mod descriptors;
pub mod greeting;
pub mod logging;
#[cfg(feature = "smol")]
pub mod options;
pub mod place;
pub mod stop;
