//! A client of HTTP/1.1 that shows what happened and when.
//!
//! Knows: how to reach a server by TCP, TLS or a Unix socket, one request a connection, and the bytes of its response.
//! Does not know: MCP, event streams, or which response is right.
//!
//! Decision: sockets with `httparse` and rustls, and no HTTP client crate. Such a client follows redirects, decodes
//! content, keeps connections and retries, and hides which of these happened. The purpose here is to see them. A
//! connection is used for one request, so that a proxy in front of several servers can send each to another one.

pub(crate) mod connect;
pub(crate) mod connection;
pub(crate) mod exchange;
mod framing;
pub(crate) mod target;
#[cfg(feature = "tls")]
pub(crate) mod tls;
