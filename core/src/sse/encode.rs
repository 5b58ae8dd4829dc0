//! Encodes one event, wrapped in its HTTP chunk.
//!
//! Knows: the event stream format, chunk framing (RFC 9112 §7.1), and which characters inside JSON
//! some clients treat as line ends.
//! Does not know: to whom and over which version of HTTP a frame is sent. The same bytes serve both
//! framings:
//!
//! ```text
//!   1a4\r\n  event: message\ndata: {..}\n\n  \r\n
//!   |<----------------- chunked ------------------>|     HTTP/1.1
//!            |<------------ bare --------->|             HTTP/1.0 or close-delimited
//! ```

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use memchr::{memchr, memchr2};

use crate::error_text::error_text;
use crate::jsonrpc::{JSON_SPACE, Outline, Shape, error_body, range_in};

/// The event type, written in the `event` field: one line of text.
///
/// ```
/// # use mcp_sse_core::sse::EventName;
/// const TICK: EventName<'static> = match EventName::new("tick") {
///     Ok(name) => name,
///     Err(_) => panic!("not an event name"),
/// };
/// assert_eq!(TICK.as_str(), "tick");
/// assert!(EventName::new("two\nlines").is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventName<'a>(&'a str);

impl<'a> EventName<'a> {
    /// `message`: the type of events that carry a JSON-RPC message in MCP, and the default type of
    /// the standard.
    pub const MESSAGE: EventName<'static> = EventName("message");
    /// `endpoint`: the first event of every MCP stream. Its data is the URI to which the client
    /// posts messages.
    pub const ENDPOINT: EventName<'static> = EventName("endpoint");

    /// Makes an event name from `name`.
    ///
    /// MCP defines only the two names above, and some clients end the stream when they receive
    /// another.
    ///
    /// # Errors
    ///
    /// [`InvalidEventName`] if the name is empty, which a client would read as `message`, or
    /// contains CR, LF or NUL.
    pub const fn new(name: &'a str) -> Result<Self, InvalidEventName> {
        let mut rest = name.as_bytes();
        if rest.is_empty() {
            return Err(InvalidEventName);
        }
        while let [byte, tail @ ..] = rest {
            if matches!(byte, b'\r' | b'\n' | 0) {
                return Err(InvalidEventName);
            }
            rest = tail;
        }
        Ok(Self(name))
    }

    /// The name.
    #[must_use]
    pub const fn as_str(self) -> &'a str {
        self.0
    }
}

/// The error of [`EventName::new`]: the name is empty or contains CR, LF or NUL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidEventName;

error_text!(InvalidEventName, |_| "an event name must not be empty or contain CR, LF or NUL");

/// Why a frame could not be encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// The bytes are not UTF-8.
    NotUtf8,
    /// The text is not exactly one JSON value. Contains the position and kind of the syntax error.
    NotJson(String),
    /// The text is JSON but not an object. Every message is an object; batches are not supported.
    NotObject,
    /// The value could not be serialized. Contains the serializer's reason.
    Serialize(String),
    /// The frame would be 4 GiB or longer.
    TooLarge,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUtf8 => f.write_str("an event must be UTF-8"),
            Self::NotJson(reason) => write!(f, "a message must be JSON: {reason}"),
            Self::NotObject => f.write_str("a message must be one JSON object"),
            Self::Serialize(reason) => write!(f, "the value cannot be serialized: {reason}"),
            Self::TooLarge => f.write_str("an event must be shorter than 4 GiB"),
        }
    }
}

impl core::error::Error for FrameError {}

/// One encoded event, wrapped in its HTTP chunk. It can be sent on any number of streams.
///
/// A clone shares the bytes and costs one reference count. `Debug` prints the length but not the
/// text, which may be secret: the endpoint event contains the session's token.
///
/// # Examples
///
/// ```
/// use mcp_sse_core::Frame;
///
/// let frame = Frame::message(br#"{"jsonrpc":"2.0","id":1,"result":{}}"#)?;
/// let event = "event: message\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n";
/// assert_eq!(frame.bare(), event.as_bytes());
/// assert_eq!(frame.chunked(), format!("3b\r\n{event}\r\n").as_bytes());
/// assert_eq!(frame.answered_id(), Some("1"));
/// # Ok::<(), mcp_sse_core::sse::FrameError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// The chunk. The range of the event in it follows from the length of the chunk's first line.
    chunk: Arc<[u8]>,
    /// The range in `chunk` of the raw id of the answered request; 0 and 0 if the message is not a
    /// response. Two numbers are smaller than an `Option<Range<u32>>`.
    id_start: u32,
    id_end: u32,
}

impl Frame {
    /// Encodes one JSON-RPC message: `event: message` and the JSON on one `data:` line.
    ///
    /// `json` must be one JSON object in UTF-8. Whether it is a valid JSON-RPC message is not
    /// checked; only [`answered_id`](Self::answered_id) is determined. [`result`](Self::result),
    /// [`error`](Self::error) and [`notification`](Self::notification) make valid messages.
    ///
    /// The JSON value is sent unchanged, but its text may change: white space around the object and
    /// line ends between tokens are removed, and U+2028, U+2029 and U+0085 are escaped, because
    /// several clients treat them as line ends.
    ///
    /// # Errors
    ///
    /// [`FrameError::NotUtf8`], [`NotJson`](FrameError::NotJson), [`NotObject`](FrameError::NotObject),
    /// [`TooLarge`](FrameError::TooLarge).
    pub fn message(json: &[u8]) -> Result<Self, FrameError> {
        let text = core::str::from_utf8(json).map_err(|_| FrameError::NotUtf8)?;
        let text = text.trim_matches(JSON_SPACE);
        // This check comes before lengths are reduced to 32 bits.
        chunk_len(text.len() as u64)?;
        let read = Outline::read(text, None);
        let (outline, shape) = read.map_err(|error| FrameError::NotJson(error.to_string()))?;
        if shape != Shape::Object {
            return Err(FrameError::NotObject);
        }
        let id = outline.answered_id().map(|id| range_in(text, id));

        let text = text.as_bytes();
        let clean = is_clean(text);
        let sent_len = |part: &[u8]| if clean { part.len() as u64 } else { cleaned_len(part) };
        let event_len = MESSAGE_PREFIX.len() as u64 + sent_len(text) + 2;
        let chunk = chunk(event_len, |writer| {
            writer.put(MESSAGE_PREFIX);
            if clean {
                writer.put(text)
            } else {
                each_clean_piece(text, |piece| writer.put(piece))
            }
            writer.put(b"\n\n");
        })?;

        let mut frame = Self { chunk, id_start: 0, id_end: 0 };
        if let Some(id) = id {
            // Text that is dropped or escaped before the id moves the id, and the id itself may
            // need escaping.
            let len_of = |range: Range<u32>| {
                let part = text.get(range.start as usize..range.end as usize);
                u32::try_from(sent_len(part.unwrap_or_default())).unwrap_or(u32::MAX)
            };
            let text_start = frame.event_start() as u32 + MESSAGE_PREFIX.len() as u32;
            frame.id_start = text_start + len_of(0..id.start);
            frame.id_end = frame.id_start + len_of(id);
        }
        Ok(frame)
    }

    /// Encodes an event of any name. `data` may have several lines, each ended by CRLF, LF or CR;
    /// every line becomes a `data:` line, and the client receives them joined by LF.
    ///
    /// Some clients of MCP keep only the last `data:` line; use [`message`](Self::message) for
    /// JSON. A frame made here is never treated as a response.
    ///
    /// # Errors
    ///
    /// [`FrameError::NotUtf8`], [`FrameError::TooLarge`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use mcp_sse_core::sse::{EventName, Frame};
    /// let frame = Frame::event(EventName::new("log")?, b"two\nlines")?;
    /// assert_eq!(frame.bare(), b"event: log\ndata: two\ndata: lines\n\n");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn event(name: EventName<'_>, data: &[u8]) -> Result<Self, FrameError> {
        Self::event_with_retry(name, data, None)
    }

    /// Like [`event`](Self::event), with a `retry:` field behind the data, which sets the reconnection
    /// time of the client.
    pub(crate) fn event_with_retry(
        name: EventName<'_>,
        data: &[u8],
        retry_ms: Option<u64>,
    ) -> Result<Self, FrameError> {
        core::str::from_utf8(data).map_err(|_| FrameError::NotUtf8)?;
        let retry = retry_ms.map(|retry| format!("retry: {retry}\n"));
        let retry = retry.as_deref().unwrap_or_default().as_bytes();
        let mut event_len = (b"event: \n\n".len() + name.0.len() + retry.len()) as u64;
        each_line(data, |line| event_len += b"data: \n".len() as u64 + line.len() as u64);
        let chunk = chunk(event_len, |writer| {
            writer.put(b"event: ");
            writer.put(name.0.as_bytes());
            writer.put(b"\n");
            each_line(data, |line| {
                writer.put(b"data: ");
                writer.put(line);
                writer.put(b"\n");
            });
            writer.put(retry);
            writer.put(b"\n");
        })?;
        Ok(Self { chunk, id_start: 0, id_end: 0 })
    }

    /// Serializes `value` to JSON and encodes it like [`message`](Self::message). The value must be
    /// a complete JSON-RPC message.
    ///
    /// # Errors
    ///
    /// [`FrameError::Serialize`] if `value` cannot be written as JSON, and the errors of
    /// [`message`](Self::message).
    ///
    /// # Examples
    ///
    /// ```
    /// # use mcp_sse_core::Frame;
    /// let ping = serde_json::json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    /// assert!(Frame::from_json(&ping)?.bare().starts_with(b"event: message\ndata: {"));
    /// # Ok::<(), mcp_sse_core::sse::FrameError>(())
    /// ```
    pub fn from_json<T: serde::Serialize + ?Sized>(value: &T) -> Result<Self, FrameError> {
        Self::message(&serialize(value)?)
    }

    /// Encodes the successful response to the request with this `id`. `value` becomes the member
    /// `result`.
    ///
    /// `id` is the raw JSON text of the request's id, as
    /// [`Message::id`](crate::jsonrpc::Message::id) returns it. The client therefore receives its
    /// id exactly as it sent it, even if no number type can represent it.
    ///
    /// # Errors
    ///
    /// [`FrameError::Serialize`] if `value` cannot be written as JSON, [`FrameError::NotJson`] if `id`
    /// is not JSON, [`FrameError::TooLarge`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use mcp_sse_core::Frame;
    /// let frame = Frame::result("7", &serde_json::json!({"tools": []}))?;
    /// let text = r#"{"jsonrpc":"2.0","id":7,"result":{"tools":[]}}"#;
    /// assert_eq!(frame.bare(), format!("event: message\ndata: {text}\n\n").as_bytes());
    /// # Ok::<(), mcp_sse_core::sse::FrameError>(())
    /// ```
    pub fn result<T: serde::Serialize + ?Sized>(id: &str, value: &T) -> Result<Self, FrameError> {
        check_id(id)?;
        let head = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":"#);
        Self::message(&envelope(head, value)?)
    }

    /// Encodes the error response to the request with this `id`, which is the raw JSON text of the
    /// request's id as for [`result`](Self::result).
    ///
    /// `code` is one of [`jsonrpc::code`](crate::jsonrpc::code) or a code of the application.
    /// `message` describes the error in one sentence; it may be any text.
    ///
    /// # Errors
    ///
    /// [`FrameError::NotJson`] if `id` is not JSON, [`FrameError::TooLarge`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use mcp_sse_core::{Frame, jsonrpc::code};
    /// let frame = Frame::error("\"a\"", code::METHOD_NOT_FOUND, "there is no such method")?;
    /// assert_eq!(frame.answered_id(), Some("\"a\""));
    /// # Ok::<(), mcp_sse_core::sse::FrameError>(())
    /// ```
    pub fn error(id: &str, code: i32, message: &str) -> Result<Self, FrameError> {
        check_id(id)?;
        Self::message(&error_body(Some(id), code, message))
    }

    /// Encodes a notification: a message with a method and params that expects no response.
    ///
    /// `params` must serialize to a JSON object for MCP; this is not checked.
    ///
    /// # Errors
    ///
    /// [`FrameError::Serialize`] if `params` cannot be written as JSON, [`FrameError::TooLarge`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use mcp_sse_core::Frame;
    /// let params = serde_json::json!({"progressToken": 1, "progress": 50, "total": 100});
    /// let frame = Frame::notification("notifications/progress", &params)?;
    /// assert!(!frame.answers());
    /// # Ok::<(), mcp_sse_core::sse::FrameError>(())
    /// ```
    pub fn notification<T: serde::Serialize + ?Sized>(
        method: &str,
        params: &T,
    ) -> Result<Self, FrameError> {
        let method = serde_json::to_string(method).expect("invariant: any text is a JSON string");
        let head = format!(r#"{{"jsonrpc":"2.0","method":{method},"params":"#);
        Self::message(&envelope(head, params)?)
    }

    /// The number of bytes that the frame takes on a chunked connection. A queue counts
    /// [`Limits::SEGMENT_COST`](crate::Limits::SEGMENT_COST) in addition.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        self.chunk.len()
    }

    /// The event wrapped in its HTTP chunk.
    #[must_use]
    pub fn chunked(&self) -> &[u8] {
        &self.chunk
    }

    /// The event without the chunk.
    #[must_use]
    pub fn bare(&self) -> &[u8] {
        self.slice(self.bare_range())
    }

    /// Whether the message is a JSON-RPC response: it has an id and a result or an error, and no
    /// method.
    #[must_use]
    pub const fn answers(&self) -> bool {
        self.id_end != 0
    }

    /// The raw JSON text of the id of the request that this message answers, as it is sent; `None`
    /// if the message is not a response.
    ///
    /// Compare it with [`same_id`](crate::jsonrpc::same_id): the response may spell the id
    /// differently from the request, for example with other escapes.
    #[must_use]
    pub fn answered_id(&self) -> Option<&str> {
        let id = self.slice(self.id_start..self.id_end);
        if self.answers() { core::str::from_utf8(id).ok() } else { None }
    }

    /// A share of the frame's bytes, and the range of them to send: the chunk if `chunked`,
    /// otherwise the event.
    pub(crate) fn shared(&self, chunked: bool) -> (Arc<[u8]>, u32, u32) {
        let range = if chunked { 0..self.chunk.len() as u32 } else { self.bare_range() };
        (self.chunk.clone(), range.start, range.end)
    }

    /// The range of the event without the chunk.
    fn bare_range(&self) -> Range<u32> {
        self.event_start() as u32..(self.chunk.len() - CRLF.len()) as u32
    }

    /// The offset of the event, after the chunk's first line, which is at most ten bytes long.
    fn event_start(&self) -> usize {
        let size_len = memchr(b'\r', &self.chunk).expect("invariant: a chunk starts with a line");
        size_len + CRLF.len()
    }

    fn slice(&self, range: Range<u32>) -> &[u8] {
        self.chunk.get(range.start as usize..range.end as usize).unwrap_or_default()
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("wire_len", &self.wire_len())
            .field("answered_id", &self.answered_id())
            .finish()
    }
}

/// Checks that `id` is one JSON value. Other text could add members to the message.
fn check_id(id: &str) -> Result<(), FrameError> {
    match serde_json::from_str::<serde::de::IgnoredAny>(id) {
        Ok(_) => Ok(()),
        Err(error) => Err(FrameError::NotJson(format!("the id: {error}"))),
    }
}

fn serialize<T: serde::Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, FrameError> {
    serde_json::to_vec(value).map_err(|error| FrameError::Serialize(error.to_string()))
}

/// The text of a message: `head`, which ends before the value of the last member, and `value`.
fn envelope<T: serde::Serialize + ?Sized>(head: String, value: &T) -> Result<Vec<u8>, FrameError> {
    let value = serialize(value)?;
    let mut text = head.into_bytes();
    text.extend_from_slice(&value);
    text.push(b'}');
    Ok(text)
}

const CRLF: &[u8] = b"\r\n";

/// The first bytes of every message event.
const MESSAGE_PREFIX: &[u8] = b"event: message\ndata: ";

/// The length of a chunk with `data_len` bytes of data. It is below 4 GiB, so every offset fits 32
/// bits.
fn chunk_len(data_len: u64) -> Result<usize, FrameError> {
    let len = data_len.saturating_add(u64::from(hex_digits(data_len)) + 2 * CRLF.len() as u64);
    let len = u32::try_from(len).map_err(|_| FrameError::TooLarge)?;
    usize::try_from(len).map_err(|_| FrameError::TooLarge)
}

/// The number of hexadecimal digits of `number`. It is at least 1.
const fn hex_digits(number: u64) -> u32 {
    (u64::BITS - (number | 1).leading_zeros()).div_ceil(4)
}

/// Makes a chunk in one allocation. `write` must put exactly `data_len` bytes.
fn chunk(data_len: u64, write: impl FnOnce(&mut ChunkWriter<'_>)) -> Result<Arc<[u8]>, FrameError> {
    let mut chunk: Arc<[u8]> = core::iter::repeat_n(0, chunk_len(data_len)?).collect();
    let rest = Arc::get_mut(&mut chunk).expect("invariant: this Arc has no other owner yet");
    let mut writer = ChunkWriter { rest };
    for place in (0..hex_digits(data_len)).rev() {
        let digit = (data_len >> (4 * place)) as u32 & 0xf;
        writer.put(&[char::from_digit(digit, 16).map_or(b'0', |digit| digit as u8)]);
    }
    writer.put(CRLF);
    write(&mut writer);
    writer.put(CRLF);
    assert!(writer.rest.is_empty(), "invariant: as many bytes are written as were counted");
    Ok(chunk)
}

/// The part of a chunk that is still to be written.
struct ChunkWriter<'a> {
    rest: &'a mut [u8],
}

impl ChunkWriter<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let (here, rest) = core::mem::take(&mut self.rest)
            .split_at_mut_checked(bytes.len())
            .expect("invariant: no more bytes are written than were counted");
        here.copy_from_slice(bytes);
        self.rest = rest;
    }
}

/// Whether the JSON text can be sent unchanged. `false` may be wrong; then the text is only
/// processed more slowly.
///
/// Two vectorized searches settle nearly every message. 0xC2 and 0xE2 are the first bytes of the
/// characters to be escaped, and of others such as quotation marks and the no-break space.
fn is_clean(json: &[u8]) -> bool {
    memchr2(b'\n', b'\r', json).is_none() && memchr2(0xc2, 0xe2, json).is_none()
}

fn cleaned_len(json: &[u8]) -> u64 {
    let mut len = 0;
    each_clean_piece(json, |piece| len += piece.len() as u64);
    len
}

/// Passes the JSON text to `take` in pieces, with line ends removed and line separators escaped.
///
/// The function does not need to know where strings begin: in valid JSON a raw CR or LF is always
/// between tokens, and a character outside ASCII is always in a string.
fn each_clean_piece(json: &[u8], mut take: impl FnMut(&[u8])) {
    let mut rest = json;
    // The number of bytes at the start of `rest` that need no change.
    let mut clean = 0;
    while let Some(suspect) = rest.get(clean..) {
        let Some(at) = suspect.iter().position(|b| matches!(b, b'\n' | b'\r' | 0xc2 | 0xe2)) else {
            break;
        };
        let at = clean + at;
        let (piece, tail) = rest.split_at(at);
        let (instead, after): (&[u8], _) = match tail {
            [b'\n' | b'\r', after @ ..] => (b"", after),
            [0xc2, 0x85, after @ ..] => (br"\u0085", after),
            [0xe2, 0x80, 0xa8, after @ ..] => (br"\u2028", after),
            [0xe2, 0x80, 0xa9, after @ ..] => (br"\u2029", after),
            _ => {
                clean = at + 1;
                continue;
            }
        };
        take(piece);
        take(instead);
        rest = after;
        clean = 0;
    }
    take(rest);
}

/// Passes the lines of `data` to `take`, without their ends. The last line may be empty.
fn each_line(data: &[u8], mut take: impl FnMut(&[u8])) {
    let mut rest = data;
    while let Some(at) = memchr2(b'\n', b'\r', rest) {
        let (line, tail) = rest.split_at(at);
        take(line);
        rest = match tail {
            [b'\r', b'\n', after @ ..] | [_, after @ ..] => after,
            [] => tail,
        };
    }
    take(rest);
}

#[cfg(test)]
mod tests;
