//! The parts of the command `mcp-sse` that other programs use too.
//!
//! Knows: the [`demo`] server, the flags of whatever serves ([`options`]), and what is printed on start
//! ([`greeting`]). Does not know: signals, or a runtime; programs do.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod demo;
pub mod greeting;
pub mod options;
