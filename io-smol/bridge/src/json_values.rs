//! Finds JSON values in text that may have several values, or values that are almost JSON.
//!
//! Knows: brackets and strings, and how to correct raw control characters in strings, NaN and Infinity.
//! Does not know: what a value means.

use core::fmt;
use std::borrow::Cow;

use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The value at the beginning of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FirstValue<'a> {
    /// The value ends in front of byte `end`. `value` is its corrected text, which may still be invalid JSON.
    Ends { value: Cow<'a, str>, end: usize },
    /// The text ends inside of the value.
    OpenBracket,
    /// The text ends inside of a string of the value.
    OpenString,
}

/// Finds the end of the array or object that `text` begins with. Corrects raw control characters in strings, NaN and
/// Infinity in it, because each of these has only one possible meaning.
pub(super) fn first_value(text: &str) -> FirstValue<'_> {
    let bytes = text.as_bytes();
    let mut value = String::new();
    let (mut depth, mut string, mut escaped) = (0_usize, false, false);
    let (mut at, mut done) = (0, 0);
    while let Some(&byte) = bytes.get(at) {
        let mut replace = |range: core::ops::Range<usize>, instead: &str| {
            value.push_str(text.get(done..range.start).unwrap_or_default());
            value.push_str(instead);
            done = range.end;
        };
        match byte {
            _ if escaped => escaped = false,
            b'\\' if string => escaped = true,
            b'"' => string = !string,
            0..0x20 if string => {
                replace(at..at + 1, if byte < 0x10 { r"\u000" } else { r"\u001" });
                value.extend(char::from_digit(u32::from(byte & 0xf), 0x10));
            }
            _ if string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    let end = at + 1;
                    let rest = text.get(done..end).unwrap_or_default();
                    if done == 0 {
                        return FirstValue::Ends { value: Cow::Borrowed(rest), end };
                    }
                    value.push_str(rest);
                    return FirstValue::Ends { value: Cow::Owned(value), end };
                }
            }
            b'N' | b'I' => {
                let rest = text.get(at..).unwrap_or_default();
                let word = ["NaN", "Infinity"].into_iter().find(|word| rest.starts_with(word));
                let len = word.map_or(1, str::len);
                if word.is_some() && !bytes.get(at + len).is_some_and(u8::is_ascii_alphanumeric) {
                    let minus = usize::from(at > 0 && bytes.get(at - 1) == Some(&b'-'));
                    replace(at - minus..at + len, "null");
                }
                at += len - 1;
            }
            _ => {}
        }
        at += 1;
    }
    if string { FirstValue::OpenString } else { FirstValue::OpenBracket }
}

/// Calls `each` with each element of a JSON array, in order. Returns false if `text` is not a JSON array.
pub(super) fn each_in_array<'a>(text: &'a str, each: impl FnMut(&'a str)) -> bool {
    struct Array<F>(F);
    impl<'de, F: FnMut(&'de str)> Visitor<'de> for Array<F> {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }
        fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
            while let Some(raw) = seq.next_element::<&'de RawValue>()? {
                (self.0)(raw.get());
            }
            Ok(())
        }
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    reader.deserialize_seq(Array(each)).is_ok() && reader.end().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(text: &str) -> String {
        match first_value(text) {
            FirstValue::Ends { value, end } => format!("{value}|{}", &text[end..]),
            other @ (FirstValue::OpenBracket | FirstValue::OpenString) => format!("{other:?}"),
        }
    }

    #[test]
    fn first_value_is_cut_off_and_corrected() {
        assert_eq!(first(r#"{"a":[1,"}"]} {"b"}"#), r#"{"a":[1,"}"]}| {"b"}"#);
        let text = r#"{"a":NaN,"b":[-Infinity, Infinity],"NaN":"NaN \"NaN","c":-NaN}"#;
        let right = r#"{"a":null,"b":[null, null],"NaN":"NaN \"NaN","c":null}|"#;
        assert_eq!(first(text), right);
        assert_eq!(first("{\"a\":\"x\ty\u{0}é\u{7f}\"}"), "{\"a\":\"x\\u0009y\\u0000é\u{7f}\"}|");
        assert_eq!(first("{\"a\":NaNs,\"b\":None}"), "{\"a\":NaNs,\"b\":None}|");
        assert_eq!(first("{\t\"a\":1\t}"), "{\t\"a\":1\t}|");
        assert_eq!((&*first("{\"a\":["), &*first("{\"a")), ("OpenBracket", "OpenString"));
    }
}
