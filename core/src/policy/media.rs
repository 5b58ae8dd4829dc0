//! Checks media types: whether a body is JSON, and whether a client accepts an event stream.
//!
//! Knows: the syntax of media types and their parameters. Does not know: whether a body is what its
//! `Content-Type` says; the JSON parser determines that, and accepts only UTF-8.
//!
//! Decision: a `Content-Type` is refused only for its media type, or for a charset other than
//! UTF-8. A malformed parameter (`; utf-8`, a superfluous semicolon, an unterminated quoted string)
//! is ignored. Strict parsing of RFC 9110 §5.6.6 was considered. It would refuse clients that other
//! servers accept, and would protect nothing, because no parameter changes how this server reads a
//! body.

use crate::http1::is_token;

/// Splits a field value at each `separator` that is not inside a quoted string (RFC 9110 §5.6.4),
/// and trims white space around the parts.
fn parts(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |&octet| {
        let separates = octet == separator && !quoted;
        if quoted && !escaped && octet == b'\\' {
            escaped = true;
            return false;
        }
        if octet == b'"' && !escaped {
            quoted = !quoted;
        }
        escaped = false;
        separates
    })
    .map(<[u8]>::trim_ascii)
}

/// The name and the value of a parameter, the value without quotes; `None` if the parameter is
/// malformed.
fn parameter(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|&octet| octet == b'=')?;
    let (name, value) = (text.get(..at)?.trim_ascii(), text.get(at + 1..)?.trim_ascii());
    let unquoted = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    (is_token(name) && (unquoted.is_some() || is_token(value)))
        .then_some((name, unquoted.unwrap_or(value)))
}

/// Whether a `Content-Type` is JSON without a charset other than UTF-8, the only encoding of JSON
/// (RFC 8259 §8.1). The spelling `utf8` is common and accepted.
pub(crate) fn is_json(content_type: &[u8]) -> bool {
    let utf8 = |charset: &[u8]| {
        charset.eq_ignore_ascii_case(b"utf-8") || charset.eq_ignore_ascii_case(b"utf8")
    };
    let mut parts = parts(content_type, b';');
    parts.next().unwrap_or_default().eq_ignore_ascii_case(b"application/json")
        && parts
            .filter_map(parameter)
            .all(|(name, value)| !name.eq_ignore_ascii_case(b"charset") || utf8(value))
}

/// Whether `Accept` fields allow `text/event-stream`. Without the field everything is allowed. The
/// most specific matching media range decides, and a weight of zero excludes it (RFC 9110 §12.5.1).
/// If equally specific ranges differ, the one that allows the type decides.
pub(crate) fn accepts_event_stream<'a>(accept: impl Iterator<Item = &'a [u8]>) -> bool {
    const RANGES: [&[u8]; 3] = [b"*/*", b"text/*", b"text/event-stream"];
    let mut any = false;
    let mut best: Option<(usize, bool)> = None;
    for field in accept {
        for range in parts(field, b',').filter(|range| !range.is_empty()) {
            any = true;
            let mut parts = parts(range, b';');
            let essence = parts.next().unwrap_or_default();
            let covers = RANGES.iter().position(|known| essence.eq_ignore_ascii_case(known));
            let refused = parts.filter_map(parameter).any(|(name, value)| {
                let weight = core::str::from_utf8(value).map(str::parse::<f32>);
                name.eq_ignore_ascii_case(b"q") && matches!(weight, Ok(Ok(weight)) if weight <= 0.0)
            });
            best = best.max(covers.map(|specific| (specific, !refused)));
        }
    }
    best.map_or(!any, |(_, taken)| taken)
}

#[cfg(test)]
mod tests {
    #[track_caller]
    fn check_json(content_type: &str, expected: bool) {
        assert_eq!(super::is_json(content_type.as_bytes()), expected, "{content_type}");
    }

    #[test]
    fn content_type_is_json_unless_type_or_charset_differs() {
        check_json("application/json", true);
        check_json("Application/JSON; charset=UTF-8", true);
        check_json("application/json;charset=\"utf-8\"", true);
        check_json("application/json; profile=x; charset=utf-8", true);
        check_json("application/json;", true);
        check_json(r#"application/json; profile="a;b""#, true);
        check_json(r#"application/json; profile="a;charset=latin1""#, true);
        check_json(r#"application/json; profile="a\";b"; charset=utf-8"#, true);
        check_json(r#"application/json; profile="a\\"; charset=latin1"#, false);
        check_json(r#"application/json; charset="latin1""#, false);
        check_json(r#"application/json; charset="utf-8"#, true);
        check_json("application/json; charset=latin1", false);
        // Malformed parameters are ignored.
        check_json("application/json; utf-8", true);
        check_json("application/json; charset", true);
        check_json("application/json; charset=", true);
        check_json("application/json; =utf-16", true);
        check_json("application/json;;; charset=utf-8;;", true);
        check_json("application/json ; charset = utf-8", true);
        check_json("application/json;charset=utf8", true);
        check_json("application/json;charset=UTF8", true);
        check_json("application/json;charset=\"UTF-8\"", true);
        check_json("application/json;charset=\"utf8\"", true);
        check_json("application/json; charset=utf-8; charset=utf-8", true);
        check_json("application/json; x=\"", true);
        check_json("application/json; charset=\u{e9}", true);
        check_json("application/json; charset=iso-8859-1", false);
        check_json("application/json; charset=utf-16", false);
        check_json("application/json; CharSet=\"UTF-16\"", false);
        check_json("application/json; charset=us-ascii", false);
        check_json("application/json; charset=utf-8; charset=utf-16", false);
        check_json("application/json; utf-8; charset=latin1", false);
        check_json("application/json, text/plain", false);
        check_json("application/json utf-8", false);
        check_json("application/jsonp", false);
        assert!(super::is_json(b"application/json; x=\xff"), "not UTF-8, and ignored");
        check_json("application/json\u{a0}", false);
        check_json("text/json", false);
        check_json("text/plain", false);
        check_json("", false);
    }

    #[track_caller]
    fn check_accept(accept: &[&str], expected: bool) {
        let fields = accept.iter().map(|field| field.as_bytes());
        assert_eq!(super::accepts_event_stream(fields), expected, "{accept:?}");
    }

    #[test]
    fn accept_allows_event_stream_by_its_most_specific_range() {
        check_accept(&[], true);
        check_accept(&[""], true);
        check_accept(&["text/event-stream"], true);
        check_accept(&["Text/Event-Stream; q=0.5"], true);
        check_accept(&["text/*"], true);
        check_accept(&["*/*"], true);
        check_accept(&["application/json, text/event-stream"], true);
        check_accept(&["application/json", "text/event-stream"], true);
        check_accept(&["application/json"], false);
        check_accept(&["text/html"], false);
        check_accept(&["text/event-stream;q=0"], false);
        check_accept(&["text/event-stream;q=0.000, */*;q=0"], false);
        check_accept(&["text/event-stream;q=0, */*"], false);
        check_accept(&["*/*", "text/*;q=0"], false);
        check_accept(&["*/*;q=0, text/*;q=0.1"], true);
        check_accept(&["text/*;q=0, text/event-stream"], true);
        check_accept(&["text/event-stream;q=0, text/event-stream"], true);
        check_accept(&[r#"text/html;x="a,*/*""#], false);
        check_accept(&["text/event-stream; utf-8; q=high"], true);
    }
}
