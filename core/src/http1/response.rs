//! Responses: one description, and its bytes.
//!
//! Knows: status lines, the fields that every response of this server has, and how a body is
//! delimited.
//! Does not know: which response is sent and why.

use super::date::HttpDate;
use super::octets;
use alloc::vec::Vec;

/// The complete interim response to `Expect: 100-continue`. It must not be sent to an HTTP/1.0
/// client (RFC 9110 §15.2).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What a response announces about its connection (RFC 9112 §9.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// The connection stays open, which is the default of HTTP/1.1: no `Connection` field is
    /// written.
    KeepAlive11,
    /// The connection stays open for an HTTP/1.0 client: `Connection: keep-alive`.
    KeepAlive10,
    /// The connection is closed after this response: `Connection: close`.
    Close,
}

/// How the body of a response of unknown length is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamFraming {
    /// Chunked coding, with `Connection: keep-alive`, which some intermediaries expect on an event
    /// stream.
    Chunked,
    /// Chunked coding, with `Connection: close`.
    ChunkedThenClose,
    /// The body ends when the connection is closed, for HTTP/1.0: `Connection: close`.
    UntilClose,
}

/// What a response says, independently of the connection it is sent on.
///
/// # Examples
///
/// ```
/// use mcp_sse_core::http1::{Persistence, Response};
///
/// let response = Response {
///     status: 405,
///     fields: &[("Allow", "GET")],
///     content_type: None,
///     body: Some(b""),
/// };
/// let bytes = response.render(None, Persistence::Close, false);
/// let expected = "HTTP/1.1 405 Method Not Allowed\r\n\
///     Content-Length: 0\r\nAllow: GET\r\nConnection: close\r\n\r\n";
/// assert_eq!(bytes, expected.as_bytes());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    /// The status code, 100 to 999.
    pub status: u16,
    /// Names and values of fields other than `Date`, `Content-Type`, `Content-Length`, `Connection`
    /// and `Transfer-Encoding`, which this type writes itself.
    pub fields: &'a [(&'a str, &'a str)],
    /// The media type of the body; `None` writes no `Content-Type`.
    pub content_type: Option<&'a str>,
    /// The body. `None` for a status that has no body (1xx, 204 and 304), and for an event stream,
    /// whose length is not known in advance: neither has a `Content-Length` (RFC 9110 §8.6).
    pub body: Option<&'a [u8]>,
}

impl Response<'_> {
    /// Renders a response whose complete body is known into one allocation of exactly its size.
    ///
    /// - `date`: the current time, for a server with a clock (RFC 9110 §6.6.1). `None` writes no
    ///   `Date`.
    /// - `head_only`: whether the request was `HEAD`. The fields describe the body, but the body is
    ///   not written (RFC 9110 §9.3.2).
    ///
    /// # Panics
    ///
    /// In a debug build, if a field name or value contains an octet that could end its line, if the
    /// status is not 100 to 999, or if a status that has no body is given one or another is given
    /// none. All of them are mistakes of the calling program.
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

    /// Renders the head of a response whose length is not known in advance, such as an event stream.
    ///
    /// `Date` is written if `date` is given; `Connection` and `Transfer-Encoding` follow from
    /// `framing`. The caller sends the body afterwards, framed as `framing` says.
    ///
    /// # Panics
    ///
    /// In a debug build, if a field name or value contains an octet that could end its line, if the
    /// status is not 100 to 999, or if there is a body.
    ///
    /// # Examples
    ///
    /// ```
    /// use mcp_sse_core::http1::{Response, StreamFraming};
    ///
    /// let content_type = Some("text/event-stream");
    /// let response = Response { status: 200, fields: &[], content_type, body: None };
    /// let expected = "HTTP/1.1 200 OK\r\n\
    ///     Content-Type: text/event-stream\r\nConnection: close\r\n\r\n";
    /// let head = response.render_stream_head(None, StreamFraming::UntilClose);
    /// assert_eq!(head, expected.as_bytes());
    /// ```
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

    /// Passes each field that concerns the message and not the connection to `show`, in order.
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
        // The space is required even if the reason phrase is empty (RFC 9112 §4).
        out(b" ");
        out(reason(status).as_bytes());
        out(b"\r\n");
        self.each_field(date, |name, value| field(out, name, value));
    }
}

/// Runs `write` twice: first to count the bytes, then to write them into a buffer of that capacity.
fn render(write: impl Fn(&mut dyn FnMut(&[u8]))) -> Vec<u8> {
    let mut len = 0;
    write(&mut |piece| len += piece.len());
    let mut bytes = Vec::with_capacity(len);
    write(&mut |piece| bytes.extend_from_slice(piece));
    debug_assert_eq!(bytes.len(), len, "a response was written differently the second time");
    bytes
}

/// Writes one field line. Text from a peer must have been validated before it becomes part of a field.
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

/// The reason phrase of `status` (RFC 9110 §15), or `""` if the status is not known here.
///
/// ```
/// # use mcp_sse_core::http1::reason;
/// assert_eq!(reason(404), "Not Found");
/// assert_eq!(reason(599), "");
/// ```
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
