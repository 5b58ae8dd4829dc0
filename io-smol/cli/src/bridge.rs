//! Serves a program that speaks MCP on its standard input and output, as so many do.
//!
//! Knows: one process for each session, and how messages pass between the two.
//! Does not know: HTTP, and of MCP only what `conversation` does.

pub mod child;
pub mod command;
pub mod conversation;
pub mod guard;
pub mod lines;
pub mod options;
pub mod output;
mod session;
pub mod status;
mod stderr;

pub use session::PerSession;
