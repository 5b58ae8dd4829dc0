//! An HTTP/1.1 server codec, strict and without I/O.
//!
//! Knows: RFC 9112 and the parts of RFC 9110 that decide how a message is framed, addressed and
//! dated. Does not know: MCP, routes, sessions, sockets, time-outs, or who may ask.
//!
//! It works on its own, one request after the other:
//!
//! 1. [`HeadScanner::scan`] takes bytes as they come, judges every octet in order, and says where
//!    the head ends. Its verdict never depends on how the bytes were cut.
//! 2. [`Head::parse`] reads one whole head, with no allocation, into a value that cannot be
//!    ambiguous: method, target, version, host, [`Framing`], fields.
//! 3. [`BodyDecoder::decode`] takes what follows, hands the content to a sink, and says where the
//!    body, and with it the request, ends.
//! 4. [`Response::render`] and [`Response::render_stream_head`] make the bytes of an answer.
//!
//! A peer's mistake is a [`Error`], never a panic. Where a standard leaves a choice
//! this layer refuses: a server that refuses cannot disagree with whatever stands in front of it.
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
pub use date::{HttpDate, Rfc3339, rfc3339};
pub use error::Error;
pub use fields::Scan;
pub use framing::{Framing, framing};
pub use head::{FieldStorage, Head};
pub(crate) use octets::is_token;
pub use response::{CONTINUE, Persistence, Response, StreamFraming, reason};
pub use scan::{FIELDS_CAP, HeadLimits, HeadScanner};
pub use start_line::{Method, Version};
pub use target::{Scheme, Target};
