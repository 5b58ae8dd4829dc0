use core::time::Duration;

use super::*;
use crate::lenient::Unread;

/// A conversation, and the time.
struct Talk {
    conversation: Conversation,
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

impl Talk {
    fn new(shakes_hands: bool) -> Self {
        let own = shakes_hands.then(|| OWN_PARAMS.to_owned());
        Self { conversation: Conversation::new(own), now: Instant::now() }
    }

    #[track_caller]
    fn client_says(&mut self, text: &str) {
        assert!(self.conversation.takes_message());
        let answer = self.conversation.handle_message(message(text), self.now);
        assert!(answer.is_none(), "{answer:?}");
    }

    /// The process says something that is the client's.
    #[track_caller]
    fn process_says(&mut self, text: &str) {
        self.client_hears(text, text);
    }

    /// The process says something, of which the client is to hear this.
    #[track_caller]
    fn client_hears(&mut self, text: &str, expected: &str) {
        match self.says(text) {
            Said::ForClient(passed) => assert_eq!(passed.text(), expected),
            other @ (Said::Ours | Said::Unasked | Said::Refused(_)) => panic!("{other:?}"),
        }
    }

    fn says(&mut self, text: &str) -> Said {
        self.conversation.handle_printed(Printed::Message(message(text)))
    }

    fn loses(&mut self, id: Option<&str>, error: Option<&str>) -> Said {
        let (id, error) = (id.map(Into::into), error.map(Into::into));
        self.conversation.handle_printed(Printed::Lost(Lost { id, why: "why".into(), error }))
    }

    #[track_caller]
    fn wait(&mut self, time: Duration) {
        assert_eq!(self.wait_for_failure(time), None);
    }

    fn wait_for_failure(&mut self, time: Duration) -> Option<String> {
        self.now += time;
        self.conversation.handle_timeout(self.now)
    }

    #[track_caller]
    fn process_hears(&mut self, expected: &[&str]) {
        let mut heard = Vec::new();
        while let Some(line) = self.conversation.poll_line() {
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
fn what_begins_as_it_should_passes_at_once() {
    let mut talk = Talk::new(true);
    talk.client_says(INITIALIZE);
    talk.process_hears(&[INITIALIZE]);
    talk.client_says(INITIALIZED);
    assert!(!talk.conversation.takes_message(), "one at a time");
    talk.process_hears(&[INITIALIZED]);
    talk.client_says(LIST);
    talk.process_hears(&[LIST]);
    assert_eq!(talk.conversation.poll_timeout(), None);
}

#[test]
fn an_initialize_that_was_overtaken_goes_first() {
    let mut talk = Talk::new(true);
    talk.client_says(INITIALIZED);
    talk.client_says(LIST);
    talk.wait(PARK - Duration::from_millis(1));
    talk.process_hears(&[]);
    talk.client_says(INITIALIZE);
    talk.process_hears(&[INITIALIZE, INITIALIZED, LIST]);
    talk.client_says(CALL);
    talk.process_hears(&[CALL]);
}

#[test]
fn a_client_without_memory_is_introduced() {
    let mut talk = Talk::new(true);
    talk.client_says(PROGRESS);
    talk.client_says(LIST);
    talk.wait(PARK);
    let own =
        format!(r#"{{"jsonrpc":"2.0","id":{OWN_ID},"method":"initialize","params":{OWN_PARAMS}}}"#);
    assert!(OWN_ID.parse::<i32>().is_ok(), "some servers know integers only");
    talk.process_hears(&[&own]);
    talk.client_says(CALL);
    talk.wait(HANDSHAKE - Duration::from_millis(1));
    // Only the answer to ours is ours.
    talk.process_says(PROGRESS);
    assert!(matches!(talk.says(r#"{"jsonrpc":"2.0","id":7,"result":{}}"#), Said::Unasked));
    talk.process_hears(&[]);
    let answer = format!(r#"{{"jsonrpc":"2.0","id":{OWN_ID},"result":{{"capabilities":{{}}}}}}"#);
    assert!(matches!(talk.says(&answer), Said::Ours));
    talk.process_hears(&[INITIALIZED, PROGRESS, LIST, CALL]);
    assert_eq!(talk.conversation.poll_timeout(), None);
    // And the client never hears of it.
    assert!(matches!(talk.says(&answer), Said::Unasked));
}

#[test]
fn own_initialize_without_an_answer_fails_the_session_after_its_time() {
    let mut talk = Talk::new(true);
    talk.client_says(LIST);
    talk.wait(PARK);
    assert_eq!(talk.conversation.poll_timeout(), Some(talk.now + HANDSHAKE));
    let why = talk.wait_for_failure(HANDSHAKE).expect("a failure");
    assert_eq!(why, "did not answer initialize within 60s");
    assert_eq!(talk.conversation.poll_timeout(), None);
    assert_eq!(texts(talk.conversation.abandon(&why)), "Some(\"1\");");
}

#[test]
fn own_initialize_answered_with_another_spelling_of_its_id_or_none_is_not_the_clients() {
    for id in ["2147483647.0", r#""2147483647""#] {
        let id = ids::canonical(id).unwrap();
        let mut talk = Talk::new(true);
        talk.client_says(LIST);
        talk.wait(PARK);
        let answer = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#);
        assert!(matches!(talk.says(&answer), Said::Ours));
    }
    for id in [Some(OWN_ID), None] {
        let mut talk = Talk::new(true);
        talk.client_says(LIST);
        talk.wait(PARK);
        assert!(matches!(talk.loses(id, None), Said::Refused(why) if why == "why"));
        assert_eq!(texts(talk.conversation.abandon("x")), "Some(\"1\");");
    }
}

/// What the client is told of the request with this raw id, whose answer is lost.
fn lost(id: &str) -> String {
    let why = "the server's answer cannot be passed on: why";
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32603,"message":"{why}"}}}}"#)
}

#[test]
fn lost_answer_is_told_to_its_request_by_id_or_as_the_only_one() {
    let mut talk = Talk::new(true);
    for text in [INITIALIZE, LIST, CALL] {
        talk.client_says(text);
        talk.process_hears(&[text]);
    }
    let said = |said: Said| match said {
        Said::ForClient(message) => message.text().to_owned(),
        other @ (Said::Ours | Said::Unasked | Said::Refused(_)) => format!("{other:?}"),
    };
    assert_eq!(said(talk.loses(None, None)), "Unasked", "three are under way");
    assert_eq!(said(talk.loses(Some("9"), None)), "Unasked");
    assert_eq!(said(talk.loses(Some(r#""0""#), None)), lost("0"));
    assert_eq!(said(talk.loses(Some("1"), None)), lost("1"));
    // The rest of what has been answered so comes too late.
    assert_eq!(said(talk.says(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#)), "Unasked");
    // An error without an id is the only one's.
    let error = r#"{"code":-32700,"message":"?"}"#;
    let told = format!(r#"{{"jsonrpc":"2.0","id":"two","error":{error}}}"#);
    assert_eq!(said(talk.loses(None, Some(error))), told);
    assert_eq!(said(talk.loses(None, None)), "Unasked", "none is under way");
    assert!(talk.conversation.abandon("x").is_empty());
}

#[test]
fn request_of_the_process_that_cannot_be_passed_on_is_answered() {
    let mut talk = Talk::new(true);
    talk.client_says(INITIALIZE);
    talk.process_hears(&[INITIALIZE]);
    let unread = || {
        let (id, code) = ("\"\u{2028}\"".into(), code::PARSE_ERROR);
        Printed::Unread(Unread { id, code, why: "why".into() })
    };
    assert!(matches!(talk.conversation.handle_printed(unread()), Said::Ours));
    talk.conversation.refuse_process("7", "too large");
    talk.conversation.refuse_process(&"7".repeat(ID_BYTES_MAX + 1), "too large");
    talk.process_hears(&[
        r#"{"jsonrpc":"2.0","id":"\u2028","error":{"code":-32700,"message":"the request cannot be passed on: why"}}"#,
        r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32603,"message":"too large"}}"#,
    ]);
    // One that does not read is not answered for ever.
    for _ in 0..2 * ANSWERED_LINES_MAX {
        assert!(matches!(talk.conversation.handle_printed(unread()), Said::Ours));
    }
    assert_eq!(core::iter::from_fn(|| talk.conversation.poll_line()).count(), ANSWERED_LINES_MAX);
}

#[test]
fn line_separators_are_escaped_towards_the_process() {
    let mut talk = Talk::new(true);
    talk.client_says(INITIALIZE);
    talk.process_hears(&[INITIALIZE]);
    talk.client_says("{\"jsonrpc\":\"2.0\",\"id\":\"\u{2028}\",\"method\":\"a\u{85}\u{2029}“\"}");
    talk.process_hears(&[r#"{"jsonrpc":"2.0","id":"\u2028","method":"a\u0085\u2029“"}"#]);
    let words = String::from_utf8(talk.conversation.last_words()).unwrap();
    assert!(words.contains(r#""requestId":"\u2028""#), "{words}");
    // The id comes back as the client spelled it.
    let answer = r#"{"jsonrpc":"2.0","id":"\u2028","result":{}}"#;
    talk.client_hears(answer, "{\"jsonrpc\":\"2.0\",\"id\":\"\u{2028}\",\"result\":{}}");
}

#[test]
fn nobody_is_introduced_where_that_is_off() {
    let mut talk = Talk::new(false);
    talk.client_says(LIST);
    talk.client_says(CALL);
    talk.wait(PARK);
    talk.process_hears(&[LIST, CALL]);
    talk.client_says(INITIALIZE);
    talk.process_hears(&[INITIALIZE]);
}

#[test]
fn without_a_request_nothing_is_known_yet() {
    let mut talk = Talk::new(true);
    talk.client_says(PROGRESS);
    talk.wait(PARK);
    talk.process_hears(&[PROGRESS]);
    talk.wait(PARK);
    talk.client_says(LIST);
    talk.process_hears(&[]);
    talk.client_says(INITIALIZE);
    talk.process_hears(&[INITIALIZE, LIST]);
}

#[test]
fn a_handshake_that_is_refused() {
    let mut talk = Talk::new(true);
    talk.client_says(LIST);
    talk.wait(PARK);
    let answer = format!(r#"{{"jsonrpc":"2.0","id":{OWN_ID},"error":{{"message":"too old"}}}}"#);
    match talk.says(&answer) {
        Said::Refused(why) => assert!(why.contains("too old"), "{why}"),
        other @ (Said::Ours | Said::Unasked | Said::ForClient(_)) => panic!("{other:?}"),
    }
    assert_eq!(texts(talk.conversation.abandon("because")), "Some(\"1\");");
}

#[test]
fn what_is_parked_is_bounded() {
    let mut talk = Talk::new(true);
    for _ in 0..PARKED_MAX {
        talk.client_says(PROGRESS);
    }
    assert!(!talk.conversation.takes_message());
    talk.wait(PARK);
    assert!(!talk.conversation.takes_message());
    talk.process_hears(&[PROGRESS; PARKED_MAX]);
    let large = format!(
        r#"{{"jsonrpc":"2.0","method":"large","params":["{}"]}}"#,
        "x".repeat(PARKED_BYTES_MAX)
    );
    talk.client_says(&large);
    assert!(!talk.conversation.takes_message());
}

#[test]
fn last_words_take_back_what_is_under_way() {
    let mut talk = Talk::new(true);
    for text in [INITIALIZE, LIST, CALL] {
        talk.client_says(text);
        talk.process_hears(&[text]);
    }
    talk.process_says(r#"{"jsonrpc":"2.0","id":0,"result":{}}"#);
    let words = String::from_utf8(talk.conversation.last_words()).unwrap();
    let ids: Vec<_> =
        words.lines().map(|line| message(line).cancelled_id().map(str::to_owned)).collect();
    assert_eq!(ids, [Some("1".into()), Some(r#""two""#.into())]);
    // The client took one back by itself; the other is answered.
    talk.client_says(
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#,
    );
    while talk.conversation.poll_line().is_some() {}
    talk.process_says(r#"{"jsonrpc":"2.0","id":"two","error":{}}"#);
    assert_eq!(talk.conversation.last_words(), b"");
    // What the process never heard of needs no taking back.
    let mut talk = Talk::new(true);
    talk.client_says(LIST);
    assert_eq!(talk.conversation.last_words(), b"");
}

#[test]
fn whoever_waits_is_told_of_the_end() {
    let mut talk = Talk::new(true);
    talk.client_says(INITIALIZE);
    talk.process_hears(&[INITIALIZE]);
    talk.client_says(CALL);
    talk.process_hears(&[CALL]);
    let frames = talk.conversation.abandon("MCP server process exited (status 3)");
    assert_eq!(texts(frames), r#"Some("0");Some("\"two\"");"#);
    assert!(talk.conversation.abandon("again").is_empty());
    let late = talk.conversation.handle_message(message(LIST), talk.now).unwrap();
    assert_eq!(late.answered_id(), Some("1"));
    assert!(talk.conversation.handle_message(message(PROGRESS), talk.now).is_none());
}

#[test]
fn an_id_is_kept_until_the_answer_and_so_has_a_limit() {
    let mut talk = Talk::new(true);
    let request = |length: usize| {
        format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"m"}}"#, "i".repeat(length - 2))
    };
    talk.client_says(&request(ID_BYTES_MAX));
    let long = message(&request(ID_BYTES_MAX + 1));
    let refused = talk.conversation.handle_message(long, talk.now).unwrap();
    assert_eq!(refused.answered_id().map(str::len), Some(ID_BYTES_MAX + 1));
}

#[test]
fn a_message_is_one_line() {
    let mut talk = Talk::new(true);
    let pretty = "{\r\n  \"jsonrpc\": \"2.0\",\n  \"id\": 0, \"method\": \"initialize\"\n}";
    talk.client_says(pretty);
    talk.process_hears(&[r#"{  "jsonrpc": "2.0",  "id": 0, "method": "initialize"}"#]);
}

#[test]
fn ids_may_come_back_spelled_in_another_way() {
    let mut talk = Talk::new(true);
    talk.client_says(INITIALIZE);
    talk.process_hears(&[INITIALIZE]);
    for id in [r#""\u0061""#, r#""1""#, "1", r#""gone\/""#] {
        let request = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/list"}}"#);
        talk.client_says(&request);
        talk.process_hears(&[&request]);
    }
    let answer = |id: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#);
    talk.client_hears(&answer(r#""a""#), &answer(r#""\u0061""#));
    // An exact match goes before one by value.
    talk.client_hears(&answer(r#""\u0031""#), &answer(r#""1""#));
    talk.client_hears(&answer("-0"), &answer("0"));
    let cancelled =
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"gone/"}}"#;
    talk.client_says(cancelled);
    talk.process_hears(&[cancelled]);
    assert_eq!(texts(talk.conversation.abandon("it is gone")), r#"Some("1");"#);
}
