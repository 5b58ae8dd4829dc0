//! Serves MCP servers that speak on their standard input and output, as so many do.
//!
//! Knows: one process for each session, or one for all, how messages pass between them, and how every process
//! ends. Does not know: HTTP and flags; of MCP only the handshake, and what the rules of sharing need.
//!
//! The bridge is a handler of sessions for an adapter that is built on `mcp-sse-driver`. It brings no
//! executor that has to be run: [`children::Children`] has a thread that looks after the processes. A program
//! has to call [`guard::run`] first thing in `main`, as every process is started through the program itself.
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use mcp_sse_bridge::children::Children;
//! use mcp_sse_bridge::command::ServerCommand;
//! use mcp_sse_bridge::{PerSession, guard};
//! use mcp_sse_smol::{Config, Listener};
//!
//! fn main() -> std::io::Result<ExitCode> {
//!     if let Some(code) = guard::run() {
//!         return Ok(code);
//!     }
//!     let children = Children::new()?;
//!     let server = ServerCommand::new("npx", ["-y", "@modelcontextprotocol/server-everything"]);
//!     let sessions = PerSession::new(children.clone(), server, true);
//!     let listener = Listener::bind("127.0.0.1:8000", Config::default())?;
//!     smol::block_on(listener.serve_local(move |session| {
//!         let sessions = sessions.clone();
//!         async move { sessions.serve(session).await }
//!     }))?;
//!     // Every process is given time to end.
//!     let left = children.finish();
//!     Ok(ExitCode::from(u8::from(left > 0)))
//! }
//! ```
//!
//! It works on Unix alone; elsewhere the crate is empty.

#![cfg(unix)]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod check;
pub mod child;
pub mod children;
pub mod command;
mod control;
pub mod descriptors;
pub mod ending;
mod envelope_scan;
mod exit_watch;
#[cfg(test)]
mod garbage;
pub mod guard;
mod handshakes;
mod ids;
mod json_values;
mod lenient;
pub mod lines;
mod multiline;
pub mod mux;
pub mod output;
pub mod printed;
pub mod servers_file;
pub mod services;
mod session;
pub mod session_protocol;
pub mod shared;
pub mod status;
pub mod stderr;
mod supervisor;

pub use session::PerSession;
pub use shared::SharedProcess;
