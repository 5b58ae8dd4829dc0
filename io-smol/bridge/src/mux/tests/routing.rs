//! Whose is what the server says, and what a client says of what it asked.

use super::*;

#[test]
fn answers_go_to_the_asker_with_the_id_as_it_was_spelled() {
    let (mut stage, a) = Stage::ready();
    let b = stage.join();
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
        stage.says(a, &m(&format!(r#""id":{id},"method":"a","params":{{"id":{id}}}"#)));
        stage.says(b, &m(&format!(r#""method":"b", "id" : {id} "#)));
        stage.hears(&[
            format!("> {}", m(&format!(r#""id":{number},"method":"a","params":{{"id":{id}}}"#))),
            format!("> {}", m(&format!(r#""method":"b", "id" : {} "#, number + 1))),
        ]);
        // In the other order, and spelled as the server likes.
        stage.answers(&m(&format!(r#""result" : {{"id":7}} , "id": {}"#, number + 1)));
        stage.answers(&m(&format!(r#""id":{number},"error":{{"code":1,"message":"é"}}"#)));
        stage.hears(&[
            format!("2: {}", m(&format!(r#""result" : {{"id":7}} , "id": {id}"#))),
            format!("1: {}", m(&format!(r#""id":{id},"error":{{"code":1,"message":"é"}}"#))),
        ]);
    }
    assert_eq!(stage.mux.requests(), 0);
}

#[test]
fn pretty_printed_messages_become_one_line() {
    let (mut stage, a) = Stage::ready();
    stage.says(a, "{\r\n  \"jsonrpc\": \"2.0\",\n  \"id\": 5,\n  \"method\": \"a\\n\"\n}");
    stage.hears(&[r#"> {  "jsonrpc": "2.0",  "id": 2,  "method": "a\n"}"#]);
    stage.says(a, "{\n\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\"}");
    stage.hears(&[r#"> {"jsonrpc":"2.0","method":"notifications/x"}"#]);
}

#[test]
fn answers_to_nobody_are_counted() {
    let (mut stage, a) = Stage::ready();
    stage.says(a, &m(r#""id":1,"method":"a""#));
    stage.heard();
    for id in ["1", "3", r#""02x""#, "02", "-2", "+2", "99999999999999999999999"] {
        // Not every one of these is JSON; those that are not never get here.
        if let Ok(message) = Message::read(m(&format!(r#""id":{id},"result":{{}}"#)).into(), None) {
            stage.mux.handle_server(&message, stage.now);
        }
    }
    stage.hears::<&str>(&[]);
    assert_eq!(stage.mux.counts().answers_dropped, 5);
    stage.answers(&m(r#""id":2,"result":{}"#));
    stage.answers(&m(r#""id":2,"result":{}"#));
    stage.hears(&[format!("1: {}", m(r#""id":1,"result":{}"#))]);
    assert_eq!(stage.mux.counts().answers_dropped, 6);
}

// ---- progress, cancellation, notifications -----------------------------------------------------

#[test]
fn progress_goes_to_the_asker_alone_under_its_own_token() {
    let (mut stage, a) = Stage::ready();
    let b = stage.join();
    let ask = |token: &str| {
        m(&format!(r#""id":1,"method":"a","params":{{"_meta":{{"progressToken":{token}}}}}"#))
    };
    let report = |token: &str| {
        m(&format!(
            r#""method":"notifications/progress","params":{{"progress":1,"progressToken":{token}}}"#
        ))
    };
    stage.says(a, &ask("1"));
    stage.says(b, &ask(r#""1\n""#));
    stage.hears(&[
        format!("> {}", ask("2").replace(r#""id":1"#, r#""id":2"#)),
        format!("> {}", ask("3").replace(r#""id":1"#, r#""id":3"#)),
    ]);
    stage.answers(&report("3"));
    stage.answers(&report("2"));
    stage.hears(&[format!("2: {}", report(r#""1\n""#)), format!("1: {}", report("1"))]);
    // Not a number that was given out, or not any more, or not for progress.
    stage.answers(&m(r#""id":2,"result":{}"#));
    stage.heard();
    stage.says(a, &m(r#""id":1,"method":"a""#));
    stage.heard();
    for token in ["1", "2", "4", r#""x""#, "3.5", "null"] {
        stage.answers(&report(token));
    }
    stage.answers(&m(r#""method":"notifications/progress""#));
    let twice = r#"{"progressToken":3,"progressToken":3}"#;
    stage.answers(&m(&format!(r#""method":"notifications/progress","params":{twice}"#)));
    stage.hears::<&str>(&[]);
    assert_eq!(stage.mux.counts().progress_dropped, 8);
}

#[test]
fn tokens_that_can_be_read_in_two_ways_are_refused() {
    let (mut stage, a) = Stage::ready();
    let meta = r#"{"progressToken":1,"progressToken":2}"#;
    stage.says(a, &m(&format!(r#""id":"x","method":"a","params":{{"_meta":{meta}}}"#)));
    let error = r#"{"code":-32602,"message":"params can be read in more than one way"}"#;
    stage.hears(&[format!("1: {}", m(&format!(r#""id":"x","error":{error}"#)))]);
    assert_eq!(stage.mux.requests(), 0);
}

fn cancel(id: &str) -> String {
    m(&format!(
        r#""method":"notifications/cancelled","params":{{"requestId":{id},"reason":"tired"}}"#
    ))
}

#[test]
fn cancellations_find_their_own_sessions_request() {
    let (mut stage, a) = Stage::ready();
    let b = stage.join();
    stage.says(a, &m(r#""id":1,"method":"a""#));
    stage.says(b, &m(r#""id":"a","method":"b""#));
    stage.heard();
    // Another's, and one that was never made.
    stage.says(b, &cancel("1"));
    stage.says(a, &cancel("2"));
    stage.says(a, &cancel("3"));
    stage.says(a, &m(r#""method":"notifications/cancelled""#));
    stage.says(a, &cancel(r#"1,"requestId":1"#));
    stage.hears::<&str>(&[]);
    assert_eq!(stage.mux.counts().cancellations_dropped, 5);
    // Spelled in another way.
    stage.says(b, &cancel(r#""\u0061""#));
    stage.says(a, &cancel("1"));
    stage.hears(&[format!("> {}", cancel("3")), format!("> {}", cancel("2"))]);
    // An answer that crossed is not passed on, as the client was promised none.
    stage.answers(&m(r#""id":3,"result":{}"#));
    stage.says(a, &cancel("1"));
    stage.hears::<&str>(&[]);
    assert_eq!(stage.mux.counts().answers_dropped, 1);
    assert_eq!(stage.mux.requests(), 0);
    // The server's, of what was refused long ago.
    stage.answers(&cancel("1"));
    stage.hears::<&str>(&[]);
    assert_eq!(stage.mux.counts().cancellations_dropped, 7);
}

#[test]
fn notifications_go_to_all_who_have_shaken_hands_as_one_frame() {
    let (mut stage, a) = Stage::ready();
    let (b, c) = (stage.join(), stage.join());
    stage.says(b, &m(r#""method":"notifications/x""#));
    stage.heard();
    let news = m(r#""method":"notifications/resources/updated","params":{"uri":"é"}"#);
    stage.answers(&news);
    let frames: Vec<Output> = core::iter::from_fn(|| stage.mux.poll_output()).collect();
    let [Output::Session(first, one), Output::Session(second, other)] = frames.as_slice() else {
        panic!("{frames:?}");
    };
    assert_eq!((*first, *second), (a, b));
    assert!(core::ptr::eq(one.chunked(), other.chunked()), "encoded once");
    assert!(stage.mux.sessions.contains_key(&c));
}

#[test]
fn notifications_that_concern_one_session_do_not_reach_the_server() {
    let (mut stage, a) = Stage::ready();
    stage.says(a, &m(r#""method":"notifications/roots/list_changed""#));
    stage.says(a, &m(r#""method":"notifications/progress","params":{"progressToken":1}"#));
    stage.says(a, &m(r#""id":1,"result":{}"#));
    stage.hears::<&str>(&[]);
    let counts = stage.mux.counts();
    assert_eq!((counts.notifications_dropped, counts.responses_dropped), (2, 1));
}

#[test]
fn what_the_server_asks_is_refused_and_its_pings_are_answered() {
    let (mut stage, _) = Stage::ready();
    stage.answers(&m(r#""id":"x\u0061","method":"sampling/createMessage","params":{}"#));
    stage.answers(&m(r#""id":0,"method":"ping""#));
    let why =
        "sampling/createMessage: this server is shared by many clients, none of which can be asked";
    let error = format!(r#"{{"code":-32601,"message":"{why}"}}"#);
    stage.hears(&[
        format!("> {}", m(&format!(r#""id":"x\u0061","error":{error}"#))),
        format!("> {}", m(r#""id":0,"result":{}"#)),
    ]);
    assert_eq!(stage.mux.counts().server_requests_refused, 1);
}

// ---- ends --------------------------------------------------------------------------------------

// ---- answers that are not as they should be ----------------------------------------------------

impl Stage {
    fn loses(&mut self, id: Option<&str>, error: Option<&str>) {
        let (id, error) = (id.map(Into::into), error.map(Into::into));
        self.mux.handle_lost(&Lost { id, why: "why".into(), error }, self.now);
        self.mux.check();
    }
}

fn lost(member: u64, id: &str) -> String {
    let why = "the server's answer cannot be passed on: why";
    format!("{member}: {}", m(&format!(r#""id":{id},"error":{{"code":-32603,"message":"{why}"}}"#)))
}

#[test]
fn answers_and_progress_find_their_number_by_value() {
    let (mut stage, a) = Stage::ready();
    let token = r#""params":{"_meta":{"progressToken":"t"}}"#;
    stage.says(a, &m(&format!(r#""id":"x","method":"a",{token}"#)));
    stage.heard();
    let report = |token: &str| {
        m(&format!(r#""method":"notifications/progress","params":{{"progressToken":{token}}}"#))
    };
    for token in [r#""2""#, "2.0"] {
        stage.answers(&report(token));
        stage.hears(&[format!("1: {}", report(r#""t""#))]);
    }
    stage.answers(&m(r#""id":"2","result":{}"#));
    stage.hears(&[format!("1: {}", m(r#""id":"x","result":{}"#))]);
    assert_eq!(stage.mux.requests(), 0);
}

#[test]
fn lost_answer_is_told_to_its_request_by_number_or_as_the_only_one() {
    let (mut stage, a) = Stage::ready();
    let b = stage.join();
    stage.says(a, &m(r#""id":1,"method":"a""#));
    stage.says(b, &m(r#""id":"1","method":"b""#));
    stage.heard();
    stage.loses(None, None);
    stage.loses(Some("9"), None);
    stage.loses(Some(r#""x""#), None);
    stage.hears::<&str>(&[]);
    stage.loses(Some("2"), None);
    stage.hears(&[lost(1, "1")]);
    let error = r#"{"code":-32700,"message":"?"}"#;
    // It may have been meant for somebody else, and so is not shown.
    stage.loses(None, Some(error));
    stage.hears(&[lost(2, r#""1""#)]);
    stage.loses(None, None);
    stage.hears::<&str>(&[]);
    assert_eq!((stage.mux.requests(), stage.mux.counts().answers_dropped), (0, 4));
}

#[test]
fn lost_answer_to_initialize_is_its_askers_or_everybodys_who_waits() {
    for id in [Some("1"), None] {
        let mut stage = Stage::new();
        let a = stage.join();
        stage.starts();
        stage.says(a, &hello("7"));
        stage.heard();
        stage.loses(id, None);
        stage.hears(&[lost(1, "7")]);
        // Without one who asked.
        stage.says(a, &m(r#""id":8,"method":"a""#));
        stage.wait(2_000);
        stage.heard();
        stage.loses(None, Some(r#"{"code":1,"message":"too old"}"#));
        let heard = stage.heard();
        assert!(heard[0].starts_with(r#"1: {"jsonrpc":"2.0","id":8,"error""#), "{heard:?}");
        let why = "refused initialize: {";
        assert!(heard[0].contains(why) && heard[0].contains("too old"), "{heard:?}");
    }
}

#[test]
fn reason_why_initialize_is_refused_is_told_in_part_to_everybody_who_waits() {
    let mut stage = Stage::new();
    let a = stage.join();
    stage.starts();
    for id in 2..8 {
        stage.says(a, &m(&format!(r#""id":{id},"method":"a""#)));
    }
    stage.wait(2_000);
    stage.heard();
    let long = "ä".repeat(1 << 20);
    stage.answers(&m(&format!(r#""id":1,"error":{{"code":1,"message":"{long}"}}"#)));
    let heard = stage.heard();
    assert_eq!(heard.len(), 6);
    assert!(heard.iter().all(|text| text.contains("refused initialize: {") && text.len() < 1_000));
}

#[test]
fn request_of_the_server_that_cannot_be_read_is_answered() {
    let (mut stage, _) = Stage::ready();
    let (id, code) = ("\"\u{2028}\"".into(), code::INVALID_REQUEST);
    stage.mux.handle_unread(&Unread { id, code, why: "why".into() });
    let why = "the request cannot be passed on: why";
    let error = format!(r#""error":{{"code":-32600,"message":"{why}"}}"#);
    stage.hears(&[format!("> {}", m(&format!(r#""id":"\u2028",{error}"#)))]);
    assert_eq!(stage.mux.counts().server_requests_refused, 1);
}

#[test]
fn line_separators_are_escaped_towards_the_server() {
    let (mut stage, a) = Stage::ready();
    stage.says(a, &m("\"id\":1,\"method\":\"a\u{2028}\u{2029}\u{85}“\""));
    stage.hears(&[format!("> {}", m(r#""id":2,"method":"a\u2028\u2029\u0085“""#))]);
}
