//! Media types: is this body JSON, and does this client take an event stream?

/// Whether a `Content-Type` says JSON in UTF-8. Parameters are allowed; a charset other than UTF-8
/// is not (RFC 8259 section 8.1 knows no other).
pub(crate) fn is_json(content_type: &[u8]) -> bool {
    let Ok(text) = core::str::from_utf8(content_type) else { return false };
    let mut parts = text.split(';');
    let essence = parts.next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
        && parts.all(|parameter| {
            let Some((name, value)) = parameter.split_once('=') else {
                return parameter.trim().is_empty();
            };
            !name.trim().eq_ignore_ascii_case("charset")
                || value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        })
}

/// Whether `Accept` fields take `text/event-stream`. None at all take anything; a media range of
/// weight zero takes nothing (RFC 9110 section 12.5.1).
pub(crate) fn takes_event_stream<'a>(accept: impl Iterator<Item = &'a [u8]>) -> bool {
    let mut any = false;
    for field in accept {
        let Ok(text) = core::str::from_utf8(field) else { return false };
        for range in text.split(',').map(str::trim).filter(|range| !range.is_empty()) {
            any = true;
            let mut parts = range.split(';');
            let essence = parts.next().unwrap_or_default().trim();
            let matches = ["text/event-stream", "text/*", "*/*"]
                .iter()
                .any(|known| essence.eq_ignore_ascii_case(known));
            let refused = parts.any(|parameter| {
                parameter.split_once('=').is_some_and(|(name, value)| {
                    name.trim().eq_ignore_ascii_case("q")
                        && value.trim().parse::<f32>().is_ok_and(|weight| weight <= 0.0)
                })
            });
            if matches && !refused {
                return true;
            }
        }
    }
    !any
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
    }
}
