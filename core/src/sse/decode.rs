//! Decodes an event stream as a client would.
//!
//! Knows: the WHATWG HTML standard, "Interpreting an event stream", to the letter, and how to stop at
//! any byte and go on later.
//! Does not know: how events are encoded here, MCP, or HTTP. It is the peer that tests, the simulator
//! and fuzzing hold the encoder against, so it shares nothing with it.
//!
//! Theory of operation: bytes are gathered to lines; a finished line changes the event being built; an
//! empty line dispatches it. A line is turned from UTF-8 into text on its own, which is the same as
//! decoding the stream as a whole: CR and LF are never part of a longer sequence.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use memchr::memchr2;

/// One event, as a client's handler gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The type of the event: `message` unless the stream says otherwise.
    pub name: String,
    /// The data, its lines joined by LF.
    pub data: String,
    /// The last event id that the stream has given, with this event or before it; empty if none.
    pub last_event_id: String,
}

/// An event is larger than the decoder's limit. The stream cannot be understood from here on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTooLarge {
    /// The limit.
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
/// An event that the stream's end cuts short is discarded, so there is nothing to be called at the
/// end: drop the decoder.
#[derive(Clone, Debug)]
pub struct Decoder {
    event_bytes_max: usize,
    too_large: bool,
    /// No line has been read yet, so a byte order mark may come.
    at_start: bool,
    /// The line before ended in CR, so that an LF now belongs to it.
    after_cr: bool,
    line: Vec<u8>,
    name: String,
    data: String,
    /// The standard's "last event ID buffer": becomes `last_event_id` when an event ends.
    id: String,
    last_event_id: String,
    retry_ms: Option<u64>,
    comments: u64,
}

impl Decoder {
    /// A decoder at the start of a stream.
    ///
    /// `event_bytes_max` bounds what is held for one event: its unfinished line, its data and its name
    /// together. A comment is a line as well. Bytes that are not UTF-8 grow when they are replaced, to
    /// at most three times a line, and count in full from the next line on.
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

    /// Takes the next bytes of the stream, cut anywhere, and gives every event that ends in them to
    /// `dispatch`.
    ///
    /// # Errors
    ///
    /// If an event is larger than the limit. Events before it have been dispatched, what follows is not
    /// looked at, and every later call says the same.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        dispatch: &mut impl FnMut(Event),
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
            // Keeps what the line has allocated for the next one.
            self.line = line;
            self.line.clear();
        }
        if self.too_large {
            return Err(EventTooLarge { event_bytes_max: self.event_bytes_max });
        }
        Ok(())
    }

    /// How many comment lines the stream has had; heartbeats are such.
    #[must_use]
    pub const fn comments(&self) -> u64 {
        self.comments
    }

    /// The reconnection time that the stream asked for last, in milliseconds.
    #[must_use]
    pub const fn retry_ms(&self) -> Option<u64> {
        self.retry_ms
    }

    /// What a client would send as `Last-Event-ID` if it had to reconnect now; empty for nothing.
    #[must_use]
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// Whether `more` bytes can be held; if not, the decoder is done for.
    fn fits(&mut self, more: usize) -> bool {
        let held = self.line.len() + self.data.len() + self.name.len();
        self.too_large |= held.saturating_add(more) > self.event_bytes_max;
        !self.too_large
    }

    fn handle_line(&mut self, line: &[u8], dispatch: &mut impl FnMut(Event)) {
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
                // All digits, so it can only fail by being too large.
                self.retry_ms = Some(value.parse().unwrap_or(u64::MAX));
            }
            _ => {}
        }
    }

    fn handle_event_end(&mut self, dispatch: &mut impl FnMut(Event)) {
        // Even if there is no event: the standard takes an id that stands alone.
        self.last_event_id.clone_from(&self.id);
        let mut name = core::mem::take(&mut self.name);
        let mut data = core::mem::take(&mut self.data);
        // No `data` field; one that is empty has left a line end.
        if data.is_empty() {
            return;
        }
        data.pop();
        if name.is_empty() {
            name.push_str("message");
        }
        dispatch(Event { name, data, last_event_id: self.last_event_id.clone() });
    }
}

#[cfg(test)]
mod tests;
