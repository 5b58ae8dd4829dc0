use super::*;
use std::string::String;
use std::{format, str};

const NOT_FOUND: Response<'_> = Response {
    status: 404,
    fields: &[("Allow", "GET"), ("X-Empty", "")],
    content_type: Some("text/plain"),
    body: Some(b"not found"),
};

#[track_caller]
fn check(bytes: &[u8], expected: &str) {
    assert_eq!(str::from_utf8(bytes).unwrap(), expected);
}

#[test]
fn response_has_its_fields_and_body_in_order() {
    let date = HttpDate::from_unix(0);
    check(
        &NOT_FOUND.render(Some(&date), Persistence::Close, false),
        "HTTP/1.1 404 Not Found\r\n\
         Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
         Content-Type: text/plain\r\n\
         Content-Length: 9\r\n\
         Allow: GET\r\n\
         X-Empty: \r\n\
         Connection: close\r\n\
         \r\n\
         not found",
    );
    check(
        &NOT_FOUND.render(None, Persistence::KeepAlive11, true),
        "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\
         Allow: GET\r\nX-Empty: \r\n\r\n",
    );
    let plain = Response { status: 202, fields: &[], content_type: None, body: Some(b"") };
    check(
        &plain.render(None, Persistence::KeepAlive10, false),
        "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n",
    );
}

#[test]
fn response_with_bodiless_status_has_no_content_length() {
    for status in [101, 204, 304] {
        let answer = Response { status, fields: &[], content_type: None, body: None };
        let reason = reason(status);
        check(
            &answer.render(None, Persistence::KeepAlive11, false),
            &format!("HTTP/1.1 {status} {reason}\r\n\r\n"),
        );
    }
}

#[test]
fn response_is_rendered_without_spare_capacity() {
    for len in [0, 9, 10, 99, 100, 4096, 12345] {
        let body = "x".repeat(len);
        let bytes = Response { body: Some(body.as_bytes()), ..NOT_FOUND }.render(
            None,
            Persistence::KeepAlive11,
            false,
        );
        assert_eq!(bytes.capacity(), bytes.len());
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains(&format!("\r\nContent-Length: {len}\r\n")), "{text}");
        assert!(text.ends_with(&format!("\r\n\r\n{body}")));
    }
}

#[test]
fn stream_head_has_the_fields_of_its_framing() {
    let stream = Response {
        status: 200,
        fields: &[("Cache-Control", "no-cache")],
        content_type: Some("text/event-stream"),
        body: None,
    };
    let fixed = "Content-Type: text/event-stream\r\nCache-Control: no-cache\r\n";
    for (framing, rest) in [
        (StreamFraming::Chunked, "Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n"),
        (StreamFraming::ChunkedThenClose, "Connection: close\r\nTransfer-Encoding: chunked\r\n"),
        (StreamFraming::UntilClose, "Connection: close\r\n"),
    ] {
        let bytes = stream.render_stream_head(None, framing);
        assert_eq!(bytes.capacity(), bytes.len());
        check(&bytes, &format!("HTTP/1.1 200 OK\r\n{fixed}{rest}\r\n"));
        let date = HttpDate::from_unix(0);
        let dated = "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n";
        let bytes = stream.render_stream_head(Some(&date), framing);
        check(&bytes, &format!("HTTP/1.1 200 OK\r\n{dated}{fixed}{rest}\r\n"));
    }
}

#[test]
fn status_of_every_fault_has_a_reason_phrase() {
    for &fault in crate::Fault::ALL {
        if let Some(status) = fault.status() {
            assert!(!reason(status).is_empty(), "{fault:?} {status}");
        }
    }
    let odd = Response { status: 599, fields: &[], content_type: None, body: Some(b"") };
    check(
        &odd.render(None, Persistence::KeepAlive11, false),
        "HTTP/1.1 599 \r\nContent-Length: 0\r\n\r\n",
    );
}

#[test]
fn decimal_writes_every_digit() {
    for number in [0, 1, 9, 10, 11, 99, 100, 12_345, u64::MAX] {
        check(Decimal::new(number).as_bytes(), &format!("{number}"));
    }
}

#[test]
#[should_panic(expected = "octets that no field may have")]
#[cfg(debug_assertions)]
fn field_value_with_line_end_panics_in_debug() {
    let fields = &[("Location", "/a\r\nSet-Cookie: b")];
    let _ = Response { fields, ..NOT_FOUND }.render(None, Persistence::Close, false);
}

#[test]
#[should_panic(expected = "is no field name")]
#[cfg(debug_assertions)]
fn invalid_field_name_panics_in_debug() {
    let answer = Response { fields: &[("A: b", "c")], body: None, ..NOT_FOUND };
    let _ = answer.render_stream_head(None, StreamFraming::Chunked);
}

#[test]
#[should_panic(expected = "octets that no field may have")]
#[cfg(debug_assertions)]
fn content_type_with_line_end_panics_in_debug() {
    let answer = Response { content_type: Some("text/plain\n"), ..NOT_FOUND };
    let _ = answer.render(None, Persistence::Close, false);
}

#[test]
#[should_panic(expected = "whether a 204 has a body")]
#[cfg(debug_assertions)]
fn body_for_bodiless_status_panics_in_debug() {
    let _ = Response { status: 204, ..NOT_FOUND }.render(None, Persistence::Close, false);
}

#[test]
fn reason_phrases_are_known_for_all_sent_statuses_and_unique() {
    let sent = crate::Fault::ALL.iter().filter_map(|fault| fault.status());
    for status in sent.chain([100, 200, 202, 204]) {
        assert!(!reason(status).is_empty(), "{status}");
    }
    let known: Vec<u16> = (0..1_000).filter(|&status| !reason(status).is_empty()).collect();
    assert_eq!((known.len(), known[0], known[known.len() - 1]), (40, 100, 505));
    let mut reasons: Vec<_> = known.iter().map(|&status| reason(status)).collect();
    reasons.sort_unstable();
    reasons.dedup();
    assert_eq!(reasons.len(), 40, "two statuses with one reason");
}
