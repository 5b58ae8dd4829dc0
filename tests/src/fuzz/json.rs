//! JSON: the envelope of a message.

use core::fmt;

use mcp_sse_core::jsonrpc::{Envelope, Invalid, Kind, Message, code};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Checks that the reader of envelopes finds in each text what the wire contract says about the
/// members that a library finds: the kind of message, its id and method, or which of the two
/// errors.
pub fn jsonrpc(body: &[u8]) {
    for nesting_max in [None, Some(6)] {
        let read = Envelope::read(body, nesting_max);
        let found = match &read {
            Ok(envelope) => {
                let method = envelope.method.as_deref().map(str::to_owned);
                Ok(Found { kind: envelope.kind, id: envelope.id, method })
            }
            Err(invalid) => {
                assert!(!invalid.reason().is_empty());
                Err(invalid.code())
            }
        };
        assert_eq!(found, classify(body, nesting_max), "{read:?} of {}", body.escape_ascii());
        check_owned(body, nesting_max, &read);
    }
}

/// Checks that `Message`, which owns its body, reads the same.
fn check_owned(body: &[u8], nesting_max: Option<usize>, read: &Result<Envelope<'_>, Invalid>) {
    match (read, Message::read(body.to_vec(), nesting_max)) {
        (Ok(envelope), Ok(message)) => {
            assert_eq!(
                (envelope.kind, envelope.id, envelope.method.as_deref()),
                (message.kind(), message.id(), message.method())
            );
            assert_eq!(message.body(), body);
            assert_eq!(message.cancelled_id(), cancelled(message.text()));
        }
        (Err(invalid), Err((same, given_back))) => {
            assert_eq!((invalid, body), (&same, &given_back[..]));
        }
        (read, owned) => panic!("two verdicts: {read:?}, {owned:?}"),
    }
}

/// The envelope of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found<'a> {
    pub(super) kind: Kind,
    pub(super) id: Option<&'a str>,
    pub(super) method: Option<String>,
}

/// Classifies a body by the wire contract: a message, or the code of an error.
pub(super) fn classify(body: &[u8], nesting_max: Option<usize>) -> Result<Found<'_>, i32> {
    const INVALID: i32 = code::INVALID_REQUEST;
    let text = core::str::from_utf8(body).map_err(|_| code::PARSE_ERROR)?;
    // The value is skipped and not built, because the library's trees limit nesting and numbers and
    // JSON does not.
    serde_json::from_str::<IgnoredAny>(text).map_err(|_| code::PARSE_ERROR)?;
    if nesting_max.is_some_and(|max| nesting(text) > max) {
        return Err(code::PARSE_ERROR);
    }
    let members = members(text).ok_or(INVALID)?;
    let only = |name: &str| match &members.named(name)[..] {
        [] => Ok(None),
        [raw] => Ok(Some(*raw)),
        [..] => Err(INVALID),
    };
    let (version, id, method) = (only("jsonrpc")?, only("id")?, only("method")?);
    let spelt = |raw: &str| serde_json::from_str::<String>(raw).map_err(|_| INVALID);
    let method = method.map(spelt).transpose()?;
    let has = |name| !members.named(name).is_empty();
    if version.map(spelt).transpose()?.as_deref() != Some("2.0") || !id.is_none_or(is_id) {
        return Err(INVALID);
    }
    let kind = match (method.is_some(), id.is_some(), has("result"), has("error")) {
        (true, true, false, false) => Kind::Request,
        (true, false, false, false) => Kind::Notification,
        (false, true, true, false) | (false, true, false, true) => Kind::Response,
        _ => return Err(INVALID),
    };
    Ok(Found { kind, id, method })
}

/// The id of the request that a message cancels.
fn cancelled(text: &str) -> Option<&str> {
    let found = classify(text.as_bytes(), None).ok()?;
    let method = found.method.as_deref();
    if (found.kind, method) != (Kind::Notification, Some("notifications/cancelled")) {
        return None;
    }
    let params = members(text)?.named("params").pop()?;
    members(params)?.named("requestId").pop().filter(|id| is_id(id))
}

/// A string, or a number without fraction and exponent.
fn is_id(raw: &str) -> bool {
    let digits = raw.strip_prefix('-').unwrap_or(raw);
    raw.starts_with('"') || digits.bytes().all(|octet| octet.is_ascii_digit())
}

/// How deep the brackets of a JSON text nest.
fn nesting(text: &str) -> usize {
    let (mut depth, mut most, mut within, mut escaped) = (0, 0, false, false);
    for octet in text.bytes() {
        match octet {
            _ if escaped => escaped = false,
            b'\\' => escaped = within,
            b'"' => within = !within,
            b'{' | b'[' if !within => {
                depth += 1;
                most = most.max(depth);
            }
            b'}' | b']' if !within => depth -= 1,
            _ => {}
        }
    }
    most
}

/// The members of an object in the order of its text, with duplicates.
pub(super) struct Members<'a>(Vec<(Vec<u8>, &'a str)>);

/// The members of a JSON text that is an object.
pub(super) fn members(text: &str) -> Option<Members<'_>> {
    // The library does not validate strings that are read as octets, as keys are below.
    serde_json::from_str::<IgnoredAny>(text).ok()?;
    serde_json::from_str(text).ok()
}

impl<'a> Members<'a> {
    pub(super) fn named(&self, name: &str) -> Vec<&'a str> {
        let named = self.0.iter().filter(|(key, _)| key == name.as_bytes());
        named.map(|&(_, raw)| raw).collect()
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(KeyOctets(key)) = map.next_key()? {
                    members.push((key, map.next_value::<&RawValue>()?.get()));
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(Object)
    }
}

/// A key as octets, because it may contain half a surrogate pair.
struct KeyOctets(Vec<u8>);

impl<'de> Deserialize<'de> for KeyOctets {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Octets;
        impl Visitor<'_> for Octets {
            type Value = KeyOctets;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_bytes<E>(self, octets: &[u8]) -> Result<KeyOctets, E> {
                Ok(KeyOctets(octets.to_vec()))
            }

            fn visit_str<E>(self, text: &str) -> Result<KeyOctets, E> {
                Ok(KeyOctets(text.into()))
            }
        }
        from.deserialize_bytes(Octets)
    }
}
