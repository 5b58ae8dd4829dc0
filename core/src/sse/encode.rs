//! Encodes one event, already wrapped in its HTTP chunk.
//!
//! Knows: the event stream format, chunk framing (RFC 9112 section 7.1), and which characters inside
//! JSON make some clients split a line in two.
//! Does not know: who gets the frame and over which version of HTTP, so it serves both framings:
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
use core::time::Duration;

use memchr::{memchr, memchr2};

use crate::jsonrpc::{JSON_SPACE, NoOutline, Outline, error_body, range_in};

/// The `event` field of an event: one line of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventName<'a>(&'a str);

impl<'a> EventName<'a> {
    /// A JSON-RPC message, in MCP and by default of the standard.
    pub const MESSAGE: EventName<'static> = EventName("message");
    /// Where to post messages to: the first event of every MCP stream.
    pub const ENDPOINT: EventName<'static> = EventName("endpoint");

    /// Checks that `name` fits on one line.
    ///
    /// Think twice: clients of MCP know the two names above, and some end the stream at any other.
    ///
    /// # Errors
    ///
    /// If the name is empty, which would mean `message`, or holds CR, LF or NUL.
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

/// A name that cannot be an event's: empty, or with CR, LF or NUL in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidEventName;

impl fmt::Display for InvalidEventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event name must not be empty or hold CR, LF or NUL")
    }
}

impl core::error::Error for InvalidEventName {}

/// Why something cannot be sent as an event.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// The bytes are not UTF-8.
    NotUtf8,
    /// The text is not one JSON text; says where it stops being one.
    NotJson(String),
    /// The text is JSON, but not an object, and every message is one. Batches are not sent.
    NotObject,
    /// The value would not be serialized; says why.
    Serialize(String),
    /// The frame would not be shorter than 4 GiB.
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

/// One encoded event, wrapped in its HTTP chunk, ready for any number of streams.
///
/// A clone is a reference count. Prints its length and not its text, which may be a secret: the
/// endpoint event holds the session's token.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// The chunk. Where the event in it starts and ends follows from the chunk's own head and tail.
    chunk: Arc<[u8]>,
    /// Where in `chunk` the raw id of the answered request is; 0 and 0 if this is no response. Two
    /// numbers, because an `Option<Range<u32>>` is half as large again.
    id_start: u32,
    id_end: u32,
}

impl Frame {
    /// Encodes one JSON-RPC message: `event: message` and its JSON on one `data:` line.
    ///
    /// The text must be one JSON object. That it is a good JSON-RPC message is for the sender to see
    /// to; only whether it is a response is looked at, see [`answered_id`](Self::answered_id). Line
    /// ends between tokens are dropped, white space around the object too, and U+2028, U+2029 and
    /// U+0085 are escaped: to several clients they end a line. The JSON value stays what it was.
    ///
    /// # Errors
    ///
    /// [`FrameError::NotUtf8`], [`NotJson`](FrameError::NotJson), [`NotObject`](FrameError::NotObject),
    /// [`TooLarge`](FrameError::TooLarge).
    pub fn message(json: &[u8]) -> Result<Self, FrameError> {
        let text = core::str::from_utf8(json).map_err(|_| FrameError::NotUtf8)?;
        let text = text.trim_matches(JSON_SPACE);
        // Before anything is cut down to 32 bits.
        chunk_len(text.len() as u64)?;
        let outline = Outline::read(text, None).map_err(|error| match error {
            NoOutline::Syntax(error) => FrameError::NotJson(error.to_string()),
            NoOutline::Array | NoOutline::Scalar => FrameError::NotObject,
        })?;
        let id = outline.answered_id().map(|id| range_in(text, id));

        let text = text.as_bytes();
        let clean = is_clean(text);
        let sent_len = |part: &[u8]| if clean { part.len() as u64 } else { cleaned_len(part) };
        let event_len = BEFORE.len() as u64 + sent_len(text) + 2;
        let chunk = chunk(event_len, |pen| {
            pen.put(BEFORE);
            if clean {
                pen.put(text)
            } else {
                each_clean_piece(text, |piece| pen.put(piece))
            }
            pen.put(b"\n\n");
        })?;

        let mut frame = Self { chunk, id_start: 0, id_end: 0 };
        if let Some(id) = id {
            // What is dropped or escaped before the id moves it, and it may itself need escaping.
            let len_of = |range: Range<u32>| {
                let part = text.get(range.start as usize..range.end as usize);
                u32::try_from(sent_len(part.unwrap_or_default())).unwrap_or(u32::MAX)
            };
            let text_start = frame.event_start() as u32 + BEFORE.len() as u32;
            frame.id_start = text_start + len_of(0..id.start);
            frame.id_end = frame.id_start + len_of(id);
        }
        Ok(frame)
    }

    /// Encodes any event. Each line of `data`, ended by CRLF, LF or CR, becomes a `data:` line of its
    /// own, so that a decoder has it back with LF for every line end.
    ///
    /// Some clients of MCP keep only the last `data:` line; use [`message`](Self::message) for JSON. A
    /// frame made here never counts as a response.
    ///
    /// # Errors
    ///
    /// [`FrameError::NotUtf8`], [`FrameError::TooLarge`].
    pub fn event(name: EventName<'_>, data: &[u8]) -> Result<Self, FrameError> {
        Self::event_with_retry(name, data, None)
    }

    /// As [`event`](Self::event), with a `retry:` field for clients that reconnect by themselves.
    pub(crate) fn event_with_retry(
        name: EventName<'_>,
        data: &[u8],
        retry: Option<Duration>,
    ) -> Result<Self, FrameError> {
        core::str::from_utf8(data).map_err(|_| FrameError::NotUtf8)?;
        let retry = retry.map(|retry| format!("retry: {}\n", retry.as_millis()));
        let retry = retry.as_deref().unwrap_or_default().as_bytes();
        let mut event_len = (b"event: \n\n".len() + name.0.len() + retry.len()) as u64;
        each_line(data, |line| event_len += b"data: \n".len() as u64 + line.len() as u64);
        let chunk = chunk(event_len, |pen| {
            pen.put(b"event: ");
            pen.put(name.0.as_bytes());
            pen.put(b"\n");
            pen.put(retry);
            each_line(data, |line| {
                pen.put(b"data: ");
                pen.put(line);
                pen.put(b"\n");
            });
            pen.put(b"\n");
        })?;
        Ok(Self { chunk, id_start: 0, id_end: 0 })
    }

    /// Serializes `value` and encodes it as [`message`](Self::message) does.
    ///
    /// # Errors
    ///
    /// [`FrameError::Serialize`], and those of [`message`](Self::message).
    pub fn from_json<T: serde::Serialize + ?Sized>(value: &T) -> Result<Self, FrameError> {
        Self::message(&serialize(value)?)
    }

    /// Encodes the successful response to the request with this `id`: `value` becomes its `result`.
    ///
    /// `id` is the raw JSON text of the request's id, as
    /// [`Message::id`](crate::jsonrpc::Message::id) gives it, so the client finds the same text in the
    /// answer, whatever number type it has.
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

    /// Encodes the error response to the request with this `id`, the raw JSON text of the request's id
    /// as for [`result`](Self::result).
    ///
    /// `code` is one of [`jsonrpc::code`](crate::jsonrpc::code) or the application's own. `message`
    /// may be any text; clients show it to people.
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

    /// Encodes a notification: a message with a method and params, to which no answer comes.
    ///
    /// `params` is written as it is serialized; MCP's are objects.
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

    /// How many bytes the frame takes on a chunked connection, and in every queue.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        self.chunk.len()
    }

    /// The event in its HTTP chunk.
    #[must_use]
    pub fn chunked(&self) -> &[u8] {
        &self.chunk
    }

    /// The event alone.
    #[must_use]
    pub fn bare(&self) -> &[u8] {
        self.slice(self.bare_range())
    }

    /// Whether the message is a JSON-RPC response: it has an id and a result or an error, and no method.
    #[must_use]
    pub const fn answers(&self) -> bool {
        self.id_end != 0
    }

    /// The raw JSON text of the response's id, as sent; `None` if the message is no response.
    ///
    /// Compare it by [`same_id`](crate::jsonrpc::same_id): who wrote the answer may have spelled the id
    /// in another way than who asked.
    #[must_use]
    pub fn answered_id(&self) -> Option<&str> {
        let id = self.slice(self.id_start..self.id_end);
        if self.answers() { core::str::from_utf8(id).ok() } else { None }
    }

    /// The bytes to be sent, as a share in the frame's own and where in it they are: the whole chunk,
    /// or the event alone.
    pub(crate) fn shared(&self, chunked: bool) -> (Arc<[u8]>, u32, u32) {
        let range = if chunked { 0..self.chunk.len() as u32 } else { self.bare_range() };
        (self.chunk.clone(), range.start, range.end)
    }

    /// Where the event alone is.
    fn bare_range(&self) -> Range<u32> {
        self.event_start() as u32..(self.chunk.len() - CRLF.len()) as u32
    }

    /// Behind the chunk's first line, which is at most ten bytes.
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

/// An id is one JSON value: what holds more would be further members of the message.
fn check_id(id: &str) -> Result<(), FrameError> {
    match serde_json::from_str::<serde::de::IgnoredAny>(id) {
        Ok(_) => Ok(()),
        Err(error) => Err(FrameError::NotJson(format!("the id: {error}"))),
    }
}

fn serialize<T: serde::Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, FrameError> {
    serde_json::to_vec(value).map_err(|error| FrameError::Serialize(error.to_string()))
}

/// The text of a message: `head`, which ends in front of its last member's value, and that value.
fn envelope<T: serde::Serialize + ?Sized>(head: String, value: &T) -> Result<Vec<u8>, FrameError> {
    let value = serialize(value)?;
    let mut text = head.into_bytes();
    text.extend_from_slice(&value);
    text.push(b'}');
    Ok(text)
}

const CRLF: &[u8] = b"\r\n";

/// What every message starts with.
const BEFORE: &[u8] = b"event: message\ndata: ";

/// The length of a chunk of `data_len` bytes. Under 4 GiB, so that any place in it fits 32 bits.
fn chunk_len(data_len: u64) -> Result<usize, FrameError> {
    let len = data_len.saturating_add(u64::from(hex_digits(data_len)) + 2 * CRLF.len() as u64);
    let len = u32::try_from(len).map_err(|_| FrameError::TooLarge)?;
    usize::try_from(len).map_err(|_| FrameError::TooLarge)
}

/// How many hexadecimal digits write `number`. Never 0, as the chunk of length 0 would end the body.
const fn hex_digits(number: u64) -> u32 {
    (u64::BITS - (number | 1).leading_zeros()).div_ceil(4)
}

/// Makes a chunk in one allocation. `write` must put exactly `data_len` bytes.
fn chunk(data_len: u64, write: impl FnOnce(&mut Pen<'_>)) -> Result<Arc<[u8]>, FrameError> {
    let mut chunk: Arc<[u8]> = core::iter::repeat_n(0, chunk_len(data_len)?).collect();
    let rest = Arc::get_mut(&mut chunk).expect("invariant: nobody else has this Arc yet");
    let mut pen = Pen { rest };
    for place in (0..hex_digits(data_len)).rev() {
        let digit = (data_len >> (4 * place)) as u32 & 0xf;
        pen.put(&[char::from_digit(digit, 16).map_or(b'0', |digit| digit as u8)]);
    }
    pen.put(CRLF);
    write(&mut pen);
    pen.put(CRLF);
    assert!(pen.rest.is_empty(), "invariant: as many bytes are written as were counted");
    Ok(chunk)
}

/// What of a chunk is still to be written.
struct Pen<'a> {
    rest: &'a mut [u8],
}

impl Pen<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let (here, rest) = core::mem::take(&mut self.rest)
            .split_at_mut_checked(bytes.len())
            .expect("invariant: no more bytes are written than were counted");
        here.copy_from_slice(bytes);
        self.rest = rest;
    }
}

/// Whether the JSON text can be sent as it is; `false` also when it merely might not.
///
/// Two fast searches that settle nearly every message. 0xC2 and 0xE2 are the first bytes of the
/// characters to be escaped, and of others, such as quotation marks and the no-break space.
fn is_clean(json: &[u8]) -> bool {
    memchr2(b'\n', b'\r', json).is_none() && memchr2(0xc2, 0xe2, json).is_none()
}

fn cleaned_len(json: &[u8]) -> u64 {
    let mut len = 0;
    each_clean_piece(json, |piece| len += piece.len() as u64);
    len
}

/// Gives the JSON text to `take`, piece by piece, as it is sent.
///
/// Needs no notion of where strings are: in valid JSON a raw CR or LF is always between tokens, and a
/// character outside ASCII always in a string.
fn each_clean_piece(json: &[u8], mut take: impl FnMut(&[u8])) {
    let mut rest = json;
    // `rest` from its start is known to be clean up to here.
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

/// Gives the lines of `data` to `take`, without their ends; the last may be empty.
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
