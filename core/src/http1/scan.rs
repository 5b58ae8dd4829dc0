//! Finds the end of a request head and judges every octet on the way there.
//!
//! Knows: the grammar of a request line and of field lines (RFC 9112 §2-§5), octet by octet, and the
//! three limits of a head. Does not know: what a method, a target or a field means (see `head`).
//! Theory of operation: one state per grammar position. A fault comes at the first octet that cannot
//! be right, so neither its kind nor its place depends on how the bytes were cut, and a peer that
//! speaks something else (a TLS hello, say) is refused before it has sent a line.

use super::error::Error;
use super::fields::{FieldLines, Scan};
use super::octets::{self, TARGET, TOKEN};

/// The most fields that a [`Head`](super::Head) can hold, whatever
/// [`fields_max`](HeadLimits::fields_max) says.
pub const FIELDS_CAP: usize = 128;

/// Empty lines skipped before a request line. RFC 9112 §2.2 asks for one at least, for the sake of
/// clients that end a body with a line end too many.
const EMPTY_LINES_MAX: u8 = 4;

/// The longest method looked at. None that is known is half as long.
const METHOD_BYTES_MAX: u8 = 16;

/// How large a request head may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of the whole head, with the blank line at its end and any empty lines before it.
    pub head_bytes_max: usize,
    /// Header fields; never more than [`FIELDS_CAP`].
    pub fields_max: usize,
    /// Bytes of the request target.
    pub target_bytes_max: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self { head_bytes_max: 16 * 1024, fields_max: 100, target_bytes_max: 8 * 1024 }
    }
}

/// Finds the end of a request head in bytes that arrive in pieces of any size.
#[derive(Clone, Debug, Default)]
pub struct HeadScanner {
    position: Position,
    head_bytes: usize,
    target_bytes: usize,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// The first octet of the method, or the CR of an empty line.
    Start { empty_lines: u8 },
    /// The LF of an empty line.
    EmptyLine { empty_lines: u8 },
    /// The rest of the method, or the space behind it.
    Method { bytes: u8 },
    /// The target, or the space behind it.
    Target,
    /// This octet of `HTTP/1.x CR LF`.
    Version { index: u8 },
    /// The fields and the blank line.
    Fields(FieldLines),
    /// Nothing: a fault was found, and no later byte is interpreted.
    Refused(Error),
}

impl Default for Position {
    fn default() -> Self {
        Self::Start { empty_lines: 0 }
    }
}

impl HeadScanner {
    /// A scanner at the beginning of a request.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether no octet of a request was seen yet.
    ///
    /// Empty lines before a request line are not part of it: a connection on which nothing else
    /// arrived is still idle. (They do count against the head's bytes.)
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.position, Position::Start { .. } | Position::EmptyLine { .. })
    }

    /// Judges `input`, which continues what was given before.
    ///
    /// Call it with each piece as it arrives, until it says [`Scan::Complete`]. Then give the whole
    /// head to [`Head::parse`](super::Head::parse); the scanner is ready for the next one.
    ///
    /// # Errors
    ///
    /// The fault of the first octet that cannot be right or is one too many. Nothing behind it was
    /// looked at, and every later call says the same.
    pub fn scan(&mut self, input: &[u8], limits: &HeadLimits) -> Result<Scan, Error> {
        // Octets beyond the limit are not even looked at, so this one place keeps it.
        let room = limits.head_bytes_max.saturating_sub(self.head_bytes);
        let window = input.get(..room).unwrap_or(input);
        let scan = self.walk(window, limits).and_then(|scan| match scan {
            Scan::Partial if window.len() < input.len() => Err(Error::HeadTooLarge),
            Scan::Partial | Scan::Complete { .. } => Ok(scan),
        });
        match scan {
            Ok(Scan::Partial) => self.head_bytes += window.len(),
            Ok(Scan::Complete { .. }) => *self = Self::default(),
            Err(fault) => self.position = Position::Refused(fault),
        }
        scan
    }

    fn walk(&mut self, input: &[u8], limits: &HeadLimits) -> Result<Scan, Error> {
        let mut rest = input;
        while let Some(&octet) = rest.first() {
            let mut used = 1;
            self.position = match self.position {
                Position::Start { empty_lines } => match octet {
                    b'\r' if empty_lines == EMPTY_LINES_MAX => {
                        return Err(Error::TooManyEmptyLines);
                    }
                    b'\r' => Position::EmptyLine { empty_lines: empty_lines + 1 },
                    _ if octets::is(octet, TOKEN) => Position::Method { bytes: 1 },
                    _ => return Err(misplaced(octet)),
                },
                Position::EmptyLine { empty_lines } => match octet {
                    b'\n' => Position::Start { empty_lines },
                    _ => return Err(Error::BadLineEnd),
                },
                Position::Method { bytes } => match octet {
                    b' ' => Position::Target,
                    _ if !octets::is(octet, TOKEN) => return Err(misplaced(octet)),
                    _ if bytes == METHOD_BYTES_MAX => return Err(Error::UnknownMethod),
                    _ => Position::Method { bytes: bytes + 1 },
                },
                Position::Target => match octets::run(rest, TARGET) {
                    0 => self.after_target(octet)?,
                    run => {
                        used = run;
                        self.target_bytes += run;
                        if self.target_bytes > limits.target_bytes_max {
                            return Err(Error::TargetTooLong);
                        }
                        Position::Target
                    }
                },
                Position::Version { index } => version(index, octet)?,
                Position::Fields(mut lines) => {
                    return match lines.scan(rest, limits.fields_max.min(FIELDS_CAP))? {
                        Scan::Partial => {
                            self.position = Position::Fields(lines);
                            Ok(Scan::Partial)
                        }
                        Scan::Complete { consumed } => {
                            Ok(Scan::Complete { consumed: input.len() - rest.len() + consumed })
                        }
                    };
                }
                Position::Refused(fault) => return Err(fault),
            };
            rest = rest.get(used..).unwrap_or_default();
        }
        if let Position::Refused(fault) = self.position { Err(fault) } else { Ok(Scan::Partial) }
    }

    fn after_target(&self, octet: u8) -> Result<Position, Error> {
        match octet {
            b' ' if self.target_bytes > 0 => Ok(Position::Version { index: 0 }),
            // Two spaces in a row, or the line ends where a version should begin.
            b' ' | b'\r' => Err(Error::MalformedRequestLine),
            b'\n' => Err(Error::BadLineEnd),
            _ => Err(Error::MalformedTarget),
        }
    }
}

/// `HTTP/` DIGIT `.` DIGIT CR LF, one octet at a time (RFC 9112 §2.3).
fn version(index: u8, octet: u8) -> Result<Position, Error> {
    let right = match index {
        0..5 => b"HTTP/".get(usize::from(index)) == Some(&octet),
        5 => match octet {
            b'1' => true,
            // Another major version may have another grammar: what follows is not ours to read. The
            // preface of HTTP/2 ends here too (RFC 9113 §3.4).
            b'0'..=b'9' => return Err(Error::UnsupportedVersion),
            _ => false,
        },
        6 => octet == b'.',
        // A higher minor version is a 1.1 that can do more (RFC 9110 §2.5).
        7 => octet.is_ascii_digit(),
        8 => octet == b'\r',
        _ if octet == b'\n' => return Ok(Position::Fields(FieldLines::default())),
        _ => return Err(Error::BadLineEnd),
    };
    if right { Ok(Position::Version { index: index + 1 }) } else { Err(misplaced(octet)) }
}

/// The fault of an octet that has no place in a request line.
fn misplaced(octet: u8) -> Error {
    if octet == b'\n' { Error::BadLineEnd } else { Error::MalformedRequestLine }
}

#[cfg(test)]
mod tests;
