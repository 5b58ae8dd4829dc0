//! Finds the end of a request head and validates every octet on the way.
//!
//! Knows: the grammar of a request line and of field lines (RFC 9112 §2-§5), octet by octet, and
//! the three limits of a head. Does not know: what a method, a target or a field means (see
//! `head`).
//!
//! The scanner is a state machine with one state per grammar position. It reports an error at the
//! first invalid octet, so neither the error nor its position depends on how the bytes were split
//! into calls, and a peer of another protocol (a TLS ClientHello, for example) is refused before it
//! has sent a complete line.

use super::error::Error;
use super::fields::{FieldLines, Scan};
use super::octets::{self, TARGET, TOKEN};

/// The most fields that a [`Head`](super::Head) can hold. A higher
/// [`fields_max`](HeadLimits::fields_max) has the effect of this number.
pub const FIELDS_CAP: usize = 128;

/// The number of empty lines accepted before a request line. RFC 9112 §2.2 asks for at least one,
/// because some clients send a superfluous CRLF after a body.
const EMPTY_LINES_MAX: u8 = 4;

/// The longest method that is scanned. Every known method is shorter than 8 bytes.
const METHOD_BYTES_MAX: u8 = 16;

/// The limits of one request head.
///
/// ```
/// # use mcp_sse_core::http1::HeadLimits;
/// let limits = HeadLimits { head_bytes_max: 8 * 1024, ..HeadLimits::default() };
/// assert_eq!(limits.fields_max, 100);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of the head, including the blank line that ends it and empty lines before it. Default:
    /// 16 KiB.
    pub head_bytes_max: usize,
    /// Number of header fields, at most [`FIELDS_CAP`]. Default: 100.
    pub fields_max: usize,
    /// Bytes of the request target. Default: 8 KiB.
    pub target_bytes_max: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self { head_bytes_max: 16 * 1024, fields_max: 100, target_bytes_max: 8 * 1024 }
    }
}

/// Finds the end of a request head that arrives in pieces of any size.
///
/// # Examples
///
/// ```
/// use mcp_sse_core::http1::{HeadLimits, HeadScanner, Scan};
///
/// let limits = HeadLimits::default();
/// let mut scanner = HeadScanner::new();
/// assert_eq!(scanner.scan(b"GET / HTTP/1.1\r\nHo", &limits)?, Scan::Partial);
/// let scan = scanner.scan(b"st: localhost\r\n\r\nGET", &limits)?;
/// assert_eq!(scan, Scan::Complete { consumed: 17 });
/// # Ok::<(), mcp_sse_core::http1::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct HeadScanner {
    position: HeadPosition,
    head_bytes: usize,
    /// Four bytes, so that connections are small: a longer target than these can count is refused.
    target_bytes: u32,
}

/// Which part of the grammar the next octet belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HeadPosition {
    /// The first octet of the method, or the CR of an empty line.
    Start { empty_lines: u8 },
    /// The LF of an empty line.
    EmptyLine { empty_lines: u8 },
    /// A later octet of the method, or the space after it.
    Method { bytes: u8 },
    /// The target, or the space after it.
    Target,
    /// The octet number `index` of `HTTP/1.x CR LF`.
    Version { index: u8 },
    /// The fields and the blank line.
    Fields(FieldLines),
    /// An error was found. No later byte is interpreted.
    Refused(Error),
}

impl Default for HeadPosition {
    fn default() -> Self {
        Self::Start { empty_lines: 0 }
    }
}

impl HeadScanner {
    /// Makes a scanner at the beginning of a request.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether no octet of a request has been scanned yet.
    ///
    /// Empty lines before a request line are not part of the request: a connection on which only
    /// empty lines arrived is still idle. They count towards [`HeadLimits::head_bytes_max`].
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.position, HeadPosition::Start { .. } | HeadPosition::EmptyLine { .. })
    }

    /// Scans `input`, which continues the input of the previous call.
    ///
    /// Call it with each piece of input as it arrives, until it returns [`Scan::Complete`]. Then
    /// pass the complete head to [`Head::parse`](super::Head::parse). The scanner is then ready for
    /// the next head.
    ///
    /// # Errors
    ///
    /// The error of the first octet that is invalid or exceeds a limit of `limits`. The octets
    /// after it were not examined. Every later call returns the same error.
    pub fn scan(&mut self, input: &[u8], limits: &HeadLimits) -> Result<Scan, Error> {
        // Octets beyond `head_bytes_max` are cut off here, so `walk` does not have to check that
        // limit.
        let room = limits.head_bytes_max.saturating_sub(self.head_bytes);
        let window = input.get(..room).unwrap_or(input);
        let scan = self.walk(window, limits).and_then(|scan| match scan {
            Scan::Partial if window.len() < input.len() => Err(Error::HeadTooLarge),
            Scan::Partial | Scan::Complete { .. } => Ok(scan),
        });
        match scan {
            Ok(Scan::Partial) => self.head_bytes += window.len(),
            Ok(Scan::Complete { .. }) => *self = Self::default(),
            Err(fault) => self.position = HeadPosition::Refused(fault),
        }
        scan
    }

    fn walk(&mut self, input: &[u8], limits: &HeadLimits) -> Result<Scan, Error> {
        let mut rest = input;
        while let Some(&octet) = rest.first() {
            let mut used = 1;
            self.position = match self.position {
                HeadPosition::Start { empty_lines } => match octet {
                    b'\r' if empty_lines == EMPTY_LINES_MAX => {
                        return Err(Error::TooManyEmptyLines);
                    }
                    b'\r' => HeadPosition::EmptyLine { empty_lines: empty_lines + 1 },
                    _ if octets::is(octet, TOKEN) => HeadPosition::Method { bytes: 1 },
                    _ => return Err(misplaced(octet)),
                },
                HeadPosition::EmptyLine { empty_lines } => match octet {
                    b'\n' => HeadPosition::Start { empty_lines },
                    _ => return Err(Error::BadLineEnd),
                },
                HeadPosition::Method { bytes } => match octet {
                    b' ' => HeadPosition::Target,
                    _ if !octets::is(octet, TOKEN) => return Err(misplaced(octet)),
                    _ if bytes == METHOD_BYTES_MAX => return Err(Error::UnknownMethod),
                    _ => HeadPosition::Method { bytes: bytes + 1 },
                },
                HeadPosition::Target => match octets::run(rest, TARGET) {
                    0 => self.after_target(octet)?,
                    run => {
                        used = run;
                        let bytes = self.target_bytes as usize + run;
                        if bytes > limits.target_bytes_max {
                            return Err(Error::TargetTooLong);
                        }
                        self.target_bytes =
                            u32::try_from(bytes).map_err(|_| Error::TargetTooLong)?;
                        HeadPosition::Target
                    }
                },
                HeadPosition::Version { index } => version(index, octet)?,
                HeadPosition::Fields(mut lines) => {
                    return match lines.scan(rest, limits.fields_max.min(FIELDS_CAP))? {
                        Scan::Partial => {
                            self.position = HeadPosition::Fields(lines);
                            Ok(Scan::Partial)
                        }
                        Scan::Complete { consumed } => {
                            Ok(Scan::Complete { consumed: input.len() - rest.len() + consumed })
                        }
                    };
                }
                HeadPosition::Refused(fault) => return Err(fault),
            };
            rest = rest.get(used..).unwrap_or_default();
        }
        if let HeadPosition::Refused(fault) = self.position {
            Err(fault)
        } else {
            Ok(Scan::Partial)
        }
    }

    fn after_target(&self, octet: u8) -> Result<HeadPosition, Error> {
        match octet {
            b' ' if self.target_bytes > 0 => Ok(HeadPosition::Version { index: 0 }),
            // There are two spaces in a row, or the line ends where the version should begin.
            b' ' | b'\r' => Err(Error::MalformedRequestLine),
            b'\n' => Err(Error::BadLineEnd),
            _ => Err(Error::MalformedTarget),
        }
    }
}

/// Consumes the octet number `index` of `HTTP/` DIGIT `.` DIGIT CR LF (RFC 9112 §2.3).
fn version(index: u8, octet: u8) -> Result<HeadPosition, Error> {
    let right = match index {
        0..5 => b"HTTP/".get(usize::from(index)) == Some(&octet),
        5 => match octet {
            b'1' => true,
            // Another major version may have another grammar, so the bytes after it are not parsed.
            // The preface of HTTP/2 is refused here too (RFC 9113 §3.4).
            b'0'..=b'9' => return Err(Error::UnsupportedVersion),
            _ => false,
        },
        6 => octet == b'.',
        // A higher minor version is compatible with 1.1 (RFC 9110 §2.5).
        7 => octet.is_ascii_digit(),
        8 => octet == b'\r',
        _ if octet == b'\n' => return Ok(HeadPosition::Fields(FieldLines::default())),
        _ => return Err(Error::BadLineEnd),
    };
    if right { Ok(HeadPosition::Version { index: index + 1 }) } else { Err(misplaced(octet)) }
}

/// The error for an octet that is invalid at its position in the request line.
fn misplaced(octet: u8) -> Error {
    if octet == b'\n' { Error::BadLineEnd } else { Error::MalformedRequestLine }
}

#[cfg(test)]
mod tests;
