use super::*;

fn frames(body: &str) -> Vec<Value> {
    let message = Message::read(body.as_bytes().to_vec(), None).expect("a message");
    let json = |frame: &Frame| {
        let event = core::str::from_utf8(frame.bare()).expect("text").to_owned();
        let data = event.strip_prefix("event: message\ndata: ").expect("a message event");
        serde_json::from_str(data.trim_end()).expect("JSON")
    };
    match answer(&message) {
        DemoReply::None => vec![],
        DemoReply::Frame(frame) => vec![json(&frame)],
        DemoReply::Burst(burst) => burst.map(|frame| json(&frame)).collect(),
        DemoReply::Broadcast { notice, then } => vec![json(&notice), json(&then.reached(3))],
    }
}

#[track_caller]
fn check(method: &str, params: &str, expected: Value) {
    let body = format!(r#"{{"jsonrpc":"2.0","id":7,"method":"{method}","params":{params}}}"#);
    let [frame] = &frames(&body)[..] else { panic!("one answer to {body}") };
    assert_eq!((&frame["jsonrpc"], &frame["id"]), (&json!("2.0"), &json!(7)), "{frame}");
    match expected.as_i64() {
        Some(code) => assert_eq!(frame["error"]["code"], code, "{frame}"),
        None => assert_eq!(frame["result"], expected, "{frame}"),
    }
}

fn check_tool(name: &str, arguments: &str, expected: Result<&str, i32>) {
    let expected = match expected {
        Ok(said) => json!({"content": [{"type": "text", "text": said}], "isError": false}),
        Err(code) => json!(code),
    };
    check("tools/call", &format!(r#"{{"name":"{name}","arguments":{arguments}}}"#), expected);
}

#[test]
fn protocol_version_known_is_agreed_to() {
    for (asked, told) in [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("2031-01-01", "2025-11-25"),
        ("", "2025-11-25"),
    ] {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":"a","method":"initialize","params":{{"protocolVersion":"{asked}"}}}}"#
        );
        let frame = &frames(&body)[0];
        assert_eq!(frame["result"]["protocolVersion"], told, "{frame}");
        assert_eq!(frame["result"]["serverInfo"]["name"], "mcp-sse-demo");
    }
    check("initialize", "{}", json!(code::INVALID_PARAMS));
}

#[test]
fn methods_are_answered_or_unknown() {
    check("ping", "{}", json!({}));
    check("logging/setLevel", r#"{"level":"warning"}"#, json!({}));
    check("logging/setLevel", r#"{"level":"loud"}"#, json!(code::INVALID_PARAMS));
    check("tools/list", "{}", tools::list());
    check("resources/list", "{}", json!(code::METHOD_NOT_FOUND));
    check("tools/call", "{}", json!(code::INVALID_PARAMS));
    check("tools/call", "[]", json!(code::INVALID_PARAMS));
    let names: Vec<_> = tools::list()["tools"].as_array().expect("tools").clone();
    let names: Vec<_> = names.iter().map(|tool| tool["name"].as_str()).collect();
    assert_eq!(names, [Some("add"), Some("echo"), Some("burst"), Some("broadcast")]);
}

#[test]
fn request_without_params_has_empty_ones() {
    let frame = &frames(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#)[0];
    assert_eq!(frame["result"], json!({}));
}

#[test]
fn tools_return_their_results() {
    check_tool("add", r#"{"a":2,"b":3}"#, Ok("5"));
    check_tool("add", r#"{"a":-2.5,"b":3}"#, Ok("0.5"));
    check_tool("add", r#"{"a":2.5,"b":2.5}"#, Ok("5"));
    check_tool("add", r#"{"a":9007199254740993,"b":1}"#, Ok("9007199254740994"));
    check_tool("add", r#"{"a":18446744073709551615,"b":1}"#, Ok("18446744073709551616"));
    check_tool("add", r#"{"a":1e308,"b":1e308}"#, Err(code::INTERNAL_ERROR));
    check_tool("add", r#"{"a":"2","b":3}"#, Err(code::INVALID_PARAMS));
    check_tool("add", r#"{"a":2}"#, Err(code::INVALID_PARAMS));
    check_tool("echo", r#"{"message":"é\u2028\"\n"}"#, Ok("é\u{2028}\"\n"));
    check_tool("echo", "{}", Err(code::INVALID_PARAMS));
    check_tool("burst", r#"{"count":-1,"bytes":1}"#, Err(code::INVALID_PARAMS));
    check_tool("burst", r#"{"count":1,"bytes":99999999999}"#, Err(code::INVALID_PARAMS));
    check_tool("subtract", r#"{"a":2,"b":3}"#, Err(code::INVALID_PARAMS));
}

#[test]
fn burst_sends_count_notifications_and_an_answer() {
    for (count, bytes) in [(0, 5), (3, 0), (3, 1), (12, 10), (2, 100_000)] {
        let all = frames(&format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"burst","arguments":{{"count":{count},"bytes":{bytes}}}}}}}"#
        ));
        assert_eq!(all.len(), count + 1);
        for (index, frame) in all[..count].iter().enumerate() {
            assert_eq!(frame["method"], "notifications/message");
            let data = frame["params"]["data"].as_str().expect("a string");
            assert_eq!(data.len(), bytes);
            let number = format!("{index} ");
            let shown = number.len().min(bytes);
            assert_eq!(data[..shown], number[..shown]);
        }
        assert_eq!(all[count]["id"], 1);
        assert!(all[count]["result"]["content"][0]["text"].is_string());
    }
}

#[test]
fn broadcast_is_answered_with_the_number_of_sessions() {
    let all = frames(
        r#"{"jsonrpc":"2.0","id":"b","method":"tools/call","params":{"name":"broadcast","arguments":{"message":"hi"}}}"#,
    );
    assert_eq!(all[0]["params"]["data"], "hi");
    assert_eq!(all[1]["id"], "b");
    assert_eq!(all[1]["result"]["content"][0]["text"], "reached 3 sessions");
}

#[test]
fn notifications_and_responses_get_no_answer() {
    assert!(frames(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).is_empty());
    assert!(frames(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#).is_empty());
}

#[test]
fn ids_are_returned_as_spelled() {
    for id in ["0", "-1", "12345678901234567890123", r#""""#, r#""😀\u0041""#] {
        let message = Message::read(
            format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#).into_bytes(),
            None,
        );
        let DemoReply::Frame(frame) = answer(&message.expect("a message")) else {
            panic!("an answer")
        };
        assert_eq!(frame.answered_id(), Some(id));
    }
}
