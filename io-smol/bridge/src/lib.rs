//! Serves MCP servers that speak on their standard input and output (stdio) to clients of HTTP+SSE.
//!
//! The crate starts the processes of a server, either one for each session ([`PerSession`]) or one for all sessions
//! ([`SharedProcess`]). It passes messages between the processes and the sessions, and it ends every process. It
//! does not parse HTTP or command line flags. Of MCP it reads the handshake; a shared process also needs progress
//! tokens, cancellations and subscriptions.
//!
//! The bridge is a handler of sessions for an adapter that is built on `mcp-sse-driver`. An application has no
//! executor to run for it: [`children::Children`] has a thread of its own that supervises the processes.
//! `main` must call [`guard::run`] before anything else, because every process is started through the
//! application's own executable.
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
//!     // Wait until every process has ended.
//!     let left = children.finish();
//!     Ok(ExitCode::from(u8::from(left > 0)))
//! }
//! ```
//!
//! The crate works on Unix only. On other systems it is empty.

#![cfg(unix)]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod check;
mod child;
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
mod lines;
mod multiline;
mod mux;
mod output;
mod printed;
#[cfg(feature = "prometheus")]
pub mod prometheus;
pub mod servers_file;
pub mod services;
mod session;
mod session_protocol;
mod shared;
pub mod status;
pub mod stderr;
mod supervisor;

pub use lines::line_bytes_max;
pub use session::PerSession;
pub use shared::SharedProcess;
