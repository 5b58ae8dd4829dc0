//! What a client understands of the bytes it is sent: responses, one after another, and a stream.
//!
//! Knows: HTTP/1.1 and event streams as a strict and simple-minded reader does, sharing nothing with the
//! core but [`sse::Decoder`], which it holds its own reading of events against.
//! Does not know: who said it or whether it should have been said; every breach of form is a panic.

use std::collections::VecDeque;

use mcp_sse_core::sse;

/// A thing that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A whole response that is no stream.
    Response {
        /// Its status.
        status: u16,
        /// Its status line and fields, without the last blank line.
        head: String,
        /// Its body.
        body: String,
    },
    /// `100 Continue`.
    Continue,
    /// The head of an event stream.
    StreamBegins {
        /// Its status line and fields.
        head: String,
    },
    /// One event, whole, with everything that belongs to its framing.
    Event {
        /// Its name.
        name: String,
        /// Its data.
        data: String,
    },
    /// A heartbeat.
    Heartbeat,
    /// The terminating chunk.
    StreamEnds,
}

#[derive(Debug)]
enum State {
    Head,
    Body { status: u16, head: String, len: usize },
    Stream { chunked: bool, ended: bool },
}

/// Reads what one connection brings.
#[derive(Debug)]
pub struct Reader {
    state: State,
    pending: Vec<u8>,
    /// For each response to come, whether it answers a HEAD and so has no body.
    bodiless: VecDeque<bool>,
    /// Nothing is known of what was asked any more, so answers are not understood.
    lost: bool,
    decoder: sse::Decoder,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            state: State::Head,
            pending: Vec::new(),
            bodiless: VecDeque::new(),
            lost: false,
            decoder: sse::Decoder::new(1 << 26),
        }
    }
}

impl Reader {
    /// A reader of a response whose head came by another way, and said that it is a stream.
    #[must_use]
    pub fn of_bare_stream() -> Self {
        Self { state: State::Stream { chunked: false, ended: false }, ..Self::default() }
    }

    /// A request was sent; a HEAD is answered without a body.
    pub fn expect(&mut self, bodiless: bool) {
        self.bodiless.push_back(bodiless);
    }

    /// Something was sent that may have been any number of requests.
    pub fn expect_anything(&mut self) {
        self.lost = true;
    }

    /// Whether a stream has begun.
    #[must_use]
    pub const fn is_stream(&self) -> bool {
        matches!(self.state, State::Stream { .. })
    }

    /// Whether nothing is half there.
    #[must_use]
    pub const fn is_between(&self) -> bool {
        self.pending.is_empty()
    }

    fn is_lost(&self) -> bool {
        self.lost && self.bodiless.is_empty() && matches!(self.state, State::Head)
    }

    /// Takes the next bytes, and tells what they complete.
    pub fn feed(&mut self, bytes: &[u8], heard: &mut Vec<Heard>) {
        if self.is_lost() {
            return;
        }
        self.pending.extend_from_slice(bytes);
        let mut used = 0;
        while let Some(count) = self.step(used, heard) {
            used += count;
            if self.is_lost() {
                self.pending.clear();
                return;
            }
        }
        self.pending.drain(..used);
    }

    /// One more thing, if it is all there. Says how long it was.
    fn step(&mut self, used: usize, heard: &mut Vec<Heard>) -> Option<usize> {
        let rest = &self.pending[used..];
        match &mut self.state {
            State::Head => {
                if rest.is_empty() {
                    return None;
                }
                let end = find(rest, b"\r\n\r\n")?;
                let head = String::from_utf8(rest[..end].to_vec()).expect("a head is text");
                let status = check_head(&head);
                if status == 100 {
                    heard.push(Heard::Continue);
                    return Some(end + 4);
                }
                let bodiless = self.bodiless.pop_front().unwrap_or(false);
                let stream = field(&head, "Content-Type") == Some("text/event-stream");
                if stream && !bodiless {
                    let chunked = field(&head, "Transfer-Encoding") == Some("chunked");
                    self.state = State::Stream { chunked, ended: false };
                    heard.push(Heard::StreamBegins { head });
                } else if stream || bodiless {
                    heard.push(Heard::Response { status, head, body: String::new() });
                } else {
                    let len = field(&head, "Content-Length").expect("a body's length is told");
                    let len = len.parse().expect("a length is a number");
                    self.state = State::Body { status, head, len };
                }
                Some(end + 4)
            }
            State::Body { status, head, len } => {
                let body = rest.get(..*len)?;
                let body = String::from_utf8(body.to_vec()).expect("answers are text");
                let (status, head, len) = (*status, core::mem::take(head), *len);
                heard.push(Heard::Response { status, head, body });
                self.state = State::Head;
                Some(len)
            }
            State::Stream { chunked: true, ended } => {
                assert!(!*ended || rest.is_empty(), "8: something follows the terminating chunk");
                let line = find(rest, b"\r\n")?;
                let size = core::str::from_utf8(&rest[..line]).expect("a chunk size is text");
                let size = usize::from_str_radix(size, 16).expect("a chunk size is hexadecimal");
                let data = line + 2;
                let chunk = rest.get(data..data + size)?;
                let end = rest.get(data + size..data + size + 2)?;
                assert_eq!(end, b"\r\n", "9: a chunk ends in CRLF");
                if size == 0 {
                    *ended = true;
                    heard.push(Heard::StreamEnds);
                } else {
                    heard.push(one_event(chunk, &mut self.decoder));
                }
                Some(data + size + 2)
            }
            State::Stream { chunked: false, .. } => {
                if rest.starts_with(b":") {
                    let beat = rest.get(..2)?;
                    heard.push(one_event(beat, &mut self.decoder));
                    return Some(2);
                }
                let end = find(rest, b"\n\n")? + 2;
                heard.push(one_event(&rest[..end], &mut self.decoder));
                Some(end)
            }
        }
    }
}

/// Invariant 9: an event comes whole, and nothing comes in the middle of it.
fn one_event(bytes: &[u8], decoder: &mut sse::Decoder) -> Heard {
    let mut decoded = Vec::new();
    decoder.feed(bytes, &mut |event| decoded.push(event)).expect("no event is that large");
    if bytes == b":\n" {
        assert!(decoded.is_empty());
        return Heard::Heartbeat;
    }
    let text = core::str::from_utf8(bytes).expect("9: an event is text");
    let text = text.strip_suffix("\n\n").expect("9: an event ends in an empty line");
    let (name, data) = text.split_once('\n').expect("9: an event has two lines");
    let name = name.strip_prefix("event: ").expect("9: an event starts with its name");
    let mut data = data.strip_prefix("data: ").expect("9: an event has its data on one line");
    if name == "endpoint"
        && let Some((first, retry)) = data.split_once('\n')
    {
        assert!(retry.starts_with("retry: "), "9: nothing else is in an endpoint event");
        data = first;
    }
    assert!(!data.contains('\n'), "9: an event has two lines");
    let [event] = &decoded[..] else { panic!("9: one event, and not {decoded:?}") };
    assert_eq!((name, data), (&*event.name, &*event.data), "both readings are the same");
    Heard::Event { name: name.into(), data: data.into() }
}

fn check_head(head: &str) -> u16 {
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap_or_default();
    let rest = line.strip_prefix("HTTP/1.1 ").expect("a status line");
    let (status, reason) = rest.split_once(' ').expect("a reason behind the status");
    assert!(!reason.is_empty() && status.len() == 3, "{line}");
    for field in lines {
        let (name, value) = field.split_once(": ").expect("a field has a name");
        assert!(!name.contains(' ') && !value.is_empty(), "{field}");
        assert!(head.bytes().all(|b| b == b'\r' || b == b'\n' || (b' '..=b'~').contains(&b)));
    }
    status.parse().expect("a status is a number")
}

/// The value of a field in a response's head.
#[must_use]
pub fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut values = head.split("\r\n").skip(1).filter_map(|line| {
        let (field, value) = line.split_once(": ")?;
        field.eq_ignore_ascii_case(name).then_some(value)
    });
    let value = values.next();
    assert!(values.next().is_none(), "{name} comes twice");
    value
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
