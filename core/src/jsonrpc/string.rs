//! Decodes JSON strings and compares ids.
//!
//! Knows: the escapes of RFC 8259 §7, including surrogate pairs and unpaired surrogates.
//! Does not know: whether a text is JSON. The functions expect raw values that a parser has
//! accepted; for other text their result is unspecified, but they do not panic.

use alloc::borrow::Cow;
use alloc::string::String;

fn is_string(raw: &str) -> bool {
    raw.starts_with('"')
}

/// Whether the JSON value `raw` is a valid id: any string, or a number written as an integer.
pub(super) fn is_id(raw: &str) -> bool {
    let integer =
        raw.starts_with(|c: char| c == '-' || c.is_ascii_digit()) && !raw.contains(['.', 'e', 'E']);
    integer || is_string(raw)
}

/// The decoded text of the JSON string `raw`; `None` if `raw` is not a string or contains an
/// unpaired surrogate, which UTF-8 cannot represent. Allocates only if there are escapes.
pub(super) fn decode(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if !inner.contains('\\') {
        return Some(Cow::Borrowed(inner));
    }
    let text: Option<String> = Unescaped::of(raw).map(|Unit(unit)| char::from_u32(unit)).collect();
    text.map(Cow::Owned)
}

/// Whether two raw ids identify the same request.
///
/// A peer that parses a message and serializes its response may spell the id differently:
/// `"\u0061"` can come back as `"a"`. Strings are therefore compared after decoding. Integers are
/// compared as written, except that `-0` equals `0`. A string never equals a number.
///
/// ```
/// # use mcp_sse_core::jsonrpc::same_id;
/// assert!(same_id(r#""\u0061""#, r#""a""#));
/// assert!(!same_id("1", r#""1""#));
/// ```
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

/// Whether the JSON string `raw` decodes to `text`.
pub(super) fn spells(raw: &str, text: &str) -> bool {
    is_string(raw) && Unescaped::of(raw).eq(text.chars().map(|c| Unit(c.into())))
}

/// A hash of a raw id that is equal for ids for which [`same_id`] is true. It is unique for ids of
/// up to 15 octets. Two different longer ids collide with a probability of about 2^-120, unless
/// they were chosen to collide.
pub(crate) fn fingerprint(id: &str) -> u128 {
    // `kind` distinguishes the string "1" from the number 1.
    let (kind, mut sum, mut len) = (u128::from(is_string(id)), 0_u128, 0_u32);
    let mut add = |octet: u8| {
        #[cfg(test)]
        crate::testing::step();
        sum = if len < 15 {
            sum << 8 | u128::from(octet)
        } else {
            // From the sixteenth octet on, FNV-1a with 128 bits, which starts from the first
            // fifteen octets.
            (sum ^ u128::from(octet)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
        };
        len = len.saturating_add(1);
    };
    if is_string(id) {
        for Unit(unit) in Unescaped::of(id) {
            match char::from_u32(unit) {
                Some(c) => c.encode_utf8(&mut [0; 4]).bytes().for_each(&mut add),
                // An unpaired surrogate: three octets that no valid UTF-8 contains.
                None => [0xed, (unit >> 6) as u8, unit as u8].into_iter().for_each(&mut add),
            }
        }
    } else {
        id.strip_prefix("-").filter(|rest| *rest == "0").unwrap_or(id).bytes().for_each(add);
    }
    // The lowest octet holds the length and the kind, so that long ids never equal short ones.
    sum << 8 | u128::from(len.min(0x7f)) << 1 | kind
}

/// One decoded character or unpaired surrogate of a JSON string. `char` cannot represent the
/// latter.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Unit(u32);

/// An iterator over the decoded characters of a JSON string that a parser has accepted. It does not
/// allocate.
struct Unescaped<'a> {
    rest: core::str::Chars<'a>,
}

impl<'a> Unescaped<'a> {
    fn of(raw: &'a str) -> Self {
        let inner = raw.strip_prefix('"').unwrap_or(raw);
        Self { rest: inner.strip_suffix('"').unwrap_or(inner).chars() }
    }

    /// Consumes the four digits of a `\u` escape and returns its code unit.
    fn code_unit(rest: &mut core::str::Chars<'a>) -> Option<u32> {
        let digits = rest.as_str().get(..4)?;
        let unit = u32::from_str_radix(digits, 16).ok()?;
        *rest = rest.as_str().get(4..)?.chars();
        Some(unit)
    }

    /// Consumes the escape of a low surrogate if it comes next; otherwise consumes nothing.
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
    fn fingerprints_are_equal_exactly_for_same_ids() {
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
    fn spells_compares_after_decoding() {
        assert!(spells(r#""id""#, "id") && spells(r#""\u0069d""#, "id"));
        assert!(!spells(r#""Id""#, "id") && !spells(r#""id ""#, "id") && !spells("id", "id"));
    }
}
