//! Serves a program that speaks MCP on its standard input and output, as so many do.
//!
//! Knows: one process for each session, or one for all, and how messages pass between them.
//! Does not know: HTTP, and of MCP only what `conversation` does.

pub mod check;
pub mod child;
pub mod command;
mod control;
pub mod conversation;
#[cfg(test)]
mod garbage;
pub mod guard;
mod handshakes;
mod ids;
pub mod lenient;
pub mod lines;
pub mod mistyped;
pub mod mux;
pub mod options;
pub mod output;
pub mod servers;
pub mod services;
mod session;
pub mod shared;
pub mod status;
pub mod stderr;

pub use session::PerSession;
pub use shared::Shared;
