use super::*;
use crate::jsonrpc::same_id;
use crate::sse::{HEARTBEAT_BARE, HEARTBEAT_CHUNKED, LAST_CHUNK};
use alloc::format;
use alloc::vec::Vec;

/// Checks that `frame` contains `expected`, with and without the chunk.
#[track_caller]
fn check_frame(frame: &Frame, expected: &str) {
    let bare = core::str::from_utf8(frame.bare()).unwrap();
    assert_eq!(bare, expected);
    let chunk = format!("{:x}\r\n{expected}\r\n", expected.len());
    assert_eq!(core::str::from_utf8(frame.chunked()).unwrap(), chunk);
    assert_eq!(frame.wire_len(), chunk.len());
    // The ranges that the outbox uses.
    for (chunked, expected) in [(true, frame.chunked()), (false, frame.bare())] {
        let (bytes, start, end) = frame.shared(chunked);
        assert_eq!(&bytes[start as usize..end as usize], expected);
    }
}

#[track_caller]
fn check(json: &str, data: &str, answered: Option<&str>) {
    let frame = Frame::message(json.as_bytes()).unwrap();
    check_frame(&frame, &format!("event: message\ndata: {data}\n\n"));
    assert_eq!(frame.answered_id(), answered);
    assert_eq!(frame.answers(), answered.is_some());
}

#[track_caller]
fn check_refused(json: &[u8], expected: fn(&FrameError) -> bool) {
    let error = Frame::message(json).unwrap_err();
    assert!(expected(&error), "{error:?}");
}

#[test]
fn frames_have_the_expected_bytes() {
    let frame = Frame::message(br#"{"a":1}"#).unwrap();
    assert_eq!(frame.chunked(), b"1e\r\nevent: message\ndata: {\"a\":1}\n\n\r\n");
    assert_eq!(frame.bare(), b"event: message\ndata: {\"a\":1}\n\n");
    let frame = Frame::event(EventName::ENDPOINT, b"/messages?session_id=x").unwrap();
    assert_eq!(frame.chunked(), b"2e\r\nevent: endpoint\ndata: /messages?session_id=x\n\n\r\n");
    assert_eq!(HEARTBEAT_CHUNKED, [b"2\r\n", HEARTBEAT_BARE, CRLF].concat());
    assert_eq!(LAST_CHUNK, b"0\r\n\r\n");
}

#[test]
fn message_is_sent_on_one_line() {
    check("{}", "{}", None);
    check(r#"{"method":"m","params":[[{}]]}"#, r#"{"method":"m","params":[[{}]]}"#, None);
    // Line ends between tokens are removed, other white space between them is not. All white space
    // around the object is removed.
    check("{\r\n  \"a\": [\n 1,\r2\n]\r\n}", "{  \"a\": [ 1,2]}", None);
    check(" \t\r\n{} \n\t", "{}", None);
    // Line separators are escaped; characters next to them in Unicode are not.
    check("{\"\u{2028}\":\"a\u{2029}b\u{85}\"}", r#"{"\u2028":"a\u2029b\u0085"}"#, None);
    let near = "{\"a\":\"\u{2027}\u{202a}\u{84}\u{86}\u{a0}\u{2000}é€😀\u{f85}\"}";
    check(near, near, None);
    check("{\"a\":\n\"\u{2028}\u{2028}“\u{2028}\"}", r#"{"a":"\u2028\u2028“\u2028"}"#, None);
    // Text that is escaped already stays as it is.
    check(r#"{"a":"\u2028\r\n"}"#, r#"{"a":"\u2028\r\n"}"#, None);
    check("{\"a\":\"\\\\\u{2028}\"}", r#"{"a":"\\\u2028"}"#, None);
}

#[test]
fn chunk_size_of_any_number_of_digits_is_right() {
    let overhead = "event: message\ndata: {\"a\":\"\"}\n\n".len();
    for len in [overhead, 0xff, 0x100, 0xfff, 0x1000, 0xffff, 0x10000, 0xfffff, 0x100000] {
        let json = format!(r#"{{"a":"{}"}}"#, "x".repeat(len - overhead));
        check(&json, &json, None);
    }
    for (number, digits) in [(0, 1), (1, 1), (15, 1), (16, 2), (255, 2), (256, 3), (u64::MAX, 16)] {
        assert_eq!(hex_digits(number), digits, "{number}");
    }
}

#[test]
fn message_with_id_and_outcome_and_no_method_is_a_response() {
    check(r#"{"id":1,"result":{}}"#, r#"{"id":1,"result":{}}"#, Some("1"));
    check(r#"{"error":{},"id":"x"}"#, r#"{"error":{},"id":"x"}"#, Some("\"x\""));
    check(r#"{"\u0069d":-0,"result":0}"#, r#"{"\u0069d":-0,"result":0}"#, Some("-0"));
    check(r#"{"id":null,"error":{}}"#, r#"{"id":null,"error":{}}"#, Some("null"));
    for json in [
        r#"{"id":1,"method":"m"}"#,
        r#"{"id":1,"method":"m","result":0}"#,
        r#"{"id":1}"#,
        r#"{"result":0}"#,
        r#"{"params":{"id":1,"result":0}}"#,
        r#"{"Id":1,"result":0}"#,
    ] {
        check(json, json, None);
    }
}

#[test]
fn answered_id_is_right_after_escaping() {
    check("\n{\n\"id\"\n:\n7\n,\n\"result\":0}\n", r#"{"id":7,"result":0}"#, Some("7"));
    check(
        "{\"result\":\"\u{2028}\u{85}\",\r\n\"id\":12345}",
        r#"{"result":"\u2028\u0085","id":12345}"#,
        Some("12345"),
    );
    check(
        "{\"result\":\"“\",\"id\":\"a\u{2029}b\"\n}",
        r#"{"result":"“","id":"a\u2029b"}"#,
        Some(r#""a\u2029b""#),
    );
    check("{\"id\":1,\"result\":\"\u{2028}\"}", r#"{"id":1,"result":"\u2028"}"#, Some("1"));
    let frame = Frame::message("{\"result\":0,\"id\":\"\u{2028}\"}".as_bytes()).unwrap();
    assert!(same_id(frame.answered_id().unwrap(), "\"\u{2028}\""));
    // The same text elsewhere in the message is not mistaken for the id.
    check(r#"{"a":7,"id":7,"result":7}"#, r#"{"a":7,"id":7,"result":7}"#, Some("7"));
}

#[test]
fn text_that_is_not_one_json_object_is_refused() {
    check_refused(b"", |e| matches!(e, FrameError::NotJson(_)));
    check_refused(b"hello", |e| matches!(e, FrameError::NotJson(_)));
    check_refused(b"{", |e| matches!(e, FrameError::NotJson(_)));
    check_refused(b"{} {}", |e| matches!(e, FrameError::NotJson(_)));
    check_refused(b"{}\ndata: x", |e| matches!(e, FrameError::NotJson(_)));
    check_refused(b"{\"a\":\"\n\"}", |e| matches!(e, FrameError::NotJson(_)));
    check_refused("{\u{2028}}".as_bytes(), |e| matches!(e, FrameError::NotJson(_)));
    check_refused("\u{feff}{}".as_bytes(), |e| matches!(e, FrameError::NotJson(_)));
    check_refused(b"[{}]", |e| *e == FrameError::NotObject);
    check_refused(b" 7 ", |e| *e == FrameError::NotObject);
    check_refused(b"\"{}\"", |e| *e == FrameError::NotObject);
    check_refused(b"{\"a\":\"\xff\"}", |e| *e == FrameError::NotUtf8);
    // Deep nesting does not overflow the stack.
    let deep = format!("{{\"id\":1,\"result\":{}{}}}", "[".repeat(200_000), "]".repeat(200_000));
    check(&deep, &deep, Some("1"));
    check_refused(&b"[".repeat(1 << 20), |e| matches!(e, FrameError::NotJson(_)));
}

#[test]
fn chunk_of_4_gib_is_refused_before_allocation() {
    let max = u64::from(u32::MAX);
    assert_eq!(chunk_len(max - 12), Ok(u32::MAX as usize));
    assert_eq!(chunk_len(max - 11), Err(FrameError::TooLarge));
    assert_eq!(chunk_len(u64::MAX), Err(FrameError::TooLarge));
}

#[test]
fn from_json_serializes_the_value() {
    let value = serde_json::json!({"id": "é\u{2028}", "result": {"text": "a\nb"}});
    let frame = Frame::from_json(&value).unwrap();
    check_frame(
        &frame,
        "event: message\ndata: {\"id\":\"é\\u2028\",\"result\":{\"text\":\"a\\nb\"}}\n\n",
    );
    assert_eq!(frame.answered_id(), Some("\"é\\u2028\""));
    assert_eq!(Frame::from_json("text"), Err(FrameError::NotObject));
    let unfit = alloc::collections::BTreeMap::from([([1_u8], 0)]);
    assert!(matches!(Frame::from_json(&unfit), Err(FrameError::Serialize(_))));
}

#[test]
fn result_error_and_notification_are_messages_with_the_id_as_given() {
    #[track_caller]
    fn check(frame: Result<Frame, FrameError>, text: &str, id: Option<&str>) {
        let frame = frame.unwrap();
        check_frame(&frame, &format!("event: message\ndata: {text}\n\n"));
        assert_eq!(frame.answered_id(), id);
    }
    let value = serde_json::json!({"a": [1, "\n"]});
    for id in ["7", "-0", "9007199254740993", r#""""#, r#""a\u0041\"""#] {
        let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"a":[1,"\n"]}}}}"#);
        check(Frame::result(id, &value), &text, Some(id));
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32601,"message":"no \"such\" method"}}}}"#
        );
        check(Frame::error(id, -32601, "no \"such\" method"), &text, Some(id));
    }
    let text = r#"{"jsonrpc":"2.0","method":"a\"b","params":{"a":[1,"\n"]}}"#;
    check(Frame::notification("a\"b", &value), text, None);
    check(Frame::result("1", &()), r#"{"jsonrpc":"2.0","id":1,"result":null}"#, Some("1"));

    // The last two are JSON only together with the rest of the message, to which they would add
    // members.
    for id in ["", "a", "\"", "1 2", r#"1,"x":2"#, r#"1,"result":0"#] {
        assert!(matches!(Frame::result(id, &value), Err(FrameError::NotJson(_))), "{id}");
        assert!(matches!(Frame::error(id, 1, ""), Err(FrameError::NotJson(_))), "{id}");
    }
    let unfit = alloc::collections::BTreeMap::from([([1_u8], 0)]);
    assert!(matches!(Frame::result("1", &unfit), Err(FrameError::Serialize(_))));
    assert!(matches!(Frame::notification("a", &unfit), Err(FrameError::Serialize(_))));
}

#[test]
fn event_has_one_data_line_per_line_of_data() {
    #[track_caller]
    fn check(name: &str, data: &str, expected: &str) {
        let frame = Frame::event(EventName::new(name).unwrap(), data.as_bytes()).unwrap();
        check_frame(&frame, expected);
        assert!(!frame.answers() && frame.answered_id().is_none());
    }
    check("tick", "1", "event: tick\ndata: 1\n\n");
    check("tick", "", "event: tick\ndata: \n\n");
    check("tick", " 1", "event: tick\ndata:  1\n\n");
    check("tick", "a\nb\rc\r\nd", "event: tick\ndata: a\ndata: b\ndata: c\ndata: d\n\n");
    check("tick", "\n", "event: tick\ndata: \ndata: \n\n");
    check("tick", "a\n\r\n\r", "event: tick\ndata: a\ndata: \ndata: \ndata: \n\n");
    check("a: b", "event: c", "event: a: b\ndata: event: c\n\n");
    check("é", "\u{2028}", "event: é\ndata: \u{2028}\n\n");
    check("message", r#"{"id":1,"result":0}"#, "event: message\ndata: {\"id\":1,\"result\":0}\n\n");
    assert_eq!(Frame::event(EventName::MESSAGE, b"\xff"), Err(FrameError::NotUtf8));
}

#[test]
fn event_name_with_line_end_or_nul_is_refused() {
    for name in ["", "a\n", "\ra", "a\0b"] {
        assert_eq!(EventName::new(name), Err(InvalidEventName), "{name:?}");
    }
    assert_eq!(EventName::new("message"), Ok(EventName::MESSAGE));
    assert_eq!(EventName::ENDPOINT.as_str(), "endpoint");
}

#[test]
fn frame_is_small_shares_its_bytes_and_hides_its_text() {
    #[cfg(target_pointer_width = "64")]
    assert_eq!(size_of::<Frame>(), 24);
    fn is_send<T: Send + Sync + 'static>() {}
    is_send::<Frame>();

    let frame = Frame::event(EventName::ENDPOINT, b"/m?session_id=hunter2").unwrap();
    let clone = frame.clone();
    assert!(Arc::ptr_eq(&frame.shared(true).0, &clone.shared(false).0));
    let shown = format!("{frame:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn pieces_joined_are_the_text_without_line_ends_and_with_escapes() {
    // Every text of up to six of the characters that matter.
    let letters: [&[u8]; 6] = [b"\n", b"\r", b"a", b"\xc2\x85", b"\xe2\x80\xa8", b"\xc2\xa0"];
    for number in 0..6_usize.pow(6) {
        let mut text = Vec::new();
        let mut left = number;
        while left > 0 {
            text.extend_from_slice(letters[left % 6]);
            left /= 6;
        }
        let mut out = Vec::new();
        each_clean_piece(&text, |piece| out.extend_from_slice(piece));
        let text = String::from_utf8(text).unwrap();
        let expected = text
            .replace(['\n', '\r'], "")
            .replace('\u{85}', "\\u0085")
            .replace('\u{2028}', "\\u2028");
        assert_eq!(core::str::from_utf8(&out).unwrap(), expected);
        assert_eq!(cleaned_len(text.as_bytes()), out.len() as u64);
        assert!(!is_clean(text.as_bytes()) || text == expected);
    }
}

#[test]
fn error_texts_describe_the_mistake() {
    let text_of = |error: FrameError| error.to_string();
    let text = text_of(Frame::message(b"{").unwrap_err());
    assert!(text.starts_with("a message must be JSON: "), "{text}");
    assert_eq!(text_of(Frame::message(b"[]").unwrap_err()), "a message must be one JSON object");
    assert_eq!(text_of(Frame::message(b"\xff").unwrap_err()), "an event must be UTF-8");
    assert_eq!(text_of(FrameError::TooLarge), "an event must be shorter than 4 GiB");
    let name = EventName::new("a\nb").unwrap_err().to_string();
    assert_eq!(name, "an event name must not be empty or contain CR, LF or NUL");
}
