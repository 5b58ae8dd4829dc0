use core::time::Duration;

use super::*;
use crate::printed::UnreadableRequest;

/// A protocol and the current time.
struct ProtocolTest {
    protocol: SessionProtocol,
    now: Instant,
}

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}"#;
const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
const CALL: &str = r#"{"jsonrpc":"2.0","id":"two","method":"tools/call"}"#;
const OWN_PARAMS: &str = r#"{"protocolVersion":"2025-11-25","capabilities":{}}"#;
const PROGRESS: &str = r#"{"jsonrpc":"2.0","method":"notifications/progress"}"#;

fn message(text: &str) -> Message {
    Message::read(text.as_bytes().to_vec(), None).unwrap()
}

impl ProtocolTest {
    fn new(auto_initialize: bool) -> Self {
        let own = auto_initialize.then(|| OWN_PARAMS.to_owned());
        Self { protocol: SessionProtocol::new(own), now: Instant::now() }
    }

    #[track_caller]
    fn client_says(&mut self, text: &str) {
        assert!(self.protocol.takes_message());
        let answer = self.protocol.handle_message(message(text), self.now);
        assert!(answer.is_none(), "{answer:?}");
    }

    /// The process prints a message, which the client receives unchanged.
    #[track_caller]
    fn process_says(&mut self, text: &str) {
        self.client_hears(text, text);
    }

    /// The process prints `text`, and the client receives `expected`.
    #[track_caller]
    fn client_hears(&mut self, text: &str, expected: &str) {
        match self.says(text) {
            ProcessOutput::ForClient(passed) => assert_eq!(passed.text(), expected),
            other @ (ProcessOutput::Consumed
            | ProcessOutput::Unsolicited
            | ProcessOutput::HandshakeRefused(_)) => panic!("{other:?}"),
        }
    }

    fn says(&mut self, text: &str) -> ProcessOutput {
        self.protocol.handle_printed(Printed::Message(message(text)))
    }

    fn loses(&mut self, id: Option<&str>, error: Option<&str>) -> ProcessOutput {
        let (id, error) = (id.map(Into::into), error.map(Into::into));
        self.protocol.handle_printed(Printed::LostAnswer(LostAnswer {
            id,
            why: "why".into(),
            error,
        }))
    }

    #[track_caller]
    fn wait(&mut self, time: Duration) {
        assert_eq!(self.wait_for_failure(time), None);
    }

    fn wait_for_failure(&mut self, time: Duration) -> Option<String> {
        self.now += time;
        self.protocol.handle_timeout(self.now)
    }

    #[track_caller]
    fn process_hears(&mut self, expected: &[&str]) {
        let mut heard = Vec::new();
        while let Some(line) = self.protocol.poll_line() {
            heard.push(String::from_utf8(line).unwrap());
        }
        let expected: Vec<_> = expected.iter().map(|text| format!("{text}\n")).collect();
        assert_eq!(heard, expected);
    }
}

fn texts(frames: Vec<Frame>) -> String {
    frames.iter().map(|frame| format!("{:?};", frame.answered_id())).collect()
}

#[test]
fn initialize_first_is_sent_at_once() {
    let mut protocol = ProtocolTest::new(true);
    protocol.client_says(INITIALIZE);
    protocol.process_hears(&[INITIALIZE]);
    protocol.client_says(INITIALIZED);
    assert!(!protocol.protocol.takes_message(), "a line waits for the process");
    protocol.process_hears(&[INITIALIZED]);
    protocol.client_says(LIST);
    protocol.process_hears(&[LIST]);
    assert_eq!(protocol.protocol.poll_timeout(), None);
}

#[test]
fn initialize_overtaken_is_sent_first() {
    let mut protocol = ProtocolTest::new(true);
    protocol.client_says(INITIALIZED);
    protocol.client_says(LIST);
    protocol.wait(PARK - Duration::from_millis(1));
    protocol.process_hears(&[]);
    protocol.client_says(INITIALIZE);
    protocol.process_hears(&[INITIALIZE, INITIALIZED, LIST]);
    protocol.client_says(CALL);
    protocol.process_hears(&[CALL]);
}

#[test]
fn missing_initialize_is_sent_by_the_bridge() {
    let mut protocol = ProtocolTest::new(true);
    protocol.client_says(PROGRESS);
    protocol.client_says(LIST);
    protocol.wait(PARK);
    let own =
        format!(r#"{{"jsonrpc":"2.0","id":{OWN_ID},"method":"initialize","params":{OWN_PARAMS}}}"#);
    assert!(OWN_ID.parse::<i32>().is_ok(), "some servers accept only integers");
    protocol.process_hears(&[&own]);
    protocol.client_says(CALL);
    protocol.wait(HANDSHAKE_TIMEOUT - Duration::from_millis(1));
    // Only the answer to the bridge's own request is consumed.
    protocol.process_says(PROGRESS);
    assert!(matches!(
        protocol.says(r#"{"jsonrpc":"2.0","id":7,"result":{}}"#),
        ProcessOutput::Unsolicited
    ));
    protocol.process_hears(&[]);
    let answer = format!(r#"{{"jsonrpc":"2.0","id":{OWN_ID},"result":{{"capabilities":{{}}}}}}"#);
    assert!(matches!(protocol.says(&answer), ProcessOutput::Consumed));
    protocol.process_hears(&[INITIALIZED, PROGRESS, LIST, CALL]);
    assert_eq!(protocol.protocol.poll_timeout(), None);
    // The client does not receive it.
    assert!(matches!(protocol.says(&answer), ProcessOutput::Unsolicited));
}

#[test]
fn own_initialize_unanswered_fails_the_session_at_its_deadline() {
    let mut protocol = ProtocolTest::new(true);
    protocol.client_says(LIST);
    protocol.wait(PARK);
    assert_eq!(protocol.protocol.poll_timeout(), Some(protocol.now + HANDSHAKE_TIMEOUT));
    let why = protocol.wait_for_failure(HANDSHAKE_TIMEOUT).expect("a failure");
    assert_eq!(why, "did not answer initialize within 60s");
    assert_eq!(protocol.protocol.poll_timeout(), None);
    assert_eq!(texts(protocol.protocol.abandon(&why)), "Some(\"1\");");
}

#[test]
fn own_initialize_answer_with_respelled_or_missing_id_is_not_passed_on() {
    for id in ["2147483647.0", r#""2147483647""#] {
        let id = ids::canonical(id).unwrap();
        let mut protocol = ProtocolTest::new(true);
        protocol.client_says(LIST);
        protocol.wait(PARK);
        let answer = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#);
        assert!(matches!(protocol.says(&answer), ProcessOutput::Consumed));
    }
    for id in [Some(OWN_ID), None] {
        let mut protocol = ProtocolTest::new(true);
        protocol.client_says(LIST);
        protocol.wait(PARK);
        assert!(
            matches!(protocol.loses(id, None), ProcessOutput::HandshakeRefused(why) if why == "why")
        );
        assert_eq!(texts(protocol.protocol.abandon("x")), "Some(\"1\");");
    }
}

/// The error response for the request with this raw id, whose answer is lost.
fn lost(id: &str) -> String {
    let why = "the server's answer cannot be passed on: why";
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32603,"message":"{why}"}}}}"#)
}

#[test]
fn lost_answer_fails_its_request_by_id_or_the_only_one() {
    let mut protocol = ProtocolTest::new(true);
    for text in [INITIALIZE, LIST, CALL] {
        protocol.client_says(text);
        protocol.process_hears(&[text]);
    }
    let said = |said: ProcessOutput| match said {
        ProcessOutput::ForClient(message) => message.text().to_owned(),
        other @ (ProcessOutput::Consumed
        | ProcessOutput::Unsolicited
        | ProcessOutput::HandshakeRefused(_)) => format!("{other:?}"),
    };
    assert_eq!(said(protocol.loses(None, None)), "Unsolicited", "three are under way");
    assert_eq!(said(protocol.loses(Some("9"), None)), "Unsolicited");
    assert_eq!(said(protocol.loses(Some(r#""0""#), None)), lost("0"));
    assert_eq!(said(protocol.loses(Some("1"), None)), lost("1"));
    // A later answer to the same request is dropped.
    assert_eq!(said(protocol.says(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#)), "Unsolicited");
    // An error without an id belongs to the only request in flight.
    let error = r#"{"code":-32700,"message":"?"}"#;
    let told = format!(r#"{{"jsonrpc":"2.0","id":"two","error":{error}}}"#);
    assert_eq!(said(protocol.loses(None, Some(error))), told);
    assert_eq!(said(protocol.loses(None, None)), "Unsolicited", "none is under way");
    assert!(protocol.protocol.abandon("x").is_empty());
}

#[test]
fn process_request_not_passed_on_is_answered() {
    let mut protocol = ProtocolTest::new(true);
    protocol.client_says(INITIALIZE);
    protocol.process_hears(&[INITIALIZE]);
    let unread = || {
        let (id, code) = ("\"\u{2028}\"".into(), code::PARSE_ERROR);
        Printed::UnreadableRequest(UnreadableRequest { id, code, why: "why".into() })
    };
    assert!(matches!(protocol.protocol.handle_printed(unread()), ProcessOutput::Consumed));
    protocol.protocol.refuse_process("7", "too large");
    protocol.protocol.refuse_process(&"7".repeat(ID_BYTES_MAX + 1), "too large");
    protocol.process_hears(&[
        r#"{"jsonrpc":"2.0","id":"\u2028","error":{"code":-32700,"message":"the request cannot be passed on: why"}}"#,
        r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32603,"message":"too large"}}"#,
    ]);
    // A process that does not read gets only a limited number of answers.
    for _ in 0..2 * ANSWERED_LINES_MAX {
        assert!(matches!(protocol.protocol.handle_printed(unread()), ProcessOutput::Consumed));
    }
    assert_eq!(core::iter::from_fn(|| protocol.protocol.poll_line()).count(), ANSWERED_LINES_MAX);
}

#[test]
fn line_separators_are_escaped_towards_the_process() {
    let mut protocol = ProtocolTest::new(true);
    protocol.client_says(INITIALIZE);
    protocol.process_hears(&[INITIALIZE]);
    protocol
        .client_says("{\"jsonrpc\":\"2.0\",\"id\":\"\u{2028}\",\"method\":\"a\u{85}\u{2029}“\"}");
    protocol.process_hears(&[r#"{"jsonrpc":"2.0","id":"\u2028","method":"a\u0085\u2029“"}"#]);
    let words = String::from_utf8(protocol.protocol.last_words()).unwrap();
    assert!(words.contains(r#""requestId":"\u2028""#), "{words}");
    // The id comes back as the client spelled it.
    let answer = r#"{"jsonrpc":"2.0","id":"\u2028","result":{}}"#;
    protocol.client_hears(answer, "{\"jsonrpc\":\"2.0\",\"id\":\"\u{2028}\",\"result\":{}}");
}

#[test]
fn no_auto_initialize_sends_messages_as_they_are() {
    let mut protocol = ProtocolTest::new(false);
    protocol.client_says(LIST);
    protocol.client_says(CALL);
    protocol.wait(PARK);
    protocol.process_hears(&[LIST, CALL]);
    protocol.client_says(INITIALIZE);
    protocol.process_hears(&[INITIALIZE]);
}

#[test]
fn notifications_alone_are_sent_after_the_wait() {
    let mut protocol = ProtocolTest::new(true);
    protocol.client_says(PROGRESS);
    protocol.wait(PARK);
    protocol.process_hears(&[PROGRESS]);
    protocol.wait(PARK);
    protocol.client_says(LIST);
    protocol.process_hears(&[]);
    protocol.client_says(INITIALIZE);
    protocol.process_hears(&[INITIALIZE, LIST]);
}

#[test]
fn handshake_refused_fails_all_requests() {
    let mut protocol = ProtocolTest::new(true);
    protocol.client_says(LIST);
    protocol.wait(PARK);
    let answer = format!(r#"{{"jsonrpc":"2.0","id":{OWN_ID},"error":{{"message":"too old"}}}}"#);
    match protocol.says(&answer) {
        ProcessOutput::HandshakeRefused(why) => assert!(why.contains("too old"), "{why}"),
        other @ (ProcessOutput::Consumed
        | ProcessOutput::Unsolicited
        | ProcessOutput::ForClient(_)) => panic!("{other:?}"),
    }
    assert_eq!(texts(protocol.protocol.abandon("because")), "Some(\"1\");");
}

#[test]
fn parked_messages_are_bounded() {
    let mut protocol = ProtocolTest::new(true);
    for _ in 0..PARKED_MAX {
        protocol.client_says(PROGRESS);
    }
    assert!(!protocol.protocol.takes_message());
    protocol.wait(PARK);
    assert!(!protocol.protocol.takes_message());
    protocol.process_hears(&[PROGRESS; PARKED_MAX]);
    let large = format!(
        r#"{{"jsonrpc":"2.0","method":"large","params":["{}"]}}"#,
        "x".repeat(PARKED_BYTES_MAX)
    );
    protocol.client_says(&large);
    assert!(!protocol.protocol.takes_message());
}

#[test]
fn last_words_cancel_requests_in_flight() {
    let mut protocol = ProtocolTest::new(true);
    for text in [INITIALIZE, LIST, CALL] {
        protocol.client_says(text);
        protocol.process_hears(&[text]);
    }
    protocol.process_says(r#"{"jsonrpc":"2.0","id":0,"result":{}}"#);
    let words = String::from_utf8(protocol.protocol.last_words()).unwrap();
    let ids: Vec<_> =
        words.lines().map(|line| message(line).cancelled_id().map(str::to_owned)).collect();
    assert_eq!(ids, [Some("1".into()), Some(r#""two""#.into())]);
    // The client cancels one request; the other is answered.
    protocol.client_says(
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#,
    );
    while protocol.protocol.poll_line().is_some() {}
    protocol.process_says(r#"{"jsonrpc":"2.0","id":"two","error":{}}"#);
    assert_eq!(protocol.protocol.last_words(), b"");
    // A request that was not passed on needs no cancellation.
    let mut protocol = ProtocolTest::new(true);
    protocol.client_says(LIST);
    assert_eq!(protocol.protocol.last_words(), b"");
}

#[test]
fn waiting_requests_fail_at_the_end() {
    let mut protocol = ProtocolTest::new(true);
    protocol.client_says(INITIALIZE);
    protocol.process_hears(&[INITIALIZE]);
    protocol.client_says(CALL);
    protocol.process_hears(&[CALL]);
    let frames = protocol.protocol.abandon("MCP server process exited (status 3)");
    assert_eq!(texts(frames), r#"Some("0");Some("\"two\"");"#);
    assert!(protocol.protocol.abandon("again").is_empty());
    let late = protocol.protocol.handle_message(message(LIST), protocol.now).unwrap();
    assert_eq!(late.answered_id(), Some("1"));
    assert!(protocol.protocol.handle_message(message(PROGRESS), protocol.now).is_none());
}

#[test]
fn id_longer_than_the_limit_is_refused() {
    let mut protocol = ProtocolTest::new(true);
    let request = |length: usize| {
        format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"m"}}"#, "i".repeat(length - 2))
    };
    protocol.client_says(&request(ID_BYTES_MAX));
    let long = message(&request(ID_BYTES_MAX + 1));
    let handle_refusal = protocol.protocol.handle_message(long, protocol.now).unwrap();
    assert_eq!(handle_refusal.answered_id().map(str::len), Some(ID_BYTES_MAX + 1));
}

#[test]
fn message_with_line_ends_is_sent_as_one_line() {
    let mut protocol = ProtocolTest::new(true);
    let pretty = "{\r\n  \"jsonrpc\": \"2.0\",\n  \"id\": 0, \"method\": \"initialize\"\n}";
    protocol.client_says(pretty);
    protocol.process_hears(&[r#"{  "jsonrpc": "2.0",  "id": 0, "method": "initialize"}"#]);
}

#[test]
fn ids_respelled_by_the_server_match_their_request() {
    let mut protocol = ProtocolTest::new(true);
    protocol.client_says(INITIALIZE);
    protocol.process_hears(&[INITIALIZE]);
    for id in [r#""\u0061""#, r#""1""#, "1", r#""gone\/""#] {
        let request = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/list"}}"#);
        protocol.client_says(&request);
        protocol.process_hears(&[&request]);
    }
    let answer = |id: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#);
    protocol.client_hears(&answer(r#""a""#), &answer(r#""\u0061""#));
    // An exact match is preferred to a match by value.
    protocol.client_hears(&answer(r#""\u0031""#), &answer(r#""1""#));
    protocol.client_hears(&answer("-0"), &answer("0"));
    let cancelled =
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"gone/"}}"#;
    protocol.client_says(cancelled);
    protocol.process_hears(&[cancelled]);
    assert_eq!(texts(protocol.protocol.abandon("it is gone")), r#"Some("1");"#);
}
