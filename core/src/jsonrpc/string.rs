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

/// Whether the raw string `raw` spells `text`.
pub(super) fn spells(raw: &str, text: &str) -> bool {
    is_string(raw) && Unescaped::of(raw).eq(text.chars().map(|c| Unit(c.into())))
}

/// A number that stands for a raw id: the same for two that [`same_id`] calls the same. Exact for
/// ids of up to 15 octets; of longer ones, two that differ share a number about once in 2^120 times
/// unless somebody looks for them.
pub(crate) fn fingerprint(id: &str) -> u128 {
    // The kind keeps the string "1" and the number 1 apart.
    let (kind, mut sum, mut len) = (u128::from(is_string(id)), 0_u128, 0_u32);
    let mut add = |octet: u8| {
        #[cfg(test)]
        crate::testing::step();
        sum = if len < 15 {
            sum << 8 | u128::from(octet)
        } else {
            // FNV-1a over 128 bits, from the first fifteen octets on.
            (sum ^ u128::from(octet)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
        };
        len = len.saturating_add(1);
    };
    if is_string(id) {
        for Unit(unit) in Unescaped::of(id) {
            match char::from_u32(unit) {
                Some(c) => c.encode_utf8(&mut [0; 4]).bytes().for_each(&mut add),
                // Half a surrogate pair: the octets UTF-8 would have for it.
                None => [0xed, (unit >> 6) as u8, unit as u8].into_iter().for_each(&mut add),
            }
        }
    } else {
        id.strip_prefix("-").filter(|rest| *rest == "0").unwrap_or(id).bytes().for_each(add);
    }
    // The lowest octet is the length and the kind: long ids stay apart from short ones.
    sum << 8 | u128::from(len.min(0x7f)) << 1 | kind
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_agree_with_same_id() {
        let ids = [
            "0",
            "-0",
            "1",
            "-1",
            "9007199254740993",
            "\"1\"",
            "\"\"",
            "\"a\"",
            "\"\\u0061\"",
            "\"\u{e9}\"",
            "\"\\u00e9\"",
            "\"\\ud800\"",
            "\"\\ud83d\\ude00\"",
            "\"\u{1f600}\"",
            "123456789012345",
            "1234567890123456",
            "12345678901234567",
            "\"\\u0000\"",
            "\"00\"",
            "\"6f9619ff-8b86-d011-b42d-00cf4fc964ff\"",
            "\"6f9619ff-8b86-d011-b42d-00cf4fc964fe\"",
        ];
        for a in ids {
            for b in ids {
                assert_eq!(fingerprint(a) == fingerprint(b), same_id(a, b), "{a} {b}");
            }
        }
    }

    #[test]
    fn spelling() {
        assert!(spells(r#""id""#, "id") && spells(r#""\u0069d""#, "id"));
        assert!(!spells(r#""Id""#, "id") && !spells(r#""id ""#, "id") && !spells("id", "id"));
    }
}
