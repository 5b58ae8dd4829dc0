//! Serves a program that speaks MCP on its standard input and output, as so many do.
//!
//! Knows: one process for each session, and how messages pass between the two.
//! Does not know: HTTP, and nearly nothing of MCP; see `session` for what little.

pub mod child;
pub mod command;
pub mod guard;
pub mod lines;
pub mod output;
pub mod status;
