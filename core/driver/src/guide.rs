//! Guides to the adapters: how to serve, and how to put a server on a network.
//!
//! They hold for `mcp-sse-smol` and `mcp-sse-tokio` alike, which re-export every type that they name.
//! Examples use one adapter; the other has the same names.

#[doc(inline)]
pub use mcp_sse_core::guide::limits;

// The package `mcp-sse-tests`, which depends on both adapters, compiles the examples of these files.

/// Where handlers run, how they send, and how a server is stopped.
#[cfg_attr(not(doctest), doc = "")]
#[cfg_attr(not(doctest), doc = include_str!("guide/handlers.md"))]
pub mod handlers {}

/// Static tokens, an asynchronous authorizer, and metadata for OAuth clients.
#[cfg_attr(not(doctest), doc = "")]
#[cfg_attr(not(doctest), doc = include_str!("guide/authentication.md"))]
pub mod authentication {}

/// HTTPS with rustls.
#[cfg_attr(not(doctest), doc = "")]
#[cfg_attr(not(doctest), doc = include_str!("guide/tls.md"))]
pub mod tls {}

/// Listening on a Unix socket.
#[cfg_attr(not(doctest), doc = "")]
#[cfg_attr(not(doctest), doc = include_str!("guide/unix_sockets.md"))]
pub mod unix_sockets {}

/// Serving with several threads.
#[cfg_attr(not(doctest), doc = "")]
#[cfg_attr(not(doctest), doc = include_str!("guide/workers.md"))]
pub mod workers {}

/// Log records: every event with its level and keys, and distributed traces.
#[cfg_attr(not(doctest), doc = "")]
#[cfg_attr(not(doctest), doc = include_str!("guide/logs.md"))]
pub mod logs {}

/// Metrics for Prometheus.
#[cfg_attr(not(doctest), doc = "")]
#[cfg_attr(not(doctest), doc = include_str!("guide/metrics.md"))]
pub mod metrics {}

/// Serving behind nginx or HAProxy.
#[cfg_attr(not(doctest), doc = "")]
#[cfg_attr(not(doctest), doc = include_str!("guide/proxies.md"))]
pub mod proxies {}

/// Several processes behind one URL, and how many machines a number of clients needs.
#[cfg_attr(not(doctest), doc = "")]
#[cfg_attr(not(doctest), doc = include_str!("guide/replicas.md"))]
pub mod replicas {}

/// Restarts, and clients that come back all at once.
#[cfg_attr(not(doctest), doc = "")]
#[cfg_attr(not(doctest), doc = include_str!("guide/reconnection.md"))]
pub mod reconnection {}

/// The transport inside axum, and for services of the official Rust SDK.
#[cfg_attr(not(doctest), doc = "")]
#[cfg_attr(not(doctest), doc = include_str!("guide/axum_and_rmcp.md"))]
pub mod axum_and_rmcp {}
