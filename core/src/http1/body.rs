//! Decodes a request body: none, of a declared length, or chunked.
//!
//! Knows: RFC 9112 §6 and §7.1, and how to stop at any byte and resume later.
//! Does not know: where the content goes, the sum of all bodies, or content codings.
//!
//! The decoder is a state machine with one state per grammar position. Each step consumes at least
//! one byte or ends. The chunk size parser of httparse is not used: it reads an empty size as 0 and
//! does not validate extensions.

use super::error::Error;
use super::fields::{FieldLines, Scan};
use super::framing::Framing;
use super::octets::{self, QUOTED, TOKEN, VALUE};

/// The most hexadecimal digits of a chunk size. 16 digits are 64 bits, so no size can overflow.
const SIZE_DIGITS_MAX: u8 = 16;

/// The limits of one request body.
///
/// ```
/// # use mcp_sse_core::http1::BodyLimits;
/// let limits = BodyLimits { body_bytes_max: 64 * 1024, ..BodyLimits::default() };
/// assert_eq!(limits.trailer_bytes_max, 16 * 1024);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLimits {
    /// Bytes of content, without chunk framing. `u64::MAX` means unlimited. Default: 4 MiB.
    pub body_bytes_max: u64,
    /// Bytes of all chunk extensions of the body together, counted from after a chunk size to
    /// before its CRLF. Default: 16 KiB.
    pub extension_bytes_max: usize,
    /// Bytes of all trailer fields, including their line ends. Default: 16 KiB.
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

/// The result of decoding one piece of input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// How many bytes of the input belong to the body: all of them, unless `done` is true.
    pub consumed: usize,
    /// Whether the body has ended. The bytes that were not consumed belong to the next request.
    pub done: bool,
}

/// A decoder for one request body that arrives in pieces of any size.
///
/// # Examples
///
/// ```
/// use mcp_sse_core::http1::{BodyDecoder, BodyLimits, Framing, Progress};
///
/// let mut decoder = BodyDecoder::new(Framing::Chunked);
/// let mut content = Vec::new();
/// let mut sink = |bytes: &[u8]| content.extend_from_slice(bytes);
/// let limits = BodyLimits::default();
///
/// let progress = decoder.decode(b"5\r\nhel", &limits, &mut sink)?;
/// assert_eq!(progress, Progress { consumed: 6, done: false });
/// let progress = decoder.decode(b"lo\r\n0\r\n\r\nGET", &limits, &mut sink)?;
/// assert_eq!(progress, Progress { consumed: 9, done: true });
/// assert_eq!(content, b"hello");
/// # Ok::<(), mcp_sse_core::http1::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct BodyDecoder {
    framing: Framing,
    position: BodyPosition,
    /// Bytes of content passed to the sink so far.
    received: u64,
    /// Bytes of content left in the declared length or in the current chunk.
    remaining: u64,
    /// Bytes of extensions so far; after the last chunk, bytes of trailers so far.
    overhead: usize,
}

/// Which part of the grammar the next octet belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyPosition {
    /// Content of a body with a declared length.
    Length,
    /// Content of a body that ends when its source says so.
    UntilEnd,
    /// A digit of a chunk size or, after the first digit, whatever may follow the size.
    Size { digits: u8 },
    /// An octet of the extensions of a chunk.
    Extension(Extension),
    /// The LF after a chunk size or its extensions.
    SizeLineFeed,
    /// Content of a chunk.
    Data,
    /// The CR after the content of a chunk.
    DataReturn,
    /// The LF after the content of a chunk.
    DataLineFeed,
    /// The trailer section, up to its empty line.
    Trailers(FieldLines),
    /// The body has ended.
    Done,
    /// An error was found. No later byte is interpreted.
    Refused(Error),
}

/// Which part of `*( ";" name [ "=" value ] )` the next octet belongs to.
///
/// RFC 9112 §7.1.1 defines "bad" white space around the semicolon and the equals sign, which
/// senders must not generate (RFC 9110 §5.6.3). A recipient may skip it; this decoder refuses it,
/// because a proxy in front of this server might end the line or the size at another octet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extension {
    /// The first octet of a name.
    NameStart,
    /// A later octet of a name, or the octet after the name.
    Name,
    /// The first octet of a value.
    ValueStart,
    /// A later octet of an unquoted value, or the octet after the value.
    Token,
    /// An octet of a quoted value.
    Quoted,
    /// The octet after a backslash in a quoted value.
    Escaped,
    /// The octet after a chunk size or after a quoted value.
    AfterWhole,
}

impl BodyDecoder {
    /// Makes a decoder for the body of a request with this `framing`.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        let (position, remaining) = match framing {
            Framing::Empty | Framing::Length(0) => (BodyPosition::Done, 0),
            Framing::Length(length) => (BodyPosition::Length, length),
            Framing::Chunked => (BodyPosition::Size { digits: 0 }, 0),
        };
        Self { framing, position, received: 0, remaining, overhead: 0 }
    }

    /// Makes a decoder for a body without framing, whose end is signalled separately. Use it behind
    /// an HTTP library that has already removed the framing.
    ///
    /// The decoder passes everything to the sink until [`BodyLimits::body_bytes_max`] is exceeded,
    /// and never reports `done`.
    #[must_use]
    pub fn until_end() -> Self {
        Self {
            position: BodyPosition::UntilEnd,
            remaining: u64::MAX,
            ..Self::new(Framing::Chunked)
        }
    }

    /// Whether the end of the body is signalled separately: true for a decoder made by
    /// [`until_end`](Self::until_end).
    #[must_use]
    pub fn ends_with_input(&self) -> bool {
        self.position == BodyPosition::UntilEnd
    }

    /// Whether the body has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.position == BodyPosition::Done
    }

    /// The length of the body in bytes as the request head declares it, 0 without a body, or `None`
    /// for a chunked body.
    ///
    /// With it a server can refuse a body that is too large, or reserve memory for it, before any
    /// of it arrives.
    #[must_use]
    pub fn declared(&self) -> Option<u64> {
        match self.framing {
            Framing::Empty => Some(0),
            Framing::Length(length) => Some(length),
            Framing::Chunked => None,
        }
    }

    /// Decodes `input`, which continues the input of the previous call, and passes the content in
    /// it to `sink`, in slices as large as possible.
    ///
    /// Call it with each piece of input as it arrives, until [`Progress::done`] is true; from then
    /// on it consumes nothing.
    ///
    /// # Errors
    ///
    /// The error of the first byte that is invalid or exceeds a limit of `limits`. A declared
    /// length over the limit is an error at the first call. The sink has received all content
    /// before the error. Every later call returns the same error.
    pub fn decode(
        &mut self,
        input: &[u8],
        limits: &BodyLimits,
        sink: &mut impl FnMut(&[u8]),
    ) -> Result<Progress, Error> {
        let mut rest = input;
        if self.position == BodyPosition::Length && self.remaining > limits.body_bytes_max {
            self.position = BodyPosition::Refused(Error::BodyTooLarge);
        }
        while let Some(&octet) = rest.first()
            && !self.is_done()
        {
            let step = self.step(octet, rest, limits, sink);
            let (position, used) =
                step.inspect_err(|&fault| self.position = BodyPosition::Refused(fault))?;
            self.position = position;
            rest = rest.get(used..).unwrap_or_default();
        }
        if let BodyPosition::Refused(fault) = self.position {
            return Err(fault);
        }
        Ok(Progress { consumed: input.len() - rest.len(), done: self.is_done() })
    }

    /// Consumes `octet`, the first of `rest`, or more of `rest`. Returns the next position and the
    /// number of bytes consumed.
    fn step(
        &mut self,
        octet: u8,
        rest: &[u8],
        limits: &BodyLimits,
        sink: &mut impl FnMut(&[u8]),
    ) -> Result<(BodyPosition, usize), Error> {
        let position = match self.position {
            BodyPosition::Length | BodyPosition::UntilEnd | BodyPosition::Data => {
                let used = self.take(rest, limits, sink)?;
                let position = match (self.remaining, self.position) {
                    (0, BodyPosition::Length) => BodyPosition::Done,
                    (0, BodyPosition::Data) => BodyPosition::DataReturn,
                    (_, same) => same,
                };
                return Ok((position, used));
            }
            BodyPosition::Trailers(lines) => return self.trailers(lines, rest, limits),
            BodyPosition::Size { digits } => match char::from(octet).to_digit(16) {
                Some(_) if digits == SIZE_DIGITS_MAX => return Err(Error::MalformedChunk),
                Some(digit) => {
                    self.remaining = self.remaining * 16 + u64::from(digit);
                    BodyPosition::Size { digits: digits + 1 }
                }
                None if digits == 0 => return Err(misplaced(octet)),
                None => self.extension(Extension::AfterWhole, octet, limits)?,
            },
            BodyPosition::Extension(extension) => self.extension(extension, octet, limits)?,
            BodyPosition::SizeLineFeed => match octet {
                b'\n' if self.remaining > 0 => BodyPosition::Data,
                b'\n' => {
                    self.overhead = 0;
                    BodyPosition::Trailers(FieldLines::default())
                }
                _ => return Err(Error::BadLineEnd),
            },
            BodyPosition::DataReturn => match octet {
                b'\r' => BodyPosition::DataLineFeed,
                _ => return Err(misplaced(octet)),
            },
            BodyPosition::DataLineFeed => match octet {
                b'\n' => BodyPosition::Size { digits: 0 },
                _ => return Err(Error::BadLineEnd),
            },
            BodyPosition::Done => return Ok((BodyPosition::Done, 0)),
            BodyPosition::Refused(fault) => return Err(fault),
        };
        Ok((position, 1))
    }

    /// Passes the content at the start of `rest` to the sink and returns its length.
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

    /// Consumes one octet after a chunk size: of an extension, or the CR.
    fn extension(
        &mut self,
        at: Extension,
        octet: u8,
        limits: &BodyLimits,
    ) -> Result<BodyPosition, Error> {
        let token = octets::is(octet, TOKEN);
        let next = match (at, octet) {
            (Extension::Name | Extension::Token | Extension::AfterWhole, b'\r') => {
                return Ok(BodyPosition::SizeLineFeed);
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
        // With an unlimited `extension_bytes_max` the sum could overflow a `usize` of 32 bits.
        self.overhead = self.overhead.saturating_add(1);
        if self.overhead > limits.extension_bytes_max {
            return Err(Error::ChunkExtensionsTooLarge);
        }
        Ok(BodyPosition::Extension(next))
    }

    /// Consumes trailer fields. They are validated and discarded: no field that this server uses
    /// may be sent as a trailer (RFC 9110 §6.5.1).
    fn trailers(
        &mut self,
        mut lines: FieldLines,
        rest: &[u8],
        limits: &BodyLimits,
    ) -> Result<(BodyPosition, usize), Error> {
        // The empty line that ends the section is not counted towards the limit, so its 2 bytes are
        // added.
        let room = limits.trailer_bytes_max.saturating_add(2).saturating_sub(self.overhead);
        let window = rest.get(..room).unwrap_or(rest);
        match lines.scan(window, usize::MAX)? {
            Scan::Complete { consumed } => Ok((BodyPosition::Done, consumed)),
            Scan::Partial if window.len() < rest.len() => Err(Error::TrailersTooLarge),
            Scan::Partial => {
                self.overhead += window.len();
                Ok((BodyPosition::Trailers(lines), window.len()))
            }
        }
    }
}

/// The error for an octet that is invalid at its position in the chunk framing.
fn misplaced(octet: u8) -> Error {
    if octet == b'\n' { Error::BadLineEnd } else { Error::MalformedChunk }
}

#[cfg(test)]
mod tests;
