//! Validates field lines octet by octet: the fields of a head and the trailers of a chunked body.
//!
//! Knows: the grammar of RFC 9112 §5 without line folding, and how to stop at any byte and resume
//! later.
//! Does not know: what a field means, or how many bytes the fields may take (the caller limits the
//! input).

use super::error::Error;
use super::octets::{self, TOKEN};

/// The result of scanning one piece of input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// The input is valid so far, and its end has not been reached.
    Partial,
    /// The end of the head was found.
    Complete {
        /// How many bytes of the input given to this call belong to the head, including its final
        /// blank line.
        consumed: usize,
    },
}

/// A validator for field lines up to and including the empty line that ends them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FieldLines {
    position: FieldPosition,
    /// Number of lines begun. It saturates at 255, which is above every limit that is enforced.
    count: u8,
}

/// Which part of the grammar the next octet belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum FieldPosition {
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
    /// Validates `input`, which continues the input of the previous call.
    pub(super) fn scan(&mut self, input: &[u8], fields_max: usize) -> Result<Scan, Error> {
        let mut rest = input;
        while let Some(&octet) = rest.first() {
            let mut used = 1;
            self.position = match self.position {
                FieldPosition::LineStart => match octet {
                    b'\r' => FieldPosition::LastLineFeed,
                    b'\n' => return Err(Error::BadLineEnd),
                    // White space at the start of a line is obsolete folding, or an attempt to hide
                    // a field from a recipient that parses it differently (RFC 9112 §2.2 and §5.2).
                    _ if !octets::is(octet, TOKEN) => return Err(Error::MalformedField),
                    _ if usize::from(self.count) >= fields_max => return Err(Error::TooManyFields),
                    _ => {
                        self.count = self.count.saturating_add(1);
                        FieldPosition::Name
                    }
                },
                FieldPosition::Name => match octets::run(rest, TOKEN) {
                    // White space before the colon is refused (RFC 9112 §5.1).
                    0 if octet == b':' => FieldPosition::Value,
                    0 if octet == b'\n' => return Err(Error::BadLineEnd),
                    0 => return Err(Error::MalformedField),
                    run => {
                        used = run;
                        FieldPosition::Name
                    }
                },
                FieldPosition::Value => match octets::run_of_value(rest) {
                    0 if octet == b'\r' => FieldPosition::LineFeed,
                    0 if octet == b'\n' => return Err(Error::BadLineEnd),
                    0 => return Err(Error::MalformedField),
                    run => {
                        used = run;
                        FieldPosition::Value
                    }
                },
                FieldPosition::LineFeed if octet == b'\n' => FieldPosition::LineStart,
                FieldPosition::LastLineFeed if octet == b'\n' => {
                    let consumed = input.len() - rest.len() + 1;
                    return Ok(Scan::Complete { consumed });
                }
                FieldPosition::LineFeed | FieldPosition::LastLineFeed => {
                    return Err(Error::BadLineEnd);
                }
            };
            rest = rest.get(used..).unwrap_or_default();
        }
        Ok(Scan::Partial)
    }
}

#[cfg(test)]
mod tests;
