//! One walk over a JSON text: is it one, how deep does it nest, what are its outermost members.
//!
//! Knows: RFC 8259, whole. Does not know: what any member means.
//!
//! Why not a library: every reader of JSON that can skip a value either allocates for nested ones or
//! recurses on them, and this runs once for each post. It is compared with one in the tests.
//!
//! Theory of operation: one state for what may come next, and one bit for each open bracket, array or
//! object. Bits are kept in a word; deeper ones spill into words on the heap.

use alloc::vec::Vec;
use core::fmt;

use memchr::memchr2;

/// What the outermost value of a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Object,
    Array,
    Scalar,
}

impl Shape {
    /// What a JSON text is, by its first octet.
    fn of(bytes: &[u8]) -> Self {
        match bytes.get(space(bytes, 0)) {
            Some(b'{') => Self::Object,
            Some(b'[') => Self::Array,
            _ => Self::Scalar,
        }
    }
}

/// Why a text is not one JSON value within the nesting allowed, and at which octet that shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// An octet that cannot be there.
    Unexpected(usize),
    /// It ends in the middle.
    Early(usize),
    /// It nests deeper than allowed.
    Nesting(usize),
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unexpected(at) => write!(f, "unexpected octet at byte {at}"),
            Self::Early(at) => write!(f, "the text ends early, at byte {at}"),
            Self::Nesting(at) => {
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
    /// Nothing: the outermost value is complete.
    End,
}

/// Walks over `text`. If it is an object, gives each of its members to `note` as they end: the raw
/// key, quotes included, and the raw value.
pub(crate) fn walk<'a>(
    text: &'a str,
    nesting_max: Option<usize>,
    mut note: impl FnMut(&'a str, &'a str),
) -> Result<Shape, Flaw> {
    let bytes = text.as_bytes();
    let mut open = Brackets::default();
    let mut expect = Expect::Value;
    let shape = Shape::of(bytes);
    // The outermost object's present key, and where its value starts.
    let (mut key, mut value_start, mut at) = (0..0, 0, 0);
    loop {
        at += space(bytes, at);
        let Some(&byte) = bytes.get(at) else {
            return if expect == Expect::End { Ok(shape) } else { Err(Flaw::Early(at)) };
        };
        if expect == Expect::Value && open.depth == 1 {
            value_start = at;
        }
        let ended = match (expect, byte) {
            (Expect::Value | Expect::ValueOrEnd, b'{' | b'[') => {
                let object = byte == b'{';
                if nesting_max.is_some_and(|max| open.depth >= max) {
                    return Err(Flaw::Nesting(at));
                }
                open.push(object);
                expect = if object { Expect::KeyOrEnd } else { Expect::ValueOrEnd };
                at += 1;
                false
            }
            (Expect::Value | Expect::ValueOrEnd, _) if byte != b']' => {
                at = scalar(bytes, at)?;
                true
            }
            (Expect::ValueOrEnd | Expect::KeyOrEnd | Expect::CommaOrEnd, b']' | b'}')
                if open.in_object() == (byte == b'}') =>
            {
                open.pop();
                at += 1;
                true
            }
            (Expect::Key | Expect::KeyOrEnd, b'"') => {
                let start = at;
                at = string(bytes, at)?;
                if open.depth == 1 {
                    key = start..at;
                }
                at = colon(bytes, at)?;
                expect = Expect::Value;
                false
            }
            (Expect::CommaOrEnd, b',') => {
                expect = if open.in_object() { Expect::Key } else { Expect::Value };
                at += 1;
                false
            }
            _ => return Err(Flaw::Unexpected(at)),
        };
        if ended {
            expect = if open.depth == 0 { Expect::End } else { Expect::CommaOrEnd };
            if open.depth == 1 && shape == Shape::Object {
                let slice = |range| text.get(range).unwrap_or_default();
                note(slice(key.clone()), slice(value_start..at));
            }
        }
    }
}

/// How much white space there is at `at`.
fn space(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count()
}

/// The end of the colon at `at`, or behind the white space there.
fn colon(bytes: &[u8], at: usize) -> Result<usize, Flaw> {
    let at = at + space(bytes, at);
    match bytes.get(at) {
        Some(b':') => Ok(at + 1),
        Some(_) => Err(Flaw::Unexpected(at)),
        None => Err(Flaw::Early(at)),
    }
}

/// The end of the string, number or word at `at`.
fn scalar(bytes: &[u8], at: usize) -> Result<usize, Flaw> {
    match bytes.get(at) {
        Some(b'"') => string(bytes, at),
        Some(b'-' | b'0'..=b'9') => number(bytes, at),
        Some(b't') => word(bytes, at, b"true"),
        Some(b'f') => word(bytes, at, b"false"),
        Some(b'n') => word(bytes, at, b"null"),
        _ => Err(Flaw::Unexpected(at)),
    }
}

fn word(bytes: &[u8], at: usize, word: &[u8]) -> Result<usize, Flaw> {
    for (offset, letter) in word.iter().enumerate() {
        match bytes.get(at + offset) {
            Some(byte) if byte == letter => {}
            Some(_) => return Err(Flaw::Unexpected(at + offset)),
            None => return Err(Flaw::Early(at + offset)),
        }
    }
    Ok(at + word.len())
}

fn number(bytes: &[u8], mut at: usize) -> Result<usize, Flaw> {
    let digits = |from: usize| {
        let rest = bytes.get(from..).unwrap_or_default();
        match rest.iter().take_while(|byte| byte.is_ascii_digit()).count() {
            0 if rest.is_empty() => Err(Flaw::Early(from)),
            0 => Err(Flaw::Unexpected(from)),
            count => Ok(from + count),
        }
    };
    if bytes.get(at) == Some(&b'-') {
        at += 1;
    }
    at = if bytes.get(at) == Some(&b'0') { at + 1 } else { digits(at)? };
    if bytes.get(at) == Some(&b'.') {
        at = digits(at + 1)?;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let sign = matches!(bytes.get(at + 1), Some(b'+' | b'-'));
        at = digits(at + 1 + usize::from(sign))?;
    }
    Ok(at)
}

/// The end of the string whose opening quote is at `at`.
fn string(bytes: &[u8], at: usize) -> Result<usize, Flaw> {
    let mut at = at + 1;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let len = memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
        let piece = rest.get(..len).unwrap_or_default();
        // Written so that it is done many octets at a time; the place is only wanted on failure.
        if piece.iter().fold(false, |found, &byte| found | (byte < b' ')) {
            let control = piece.iter().position(|&byte| byte < b' ').unwrap_or(0);
            return Err(Flaw::Unexpected(at + control));
        }
        at += len;
        at = match (bytes.get(at), bytes.get(at + 1)) {
            (Some(b'"'), _) => return Ok(at + 1),
            (Some(_), Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't')) => at + 2,
            (Some(_), Some(b'u')) => hex4(bytes, at + 2)?,
            (Some(_), Some(_)) => return Err(Flaw::Unexpected(at + 1)),
            (Some(_), None) | (None, _) => return Err(Flaw::Early(bytes.len())),
        };
    }
}

fn hex4(bytes: &[u8], at: usize) -> Result<usize, Flaw> {
    for offset in 0..4 {
        match bytes.get(at + offset) {
            Some(byte) if byte.is_ascii_hexdigit() => {}
            Some(_) => return Err(Flaw::Unexpected(at + offset)),
            None => return Err(Flaw::Early(at + offset)),
        }
    }
    Ok(at + 4)
}

/// The brackets that are open: for each, whether it is an object's.
#[derive(Debug, Default)]
struct Brackets {
    depth: usize,
    /// The innermost up to 128, the very innermost lowest.
    bits: u128,
    /// Full words of those further out.
    spilled: Vec<u128>,
}

impl Brackets {
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
