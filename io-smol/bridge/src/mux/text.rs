//! Reads the members of a message that the multiplexer needs, and replaces some of them.
//!
//! Knows: where MCP has progress tokens, the ids of cancelled requests and the URIs of resources, and that a message
//! on stdio is one line. Does not know: which session sent a message.
//!
//! Values are found as slices of the text and are replaced in the text, so everything else keeps its spelling, and no
//! second representation of a large message is built.
//!
//! Decision: params in which a member occurs twice are refused (-32602), because the value that is
//! replaced here and the one that the server reads could differ.

use core::ops::Range;
use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::lines;

/// The message has a member more than once, or a key that is not valid Unicode. Parsers differ in how they read such
/// a message, so the server could read a value that was not replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ambiguous;

impl fmt::Display for Ambiguous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("params can be read in more than one way")
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MessageParts<'a> {
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ParamsParts<'a> {
    #[serde(borrow, rename = "_meta")]
    meta: Option<&'a RawValue>,
    #[serde(borrow, rename = "requestId")]
    request_id: Option<&'a RawValue>,
    #[serde(borrow, rename = "progressToken")]
    progress_token: Option<&'a RawValue>,
    #[serde(borrow)]
    uri: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct InitializeParts<'a> {
    #[serde(borrow, rename = "protocolVersion")]
    protocol_version: Option<&'a RawValue>,
    #[serde(borrow, rename = "clientInfo")]
    client_info: Option<&'a RawValue>,
}

/// Reads the members of an object. Another value counts as an object without members; a derived `Deserialize` would
/// also accept an array.
fn members<'a, T: Default + Deserialize<'a>>(raw: Option<&'a str>) -> Result<T, Ambiguous> {
    match raw {
        Some(raw) if raw.trim_start().starts_with('{') => {
            serde_json::from_str(raw).map_err(|_| Ambiguous)
        }
        _ => Ok(T::default()),
    }
}

fn params(text: &str) -> Result<ParamsParts<'_>, Ambiguous> {
    let body: MessageParts<'_> = members(Some(text))?;
    members(body.params.map(RawValue::get))
}

/// Whether `text` may contain the key `name`. This saves parsing a large message that does not.
fn may_have(text: &str, name: &str) -> bool {
    text.contains(name) || text.contains("\\u")
}

/// The raw progress token of a request, under which it asks for progress notifications.
pub(super) fn wanted_token(text: &str) -> Result<Option<&str>, Ambiguous> {
    if !may_have(text, "progressToken") {
        return Ok(None);
    }
    let meta: ParamsParts<'_> = members(params(text)?.meta.map(RawValue::get))?;
    Ok(meta.progress_token.map(RawValue::get))
}

/// The raw progress token of a progress notification.
pub(super) fn reported_token(text: &str) -> Result<Option<&str>, Ambiguous> {
    Ok(params(text)?.progress_token.map(RawValue::get))
}

/// The raw id of the request that a cancellation names.
pub(super) fn cancelled_id(text: &str) -> Result<Option<&str>, Ambiguous> {
    Ok(params(text)?.request_id.map(RawValue::get))
}

/// The URI in the params of a message, decoded; `None` if there is none, or it is not a string.
pub(super) fn uri(text: &str) -> Result<Option<String>, Ambiguous> {
    Ok(params(text)?.uri.and_then(|raw| serde_json::from_str(raw.get()).ok()))
}

/// The raw result of a response; `None` for an error response.
pub(super) fn result(text: &str) -> Option<&str> {
    members::<MessageParts<'_>>(Some(text)).ok()?.result.map(RawValue::get)
}

/// The raw error of a response.
pub(super) fn error(text: &str) -> Option<&str> {
    members::<MessageParts<'_>>(Some(text)).ok()?.error.map(RawValue::get)
}

/// The params of the `initialize` that is shared by all sessions: the protocol version and the name of the client
/// whose `initialize` is `text`, and no capabilities, because the bridge refuses the requests that they would allow.
pub(super) fn initialize_params(text: &str) -> Result<String, Ambiguous> {
    let body: MessageParts<'_> = members(Some(text))?;
    let pending: InitializeParts<'_> = members(body.params.map(RawValue::get))?;
    let member = |name: &str, raw: Option<&RawValue>| {
        raw.map(|raw| format!(r#","{name}":{}"#, raw.get())).unwrap_or_default()
    };
    Ok(format!(
        r#"{{"capabilities":{{}}{}{}}}"#,
        member("protocolVersion", pending.protocol_version),
        member("clientInfo", pending.client_info)
    ))
}

/// Replaces each slice of `text` in `slices` by the text beside it.
pub(super) fn replaced<const N: usize>(text: &str, slices: [(&str, &str); N]) -> String {
    let mut edits = slices.map(|(slice, instead)| (range_in(text, slice), instead));
    edits.sort_by_key(|(range, _)| range.start);
    let mut new =
        String::with_capacity(text.len() + edits.iter().map(|(_, s)| s.len()).sum::<usize>());
    let mut done = 0;
    for (range, instead) in edits {
        new.push_str(text.get(done..range.start).unwrap_or_default());
        new.push_str(instead);
        done = range.end;
    }
    new.push_str(text.get(done..).unwrap_or_default());
    new
}

fn range_in(text: &str, slice: &str) -> Range<usize> {
    let start = slice.as_ptr().addr().wrapping_sub(text.as_ptr().addr());
    let range = start..start.wrapping_add(slice.len());
    assert!(text.get(range.clone()) == Some(slice), "invariant: a slice of the text");
    range
}

/// Writes a JSON text as one line, because a message on stdio ends at the end of its line.
pub(super) fn on_one_line(text: String) -> String {
    match lines::on_one_line(&text) {
        Cow::Owned(line) => line,
        Cow::Borrowed(_) => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_token(text: &str, token: Result<Option<&str>, Ambiguous>) {
        assert_eq!(wanted_token(text), token, "{text}");
    }

    #[test]
    fn progress_token_is_read_from_meta_only() {
        check_token(r#"{"params":{"_meta":{"progressToken":5}}}"#, Ok(Some("5")));
        check_token(r#"{"params":{"_meta":{"progressToken": "a\"b" }}}"#, Ok(Some(r#""a\"b""#)));
        check_token(r#"{"params" : { "_meta" : {"x":1,"progressToken":1e3}}}"#, Ok(Some("1e3")));
        check_token(r#"{"params":{"_m\u0065ta":{"progressTok\u0065n":5}}}"#, Ok(Some("5")));
        check_token(r#"{"params":{"_meta":{"progressToken":null}}}"#, Ok(None));
        check_token(r#"{"params":{"_meta":{}}}"#, Ok(None));
        check_token(r#"{"params":{"progressToken":5}}"#, Ok(None));
        check_token(r#"{"_meta":{"progressToken":5}}"#, Ok(None));
        check_token(r#"{"params":{"arguments":{"_meta":{"progressToken":5}}}}"#, Ok(None));
        check_token(r#"{"params":[{"progressToken":5}]}"#, Ok(None));
        check_token(r#"{"params":[[],[],5]}"#, Ok(None));
        check_token(r#"{"params":{"_meta":[5,"progressToken"]}}"#, Ok(None));
        check_token(r#"{"params":"progressToken"}"#, Ok(None));
    }

    #[test]
    fn ambiguous_params_are_refused() {
        check_token(r#"{"params":{},"params":{"_meta":{"progressToken":5}}}"#, Err(Ambiguous));
        check_token(r#"{"params":{"_meta":{"progressToken":5},"_meta":{}}}"#, Err(Ambiguous));
        check_token(
            r#"{"params":{"_meta":{"progressToken":5,"progressTo\u006ben":6}}}"#,
            Err(Ambiguous),
        );
        let twice = r#"{"params":{"requestId":1,"requestId":2}}"#;
        assert_eq!(cancelled_id(twice), Err(Ambiguous));
        let twice = r#"{"params":{"progressToken":1,"progressToken":2}}"#;
        assert_eq!(reported_token(twice), Err(Ambiguous));
    }

    #[test]
    fn slices_are_replaced_in_any_order_and_nothing_else_changes() {
        let text = r#"{"a": 1 ,"b":22,"é":3}"#;
        let (a, b) = (&text[6..7], &text[13..15]);
        assert_eq!((a, b), ("1", "22"));
        assert_eq!(replaced(text, [(a, "\"x\"")]), r#"{"a": "x" ,"b":22,"é":3}"#);
        assert_eq!(replaced(text, [(b, "0"), (a, "")]), r#"{"a":  ,"b":0,"é":3}"#);
    }

    #[test]
    fn shared_initialize_offers_no_capabilities() {
        let pending = r#"{"params":{"_meta":{"progressToken":1},"clientInfo":{"name":"é","n":1.0},
            "capabilities":{"sampling":{}},"protocolVersion":"2024-11-05","more":1}}"#;
        assert_eq!(
            initialize_params(pending).as_deref(),
            Ok(
                r#"{"capabilities":{},"protocolVersion":"2024-11-05","clientInfo":{"name":"é","n":1.0}}"#
            )
        );
        assert_eq!(initialize_params("{}").as_deref(), Ok(r#"{"capabilities":{}}"#));
        assert_eq!(initialize_params(r#"{"params":[1]}"#).as_deref(), Ok(r#"{"capabilities":{}}"#));
    }

    #[test]
    fn lines_are_cut_at_line_feeds() {
        assert_eq!(on_one_line("{\r\n \"a\":\"\\n\"\n}".into()), r#"{ "a":"\n"}"#);
    }
}
