//! Reads what a client receives on a connection: responses, one after another, and an event stream.
//!
//! Knows: HTTP/1.1 and event streams, strictly. It shares no code with the core but
//! [`sse::Decoder`], which it compares with its own reading of events.
//! Does not know: whether a response is the right one. Malformed input is a panic.

use std::collections::VecDeque;

use mcp_sse_core::sse;

/// One thing that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A complete response without an event stream.
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
    /// One complete event with its framing.
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
enum ReaderState {
    Head,
    Body { status: u16, head: String, len: usize },
    ModelStream { chunked: bool, ended: bool },
}

/// Reads what one connection receives.
#[derive(Debug)]
pub struct Reader {
    state: ReaderState,
    pending: Vec<u8>,
    /// For each expected response, whether it has no body because the request is a `HEAD`.
    bodiless: VecDeque<bool>,
    /// The requests are not known any more, so further responses are not read.
    lost: bool,
    decoder: sse::Decoder,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            state: ReaderState::Head,
            pending: Vec::new(),
            bodiless: VecDeque::new(),
            lost: false,
            decoder: sse::Decoder::new(1 << 26),
        }
    }
}

impl Reader {
    /// A reader of a stream without chunks whose head was received by other means.
    #[must_use]
    pub fn of_bare_stream() -> Self {
        Self { state: ReaderState::ModelStream { chunked: false, ended: false }, ..Self::default() }
    }

    /// Expects one more response; without a body if the request is a `HEAD`.
    pub fn expect(&mut self, bodiless: bool) {
        self.bodiless.push_back(bodiless);
    }

    /// The client sent bytes that may be any number of requests.
    pub fn expect_anything(&mut self) {
        self.lost = true;
    }

    /// Whether a stream has begun.
    #[must_use]
    pub const fn is_stream(&self) -> bool {
        matches!(self.state, ReaderState::ModelStream { .. })
    }

    /// Whether nothing is half received.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    fn is_unpredictable(&self) -> bool {
        self.lost && self.bodiless.is_empty() && matches!(self.state, ReaderState::Head)
    }

    /// Reads the next bytes, and appends what they complete to `received`.
    pub fn feed(&mut self, bytes: &[u8], received: &mut Vec<Received>) {
        if self.is_unpredictable() {
            return;
        }
        self.pending.extend_from_slice(bytes);
        let mut used = 0;
        while let Some(count) = self.step(used, received) {
            used += count;
            if self.is_unpredictable() {
                self.pending.clear();
                return;
            }
        }
        self.pending.drain(..used);
    }

    /// Reads one more thing, if all of it is there. Returns its length.
    fn step(&mut self, used: usize, received: &mut Vec<Received>) -> Option<usize> {
        let rest = &self.pending[used..];
        match &mut self.state {
            ReaderState::Head => {
                if rest.is_empty() {
                    return None;
                }
                let end = find(rest, b"\r\n\r\n")?;
                let head = String::from_utf8(rest[..end].to_vec()).expect("a head is text");
                let status = check_head(&head);
                if status == 100 {
                    received.push(Received::Continue);
                    return Some(end + 4);
                }
                let bodiless = self.bodiless.pop_front().unwrap_or(false);
                let stream = field(&head, "Content-Type") == Some("text/event-stream");
                if stream && !bodiless {
                    let chunked = field(&head, "Transfer-Encoding") == Some("chunked");
                    self.state = ReaderState::ModelStream { chunked, ended: false };
                    received.push(Received::StreamBegins { head });
                } else if stream || bodiless {
                    received.push(Received::Response { status, head, body: String::new() });
                } else {
                    let len = field(&head, "Content-Length").expect("a body's length is told");
                    let len = len.parse().expect("a length is a number");
                    self.state = ReaderState::Body { status, head, len };
                }
                Some(end + 4)
            }
            ReaderState::Body { status, head, len } => {
                let body = rest.get(..*len)?;
                let body = String::from_utf8(body.to_vec()).expect("answers are text");
                let (status, head, len) = (*status, core::mem::take(head), *len);
                received.push(Received::Response { status, head, body });
                self.state = ReaderState::Head;
                Some(len)
            }
            ReaderState::ModelStream { chunked: true, ended } => {
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
                    received.push(Received::StreamEnds);
                } else {
                    received.push(one_event(chunk, &mut self.decoder));
                }
                Some(data + size + 2)
            }
            ReaderState::ModelStream { chunked: false, .. } => {
                if rest.starts_with(b":") {
                    let beat = rest.get(..2)?;
                    received.push(one_event(beat, &mut self.decoder));
                    return Some(2);
                }
                let end = find(rest, b"\n\n")? + 2;
                received.push(one_event(&rest[..end], &mut self.decoder));
                Some(end)
            }
        }
    }
}

/// Invariant 9: an event is complete, and nothing is inserted into it.
fn one_event(bytes: &[u8], decoder: &mut sse::Decoder) -> Received {
    let mut decoded = Vec::new();
    decoder.feed(bytes, &mut |event| decoded.push(event)).expect("no event is that large");
    if bytes == b":\n" {
        assert!(decoded.is_empty());
        return Received::Heartbeat;
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
    Received::Event { name: name.into(), data: data.into() }
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
