//! Server-sent events: encoding what a server sends, decoding what a client gets.
//!
//! Knows: the WHATWG event stream format in both directions, what clients of MCP tolerate of it, and
//! the HTTP chunk that an event travels in.
//! Does not know: heads, connections, sessions, or when anything is sent.
//!
//! [`Frame`] is one event, encoded once and shared by every stream it goes to. [`Decoder`] is written
//! from the standard and not from [`Frame`], so that each can catch the other out.

mod decode;
mod encode;

pub use decode::{Decoder, Event, EventTooLarge};
pub use encode::{EventName, Frame, FrameError, InvalidEventName};

/// A heartbeat without a chunk around it: an empty comment line.
///
/// No text behind the colon, because one client feeds it to its JSON parser; no blank line, because
/// another counts 256 of those as a failure.
pub const HEARTBEAT_BARE: &[u8] = b":\n";

/// [`HEARTBEAT_BARE`] in an HTTP chunk.
pub const HEARTBEAT_CHUNKED: &[u8] = b"2\r\n:\n\r\n";

/// The chunk that ends a chunked body.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
