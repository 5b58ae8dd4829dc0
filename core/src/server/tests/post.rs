//! Posts.

use super::*;
use crate::error::Fault;
use crate::jsonrpc::Kind;

#[test]
fn post_is_202_and_its_message_reaches_the_application() {
    let mut bench = Bench::new();
    let client = bench.open();
    let body = r#"{"jsonrpc":"2.0","id":"é-1","method":"tools/list"}"#;
    let answer = bench.ask(post(&client.token, body));
    assert_eq!((answer.status, answer.body.as_str()), (202, "Accepted\n"));
    assert_eq!(
        answer.head,
        "HTTP/1.1 202 Accepted\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: 9\r\n\r\n"
    );
    match bench.events().as_slice() {
        [Event::Message { session, message }] => {
            assert_eq!(*session, client.session);
            assert_eq!(message.kind(), Kind::Request);
            assert_eq!((message.id(), message.method()), (Some("\"é-1\""), Some("tools/list")));
            assert_eq!(message.text(), body);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(bench.server.session(client.session).unwrap().requests_in_flight(), 1);
    let frame = r#"{"jsonrpc":"2.0","id":"é-1","result":{"tools":[]}}"#;
    bench.send(client.session, &Frame::message(frame.as_bytes()).unwrap());
    assert_eq!(bench.messages(client.conn), [frame]);
    assert_eq!(bench.server.session(client.session).unwrap().requests_in_flight(), 0);
}

/// A refused post says what, and does nothing: the session takes the next one.
#[track_caller]
fn check(fields: &str, body: &str, status: u16, says: &str) -> Answer {
    let mut bench = Bench::new();
    let client = bench.open();
    let answer = bench.ask(format!(
        "POST /messages?session_id={} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n{body}",
        client.token
    ));
    assert_eq!(answer.status, status, "{fields}{body}: {answer:?}");
    assert!(answer.body.contains(says), "{fields}{body}: {answer:?}");
    let accepted = usize::from(status == 202);
    assert_eq!(bench.inbox().len(), accepted, "{fields}{body}");
    assert_eq!(bench.ask(post(&client.token, NOTE)).status, 202, "the session goes on");
    assert_eq!(bench.inbox().len(), 1);
    bench.send(client.session, &note("so does the stream"));
    assert_eq!(bench.messages(client.conn).len(), 1);
    answer
}

#[track_caller]
fn check_fields(fields: &str, status: u16, says: &str) -> Answer {
    let length = NOTE.len();
    check(&format!("{fields}Content-Length: {length}\r\n"), NOTE, status, says)
}

#[test]
fn post_with_another_media_type_is_415() {
    const JSON: &str = "Content-Type must be application/json";
    check_fields("Content-Type: application/json\r\n", 202, "Accepted");
    check_fields("content-type: Application/JSON;charset=UTF-8\r\n", 202, "Accepted");
    check_fields("Content-Type: application/json;charset=latin1\r\n", 415, JSON);
    check_fields("Content-Type: text/plain\r\n", 415, JSON);
    check_fields("", 415, JSON);
    let twice = "Content-Type: application/json\r\nContent-Type: application/json\r\n";
    check_fields(twice, 415, JSON);
    let coded = "Content-Type: application/json\r\nContent-Encoding: gzip\r\n";
    check_fields(coded, 415, "Content-Encoding is not supported");
}

#[track_caller]
fn check_body(body: &str, status: u16, says: &str) -> Answer {
    let length = body.len();
    let fields = format!("Content-Type: application/json\r\nContent-Length: {length}\r\n");
    check(&fields, body, status, says)
}

#[test]
fn body_that_is_not_json_is_400() {
    let deep = format!("{}{}", "[".repeat(129), "]".repeat(129));
    for body in ["", " ", "{", "{}{}", "nonsense", "\u{feff}{}", &deep] {
        let answer = check_body(body, 400, r#""error":{"code":-32700,"message":"Parse error"#);
        assert_eq!(answer.field("Content-Type"), Some("application/json"));
        assert!(answer.body.starts_with(r#"{"jsonrpc":"2.0","id":null,"#), "{}", answer.body);
        assert!(!answer.closes(), "the request was understood");
    }
}

#[test]
fn body_that_is_not_utf_8_is_400() {
    let mut bench = Bench::new();
    let client = bench.open();
    let mut request = post(&client.token, r#"{"jsonrpc":"2.0","method":"?"}"#).into_bytes();
    let at = request.len() - 3;
    request[at] = 0xff;
    let answer = bench.ask(request);
    assert!(answer.status == 400 && answer.body.contains("-32700"), "{answer:?}");
}

#[test]
fn body_that_is_no_message_is_400() {
    for body in [
        "[]",
        "1",
        "{}",
        r#"{"jsonrpc":"1.0","method":"m"}"#,
        r#"{"jsonrpc":"2.0","Method":"m"}"#,
        r#"{"jsonrpc":"2.0","method":"m","id":null}"#,
        r#"{"jsonrpc":"2.0","method":"m","id":1.5}"#,
        r#"{"jsonrpc":"2.0","method":"m","id":1,"id":2}"#,
        r#"{"jsonrpc":"2.0","method":"m","method":"m"}"#,
        r#"[{"jsonrpc":"2.0","method":"m"}]"#,
        r#"{"jsonrpc":"2.0","id":1,"result":1,"error":{}}"#,
    ] {
        let answer = check_body(body, 400, r#""error":{"code":-32600,"message":"Invalid Request"#);
        assert_eq!(answer.field("Content-Type"), Some("application/json"));
        assert!(!answer.closes(), "the request was understood");
    }
}

#[test]
fn chunked_body_is_decoded() {
    const FIELDS: &str = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n";
    let (a, b) = NOTE.split_at(10);
    let chunks = |tail: &str| format!("a;x=y\r\n{a}\r\n{:x}\r\n{b}\r\n0\r\n{tail}\r\n", b.len());
    assert!(!check(FIELDS, &chunks(""), 202, "Accepted").closes());
    check(FIELDS, &chunks("Trailer: x\r\n"), 202, "Accepted");
    assert!(check(FIELDS, &format!("a\r\n{a}x"), 400, "malformed chunk").closes());
    check(FIELDS, "0\r\n\r\n", 400, "-32700");
}

#[test]
fn body_over_body_bytes_max_is_413() {
    const SAYS: &str = "larger than 100 bytes (limit body_bytes_max)";
    let mut bench = Bench::with(limited(|limits| limits.body_bytes_max = Some(100)));
    let client = bench.open();
    let head = |framing: &str| {
        format!(
            "POST /messages?session_id={} HTTP/1.1\r\nHost: localhost\r\n\
             Content-Type: application/json\r\n{framing}\r\n\r\n",
            client.token
        )
    };
    let padded = |len| format!("{NOTE}{}", " ".repeat(len - NOTE.len()));
    // Declared: the answer comes before any byte of the body.
    let answer = bench.ask(head("Content-Length: 101"));
    assert!(answer.status == 413 && answer.closes() && answer.body.contains(SAYS), "{answer:?}");
    assert_eq!(bench.ask(head("Content-Length: 100") + &padded(100)).status, 202);
    // Chunked: at the byte that crosses.
    let chunked = head("Transfer-Encoding: chunked");
    assert_eq!(bench.ask(format!("{chunked}64\r\n{}\r\n0\r\n\r\n", padded(100))).status, 202);
    let conn = bench.connect();
    bench.says(conn, format!("{chunked}65\r\n{}", padded(100)));
    assert!(bench.heard(conn).is_empty());
    bench.says(conn, " ");
    let answer = bench.answers(conn).remove(0);
    assert!(answer.status == 413 && answer.closes() && answer.body.contains(SAYS), "{answer:?}");
    assert_eq!(bench.inbox().len(), 2);
}

#[test]
fn post_without_a_length_is_411() {
    const JSON: &str = "Content-Type: application/json\r\n";
    assert!(!check(JSON, "", 411, "Content-Length or chunked").closes());
}

#[track_caller]
fn check_target(target: &str, status: u16, says: &str) {
    let mut bench = Bench::new();
    let client = bench.open();
    let target = target.replace("TOKEN", &client.token);
    let request = post("", NOTE).replace("/messages?session_id=", &target);
    let answer = bench.ask(request);
    assert!(answer.status == status && answer.body.contains(says), "{target}: {answer:?}");
    assert_eq!(bench.inbox().len(), usize::from(status == 202), "{target}");
}

#[test]
fn post_without_one_session_id_is_400() {
    check_target("/messages?session_id=TOKEN", 202, "Accepted");
    check_target("/messages/?session_id=TOKEN", 202, "Accepted");
    check_target("/messages?a=b&session_id=TOKEN&c", 202, "Accepted");
    check_target("http://localhost/messages?session_id=TOKEN", 202, "Accepted");
    check_target("/messages", 400, "session_id");
    check_target("/messages?sessionId=TOKEN", 400, "session_id");
    check_target(
        "/messages?session_id=TOKEN&session_id=TOKEN",
        400,
        "repeated query parameter session_id",
    );
    check_target("/messages?session_id", 404, "unknown session");
    check_target("/messages?session_id=%54OKEN", 404, "unknown session");
    check_target("/message?session_id=TOKEN", 404, r#"{"error":"not found","#);
    check_target("/messages//?session_id=TOKEN", 404, r#"{"error":"not found","#);
}

#[test]
fn every_miss_of_a_session_reads_the_same() {
    let mut bench = Bench::new();
    let (open, ended) = (bench.open(), bench.open());
    bench.reset(ended.conn);
    let mut wrong = open.token.clone().into_bytes();
    wrong[31] ^= 1;
    let wrong = String::from_utf8(wrong).unwrap();
    let other_shard = format!("AAE{}", &open.token[3..]);
    let far = format!("AAAAf{}", &open.token[5..]);
    let prefixed = format!("a1.{}", open.token);
    let tokens = ["", "x", &wrong, &ended.token, &other_shard, &far, &prefixed];
    let answers: Vec<_> = tokens.iter().map(|token| bench.ask(post(token, NOTE))).collect();
    assert_eq!((answers[0].status, answers[0].body.as_str()), (404, "unknown session\n"));
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!(bench.server.metrics().fault(Fault::Misrouted), 2);
    assert_eq!(bench.server.metrics().fault(Fault::UnknownSession), 5);
    assert_eq!(bench.ask(post(&open.token, NOTE)).status, 202);
}

#[test]
fn other_methods_on_the_post_path_are_405() {
    let mut bench = Bench::new();
    for method in ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let conn = bench.connect();
        bench.says(conn, format!("{method} /messages HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        let answer = bench.answers(conn).remove(0);
        assert_eq!((answer.status, answer.field("Allow")), (405, Some("POST")), "{method}");
    }
}

#[test]
fn expectation_is_met_or_417() {
    let mut bench = Bench::new();
    let client = bench.open();
    let expecting = |token: &str, what: &str| {
        let request = post_with(token, &format!("Expect: {what}\r\n"), NOTE);
        request.strip_suffix(NOTE).unwrap().to_string()
    };
    let conn = bench.connect();
    bench.says(conn, expecting(&client.token, "100-Continue"));
    assert_eq!(bench.text(conn), "HTTP/1.1 100 Continue\r\n\r\n");
    bench.says(conn, NOTE);
    assert_eq!(bench.statuses(conn), [100, 202]);
    bench.says(conn, post(&client.token, NOTE));
    assert_eq!(bench.statuses(conn), [100, 202, 202], "and the connection goes on");

    // The final status at once, instead.
    let answer = bench.ask(expecting("x", "100-continue"));
    assert!(answer.status == 404 && answer.closes(), "{answer:?}");
    let answer = bench.ask(expecting(&client.token, "magic"));
    assert_eq!(answer.status, 417);
    // HTTP/1.0 does not know it.
    let conn = bench.connect();
    bench.says(conn, expecting(&client.token, "100-continue").replace("HTTP/1.1", "HTTP/1.0"));
    assert!(bench.heard(conn).is_empty());
    bench.says(conn, NOTE);
    assert_eq!(bench.statuses(conn), [202]);
}

#[test]
fn persistence_is_decided_for_each_request() {
    let mut bench = Bench::new();
    let client = bench.open();
    let conn = bench.connect();
    bench.says(conn, post(&client.token, "nonsense") + &post(&client.token, NOTE));
    assert_eq!(bench.statuses(conn), [400, 202]);
    assert!(bench.is_open(conn));
}

#[test]
fn messages_reach_the_application_in_the_order_of_complete_bodies() {
    let mut bench = Bench::new();
    let client = bench.open();
    let (a, b) = (bench.connect(), bench.connect());
    let (first, second) = (post(&client.token, &call(1)), post(&client.token, &call(2)));
    let (early, late) = first.split_at(first.len() - 1);
    bench.says(a, early);
    bench.says(b, second);
    bench.says(a, late);
    let ids: Vec<_> = bench.inbox().iter().map(|m| m.id().unwrap().to_string()).collect();
    assert_eq!(ids, ["2", "1"]);
}

#[test]
fn disconnect_after_the_answer_cancels_nothing() {
    let mut bench = Bench::new();
    let client = bench.open();
    let conn = bench.connect();
    bench.says(conn, post(&client.token, &call(1)));
    bench.reset(conn);
    assert_eq!(bench.inbox().len(), 1);
}

#[test]
fn answers_carry_the_date_of_the_wall_clock() {
    let mut bench = Bench::new();
    let client = bench.open();
    for (second, date) in [(784_111_777, "37"), (784_111_777, "37"), (784_111_778, "38")] {
        bench.server.handle_wall_clock(second);
        let date = format!("Sun, 06 Nov 1994 08:49:{date} GMT");
        assert_eq!(bench.ask(post(&client.token, NOTE)).field("Date"), Some(date.as_str()));
        assert_eq!(bench.ask("\0").field("Date"), Some(date.as_str()));
    }
}
