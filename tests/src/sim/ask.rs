//! A request as its peer knows it.
//!
//! Knows: what it is to get, how large its parts are, since when the server has had how much of it.
//! Does not know: what the server makes of it.

use mcp_sse_core::{Refusal, Time};

/// What a peer asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A stream.
    Stream,
    /// A post of this number is taken.
    Post(u64),
    /// The head of a stream, and none.
    Probe,
    /// 200.
    Health,
    /// A refusal with one of these statuses; and no more answers if `last`.
    Refusal { statuses: &'static [u16], last: bool },
}

/// A request that has no answer yet.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The number in its field `X-Ask`.
    pub number: u64,
    /// What for.
    pub wanted: Wanted,
    /// Where in the peer's input it starts and ends.
    pub start: u64,
    pub end: u64,
    pub size: Size,
    /// When the server was given the first of it.
    pub begun: Option<Time>,
    /// When the server was given the last of it.
    pub whole: Option<Time>,
    /// The application was asked about it and said no.
    pub refusal: Option<Refusal>,
    pub credentials: Credentials,
}

/// What a request says of who asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing, and nobody wants to know.
    #[default]
    Needless,
    /// The token of this principal.
    Of(usize),
    /// None, or a wrong one.
    Wrong,
    /// Two.
    Twice,
}

impl Credentials {
    /// On whose behalf the request is, if it may be.
    #[must_use]
    pub const fn principal(self) -> Option<usize> {
        if let Self::Of(principal) = self { Some(principal) } else { None }
    }

    /// Whether the request may be refused for them, and nothing else may come of it.
    #[must_use]
    pub const fn are_bad(self) -> bool {
        matches!(self, Self::Wrong | Self::Twice)
    }
}

impl Ask {
    /// The number of the post that it is, if it is to be taken as one.
    #[must_use]
    pub const fn post(&self) -> Option<u64> {
        if let Wanted::Post(number) = self.wanted { Some(number) } else { None }
    }
}

/// How large the parts of a request are, as far as limits are concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    pub head: usize,
    pub fields: usize,
    pub target: usize,
    /// What is there, or what is declared if that is more.
    pub body: u64,
    /// From behind each chunk's size to its line end.
    pub extensions: usize,
    /// Without the empty line behind them.
    pub trailers: usize,
}

impl Size {
    /// Measures what a peer says. Generous where it is no proper request.
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
