//! Which session receives a message of the server, and which request a message of a client refers to.

use super::*;

#[test]
fn answers_go_to_the_requester_with_the_id_as_spelled() {
    let (mut test, a) = MuxTest::ready();
    let b = test.join();
    let ids = [
        "1",
        r#""1""#,
        "0",
        "-0",
        "9007199254740993",
        "123456789012345678901234567890",
        r#""\u0061\/é😀""#,
        r#""""#,
        r#""\ud800""#,
    ];
    for (at, id) in ids.iter().enumerate() {
        let number = 2 + 2 * at;
        test.says(a, &m(&format!(r#""id":{id},"method":"a","params":{{"id":{id}}}"#)));
        test.says(b, &m(&format!(r#""method":"b", "id" : {id} "#)));
        test.hears(&[
            format!("> {}", m(&format!(r#""id":{number},"method":"a","params":{{"id":{id}}}"#))),
            format!("> {}", m(&format!(r#""method":"b", "id" : {} "#, number + 1))),
        ]);
        // The server answers in the other order, with another spelling.
        test.answers(&m(&format!(r#""result" : {{"id":7}} , "id": {}"#, number + 1)));
        test.answers(&m(&format!(r#""id":{number},"error":{{"code":1,"message":"é"}}"#)));
        test.hears(&[
            format!("2: {}", m(&format!(r#""result" : {{"id":7}} , "id": {id}"#))),
            format!("1: {}", m(&format!(r#""id":{id},"error":{{"code":1,"message":"é"}}"#))),
        ]);
    }
    assert_eq!(test.mux.requests(), 0);
}

#[test]
fn pretty_printed_messages_become_one_line() {
    let (mut test, a) = MuxTest::ready();
    test.says(a, "{\r\n  \"jsonrpc\": \"2.0\",\n  \"id\": 5,\n  \"method\": \"a\\n\"\n}");
    test.hears(&[r#"> {  "jsonrpc": "2.0",  "id": 2,  "method": "a\n"}"#]);
    test.says(a, "{\n\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\"}");
    test.hears(&[r#"> {"jsonrpc":"2.0","method":"notifications/x"}"#]);
}

#[test]
fn answers_to_no_request_are_counted() {
    let (mut test, a) = MuxTest::ready();
    test.says(a, &m(r#""id":1,"method":"a""#));
    test.heard();
    for id in ["1", "3", r#""02x""#, "02", "-2", "+2", "99999999999999999999999"] {
        // Ids that are not JSON never reach the mux.
        if let Ok(message) = Message::read(m(&format!(r#""id":{id},"result":{{}}"#)).into(), None) {
            test.mux.handle_server(&message, test.now);
        }
    }
    test.hears::<&str>(&[]);
    assert_eq!(test.mux.counts.answers_dropped, 5);
    test.answers(&m(r#""id":2,"result":{}"#));
    test.answers(&m(r#""id":2,"result":{}"#));
    test.hears(&[format!("1: {}", m(r#""id":1,"result":{}"#))]);
    assert_eq!(test.mux.counts.answers_dropped, 6);
}

// ---- progress, cancellation, notifications -----------------------------------------------------

#[test]
fn progress_goes_to_the_requester_under_its_own_token() {
    let (mut test, a) = MuxTest::ready();
    let b = test.join();
    let ask = |token: &str| {
        m(&format!(r#""id":1,"method":"a","params":{{"_meta":{{"progressToken":{token}}}}}"#))
    };
    let report = |token: &str| {
        m(&format!(
            r#""method":"notifications/progress","params":{{"progress":1,"progressToken":{token}}}"#
        ))
    };
    test.says(a, &ask("1"));
    test.says(b, &ask(r#""1\n""#));
    test.hears(&[
        format!("> {}", ask("2").replace(r#""id":1"#, r#""id":2"#)),
        format!("> {}", ask("3").replace(r#""id":1"#, r#""id":3"#)),
    ]);
    test.answers(&report("3"));
    test.answers(&report("2"));
    test.hears(&[format!("2: {}", report(r#""1\n""#)), format!("1: {}", report("1"))]);
    // Numbers that are unknown, finished, or of a request without a progress token.
    test.answers(&m(r#""id":2,"result":{}"#));
    test.heard();
    test.says(a, &m(r#""id":1,"method":"a""#));
    test.heard();
    for token in ["1", "2", "4", r#""x""#, "3.5", "null"] {
        test.answers(&report(token));
    }
    test.answers(&m(r#""method":"notifications/progress""#));
    let twice = r#"{"progressToken":3,"progressToken":3}"#;
    test.answers(&m(&format!(r#""method":"notifications/progress","params":{twice}"#)));
    test.hears::<&str>(&[]);
    assert_eq!(test.mux.counts.progress_dropped, 8);
}

#[test]
fn request_with_ambiguous_token_is_refused() {
    let (mut test, a) = MuxTest::ready();
    let meta = r#"{"progressToken":1,"progressToken":2}"#;
    test.says(a, &m(&format!(r#""id":"x","method":"a","params":{{"_meta":{meta}}}"#)));
    let error = r#"{"code":-32602,"message":"params can be read in more than one way"}"#;
    test.hears(&[format!("1: {}", m(&format!(r#""id":"x","error":{error}"#)))]);
    assert_eq!(test.mux.requests(), 0);
}

fn cancel(id: &str) -> String {
    m(&format!(
        r#""method":"notifications/cancelled","params":{{"requestId":{id},"reason":"tired"}}"#
    ))
}

#[test]
fn cancellation_matches_requests_of_its_own_session_only() {
    let (mut test, a) = MuxTest::ready();
    let b = test.join();
    test.says(a, &m(r#""id":1,"method":"a""#));
    test.says(b, &m(r#""id":"a","method":"b""#));
    test.heard();
    // A request of another session, and one that does not exist.
    test.says(b, &cancel("1"));
    test.says(a, &cancel("2"));
    test.says(a, &cancel("3"));
    test.says(a, &m(r#""method":"notifications/cancelled""#));
    test.says(a, &cancel(r#"1,"requestId":1"#));
    test.hears::<&str>(&[]);
    assert_eq!(test.mux.counts.cancellations_dropped, 5);
    // The id in another spelling.
    test.says(b, &cancel(r#""\u0061""#));
    test.says(a, &cancel("1"));
    test.hears(&[format!("> {}", cancel("3")), format!("> {}", cancel("2"))]);
    // The answer to a cancelled request is not passed on.
    test.answers(&m(r#""id":3,"result":{}"#));
    test.says(a, &cancel("1"));
    test.hears::<&str>(&[]);
    assert_eq!(test.mux.counts.answers_dropped, 1);
    assert_eq!(test.mux.requests(), 0);
    // The server cancels a request that was refused before.
    test.answers(&cancel("1"));
    test.hears::<&str>(&[]);
    assert_eq!(test.mux.counts.cancellations_dropped, 7);
}

#[test]
fn notifications_go_to_initialized_sessions_as_one_frame() {
    let (mut test, a) = MuxTest::ready();
    let (b, c) = (test.join(), test.join());
    test.says(b, &m(r#""method":"notifications/x""#));
    test.heard();
    let news = m(r#""method":"notifications/resources/updated","params":{"uri":"é"}"#);
    test.answers(&news);
    let frames: Vec<MuxOutput> = core::iter::from_fn(|| test.mux.poll_output()).collect();
    let [MuxOutput::Session(first, one), MuxOutput::Session(second, other)] = frames.as_slice()
    else {
        panic!("{frames:?}");
    };
    assert_eq!((*first, *second), (a, b));
    assert!(core::ptr::eq(one.chunked(), other.chunked()), "encoded once");
    assert!(test.mux.sessions.contains_key(&c));
}

#[test]
fn session_only_notifications_are_dropped() {
    let (mut test, a) = MuxTest::ready();
    test.says(a, &m(r#""method":"notifications/roots/list_changed""#));
    test.says(a, &m(r#""method":"notifications/progress","params":{"progressToken":1}"#));
    test.says(a, &m(r#""id":1,"result":{}"#));
    test.hears::<&str>(&[]);
    let counts = test.mux.counts;
    assert_eq!((counts.notifications_dropped, counts.responses_dropped), (2, 1));
}

#[test]
fn server_requests_are_refused_and_pings_answered() {
    let (mut test, _) = MuxTest::ready();
    test.answers(&m(r#""id":"x\u0061","method":"sampling/createMessage","params":{}"#));
    test.answers(&m(r#""id":0,"method":"ping""#));
    let why =
        "sampling/createMessage: this server is shared by many clients, none of which can be asked";
    let error = format!(r#"{{"code":-32601,"message":"{why}"}}"#);
    test.hears(&[
        format!("> {}", m(&format!(r#""id":"x\u0061","error":{error}"#))),
        format!("> {}", m(r#""id":0,"result":{}"#)),
    ]);
    assert_eq!(test.mux.counts.server_requests_refused, 1);
}

// ---- invalid answers ---------------------------------------------------------------------------

impl MuxTest {
    fn loses(&mut self, id: Option<&str>, error: Option<&str>) {
        let (id, error) = (id.map(Into::into), error.map(Into::into));
        self.mux.handle_lost_answer(&LostAnswer { id, why: "why".into(), error }, self.now);
        self.mux.check();
    }
}

fn lost(key: u64, id: &str) -> String {
    let why = "the server's answer cannot be passed on: why";
    format!("{key}: {}", m(&format!(r#""id":{id},"error":{{"code":-32603,"message":"{why}"}}"#)))
}

#[test]
fn answers_and_progress_match_their_number_by_value() {
    let (mut test, a) = MuxTest::ready();
    let token = r#""params":{"_meta":{"progressToken":"t"}}"#;
    test.says(a, &m(&format!(r#""id":"x","method":"a",{token}"#)));
    test.heard();
    let report = |token: &str| {
        m(&format!(r#""method":"notifications/progress","params":{{"progressToken":{token}}}"#))
    };
    for token in [r#""2""#, "2.0"] {
        test.answers(&report(token));
        test.hears(&[format!("1: {}", report(r#""t""#))]);
    }
    test.answers(&m(r#""id":"2","result":{}"#));
    test.hears(&[format!("1: {}", m(r#""id":"x","result":{}"#))]);
    assert_eq!(test.mux.requests(), 0);
}

#[test]
fn lost_answer_fails_its_request_by_number_or_the_only_one() {
    let (mut test, a) = MuxTest::ready();
    let b = test.join();
    test.says(a, &m(r#""id":1,"method":"a""#));
    test.says(b, &m(r#""id":"1","method":"b""#));
    test.heard();
    test.loses(None, None);
    test.loses(Some("9"), None);
    test.loses(Some(r#""x""#), None);
    test.hears::<&str>(&[]);
    test.loses(Some("2"), None);
    test.hears(&[lost(1, "1")]);
    let error = r#"{"code":-32700,"message":"?"}"#;
    // The error may belong to another session, so its text is not passed on.
    test.loses(None, Some(error));
    test.hears(&[lost(2, r#""1""#)]);
    test.loses(None, None);
    test.hears::<&str>(&[]);
    assert_eq!((test.mux.requests(), test.mux.counts.answers_dropped), (0, 4));
}

#[test]
fn lost_answer_to_initialize_fails_its_requester_or_all_parked() {
    for id in [Some("1"), None] {
        let mut test = MuxTest::new();
        let a = test.join();
        test.starts();
        test.says(a, &initialize_of("7"));
        test.heard();
        test.loses(id, None);
        test.hears(&[lost(1, "7")]);
        // The bridge's own `initialize`.
        test.says(a, &m(r#""id":8,"method":"a""#));
        test.wait(2_000);
        test.heard();
        test.loses(None, Some(r#"{"code":1,"message":"too old"}"#));
        let heard = test.heard();
        assert!(heard[0].starts_with(r#"1: {"jsonrpc":"2.0","id":8,"error""#), "{heard:?}");
        let why = "refused initialize: {";
        assert!(heard[0].contains(why) && heard[0].contains("too old"), "{heard:?}");
    }
}

#[test]
fn initialize_refusal_reason_is_shortened() {
    let mut test = MuxTest::new();
    let a = test.join();
    test.starts();
    for id in 2..8 {
        test.says(a, &m(&format!(r#""id":{id},"method":"a""#)));
    }
    test.wait(2_000);
    test.heard();
    let long = "ä".repeat(1 << 20);
    test.answers(&m(&format!(r#""id":1,"error":{{"code":1,"message":"{long}"}}"#)));
    let heard = test.heard();
    assert_eq!(heard.len(), 6);
    assert!(heard.iter().all(|text| text.contains("refused initialize: {") && text.len() < 1_000));
}

#[test]
fn unreadable_server_request_is_answered() {
    let (mut test, _) = MuxTest::ready();
    let (id, code) = ("\"\u{2028}\"".into(), code::INVALID_REQUEST);
    test.mux.handle_unreadable_request(&UnreadableRequest { id, code, why: "why".into() });
    let why = "the request cannot be passed on: why";
    let error = format!(r#""error":{{"code":-32600,"message":"{why}"}}"#);
    test.hears(&[format!("> {}", m(&format!(r#""id":"\u2028",{error}"#)))]);
    assert_eq!(test.mux.counts.server_requests_refused, 1);
}

#[test]
fn line_separators_are_escaped_towards_the_server() {
    let (mut test, a) = MuxTest::ready();
    test.says(a, &m("\"id\":1,\"method\":\"a\u{2028}\u{2029}\u{85}“\""));
    test.hears(&[format!("> {}", m(r#""id":2,"method":"a\u2028\u2029\u0085“""#))]);
}
