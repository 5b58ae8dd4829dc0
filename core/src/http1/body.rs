//! Decodes a request body: none, of a fixed length, or chunked.
//!
//! Knows: RFC 9112 §6 and §7.1, and how to stop at any byte and go on later.
//! Does not know: where content goes, the sum of all bodies, content codings, or who is asking.
//! Theory of operation: one state per grammar position; a step consumes at least one byte or ends.
//! httparse has a decoder for chunk sizes too, but reads an empty one as 0 and is lax in extensions.

use super::error::Error;
use super::fields::{FieldLines, Scan};
use super::framing::Framing;
use super::octets::{self, QUOTED, TOKEN, VALUE};

/// Digits of a chunk size: as many as 64 bits hold, so none can overflow.
const SIZE_DIGITS_MAX: u8 = 16;

/// How large a body may be, and what a chunked one may carry besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLimits {
    /// Bytes of content; `u64::MAX` is unlimited.
    pub body_bytes_max: u64,
    /// Bytes of chunk extensions in all, from behind the size to before the line end.
    pub extension_bytes_max: usize,
    /// Bytes of all trailer fields, their line ends included.
    pub trailer_bytes_max: usize,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self {
            body_bytes_max: 4 * 1024 * 1024,
            extension_bytes_max: 16 * 1024,
            trailer_bytes_max: 16 * 1024,
        }
    }
}

/// How far a decoder came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// How many bytes of the input belong to the body. All of them, unless it is done.
    pub consumed: usize,
    /// Whether the body has ended. What was not consumed is the next request's.
    pub done: bool,
}

/// Finds the content and the end of a body in bytes that arrive in pieces of any size.
#[derive(Clone, Debug)]
pub struct BodyDecoder {
    framing: Framing,
    position: Position,
    /// Content handed to the sink so far.
    received: u64,
    /// What a declared length or the present chunk still holds.
    remaining: u64,
    /// Bytes of extensions, and after the last chunk bytes of trailers.
    overhead: usize,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// Content under a declared length.
    Length,
    /// Content until somebody else says that it has ended.
    UntilEnd,
    /// The digits of a chunk size; after the first, also what may follow them.
    Size { digits: u8 },
    /// Somewhere in the extensions of a chunk.
    Extension(Extension),
    /// The LF behind a chunk size.
    SizeLineFeed,
    /// Content of a chunk.
    Data,
    /// The CR behind a chunk's content.
    DataReturn,
    /// The LF behind a chunk's content.
    DataLineFeed,
    /// The trailer section, up to its empty line.
    Trailers(FieldLines),
    /// Nothing: the body has ended.
    Done,
    /// Nothing: a fault was found, and no later byte is interpreted.
    Refused(Error),
}

/// What comes next in `*( ";" name [ "=" value ] )`.
///
/// RFC 9112 §7.1.1 has "bad" white space around the semicolon and the equals sign, which senders must
/// not write (RFC 9110 §5.6.3). It was considered to skip it, as recipients may; it is refused, because
/// what stands in front of this server may end the chunk's line or its size elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extension {
    /// The first octet of a name.
    NameStart,
    /// The rest of a name, or what may follow it.
    Name,
    /// The first octet of a value.
    ValueStart,
    /// The rest of a value that is a token, or what may follow it.
    Token,
    /// Inside a value in quotes.
    Quoted,
    /// The octet behind a backslash inside a value in quotes.
    Escaped,
    /// Behind a size, or behind a value in quotes.
    AfterWhole,
}

impl BodyDecoder {
    /// A decoder at the beginning of a body.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        let (position, remaining) = match framing {
            Framing::Empty | Framing::Length(0) => (Position::Done, 0),
            Framing::Length(length) => (Position::Length, length),
            Framing::Chunked => (Position::Size { digits: 0 }, 0),
        };
        Self { framing, position, received: 0, remaining, overhead: 0 }
    }

    /// A decoder for a body without framing, whose end is told apart from it: what an HTTP library
    /// that speaks for us hands over. It is never `done` by itself.
    #[must_use]
    pub fn until_end() -> Self {
        Self { position: Position::UntilEnd, remaining: u64::MAX, ..Self::new(Framing::Chunked) }
    }

    /// Whether the body ends when its bytes do: see [`until_end`](Self::until_end).
    #[must_use]
    pub fn ends_with_input(&self) -> bool {
        self.position == Position::UntilEnd
    }

    /// Whether the body has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.position == Position::Done
    }

    /// The length of the body as its head told it: `None` for a chunked one.
    ///
    /// It lets its owner refuse what is too large, or reserve room, before any of it arrives.
    #[must_use]
    pub fn declared(&self) -> Option<u64> {
        match self.framing {
            Framing::Empty => Some(0),
            Framing::Length(length) => Some(length),
            Framing::Chunked => None,
        }
    }

    /// Reads `input`, which continues what was given before, and hands its content to `sink` in the
    /// largest slices there are.
    ///
    /// Call it with each piece as it arrives, until it says `done`; from then on it consumes
    /// nothing.
    ///
    /// # Errors
    ///
    /// The fault of the first byte that cannot be right or is one too many; a declared length over
    /// the limit at once. The sink has seen all content before it. Every later call says the same.
    pub fn decode(
        &mut self,
        input: &[u8],
        limits: &BodyLimits,
        sink: &mut impl FnMut(&[u8]),
    ) -> Result<Progress, Error> {
        let mut rest = input;
        if self.position == Position::Length && self.remaining > limits.body_bytes_max {
            self.position = Position::Refused(Error::BodyTooLarge);
        }
        while let Some(&octet) = rest.first() {
            if self.position == Position::Done {
                break;
            }
            match self.step(octet, rest, limits, sink) {
                Ok((position, used)) => {
                    self.position = position;
                    rest = rest.get(used..).unwrap_or_default();
                }
                Err(fault) => self.position = Position::Refused(fault),
            }
            if let Position::Refused(_) = self.position {
                break;
            }
        }
        if let Position::Refused(fault) = self.position {
            return Err(fault);
        }
        Ok(Progress { consumed: input.len() - rest.len(), done: self.is_done() })
    }

    /// Judges `octet`, the first of `rest`, and says what comes next and how many bytes were used.
    fn step(
        &mut self,
        octet: u8,
        rest: &[u8],
        limits: &BodyLimits,
        sink: &mut impl FnMut(&[u8]),
    ) -> Result<(Position, usize), Error> {
        let position = match self.position {
            Position::Length => {
                let used = self.take(rest, limits, sink)?;
                let done = self.remaining == 0;
                return Ok((if done { Position::Done } else { Position::Length }, used));
            }
            Position::UntilEnd => {
                return Ok((Position::UntilEnd, self.take(rest, limits, sink)?));
            }
            Position::Data => {
                let used = self.take(rest, limits, sink)?;
                let done = self.remaining == 0;
                return Ok((if done { Position::DataReturn } else { Position::Data }, used));
            }
            Position::Trailers(lines) => return self.trailers(lines, rest, limits),
            Position::Size { digits } => match hex(octet) {
                Some(_) if digits == SIZE_DIGITS_MAX => return Err(Error::MalformedChunk),
                Some(digit) => {
                    self.remaining = self.remaining * 16 + u64::from(digit);
                    Position::Size { digits: digits + 1 }
                }
                None if digits == 0 => return Err(misplaced(octet)),
                None => self.extension(Extension::AfterWhole, octet, limits)?,
            },
            Position::Extension(extension) => self.extension(extension, octet, limits)?,
            Position::SizeLineFeed => match octet {
                b'\n' if self.remaining > 0 => Position::Data,
                b'\n' => {
                    self.overhead = 0;
                    Position::Trailers(FieldLines::default())
                }
                _ => return Err(Error::BadLineEnd),
            },
            Position::DataReturn => match octet {
                b'\r' => Position::DataLineFeed,
                _ => return Err(misplaced(octet)),
            },
            Position::DataLineFeed => match octet {
                b'\n' => Position::Size { digits: 0 },
                _ => return Err(Error::BadLineEnd),
            },
            Position::Done => return Ok((Position::Done, 0)),
            Position::Refused(fault) => return Err(fault),
        };
        Ok((position, 1))
    }

    /// Hands the content at the start of `rest` to the sink.
    fn take(
        &mut self,
        rest: &[u8],
        limits: &BodyLimits,
        sink: &mut impl FnMut(&[u8]),
    ) -> Result<usize, Error> {
        let room = limits.body_bytes_max.saturating_sub(self.received);
        let length = usize::try_from(self.remaining.min(room)).unwrap_or(usize::MAX);
        let content = rest.get(..length).unwrap_or(rest);
        if content.is_empty() {
            return Err(Error::BodyTooLarge);
        }
        sink(content);
        self.received += content.len() as u64;
        self.remaining -= content.len() as u64;
        Ok(content.len())
    }

    /// One octet behind a chunk size: of an extension, or the CR.
    fn extension(
        &mut self,
        at: Extension,
        octet: u8,
        limits: &BodyLimits,
    ) -> Result<Position, Error> {
        let token = octets::is(octet, TOKEN);
        let next = match (at, octet) {
            (Extension::Name | Extension::Token | Extension::AfterWhole, b'\r') => {
                return Ok(Position::SizeLineFeed);
            }
            (Extension::Name | Extension::Token | Extension::AfterWhole, b';') => {
                Extension::NameStart
            }
            (Extension::Name, b'=') => Extension::ValueStart,
            (Extension::ValueStart, b'"') => Extension::Quoted,
            (Extension::Quoted, b'"') => Extension::AfterWhole,
            (Extension::Quoted, b'\\') => Extension::Escaped,
            (Extension::Quoted, _) if octets::is(octet, QUOTED) => Extension::Quoted,
            (Extension::Escaped, _) if octets::is(octet, VALUE) => Extension::Quoted,
            (Extension::NameStart | Extension::Name, _) if token => Extension::Name,
            (Extension::ValueStart | Extension::Token, _) if token => Extension::Token,
            _ => return Err(misplaced(octet)),
        };
        // Unlimited, it could come to more than a 32-bit machine counts.
        self.overhead = self.overhead.saturating_add(1);
        if self.overhead > limits.extension_bytes_max {
            return Err(Error::ChunkExtensionsTooLarge);
        }
        Ok(Position::Extension(next))
    }

    /// Trailers are checked like fields and dropped: no field that matters here may be one
    /// (RFC 9110 §6.5.1).
    fn trailers(
        &mut self,
        mut lines: FieldLines,
        rest: &[u8],
        limits: &BodyLimits,
    ) -> Result<(Position, usize), Error> {
        // The empty line at the end is always there, so it is not counted.
        let room = limits.trailer_bytes_max.saturating_add(2).saturating_sub(self.overhead);
        let window = rest.get(..room).unwrap_or(rest);
        match lines.scan(window, usize::MAX)? {
            Scan::Complete { consumed } => Ok((Position::Done, consumed)),
            Scan::Partial if window.len() < rest.len() => Err(Error::TrailersTooLarge),
            Scan::Partial => {
                self.overhead += window.len();
                Ok((Position::Trailers(lines), window.len()))
            }
        }
    }
}

fn hex(octet: u8) -> Option<u8> {
    match octet {
        b'0'..=b'9' => Some(octet - b'0'),
        b'a'..=b'f' => Some(octet - b'a' + 10),
        b'A'..=b'F' => Some(octet - b'A' + 10),
        _ => None,
    }
}

/// The fault of an octet that has no place around a chunk.
fn misplaced(octet: u8) -> Error {
    if octet == b'\n' { Error::BadLineEnd } else { Error::MalformedChunk }
}

#[cfg(test)]
mod tests;
