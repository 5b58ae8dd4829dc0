//! Server-sent events: an encoder for servers and a decoder for clients.
//!
//! Knows: the event stream format of the WHATWG HTML standard (section 9.2), deviations from it
//! that clients of MCP require, and the HTTP chunk in which an event is sent.
//! Does not know: heads, connections, sessions, or when anything is sent.
//!
//! [`Frame`] is one event, encoded once and shared by all streams on which it is sent. [`Decoder`]
//! is written from the standard and shares no code with [`Frame`], so that tests of one against the
//! other can find mistakes in both.
//!
//! ```
//! use mcp_sse_core::sse::{Decoder, EventName, Frame};
//!
//! let frame = Frame::event(EventName::ENDPOINT, b"/messages?session_id=x")?;
//! let mut events = Vec::new();
//! let mut decoder = Decoder::new(1024);
//! decoder.feed(frame.bare(), &mut |event| events.push(event)).unwrap();
//! assert_eq!(events[0].name, "endpoint");
//! assert_eq!(events[0].data, "/messages?session_id=x");
//! # Ok::<(), mcp_sse_core::sse::FrameError>(())
//! ```

mod decode;
mod encode;

pub use decode::{DecodedEvent, Decoder, EventTooLarge};
pub use encode::{EventName, Frame, FrameError, InvalidEventName};

/// A heartbeat for a stream that is not chunked: an empty comment line.
///
/// There is no text after the colon, because one client passes such text to its JSON parser, and no
/// blank line, because another client treats 256 blank lines as a failure.
pub const HEARTBEAT_BARE: &[u8] = b":\n";

/// [`HEARTBEAT_BARE`] in an HTTP chunk.
pub const HEARTBEAT_CHUNKED: &[u8] = b"2\r\n:\n\r\n";

/// The chunk that ends a chunked body.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
