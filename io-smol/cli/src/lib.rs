//! The parts of the command `mcp-sse` that other programs use too.
//!
//! Knows: the [`demo`] server. Does not know: flags, signals, or how to listen; the command does.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod demo;
