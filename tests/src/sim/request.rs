//! A request, as the client that sent it knows it.
//!
//! Knows: which response it must get, the sizes of its parts, and when the server received how much
//! of it. Does not know: how the server handles it.

use mcp_sse_core::{Refusal, Time};

/// The response that a request must get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// An event stream.
    Stream,
    /// 202, for the post with this number.
    Post(u64),
    /// The head of a stream without a stream: the request is a `HEAD`.
    Probe,
    /// 200.
    Health,
    /// A refusal with one of these statuses. If `last`, the connection closes after it.
    Refusal { statuses: &'static [u16], last: bool },
}

/// A request that has no response yet.
#[derive(Clone, Debug)]
pub struct SimRequest {
    /// The number in its field `X-Ask`, by which the application knows it.
    pub number: u64,
    /// The response that it must get.
    pub expected: Expected,
    /// Where in the connection's input it starts and ends.
    pub start: u64,
    pub end: u64,
    pub size: RequestSize,
    /// When the server received its first byte.
    pub begun: Option<Time>,
    /// When the server received its last byte.
    pub whole: Option<Time>,
    /// The application's verdict, if that was a refusal.
    pub refusal: Option<Refusal>,
    pub credentials: Credentials,
}

/// The credentials in a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Credentials {
    /// None, and the server requires none.
    #[default]
    NotNeeded,
    /// The token of this principal.
    Of(usize),
    /// None or an unknown token, although the server requires one.
    Wrong,
    /// Two `Authorization` fields.
    Twice,
}

impl Credentials {
    /// The principal, if the credentials are valid.
    #[must_use]
    pub const fn principal(self) -> Option<usize> {
        if let Self::Of(principal) = self { Some(principal) } else { None }
    }

    /// Whether the request must be refused because of its credentials.
    #[must_use]
    pub const fn are_invalid(self) -> bool {
        matches!(self, Self::Wrong | Self::Twice)
    }
}

impl SimRequest {
    /// The post's number, if the request is a post that must be accepted.
    #[must_use]
    pub const fn post(&self) -> Option<u64> {
        if let Expected::Post(number) = self.expected { Some(number) } else { None }
    }
}

/// The sizes of a request's parts that have limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestSize {
    pub head: usize,
    pub fields: usize,
    pub target: usize,
    /// The received length, or the declared one if that is larger.
    pub body: u64,
    /// Bytes between each chunk's size and the end of its line.
    pub extensions: usize,
    /// Without the empty line that ends them.
    pub trailers: usize,
}

impl RequestSize {
    /// Measures a request. For malformed requests the sizes are upper bounds.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let lead = text.len() - text.trim_start_matches("\r\n").len();
        let end = text[lead..].find("\r\n\r\n").map_or(text.len(), |at| lead + at + 4);
        let (head, body) = text.split_at(end);
        let mut lines = head.trim_matches(['\r', '\n']).split("\r\n");
        let target = lines.next().and_then(|line| line.split(' ').nth(1)).map_or(0, str::len);
        let (mut fields, mut declared, mut chunked) = (0, 0, false);
        for line in lines {
            fields += 1;
            let (name, value) = line.split_once(':').unwrap_or_default();
            let digits = value.trim_matches(|c: char| !c.is_ascii_digit());
            if name.eq_ignore_ascii_case("content-length") {
                declared = digits.parse().unwrap_or(0);
            }
            chunked |= name.eq_ignore_ascii_case("transfer-encoding");
        }
        let (mut extensions, mut trailers) = (0, 0);
        if chunked {
            let sizes = body.split("\r\n").filter_map(|line| line.split_once(';'));
            extensions = sizes.map(|(_, extension)| 1 + extension.len()).sum();
            trailers = body.rsplit_once("0\r\n").map_or(0, |(_, it)| it.len().saturating_sub(2));
        }
        let body = declared.max(body.len() as u64);
        Self { head: end, fields, target, body, extensions, trailers }
    }
}
