//! Guides to the adapters: how to serve, and how to put a server on a network.
//!
//! The guides apply to both adapters, `mcp-sse-smol` and `mcp-sse-tokio`, which re-export every type that the guides
//! name. Each example uses one adapter; the other has the same names. The package `mcp-sse-tests`, which depends on
//! both adapters, compiles the examples.

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

/// Serving behind nginx or HAProxy.
#[cfg_attr(not(doctest), doc = "")]
#[cfg_attr(not(doctest), doc = include_str!("guide/proxies.md"))]
pub mod proxies {}

/// The transport inside axum, and for services of the official Rust SDK.
#[cfg_attr(not(doctest), doc = "")]
#[cfg_attr(not(doctest), doc = include_str!("guide/axum_and_rmcp.md"))]
pub mod axum_and_rmcp {}
