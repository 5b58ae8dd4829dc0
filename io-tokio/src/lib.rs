//! The Model Context Protocol HTTP+SSE server transport on tokio: not written yet.
//!
//! What it will be made of is in `mcp-sse-core`, feature `driver`: a socket, a timer and a way to
//! spawn are all that an adapter adds. `mcp-sse-smol` is one, and its `serve` puts the transport on a
//! thread of its own, from where sessions can be handed to tasks on tokio today.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub use mcp_sse_core::driver;
