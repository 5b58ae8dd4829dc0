use super::*;
use std::string::String;
use std::{format, str};

const ANSWER: Response<'_> = Response {
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
fn all_of_a_response() {
    let date = HttpDate::from_unix(0);
    check(
        &ANSWER.render(Some(&date), Persistence::Close, false),
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
        &ANSWER.render(None, Persistence::KeepAlive11, true),
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
fn responses_that_never_have_a_body() {
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
fn one_allocation_of_the_right_size() {
    for len in [0, 9, 10, 99, 100, 4096, 12345] {
        let body = "x".repeat(len);
        let bytes = Response { body: Some(body.as_bytes()), ..ANSWER }.render(
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
fn heads_of_streams() {
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
fn every_fault_has_a_reason() {
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
fn numbers() {
    for number in [0, 1, 9, 10, 11, 99, 100, 12_345, u64::MAX] {
        check(Decimal::new(number).as_bytes(), &format!("{number}"));
    }
}

#[test]
#[should_panic(expected = "octets that no field may have")]
#[cfg(debug_assertions)]
fn a_value_cannot_end_its_line() {
    let fields = &[("Location", "/a\r\nSet-Cookie: b")];
    let _ = Response { fields, ..ANSWER }.render(None, Persistence::Close, false);
}

#[test]
#[should_panic(expected = "is no field name")]
#[cfg(debug_assertions)]
fn a_name_cannot_hold_a_value() {
    let answer = Response { fields: &[("A: b", "c")], body: None, ..ANSWER };
    let _ = answer.render_stream_head(None, StreamFraming::Chunked);
}

#[test]
#[should_panic(expected = "octets that no field may have")]
#[cfg(debug_assertions)]
fn a_content_type_is_a_value_too() {
    let answer = Response { content_type: Some("text/plain\n"), ..ANSWER };
    let _ = answer.render(None, Persistence::Close, false);
}

#[test]
#[should_panic(expected = "whether a 204 has a body")]
#[cfg(debug_assertions)]
fn what_has_no_body_is_given_none() {
    let _ = Response { status: 204, ..ANSWER }.render(None, Persistence::Close, false);
}

#[test]
fn every_status_that_is_sent_has_a_reason() {
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
