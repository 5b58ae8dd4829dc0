//! Finds the members of one JSON object, and how deep a text nests, without building a tree.
//!
//! Knows: JSON's grammar, mostly through `serde_json`; which members an envelope consists of.
//! Does not know: what makes a message of them (see the module above), or what any value means.
//!
//! Nothing here recurses on the input. `serde_json` skips a value in a loop, whether it is read as
//! `IgnoredAny` or as a borrowed `RawValue`; only its typed and tree-building readers recurse.

use core::fmt;

use memchr::memchr2;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The white space of RFC 8259 section 2. `char::is_whitespace` knows many more.
pub(crate) const JSON_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// The members of one JSON object that a message's envelope consists of, raw and not yet judged.
///
/// Outbound frames read no further than this: what an application sends is its own business, as long
/// as it is one JSON object.
#[derive(Debug, Default)]
pub(crate) struct Outline<'a> {
    pub(super) version: Option<&'a str>,
    pub(super) id: Option<&'a str>,
    pub(super) method: Option<&'a str>,
    pub(super) result: Option<&'a str>,
    pub(super) error: Option<&'a str>,
    /// The first of `jsonrpc`, `id` and `method` that came again. The last value is kept then.
    pub(super) duplicate: Option<Key>,
}

/// A key of the outermost object. Keys are compared decoded and exactly: `"Method"` is another key,
/// `"\u006dethod"` is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Version,
    Id,
    Method,
    Result,
    Error,
    Other,
}

impl Key {
    fn of(key: &str) -> Self {
        match key {
            "jsonrpc" => Self::Version,
            "id" => Self::Id,
            "method" => Self::Method,
            "result" => Self::Result,
            "error" => Self::Error,
            _ => Self::Other,
        }
    }
}

/// Why a text has no outline.
#[derive(Debug)]
pub(crate) enum NoOutline {
    /// It is not one JSON text.
    Syntax(serde_json::Error),
    /// It is a JSON array.
    Array,
    /// It is a JSON string, number, boolean or null.
    Scalar,
}

impl<'a> Outline<'a> {
    pub(crate) fn read(text: &'a str) -> Result<Self, NoOutline> {
        let mut outline = Self::default();
        match first_byte(text) {
            Some(b'{') => {}
            other => {
                let mut json = serde_json::Deserializer::from_str(text);
                IgnoredAny::deserialize(&mut json).map_err(NoOutline::Syntax)?;
                json.end().map_err(NoOutline::Syntax)?;
                let array = other == Some(b'[');
                return Err(if array { NoOutline::Array } else { NoOutline::Scalar });
            }
        }
        let read = members(text, Key::of, |key, raw| {
            let member = match key {
                Key::Version => &mut outline.version,
                Key::Id => &mut outline.id,
                Key::Method => &mut outline.method,
                // Nothing hangs on these being there once.
                Key::Result => return outline.result = Some(raw),
                Key::Error => return outline.error = Some(raw),
                Key::Other => return,
            };
            if member.replace(raw).is_some() {
                outline.duplicate = outline.duplicate.or(Some(key));
            }
        });
        read.map_err(NoOutline::Syntax)?;
        Ok(outline)
    }

    /// The raw id, if the object has the members of a response.
    pub(crate) fn answered_id(&self) -> Option<&'a str> {
        let outcome = self.result.or(self.error);
        if self.method.is_none() && outcome.is_some() { self.id } else { None }
    }
}

/// The raw value of the last member called `name` of the object `text`; `None` if there is none or
/// `text` is no object.
pub(super) fn member<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut found = None;
    if first_byte(text) == Some(b'{') {
        let note = |wanted, raw| found = if wanted { Some(raw) } else { found };
        members(text, |key| key == name, note).ok()?;
    }
    found
}

/// The first byte that is not white space: it tells what kind of value a JSON text is.
fn first_byte(text: &str) -> Option<u8> {
    text.trim_start_matches(JSON_SPACE).bytes().next()
}

/// Reads the object `text`, which nothing may follow, and gives the raw value of each member to
/// `note`, with what `classify` made of the decoded key.
fn members<'a, K>(
    text: &'a str,
    classify: impl FnMut(&str) -> K,
    note: impl FnMut(K, &'a str),
) -> Result<(), serde_json::Error> {
    let mut json = serde_json::Deserializer::from_str(text);
    (&mut json).deserialize_map(Members { classify, note })?;
    json.end()
}

struct Members<C, N> {
    classify: C,
    note: N,
}

impl<'de, K, C: FnMut(&str) -> K, N: FnMut(K, &'de str)> Visitor<'de> for Members<C, N> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(KeySeed(&mut self.classify))? {
            let value: &RawValue = map.next_value()?;
            (self.note)(key, value.get());
        }
        Ok(())
    }
}

/// Classifies a key while it is at hand: with escapes in it, it is gone afterwards.
struct KeySeed<'c, C>(&'c mut C);

impl<'de, K, C: FnMut(&str) -> K> DeserializeSeed<'de> for KeySeed<'_, C> {
    type Value = K;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<K, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<K, C: FnMut(&str) -> K> Visitor<'_> for KeySeed<'_, C> {
    type Value = K;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<K, E> {
        Ok((self.0)(key))
    }
}

/// Whether no array or object in `text` is nested deeper than `max`.
///
/// Wrong only about texts that are not JSON, which the parser refuses afterwards anyway.
pub(super) fn nests_within(text: &[u8], max: usize) -> bool {
    let mut depth = 0_usize;
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                if depth > max {
                    return false;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => rest = after_string(rest.as_slice()).iter(),
            _ => {}
        }
    }
    true
}

/// What follows the string that `rest` is in; nothing, if it never ends.
fn after_string(mut rest: &[u8]) -> &[u8] {
    while let Some(at) = memchr2(b'"', b'\\', rest) {
        match rest.get(at..) {
            Some([b'"', after @ ..]) => return after,
            Some([_, _, after @ ..]) => rest = after,
            Some(_) | None => break,
        }
    }
    &[]
}
