//! Media types: is this body JSON, and does this client take an event stream?

/// The parts of a field value between `separator`s, none of which is inside a quoted string
/// (RFC 9110 section 5.6.4); without the white space around them.
fn parts(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| {
        let separates = c == separator && !quoted;
        if quoted && !escaped && c == '\\' {
            escaped = true;
            return false;
        }
        if c == '"' && !escaped {
            quoted = !quoted;
        }
        escaped = false;
        separates
    })
    .map(str::trim)
}

/// A parameter's name and value, the latter without the quotes it may stand in.
fn parameter(text: &str) -> Option<(&str, &str)> {
    let (name, value) = text.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let unquoted = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    Some((name, unquoted.unwrap_or(value)))
}

/// Whether a `Content-Type` says JSON in UTF-8. Parameters are allowed; a charset other than UTF-8
/// is not (RFC 8259 section 8.1 knows no other).
pub(crate) fn is_json(content_type: &[u8]) -> bool {
    let Ok(text) = core::str::from_utf8(content_type) else { return false };
    let mut parts = parts(text, ';');
    parts.next().unwrap_or_default().eq_ignore_ascii_case("application/json")
        && parts.all(|part| match parameter(part) {
            Some((name, value)) => {
                !name.eq_ignore_ascii_case("charset") || value.eq_ignore_ascii_case("utf-8")
            }
            None => part.is_empty(),
        })
}

/// Whether `Accept` fields take `text/event-stream`. None at all take anything. The most specific
/// range that covers it decides, and a weight of zero takes nothing (RFC 9110 section 12.5.1); of two
/// that are as specific the kinder one does.
pub(crate) fn takes_event_stream<'a>(accept: impl Iterator<Item = &'a [u8]>) -> bool {
    const RANGES: [&str; 3] = ["*/*", "text/*", "text/event-stream"];
    let mut any = false;
    let mut best: Option<(usize, bool)> = None;
    for field in accept {
        let Ok(text) = core::str::from_utf8(field) else { return false };
        for range in parts(text, ',').filter(|range| !range.is_empty()) {
            any = true;
            let mut parts = parts(range, ';');
            let essence = parts.next().unwrap_or_default();
            let covers = RANGES.iter().position(|known| essence.eq_ignore_ascii_case(known));
            let refused = parts.filter_map(parameter).any(|(name, value)| {
                name.eq_ignore_ascii_case("q")
                    && value.parse::<f32>().is_ok_and(|weight| weight <= 0.0)
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
    fn content_types() {
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
        check_json(r#"application/json; charset="utf-8"#, false);
        check_json("application/json; charset=latin1", false);
        check_json("application/json; charset", false);
        check_json("application/jsonp", false);
        check_json("text/json", false);
        check_json("text/plain", false);
        check_json("", false);
    }

    #[track_caller]
    fn check_accept(accept: &[&str], expected: bool) {
        let fields = accept.iter().map(|field| field.as_bytes());
        assert_eq!(super::takes_event_stream(fields), expected, "{accept:?}");
    }

    #[test]
    fn accepts() {
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
    }
}
