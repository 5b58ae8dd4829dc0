//! An HTTP/1.1 server codec, strict and without I/O.
//!
//! Knows: RFC 9112 and the parts of RFC 9110 that decide how a message is framed, addressed and
//! dated. Does not know: MCP, routes, sessions, sockets, timeouts or authorization.
//!
//! It can be used without the rest of this crate. Each request passes through it in four steps:
//!
//! 1. [`HeadScanner::scan`] takes bytes as they arrive, checks every octet in order, and reports
//!    where the head ends. The result never depends on how the bytes were split into calls.
//! 2. [`Head::parse`] reads one complete head, without allocating, into a value without ambiguity:
//!    method, target, version, host, [`Framing`], fields.
//! 3. [`BodyDecoder::decode`] takes the bytes after the head, passes the content to a sink, and
//!    reports where the body, and with it the request, ends.
//! 4. [`Response::render`] and [`Response::render_stream_head`] produce the bytes of a response.
//!
//! A mistake of the peer is an [`Error`], never a panic. Where a standard allows a server either to
//! accept or to refuse a message, this codec refuses: a server that refuses cannot interpret a
//! message differently from a proxy in front of it, which is how request smuggling works.
//!
//! ```
//! use mcp_sse_core::http1::{FieldStorage, Head, HeadLimits, HeadScanner, Method, Scan};
//!
//! let input = b"POST /messages?session_id=x HTTP/1.1\r\nHost: localhost\r\n\r\nrest";
//! let mut scanner = HeadScanner::new();
//! let scan = scanner.scan(input, &HeadLimits::default())?;
//! assert_eq!(scan, Scan::Complete { consumed: input.len() - 4 });
//!
//! let mut storage = FieldStorage::new();
//! let head = Head::parse(&input[..input.len() - 4], &mut storage)?;
//! assert_eq!(head.method(), Method::Post);
//! assert_eq!(head.target().query_parameter("session_id"), Some("x"));
//! # Ok::<(), mcp_sse_core::http1::Error>(())
//! ```

mod authority;
mod body;
mod date;
mod error;
mod fields;
mod framing;
mod head;
mod octets;
mod response;
mod scan;
mod start_line;
mod target;

pub(crate) use authority::split_authority;
pub use body::{BodyDecoder, BodyLimits, Progress};
pub use date::HttpDate;
pub(crate) use date::rfc3339;
pub use error::Error;
pub use fields::Scan;
pub use framing::{Framing, framing};
pub use head::{FieldStorage, Head};
pub(crate) use octets::is_token;
pub use response::{CONTINUE, Persistence, Response, StreamFraming, reason};
pub use scan::{FIELDS_CAP, HeadLimits, HeadScanner};
pub use start_line::{Method, Version};
pub use target::{Scheme, Target};
