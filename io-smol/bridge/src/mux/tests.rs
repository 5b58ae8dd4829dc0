mod routing;
mod subscriptions;

use super::*;

/// A mux and the current time.
struct MuxTest {
    mux: Mux,
    now: Time,
    members: u64,
}

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":ID,"method":"initialize","params":{"protocolVersion":"2024-11-05","capabilities":{"sampling":{}},"clientInfo":{"name":"c","version":"1"}}}"#;
const INITIALIZE_RESULT: &str = r#"{"capabilities":{"tools":{}},"protocolVersion":"2024-11-05"}"#;

fn message(text: &str) -> Message {
    Message::read(text.into(), None).unwrap_or_else(|(why, _)| panic!("{why}: {text}"))
}

fn initialize_of(id: &str) -> String {
    INITIALIZE.replace("ID", id)
}

/// `{"jsonrpc":"2.0",..}` around these members.
fn m(members: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0",{members}}}"#)
}

fn initialize_result(id: &str) -> String {
    m(&format!(r#""id":{id},"result":{INITIALIZE_RESULT}"#))
}

impl MuxTest {
    fn new() -> Self {
        Self::with(|_| ())
    }

    fn with(change: impl FnOnce(&mut MuxLimits)) -> Self {
        let mut limits = MuxLimits::default();
        change(&mut limits);
        Self { mux: Mux::new(limits), now: Time::from_micros(7), members: 0 }
    }

    /// A mux that is ready, with one session, whose key is returned. The next request to the server has the number 2.
    fn ready() -> (Self, SessionKey) {
        let mut test = Self::new();
        let first = test.join();
        test.mux.handle_started(test.now);
        test.says(first, &initialize_of("1"));
        test.answers(&m(&format!(r#""id":1,"result":{INITIALIZE_RESULT}"#)));
        test.heard();
        (test, first)
    }

    fn join(&mut self) -> SessionKey {
        self.members += 1;
        self.mux.join(SessionKey(self.members));
        SessionKey(self.members)
    }

    fn says(&mut self, key: SessionKey, text: &str) {
        self.mux.handle_session(key, message(text), self.now);
        self.mux.check();
    }

    fn answers(&mut self, text: &str) {
        self.mux.handle_server(&message(text), self.now);
        self.mux.check();
    }

    fn exits(&mut self) {
        self.mux.handle_exit("exited (status 1)", self.now);
        self.mux.check();
    }

    fn starts(&mut self) {
        self.mux.handle_started(self.now);
        self.mux.check();
    }

    fn wait(&mut self, millis: u64) {
        self.now = self.now.saturating_add(Duration::from_millis(millis));
        self.mux.handle_timeout(self.now);
        self.mux.check();
    }

    /// The outputs since the last call: `> text` for the server, `3: text` for session 3.
    fn heard(&mut self) -> Vec<String> {
        core::iter::from_fn(|| self.mux.poll_output())
            .map(|output| match output {
                MuxOutput::Server(text) | MuxOutput::Answer(text) => format!("> {text}"),
                MuxOutput::Session(SessionKey(key), frame) => {
                    let event = core::str::from_utf8(frame.bare()).expect("UTF-8");
                    let text = event.strip_prefix("event: message\ndata: ").expect("a message");
                    format!("{key}: {}", text.trim_end())
                }
                MuxOutput::Abandon(why) => format!("! {why}"),
            })
            .collect()
    }

    #[track_caller]
    fn hears<T: AsRef<str>>(&mut self, expected: &[T]) {
        let expected: Vec<&str> = expected.iter().map(AsRef::as_ref).collect();
        assert_eq!(self.heard(), expected);
    }
}

const INITIALIZED: &str = r#"> {"jsonrpc":"2.0","method":"notifications/initialized"}"#;

fn initialize(number: u64) -> String {
    let params = r#"{"capabilities":{},"protocolVersion":"2024-11-05","clientInfo":{"name":"c","version":"1"}}"#;
    format!("> {}", m(&format!(r#""id":{number},"method":"initialize","params":{params}"#)))
}

fn away(key: u64, id: &str) -> String {
    let error = r#"{"code":-32603,"message":"MCP server process exited (status 1)"}"#;
    format!("{key}: {}", m(&format!(r#""id":{id},"error":{error}"#)))
}

fn busy(key: u64, id: &str) -> String {
    let error = r#"{"code":-32000,"message":"server busy"}"#;
    format!("{key}: {}", m(&format!(r#""id":{id},"error":{error}"#)))
}

// ---- the handshake -----------------------------------------------------------------------------

#[test]
fn first_initialize_is_sent_and_its_result_replayed() {
    let mut test = MuxTest::new();
    let (a, b) = (test.join(), test.join());
    test.says(a, &initialize_of(r#""first""#));
    test.hears::<&str>(&[]);
    test.starts();
    test.hears(&[initialize(1)]);
    // Both sessions wait for the same handshake.
    test.says(b, &initialize_of("0"));
    test.says(a, &m(r#""method":"notifications/initialized""#));
    test.says(b, &m(r#""id":1,"method":"tools/list""#));
    test.hears::<&str>(&[]);
    test.answers(&initialize_result("1"));
    test.hears(&[
        INITIALIZED.to_owned(),
        format!("1: {}", initialize_result(r#""first""#)),
        format!("2: {}", initialize_result("0")),
        format!("> {}", m(r#""id":2,"method":"tools/list""#)),
    ]);
    // The bridge answers a later `initialize` itself.
    let c = test.join();
    test.says(c, &initialize_of("123456789012345678901234567890"));
    test.says(c, &m(r#""method":"notifications/initialized""#));
    test.hears(&[format!("3: {}", initialize_result("123456789012345678901234567890"))]);
    assert!(test.mux.is_ready());
}

#[test]
fn initialize_refused_fails_its_session_and_next_is_tried() {
    let mut test = MuxTest::new();
    let (a, b) = (test.join(), test.join());
    test.starts();
    test.says(a, &m(r#""id":5,"method":"initialize""#));
    test.hears(&[format!(
        "> {}",
        m(r#""id":1,"method":"initialize","params":{"capabilities":{}}"#)
    )]);
    test.says(b, &initialize_of("6"));
    test.answers(&m(r#""id":1,"error":{"code":-32602,"message":"no version"}"#));
    test.hears(&[
        format!("1: {}", m(r#""id":5,"error":{"code":-32602,"message":"no version"}"#)),
        initialize(2),
    ]);
    test.answers(&initialize_result("2"));
    test.hears(&[INITIALIZED.to_owned(), format!("2: {}", initialize_result("6"))]);
}

#[test]
fn initialize_with_ambiguous_params_is_refused() {
    let mut test = MuxTest::new();
    let a = test.join();
    test.starts();
    test.says(a, &m(r#""id":5,"method":"initialize","params":{},"params":{"capabilities":{}}"#));
    let error = r#"{"code":-32602,"message":"params can be read in more than one way"}"#;
    test.hears(&[format!("1: {}", m(&format!(r#""id":5,"error":{error}"#)))]);
}

#[test]
fn missing_initialize_is_sent_after_the_wait() {
    let mut test = MuxTest::new();
    let a = test.join();
    test.starts();
    test.says(a, &m(r#""id":5,"method":"ping""#));
    test.wait(1_999);
    test.hears::<&str>(&[]);
    test.wait(1);
    let params = unknown_client();
    let hello = format!("> {}", m(&format!(r#""id":1,"method":"initialize","params":{params}"#)));
    test.hears(&[hello]);
    test.answers(&initialize_result("1"));
    test.hears(&[INITIALIZED.to_owned(), format!("> {}", m(r#""id":2,"method":"ping""#))]);
    test.answers(&m(r#""id":2,"result":{}"#));
    test.hears(&[format!("1: {}", m(r#""id":5,"result":{}"#))]);
}

#[test]
fn initialize_overtaken_is_sent_first() {
    let mut test = MuxTest::new();
    let a = test.join();
    test.starts();
    test.says(a, &m(r#""id":5,"method":"ping""#));
    test.wait(1_999);
    test.says(a, &initialize_of("4"));
    test.hears(&[initialize(1)]);
    test.answers(&initialize_result("1"));
    test.hears(&[
        INITIALIZED.to_owned(),
        format!("1: {}", initialize_result("4")),
        format!("> {}", m(r#""id":2,"method":"ping""#)),
    ]);
}

#[test]
fn own_handshake_refused_fails_parked_requests_only() {
    let mut test = MuxTest::new();
    let a = test.join();
    test.starts();
    test.says(a, &m(r#""id":5,"method":"ping""#));
    test.says(a, &m(r#""method":"notifications/x""#));
    test.wait(2_000);
    test.heard();
    test.answers(&m(r#""id":1,"error":{"code":1,"message":"no"}"#));
    let said = r#"MCP server process refused initialize: {\"code\":1,\"message\":\"no\"}"#;
    let error = format!(r#"{{"code":-32603,"message":"{said}"}}"#);
    test.hears(&[format!("1: {}", m(&format!(r#""id":5,"error":{error}"#)))]);
    assert_eq!(test.mux.poll_timeout(), None);
    assert_eq!(test.mux.counts.notifications_dropped, 1);
    test.says(a, &initialize_of("6"));
    test.hears(&[initialize(2)]);
}

#[test]
fn server_not_answering_initialize_is_abandoned_once() {
    let mut test = MuxTest::new();
    let a = test.join();
    test.starts();
    test.says(a, &initialize_of("1"));
    test.heard();
    test.wait(119_999);
    test.hears::<&str>(&[]);
    test.wait(1);
    test.hears(&["! did not answer initialize within 120s"]);
    test.wait(500_000);
    test.hears::<&str>(&[]);
    test.exits();
    test.hears(&[away(1, "1")]);
}

// ---- ids ---------------------------------------------------------------------------------------

#[test]
fn session_leaving_cancels_its_requests() {
    let (mut test, a) = MuxTest::ready();
    let b = test.join();
    for id in 1..=2 {
        test.says(a, &m(&format!(r#""id":{id},"method":"a""#)));
        test.says(b, &m(&format!(r#""id":{id},"method":"b""#)));
    }
    test.heard();
    test.mux.leave(a);
    test.mux.leave(a);
    test.mux.check();
    let taken_back = |number: u64| {
        let params = format!(r#"{{"requestId":{number},"reason":"the session has ended"}}"#);
        format!("> {}", m(&format!(r#""method":"notifications/cancelled","params":{params}"#)))
    };
    test.hears(&[taken_back(2), taken_back(4)]);
    test.answers(&m(r#""id":2,"result":{}"#));
    test.says(a, &m(r#""id":9,"method":"late""#));
    test.answers(&m(r#""id":3,"result":{}"#));
    test.hears(&[format!("2: {}", m(r#""id":1,"result":{}"#))]);
    assert_eq!(test.mux.counts.answers_dropped, 1);
    assert_eq!((test.mux.requests(), test.mux.sessions()), (1, 1));
}

#[test]
fn handshake_survives_its_requester_leaving() {
    let mut test = MuxTest::new();
    let (a, b) = (test.join(), test.join());
    test.starts();
    test.says(a, &initialize_of("1"));
    test.says(a, &m(r#""id":2,"method":"a""#));
    test.says(b, &initialize_of("1"));
    test.heard();
    test.mux.leave(a);
    test.mux.check();
    test.answers(&initialize_result("1"));
    test.hears(&[INITIALIZED.to_owned(), format!("2: {}", initialize_result("1"))]);
    test.mux.leave(b);
    assert!(!test.mux.wants_server());
}

#[test]
fn exit_fails_pending_requests_and_next_server_is_initialized_alike() {
    let (mut test, a) = MuxTest::ready();
    let b = test.join();
    test.says(a, &m(r#""id":1,"method":"a""#));
    test.says(b, &m(r#""id":1,"method":"b""#));
    test.says(a, &m(r#""id":"2","method":"a""#));
    test.heard();
    test.exits();
    test.hears(&[away(1, "1"), away(2, "1"), away(1, r#""2""#)]);
    // Messages wait for the handshake, in their order.
    test.says(b, &m(r#""id":3,"method":"b""#));
    test.wait(1_000);
    test.starts();
    test.hears(&[initialize(5)]);
    test.says(a, &m(r#""id":4,"method":"a""#));
    let c = test.join();
    test.says(c, &initialize_of("5"));
    // Answers of the previous server are too late.
    test.answers(&m(r#""id":2,"result":{}"#));
    test.hears::<&str>(&[]);
    test.answers(&m(r#""id":5,"result":{"new":1}"#));
    test.hears(&[
        INITIALIZED.to_owned(),
        format!("> {}", m(r#""id":6,"method":"b""#)),
        format!("> {}", m(r#""id":7,"method":"a""#)),
        format!("3: {}", m(r#""id":5,"result":{"new":1}"#)),
    ]);
}

#[test]
fn exit_during_handshake_fails_the_requester() {
    let mut test = MuxTest::new();
    let (a, b) = (test.join(), test.join());
    test.starts();
    test.says(a, &initialize_of("1"));
    test.says(b, &initialize_of("2"));
    test.heard();
    assert_eq!(test.mux.requests(), 1, "the other request is parked");
    test.exits();
    test.hears(&[away(1, "1")]);
    test.starts();
    test.hears(&[initialize(2)]);
    test.answers(&initialize_result("2"));
    test.hears(&[INITIALIZED.to_owned(), format!("2: {}", initialize_result("2"))]);
}

#[test]
fn requests_during_a_long_outage_fail_at_once() {
    let (mut test, a) = MuxTest::ready();
    test.exits();
    test.says(a, &m(r#""id":1,"method":"a""#));
    test.says(a, &m(r#""method":"notifications/x""#));
    test.wait(4_000);
    // A failed restart does not extend the wait.
    test.starts();
    test.heard();
    test.exits();
    test.says(a, &m(r#""id":2,"method":"a""#));
    test.hears::<&str>(&[]);
    test.wait(1_000);
    test.hears(&[away(1, "1"), away(1, "2")]);
    assert_eq!(test.mux.counts.notifications_dropped, 1);
    test.wait(1_000);
    test.says(a, &m(r#""id":3,"method":"a""#));
    test.hears(&[away(1, "3")]);
    // After a successful restart, the next outage has a wait of its own.
    test.starts();
    test.heard();
    test.answers(&initialize_result("3"));
    test.heard();
    test.exits();
    test.says(a, &m(r#""id":4,"method":"a""#));
    test.wait(4_999);
    test.hears::<&str>(&[]);
    test.wait(1);
    test.hears(&[away(1, "4")]);
}

#[test]
fn lines_for_an_ended_server_do_not_reach_the_next() {
    let (mut test, a) = MuxTest::ready();
    test.says(a, &m(r#""id":1,"method":"a""#));
    test.answers(&m(r#""id":1,"method":"ping""#));
    test.exits();
    test.hears(&[away(1, "1")]);
}

// ---- limits ------------------------------------------------------------------------------------

#[test]
fn pending_requests_are_bounded() {
    let (mut test, a) = MuxTest::ready();
    test.mux.limits.requests_max = 2;
    for id in 1..=3 {
        test.says(a, &m(&format!(r#""id":{id},"method":"a""#)));
    }
    let heard = test.heard();
    assert_eq!(heard[2], busy(1, "3"));
    test.answers(&m(r#""id":2,"result":{}"#));
    test.heard();
    test.says(a, &m(r#""id":4,"method":"a""#));
    test.hears(&[format!("> {}", m(r#""id":4,"method":"a""#))]);
    assert_eq!(test.mux.counts.requests_refused, 1);
}

#[test]
fn kept_ids_are_bounded() {
    let (mut test, a) = MuxTest::ready();
    let b = test.join();
    test.mux.limits.session_ids_bytes_max = 10;
    test.mux.limits.ids_bytes_max = 25;
    let ask = |id: &str| m(&format!(r#""id":"{id}","method":"a""#));
    test.says(a, &ask("01234567"));
    assert_eq!(test.heard().len(), 1);
    test.says(a, &ask(""));
    test.hears(&[busy(1, r#""""#)]);
    test.says(b, &ask("01"));
    test.says(b, &ask("0123"));
    assert_eq!(test.mux.requests(), 3);
    test.heard();
    // The limit for all sessions together.
    let c = test.join();
    test.says(c, &ask("0123456"));
    test.hears(&[busy(3, r#""0123456""#)]);
    // Progress tokens count as well.
    test.answers(&m(r#""id":2,"result":{}"#));
    test.heard();
    let token = r#""params":{"_meta":{"progressToken":"0123456789"}}"#;
    test.says(c, &m(&format!(r#""id":9,"method":"a",{token}"#)));
    test.hears(&[busy(3, "9")]);
}

#[test]
fn long_ids_and_tokens_are_refused() {
    let (mut test, a) = MuxTest::ready();
    test.mux.limits.id_bytes_max = 6;
    test.says(a, &m(r#""id":"0123","method":"a""#));
    assert_eq!(test.heard().len(), 1);
    let error = |code: i32, what: &str| {
        format!(r#""error":{{"code":{code},"message":"the {what} is longer than 6 bytes"}}"#)
    };
    for method in ["a", "initialize"] {
        test.says(a, &m(&format!(r#""id":"01234","method":"{method}""#)));
        let told = m(&format!(r#""id":"01234",{}"#, error(-32600, "id")));
        test.hears(&[format!("1: {told}")]);
    }
    let token = r#""params":{"_meta":{"progressToken":"01234"}}"#;
    test.says(a, &m(&format!(r#""id":9,"method":"a",{token}"#)));
    let told = m(&format!(r#""id":9,{}"#, error(-32602, "progress token")));
    test.hears(&[format!("1: {told}")]);
}

#[test]
fn parked_messages_are_bounded() {
    let mut test = MuxTest::with(|limits| {
        limits.session_parked_max = 2;
        limits.parked_max = 3;
        limits.parked_bytes_max = 1_000;
    });
    let (a, b) = (test.join(), test.join());
    for id in 1..=3 {
        test.says(a, &m(&format!(r#""id":{id},"method":"a""#)));
    }
    test.hears(&[busy(1, "3")]);
    test.says(b, &m(r#""id":1,"method":"b""#));
    test.says(b, &m(r#""id":2,"method":"b""#));
    test.hears(&[busy(2, "2")]);
    test.says(b, &m(r#""method":"notifications/x""#));
    assert_eq!(test.mux.counts.notifications_dropped, 1);
    // When a session leaves, its parked messages are removed.
    test.mux.leave(a);
    test.mux.check();
    let long = "x".repeat(1_000);
    test.says(b, &m(&format!(r#""id":3,"method":"{long}""#)));
    test.hears(&[busy(2, "3")]);
    test.says(b, &m(r#""id":4,"method":"b""#));
    test.hears::<&str>(&[]);
}
