//! Responses: one description, and its bytes.
//!
//! Knows: status lines, the fields that every response of this server has, and how a body is delimited.
//! Does not know: what is answered and why, or whether the peer will read it.

use super::date::HttpDate;
use super::octets;
use alloc::vec::Vec;

/// The interim answer to `Expect: 100-continue`, whole. Never sent to HTTP/1.0.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What a response says about the connection it travels on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// It stays open, as HTTP/1.1 does unless told otherwise: nothing is said.
    KeepAlive11,
    /// It stays open although the request was HTTP/1.0: `Connection: keep-alive`.
    KeepAlive10,
    /// It ends behind this response: `Connection: close`.
    Close,
}

/// How the body of a response without a known length is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamFraming {
    /// Chunked; `Connection: keep-alive`, which some intermediaries want to see.
    Chunked,
    /// Chunked; `Connection: close`.
    ChunkedThenClose,
    /// By closing the connection, for HTTP/1.0: `Connection: close`.
    UntilClose,
}

/// What a response says, however it travels.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    /// The status code.
    pub status: u16,
    /// Fields besides those that this layer writes itself: `Date`, `Content-Type`,
    /// `Content-Length`, `Connection` and `Transfer-Encoding`.
    pub fields: &'a [(&'a str, &'a str)],
    /// The media type of the body, if there is a body.
    pub content_type: Option<&'a str>,
    /// The body. `None` for a response that has none by its status (1xx, 204 and 304), and for an event
    /// stream, whose body has no length in advance: neither has a `Content-Length` (RFC 9110 §8.6).
    pub body: Option<&'a [u8]>,
}

impl Response<'_> {
    /// Makes the bytes of a response whose body is known, in one allocation of exactly their size.
    ///
    /// `date` is for servers that know the time (RFC 9110 §6.6.1). `head_only` is for `HEAD`: all
    /// fields of the body, and no body (RFC 9110 §9.3.2).
    ///
    /// # Panics
    ///
    /// In a debug build, if a field's name or value would break out of its line (the fields are the
    /// program's own), or if the status does not say whether there is a body.
    #[must_use]
    pub fn render(
        &self,
        date: Option<&HttpDate>,
        persistence: Persistence,
        head_only: bool,
    ) -> Vec<u8> {
        let status = self.status;
        debug_assert!(
            self.body.is_none() == matches!(status, 100..=199 | 204 | 304),
            "whether a {status} has a body"
        );
        render(|out| {
            self.write_head(out, date);
            match persistence {
                Persistence::KeepAlive11 => {}
                Persistence::KeepAlive10 => field(out, "Connection", b"keep-alive"),
                Persistence::Close => field(out, "Connection", b"close"),
            }
            out(b"\r\n");
            if let (Some(body), false) = (self.body, head_only) {
                out(body);
            }
        })
    }

    /// Makes the head of a response whose body has no length in advance: an event stream.
    ///
    /// The body follows it in chunks or bare, as `framing` says. `date` is as in
    /// [`render`](Self::render).
    ///
    /// # Panics
    ///
    /// In a debug build, as [`render`](Self::render); and if there is a body.
    #[must_use]
    pub fn render_stream_head(&self, date: Option<&HttpDate>, framing: StreamFraming) -> Vec<u8> {
        debug_assert!(self.body.is_none(), "the body of a stream follows its head");
        let (connection, chunked) = match framing {
            StreamFraming::Chunked => (&b"keep-alive"[..], true),
            StreamFraming::ChunkedThenClose => (&b"close"[..], true),
            StreamFraming::UntilClose => (&b"close"[..], false),
        };
        render(|out| {
            self.write_head(out, date);
            field(out, "Connection", connection);
            if chunked {
                field(out, "Transfer-Encoding", b"chunked");
            }
            out(b"\r\n");
        })
    }

    /// Shows each field that concerns the message and not the connection, in order.
    pub(crate) fn each_field(&self, date: Option<&HttpDate>, mut show: impl FnMut(&str, &[u8])) {
        if let Some(date) = date {
            show("Date", date.as_str().as_bytes());
        }
        if let Some(content_type) = self.content_type {
            show("Content-Type", content_type.as_bytes());
        }
        if let Some(body) = self.body {
            show("Content-Length", Decimal::new(body.len() as u64).as_bytes());
        }
        for (name, value) in self.fields {
            show(name, value.as_bytes());
        }
    }

    fn write_head(&self, out: &mut dyn FnMut(&[u8]), date: Option<&HttpDate>) {
        let status = self.status;
        debug_assert!((100..=999).contains(&status), "{status} is no status");
        out(b"HTTP/1.1 ");
        out(Decimal::new(u64::from(status)).as_bytes());
        // The space is there even before an empty reason (RFC 9112 §4).
        out(b" ");
        out(reason(status).as_bytes());
        out(b"\r\n");
        self.each_field(date, |name, value| field(out, name, value));
    }
}

/// Runs `write` twice: to count the bytes, and to put them where there is exactly room for them.
fn render(write: impl Fn(&mut dyn FnMut(&[u8]))) -> Vec<u8> {
    let mut len = 0;
    write(&mut |piece| len += piece.len());
    let mut bytes = Vec::with_capacity(len);
    write(&mut |piece| bytes.extend_from_slice(piece));
    debug_assert_eq!(bytes.len(), len, "a response was written differently the second time");
    bytes
}

/// Writes one field line. Nothing that a peer sent may end it: whoever puts it here has checked it.
fn field(out: &mut dyn FnMut(&[u8]), name: &str, value: &[u8]) {
    debug_assert!(octets::is_token(name.as_bytes()), "{name:?} is no field name");
    debug_assert!(
        octets::run_of_value(value) == value.len(),
        "the value of {name} has octets that no field may have"
    );
    for piece in [name.as_bytes(), b": ", value, b"\r\n"] {
        out(piece);
    }
}

/// A number in decimal digits.
struct Decimal {
    digits: [u8; 20],
    start: usize,
}

impl Decimal {
    fn new(mut number: u64) -> Self {
        let mut decimal = Self { digits: [b'0'; 20], start: 20 };
        for digit in decimal.digits.iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
            decimal.start -= 1;
            if number == 0 {
                break;
            }
        }
        decimal
    }

    fn as_bytes(&self) -> &[u8] {
        self.digits.get(self.start..).unwrap_or_default()
    }
}

/// The reason phrase of a status, for people who look at the bytes (RFC 9112 §4).
#[must_use]
pub const fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests;
