//! Field lines, octet by octet: the fields of a head and the trailers of a chunked body.
//!
//! Knows: RFC 9112 §5, without folding, and how to stop at any byte and go on later.
//! Does not know: what a field means, or how many bytes it may take (its caller cuts the input).

use super::error::Error;
use super::octets::{self, TOKEN};

/// How far a scan came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// All of the input is right so far, and there must be more.
    Partial,
    /// The end was found.
    Complete {
        /// How many bytes of *this* input belong to what was scanned, its blank line included.
        consumed: usize,
    },
}

/// Reads field lines up to and including the empty line that ends them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FieldLines {
    position: Position,
    /// Lines begun so far; they saturate, and no limit is as high as that.
    count: u8,
}

/// What comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Position {
    /// The first octet of a field name, or the CR of the empty line.
    #[default]
    LineStart,
    /// The rest of a field name, or the colon.
    Name,
    /// White space, the value, or the CR that ends the line.
    Value,
    /// The LF that ends a field line.
    LineFeed,
    /// The LF that ends the section.
    LastLineFeed,
}

impl FieldLines {
    /// Judges `input`, which continues what was given before.
    pub(super) fn scan(&mut self, input: &[u8], fields_max: usize) -> Result<Scan, Error> {
        let mut rest = input;
        while let Some(&octet) = rest.first() {
            let mut used = 1;
            self.position = match self.position {
                Position::LineStart => match octet {
                    b'\r' => Position::LastLineFeed,
                    b'\n' => return Err(Error::BadLineEnd),
                    // White space here is obsolete folding, or hides a field from a peer that reads
                    // it otherwise (RFC 9112 §2.2 and §5.2).
                    _ if !octets::is(octet, TOKEN) => return Err(Error::MalformedField),
                    _ if usize::from(self.count) >= fields_max => return Err(Error::TooManyFields),
                    _ => {
                        self.count = self.count.saturating_add(1);
                        Position::Name
                    }
                },
                Position::Name => match octets::run(rest, TOKEN) {
                    // No white space before the colon either (RFC 9112 §5.1).
                    0 if octet == b':' => Position::Value,
                    0 if octet == b'\n' => return Err(Error::BadLineEnd),
                    0 => return Err(Error::MalformedField),
                    run => {
                        used = run;
                        Position::Name
                    }
                },
                Position::Value => match octets::run_of_value(rest) {
                    0 if octet == b'\r' => Position::LineFeed,
                    0 if octet == b'\n' => return Err(Error::BadLineEnd),
                    0 => return Err(Error::MalformedField),
                    run => {
                        used = run;
                        Position::Value
                    }
                },
                Position::LineFeed if octet == b'\n' => Position::LineStart,
                Position::LastLineFeed if octet == b'\n' => {
                    let consumed = input.len() - rest.len() + 1;
                    return Ok(Scan::Complete { consumed });
                }
                Position::LineFeed | Position::LastLineFeed => return Err(Error::BadLineEnd),
            };
            rest = rest.get(used..).unwrap_or_default();
        }
        Ok(Scan::Partial)
    }
}

#[cfg(test)]
mod tests;
