//! Decodes an event stream as a client does.
//!
//! Knows: the WHATWG HTML standard, "Interpreting an event stream", and how to stop at any byte and
//! resume later.
//! Does not know: how this crate encodes events, MCP, or HTTP. The tests, the simulator and the
//! fuzz targets check the encoder against this decoder, so the two share no code.
//!
//! Bytes are collected into lines. A complete line changes the event being built, and an empty line
//! dispatches that event. Each line is decoded from UTF-8 separately. That is equivalent to
//! decoding the whole stream, because CR and LF are never part of a longer UTF-8 sequence.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use memchr::memchr2;

/// One decoded event, as a client's event handler receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodedEvent {
    /// The event type; `message` if the stream does not name one.
    pub name: String,
    /// The data. The values of several `data` fields are joined by LF.
    pub data: String,
    /// The last event id: the value of the latest `id` field so far in the stream, or empty if
    /// there was none.
    pub last_event_id: String,
}

/// An event is larger than the decoder's limit. The rest of the stream cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTooLarge {
    /// The limit that was exceeded, as it was given to [`Decoder::new`].
    pub event_bytes_max: usize,
}

impl fmt::Display for EventTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an event of more than {} bytes", self.event_bytes_max)
    }
}

impl core::error::Error for EventTooLarge {}

/// A decoder for one event stream.
///
/// An event without its final empty line is discarded at the end of the stream, as the standard
/// requires. There is no method to call at the end: drop the decoder.
///
/// # Examples
///
/// ```
/// use mcp_sse_core::sse::Decoder;
///
/// let mut decoder = Decoder::new(64 * 1024);
/// let mut events = Vec::new();
/// for piece in [&b"event: message\nda"[..], b"ta: {}\n\n:\n"] {
///     decoder.feed(piece, &mut |event| events.push(event))?;
/// }
/// assert_eq!((events[0].name.as_str(), events[0].data.as_str()), ("message", "{}"));
/// assert_eq!(decoder.comments(), 1);
/// # Ok::<(), mcp_sse_core::sse::EventTooLarge>(())
/// ```
#[derive(Clone, Debug)]
pub struct Decoder {
    event_bytes_max: usize,
    too_large: bool,
    /// No line has been decoded yet, so the line may begin with a byte order mark.
    at_start: bool,
    /// The previous line ended in CR. If an LF follows, it belongs to that line end.
    after_cr: bool,
    line: Vec<u8>,
    name: String,
    data: String,
    /// The standard's "last event ID buffer". It is copied to `last_event_id` when an event ends.
    id: String,
    last_event_id: String,
    retry_ms: Option<u64>,
    comments: u64,
}

impl Decoder {
    /// Makes a decoder at the start of a stream.
    ///
    /// `event_bytes_max` is the limit in bytes of what is stored for one event: its incomplete
    /// line, its data and its name together. A comment counts like any line. Invalid UTF-8 is
    /// replaced by U+FFFD, which can make a line up to three times longer; the added bytes count
    /// only from the next line on.
    #[must_use]
    pub const fn new(event_bytes_max: usize) -> Self {
        Self {
            event_bytes_max,
            too_large: false,
            at_start: true,
            after_cr: false,
            line: Vec::new(),
            name: String::new(),
            data: String::new(),
            id: String::new(),
            last_event_id: String::new(),
            retry_ms: None,
            comments: 0,
        }
    }

    /// Decodes the next bytes of the stream, split anywhere, and passes every event that they
    /// complete to `dispatch`.
    ///
    /// # Errors
    ///
    /// [`EventTooLarge`] if an event is larger than the limit. The events before it have been
    /// dispatched, the bytes after it are not decoded, and every later call returns the same error.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        dispatch: &mut impl FnMut(DecodedEvent),
    ) -> Result<(), EventTooLarge> {
        let mut rest = bytes;
        while !rest.is_empty() {
            if core::mem::take(&mut self.after_cr) {
                rest = rest.strip_prefix(b"\n").unwrap_or(rest);
            }
            let end = memchr2(b'\n', b'\r', rest);
            let (part, tail) = rest.split_at(end.unwrap_or(rest.len()));
            if !self.fits(part.len()) {
                break;
            }
            self.line.extend_from_slice(part);
            let Some((line_end, after)) = tail.split_first() else { break };
            self.after_cr = *line_end == b'\r';
            rest = after;

            let line = core::mem::take(&mut self.line);
            self.handle_line(&line, dispatch);
            // Reuses the allocation of this line for the next one.
            self.line = line;
            self.line.clear();
        }
        if self.too_large {
            return Err(EventTooLarge { event_bytes_max: self.event_bytes_max });
        }
        Ok(())
    }

    /// The number of comment lines so far. Heartbeats are comment lines.
    #[must_use]
    pub const fn comments(&self) -> u64 {
        self.comments
    }

    /// The reconnection time in milliseconds from the latest `retry` field, or `None` if there was
    /// none.
    #[must_use]
    pub const fn retry_ms(&self) -> Option<u64> {
        self.retry_ms
    }

    /// The value that a client would send as `Last-Event-ID` when it reconnects; empty if the
    /// stream has given no id.
    #[must_use]
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// Whether `more` bytes can be stored. If not, the decoder is in its error state from then on.
    fn fits(&mut self, more: usize) -> bool {
        let held = self.line.len() + self.data.len() + self.name.len();
        self.too_large |= held.saturating_add(more) > self.event_bytes_max;
        !self.too_large
    }

    fn handle_line(&mut self, line: &[u8], dispatch: &mut impl FnMut(DecodedEvent)) {
        let mut line = line;
        if core::mem::take(&mut self.at_start) {
            line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line);
        }
        let text = String::from_utf8_lossy(line);
        match text.split_once(':') {
            None if text.is_empty() => self.handle_event_end(dispatch),
            None => self.handle_field(&text, ""),
            Some(("", _)) => self.comments += 1,
            Some((field, value)) => {
                self.handle_field(field, value.strip_prefix(' ').unwrap_or(value));
            }
        }
    }

    fn handle_field(&mut self, field: &str, value: &str) {
        match field {
            "event" => {
                self.name.clear();
                self.name.push_str(value);
            }
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => {
                self.id.clear();
                self.id.push_str(value);
            }
            "retry" if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => {
                // The value consists of digits, so parsing it can only fail by overflow.
                self.retry_ms = Some(value.parse().unwrap_or(u64::MAX));
            }
            _ => {}
        }
    }

    fn handle_event_end(&mut self, dispatch: &mut impl FnMut(DecodedEvent)) {
        // The standard updates the id even if no event is dispatched.
        self.last_event_id.clone_from(&self.id);
        let mut name = core::mem::take(&mut self.name);
        let mut data = core::mem::take(&mut self.data);
        // There was no `data` field: even an empty one would have added an LF.
        if data.is_empty() {
            return;
        }
        data.pop();
        if name.is_empty() {
            name.push_str("message");
        }
        dispatch(DecodedEvent { name, data, last_event_id: self.last_event_id.clone() });
    }
}

#[cfg(test)]
mod tests;
