//! Parses a JSON text in one pass: validates it, limits its nesting and reports the members of its
//! outermost object.
//!
//! Knows: the grammar of RFC 8259. Does not know: what any member means.
//!
//! No library is used, because every JSON parser that was considered allocates for nested values
//! that it skips, or recurses into them, and this code runs once for every post. The tests compare
//! it with serde_json.
//!
//! The parser is a loop with one state for what may come next, and one bit for each open bracket
//! that tells an object from an array. The innermost 128 bits are in a literal; the outer ones are in
//! words on the heap.

use alloc::vec::Vec;
use core::fmt;

use memchr::memchr2;

/// The kind of the outermost value of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Object,
    Array,
    Scalar,
}

impl Shape {
    /// The shape of a JSON text, by its first octet.
    fn of(bytes: &[u8]) -> Self {
        match bytes.get(space(bytes, 0)) {
            Some(b'{') => Self::Object,
            Some(b'[') => Self::Array,
            _ => Self::Scalar,
        }
    }
}

/// Why a text is not one JSON value within the nesting limit, with the byte offset of the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SyntaxError {
    /// An octet that is not allowed at this position.
    Unexpected(usize),
    /// The text ends before the value is complete.
    UnexpectedEnd(usize),
    /// The nesting exceeds the limit.
    TooDeep(usize),
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unexpected(at) => write!(f, "unexpected octet at byte {at}"),
            Self::UnexpectedEnd(at) => write!(f, "the text ends early, at byte {at}"),
            Self::TooDeep(at) => {
                write!(f, "arrays and objects are nested too deep at byte {at} (limit nesting_max)")
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    CommaOrEnd,
    /// Nothing more: the outermost value is complete.
    End,
}

/// Parses `text`. If it is an object, passes each of its members to `note` when the member ends:
/// the raw name, including its quotes, and the raw value.
pub(crate) fn walk<'a>(
    text: &'a str,
    nesting_max: Option<usize>,
    mut note: impl FnMut(&'a str, &'a str),
) -> Result<Shape, SyntaxError> {
    let bytes = text.as_bytes();
    let mut open = Brackets::default();
    let mut expect = Expect::Value;
    let shape = Shape::of(bytes);
    // The name of the current member of the outermost object, and the offset of its value.
    let (mut key, mut value_start, mut at) = (0..0, 0, 0);
    loop {
        at += space(bytes, at);
        let Some(&byte) = bytes.get(at) else { break };
        if expect == Expect::Value && open.depth == 1 {
            value_start = at;
        }
        // What a token makes expected; `None` after the end of a value.
        let next = match (expect, byte) {
            (Expect::Value | Expect::ValueOrEnd, b'{' | b'[') => {
                let next = open.begin(byte, nesting_max).ok_or(SyntaxError::TooDeep(at))?;
                at += 1;
                Some(next)
            }
            (Expect::Value | Expect::ValueOrEnd, _) if byte != b']' => {
                at = scalar(bytes, at)?;
                None
            }
            (Expect::ValueOrEnd | Expect::KeyOrEnd | Expect::CommaOrEnd, b']' | b'}')
                if open.in_object() == (byte == b'}') =>
            {
                open.pop();
                at += 1;
                None
            }
            (Expect::Key | Expect::KeyOrEnd, b'"') => {
                let start = at;
                at = string(bytes, at)?;
                if open.depth == 1 {
                    key = start..at;
                }
                at = colon(bytes, at)?;
                Some(Expect::Value)
            }
            (Expect::CommaOrEnd, b',') => {
                at += 1;
                Some(if open.in_object() { Expect::Key } else { Expect::Value })
            }
            _ => return Err(SyntaxError::Unexpected(at)),
        };
        expect = next.unwrap_or(if open.depth == 0 { Expect::End } else { Expect::CommaOrEnd });
        if next.is_none() && open.depth == 1 && shape == Shape::Object {
            let slice = |range| text.get(range).unwrap_or_default();
            note(slice(key.clone()), slice(value_start..at));
        }
    }
    if expect == Expect::End { Ok(shape) } else { Err(SyntaxError::UnexpectedEnd(at)) }
}

/// The length of the white space at `at`.
fn space(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count()
}

/// The end of the octet at `at`, for which `fits` must hold.
fn octet(bytes: &[u8], at: usize, fits: impl FnOnce(u8) -> bool) -> Result<usize, SyntaxError> {
    match bytes.get(at) {
        Some(&byte) if fits(byte) => Ok(at + 1),
        Some(_) => Err(SyntaxError::Unexpected(at)),
        None => Err(SyntaxError::UnexpectedEnd(at)),
    }
}

/// The end of the colon at `at`, or after the white space there.
fn colon(bytes: &[u8], at: usize) -> Result<usize, SyntaxError> {
    octet(bytes, at + space(bytes, at), |byte| byte == b':')
}

/// The end of the string, number or literal at `at`.
fn scalar(bytes: &[u8], at: usize) -> Result<usize, SyntaxError> {
    match bytes.get(at) {
        Some(b'"') => string(bytes, at),
        Some(b'-' | b'0'..=b'9') => number(bytes, at),
        Some(b't') => literal(bytes, at, b"true"),
        Some(b'f') => literal(bytes, at, b"false"),
        Some(b'n') => literal(bytes, at, b"null"),
        _ => Err(SyntaxError::Unexpected(at)),
    }
}

fn literal(bytes: &[u8], at: usize, literal: &[u8]) -> Result<usize, SyntaxError> {
    literal.iter().try_fold(at, |at, &letter| octet(bytes, at, |byte| byte == letter))
}

/// The end of the digits at `at`, of which there must be one.
fn digits(bytes: &[u8], at: usize) -> Result<usize, SyntaxError> {
    let at = octet(bytes, at, |byte| byte.is_ascii_digit())?;
    let rest = bytes.get(at..).unwrap_or_default();
    Ok(at + rest.iter().take_while(|byte| byte.is_ascii_digit()).count())
}

fn number(bytes: &[u8], mut at: usize) -> Result<usize, SyntaxError> {
    if bytes.get(at) == Some(&b'-') {
        at += 1;
    }
    at = if bytes.get(at) == Some(&b'0') { at + 1 } else { digits(bytes, at)? };
    if bytes.get(at) == Some(&b'.') {
        at = digits(bytes, at + 1)?;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let sign = matches!(bytes.get(at + 1), Some(b'+' | b'-'));
        at = digits(bytes, at + 1 + usize::from(sign))?;
    }
    Ok(at)
}

/// The end of the string whose opening quote is at `at`.
fn string(bytes: &[u8], at: usize) -> Result<usize, SyntaxError> {
    let mut at = at + 1;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let len = memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
        let piece = rest.get(..len).unwrap_or_default();
        // A fold compiles to vector instructions. The position is computed only if there is an
        // error.
        if piece.iter().fold(false, |found, &byte| found | (byte < b' ')) {
            let control = piece.iter().position(|&byte| byte < b' ').unwrap_or(0);
            return Err(SyntaxError::Unexpected(at + control));
        }
        at += len;
        at = match (bytes.get(at), bytes.get(at + 1)) {
            (Some(b'"'), _) => return Ok(at + 1),
            (Some(_), Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't')) => at + 2,
            (Some(_), Some(b'u')) => hex4(bytes, at + 2)?,
            (Some(_), Some(_)) => return Err(SyntaxError::Unexpected(at + 1)),
            (Some(_), None) | (None, _) => return Err(SyntaxError::UnexpectedEnd(bytes.len())),
        };
    }
}

fn hex4(bytes: &[u8], at: usize) -> Result<usize, SyntaxError> {
    (at..at + 4).try_fold(at, |_, at| octet(bytes, at, |byte| byte.is_ascii_hexdigit()))
}

/// The open brackets. The bit of each is 1 for an object and 0 for an array.
#[derive(Debug, Default)]
struct Brackets {
    depth: usize,
    /// The bits of up to 128 innermost brackets. The innermost is the lowest bit.
    bits: u128,
    /// Full words with the bits of the brackets further out.
    spilled: Vec<u128>,
}

impl Brackets {
    /// Opens an array or an object, unless it would be nested too deep. Returns what may come next.
    fn begin(&mut self, bracket: u8, nesting_max: Option<usize>) -> Option<Expect> {
        if nesting_max.is_some_and(|max| self.depth >= max) {
            return None;
        }
        let object = bracket == b'{';
        self.push(object);
        Some(if object { Expect::KeyOrEnd } else { Expect::ValueOrEnd })
    }

    fn push(&mut self, object: bool) {
        if self.depth > 0 && self.depth.is_multiple_of(128) {
            self.spilled.push(self.bits);
        }
        self.bits = self.bits << 1 | u128::from(object);
        self.depth += 1;
    }

    fn pop(&mut self) {
        self.depth -= 1;
        self.bits >>= 1;
        if self.depth > 0 && self.depth.is_multiple_of(128) {
            self.bits = self.spilled.pop().unwrap_or_default();
        }
    }

    const fn in_object(&self) -> bool {
        self.depth > 0 && self.bits & 1 == 1
    }
}

#[cfg(test)]
mod tests;
