use core::time::Duration;

use super::*;

/// A conversation, and the time.
struct Talk {
    conversation: Conversation,
    now: Instant,
}

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}"#;
const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
const CALL: &str = r#"{"jsonrpc":"2.0","id":"two","method":"tools/call"}"#;
const PROGRESS: &str = r#"{"jsonrpc":"2.0","method":"notifications/progress"}"#;

fn message(text: &str) -> Message {
    Message::read(text.as_bytes().to_vec(), None).unwrap()
}

impl Talk {
    fn new(shakes_hands: bool) -> Self {
        Self { conversation: Conversation::new(shakes_hands), now: Instant::now() }
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
        match self.conversation.handle_said(message(text)) {
            Said::ForClient(passed) => assert_eq!(passed.text(), text),
            other @ (Said::Ours | Said::Refused(_)) => panic!("{other:?}"),
        }
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        if self.conversation.poll_timeout().is_some_and(|at| at <= self.now) {
            self.conversation.handle_timeout(self.now);
        }
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
    let own = String::from_utf8(own_initialize()).unwrap();
    assert!(own.contains(r#""protocolVersion":"2024-11-05""#), "{own}");
    assert!(own.contains(r#""name":"mcp-sse-bridge""#), "{own}");
    talk.process_hears(&[own.trim_end()]);
    talk.client_says(CALL);
    talk.wait(PARK * 10);
    // Only the answer to ours is ours.
    talk.process_says(PROGRESS);
    talk.process_says(r#"{"jsonrpc":"2.0","id":7,"result":{}}"#);
    talk.process_hears(&[]);
    let answer = format!(r#"{{"jsonrpc":"2.0","id":{OWN_ID},"result":{{"capabilities":{{}}}}}}"#);
    assert!(matches!(talk.conversation.handle_said(message(&answer)), Said::Ours));
    talk.process_hears(&[INITIALIZED, PROGRESS, LIST, CALL]);
    // And only once.
    talk.process_says(&answer);
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
    match talk.conversation.handle_said(message(&answer)) {
        Said::Refused(why) => assert!(why.contains("too old"), "{why}"),
        other @ (Said::Ours | Said::ForClient(_)) => panic!("{other:?}"),
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
    talk.process_says(r#"{"jsonrpc":"2.0","id":"a","result":{}}"#);
    // A string is no number.
    talk.process_says(r#"{"jsonrpc":"2.0","id":"\u0031","result":{}}"#);
    talk.process_says(r#"{"jsonrpc":"2.0","id":-0,"result":{}}"#);
    let cancelled =
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"gone/"}}"#;
    talk.client_says(cancelled);
    talk.process_hears(&[cancelled]);
    assert_eq!(texts(talk.conversation.abandon("it is gone")), r#"Some("1");"#);
}
