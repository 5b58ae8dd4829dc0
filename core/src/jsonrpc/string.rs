//! What a JSON string spells, and whether two ids are one.
//!
//! Knows: the escapes of RFC 8259 section 7, surrogate pairs and halves of them.
//! Does not know: whether a text is JSON. It is handed raw values that a parser has accepted; of others
//! it makes something or nothing.

use alloc::borrow::Cow;
use alloc::string::String;

fn is_string(raw: &str) -> bool {
    raw.starts_with('"')
}

/// Whether the JSON value `raw` may be an id: any string, and any number written as an integer.
pub(super) fn is_id(raw: &str) -> bool {
    let integer =
        raw.starts_with(|c: char| c == '-' || c.is_ascii_digit()) && !raw.contains(['.', 'e', 'E']);
    integer || is_string(raw)
}

/// The text that `raw` spells; `None` if it is no string or spells half a surrogate pair, which no text
/// can hold. Allocates only for escapes.
pub(super) fn decode(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if !inner.contains('\\') {
        return Some(Cow::Borrowed(inner));
    }
    let text: Option<String> = Unescaped::of(raw).map(|Unit(unit)| char::from_u32(unit)).collect();
    text.map(Cow::Owned)
}

/// Whether two raw ids name the same request.
///
/// A peer that parses a message and writes its answer anew may spell the id differently: `"\u0061"`
/// comes back as `"a"`. Strings are therefore compared decoded; integers as written, except that `-0`
/// is `0`. A string and a number are never the same.
#[must_use]
pub fn same_id(a: &str, b: &str) -> bool {
    if a == b {
        return true;
    }
    if is_string(a) && is_string(b) {
        return Unescaped::of(a).eq(Unescaped::of(b));
    }
    matches!((a, b), ("0", "-0") | ("-0", "0"))
}

/// One decoded piece of a JSON string. Not `char`, because JSON can spell half a surrogate pair.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Unit(u32);

/// What a JSON string spells. Allocates nothing; expects a string that a parser has accepted.
struct Unescaped<'a> {
    rest: core::str::Chars<'a>,
}

impl<'a> Unescaped<'a> {
    fn of(raw: &'a str) -> Self {
        let inner = raw.strip_prefix('"').unwrap_or(raw);
        Self { rest: inner.strip_suffix('"').unwrap_or(inner).chars() }
    }

    /// The code unit of a `\u` escape whose digits come next.
    fn code_unit(rest: &mut core::str::Chars<'a>) -> Option<u32> {
        let digits = rest.as_str().get(..4)?;
        let unit = u32::from_str_radix(digits, 16).ok()?;
        *rest = rest.as_str().get(4..)?.chars();
        Some(unit)
    }

    /// The second half of a surrogate pair, if it comes next; else nothing is taken.
    fn low_surrogate(&mut self) -> Option<u32> {
        let mut ahead = self.rest.as_str().strip_prefix("\\u")?.chars();
        let low = Self::code_unit(&mut ahead).filter(|unit| (0xdc00..0xe000).contains(unit))?;
        self.rest = ahead;
        Some(low)
    }
}

impl Iterator for Unescaped<'_> {
    type Item = Unit;

    fn next(&mut self) -> Option<Unit> {
        let plain = self.rest.next()?;
        if plain != '\\' {
            return Some(Unit(plain.into()));
        }
        let escaped = self.rest.next()?;
        Some(Unit(match escaped {
            'u' => {
                let unit = Self::code_unit(&mut self.rest)?;
                let high = (0xd800..0xdc00).contains(&unit);
                match if high { self.low_surrogate() } else { None } {
                    Some(low) => 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00),
                    None => unit,
                }
            }
            'b' => 0x08,
            't' => 0x09,
            'n' => 0x0a,
            'f' => 0x0c,
            'r' => 0x0d,
            same => same.into(),
        }))
    }
}
