mod routing;
mod subscriptions;

use super::*;

/// A mux, what it says, and the time.
struct Stage {
    mux: Mux,
    now: Time,
    members: u64,
}

const HELLO: &str = r#"{"jsonrpc":"2.0","id":ID,"method":"initialize","params":{"protocolVersion":"2024-11-05","capabilities":{"sampling":{}},"clientInfo":{"name":"c","version":"1"}}}"#;
const WELCOME: &str = r#"{"capabilities":{"tools":{}},"protocolVersion":"2024-11-05"}"#;

fn message(text: &str) -> Message {
    Message::read(text.into(), None).unwrap_or_else(|(why, _)| panic!("{why}: {text}"))
}

fn hello(id: &str) -> String {
    HELLO.replace("ID", id)
}

/// `{"jsonrpc":"2.0",..}` around these members.
fn m(members: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0",{members}}}"#)
}

fn welcome(id: &str) -> String {
    m(&format!(r#""id":{id},"result":{WELCOME}"#))
}

impl Stage {
    fn new() -> Self {
        Self::with(|_| ())
    }

    fn with(change: impl FnOnce(&mut MuxLimits)) -> Self {
        let mut limits = MuxLimits::default();
        change(&mut limits);
        Self { mux: Mux::new(limits), now: Time::from_micros(7), members: 0 }
    }

    /// One whose server has greeted one session, whose number is 1. The server's next number is 2.
    fn ready() -> (Self, Member) {
        let mut stage = Self::new();
        let first = stage.join();
        stage.mux.handle_started(stage.now);
        stage.says(first, &hello("1"));
        stage.answers(&m(&format!(r#""id":1,"result":{WELCOME}"#)));
        stage.heard();
        (stage, first)
    }

    fn join(&mut self) -> Member {
        self.members += 1;
        self.mux.join(Member(self.members));
        Member(self.members)
    }

    fn says(&mut self, member: Member, text: &str) {
        self.mux.handle_session(member, message(text), self.now);
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

    /// What was put out since, as `> text` to the server and `3: text` to session 3.
    fn heard(&mut self) -> Vec<String> {
        core::iter::from_fn(|| self.mux.poll_output())
            .map(|output| match output {
                Output::Server(text) | Output::Answer(text) => format!("> {text}"),
                Output::Session(Member(member), frame) => {
                    let event = core::str::from_utf8(frame.bare()).expect("UTF-8");
                    let text = event.strip_prefix("event: message\ndata: ").expect("a message");
                    format!("{member}: {}", text.trim_end())
                }
                Output::Abandon(why) => format!("! {why}"),
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

fn greeting(number: u64) -> String {
    let params = r#"{"capabilities":{},"protocolVersion":"2024-11-05","clientInfo":{"name":"c","version":"1"}}"#;
    format!("> {}", m(&format!(r#""id":{number},"method":"initialize","params":{params}"#)))
}

fn away(member: u64, id: &str) -> String {
    let error = r#"{"code":-32603,"message":"MCP server process exited (status 1)"}"#;
    format!("{member}: {}", m(&format!(r#""id":{id},"error":{error}"#)))
}

fn busy(member: u64, id: &str) -> String {
    let error = r#"{"code":-32000,"message":"server busy"}"#;
    format!("{member}: {}", m(&format!(r#""id":{id},"error":{error}"#)))
}

// ---- the handshake -----------------------------------------------------------------------------

#[test]
fn the_first_initialize_is_passed_on_and_its_result_replayed() {
    let mut stage = Stage::new();
    let (a, b) = (stage.join(), stage.join());
    stage.says(a, &hello(r#""first""#));
    stage.hears::<&str>(&[]);
    stage.starts();
    stage.hears(&[greeting(1)]);
    // Both wait for the one handshake.
    stage.says(b, &hello("0"));
    stage.says(a, &m(r#""method":"notifications/initialized""#));
    stage.says(b, &m(r#""id":1,"method":"tools/list""#));
    stage.hears::<&str>(&[]);
    stage.answers(&welcome("1"));
    stage.hears(&[
        INITIALIZED.to_owned(),
        format!("1: {}", welcome(r#""first""#)),
        format!("2: {}", welcome("0")),
        format!("> {}", m(r#""id":2,"method":"tools/list""#)),
    ]);
    // Later ones are answered here, and nothing reaches the server.
    let c = stage.join();
    stage.says(c, &hello("123456789012345678901234567890"));
    stage.says(c, &m(r#""method":"notifications/initialized""#));
    stage.hears(&[format!("3: {}", welcome("123456789012345678901234567890"))]);
    assert!(stage.mux.is_ready());
}

#[test]
fn an_initialize_that_is_refused_is_its_askers_and_the_next_is_tried() {
    let mut stage = Stage::new();
    let (a, b) = (stage.join(), stage.join());
    stage.starts();
    stage.says(a, &m(r#""id":5,"method":"initialize""#));
    stage.hears(&[format!(
        "> {}",
        m(r#""id":1,"method":"initialize","params":{"capabilities":{}}"#)
    )]);
    stage.says(b, &hello("6"));
    stage.answers(&m(r#""id":1,"error":{"code":-32602,"message":"no version"}"#));
    stage.hears(&[
        format!("1: {}", m(r#""id":5,"error":{"code":-32602,"message":"no version"}"#)),
        greeting(2),
    ]);
    stage.answers(&welcome("2"));
    stage.hears(&[INITIALIZED.to_owned(), format!("2: {}", welcome("6"))]);
}

#[test]
fn an_initialize_that_can_be_read_in_two_ways_is_refused() {
    let mut stage = Stage::new();
    let a = stage.join();
    stage.starts();
    stage.says(a, &m(r#""id":5,"method":"initialize","params":{},"params":{"capabilities":{}}"#));
    let error = r#"{"code":-32602,"message":"params can be read in more than one way"}"#;
    stage.hears(&[format!("1: {}", m(&format!(r#""id":5,"error":{error}"#)))]);
}

#[test]
fn a_session_that_does_not_initialize_waits_and_is_spared_it() {
    let mut stage = Stage::new();
    let a = stage.join();
    stage.starts();
    stage.says(a, &m(r#""id":5,"method":"ping""#));
    stage.wait(1_999);
    stage.hears::<&str>(&[]);
    stage.wait(1);
    let params = unknown_client();
    let hello = format!("> {}", m(&format!(r#""id":1,"method":"initialize","params":{params}"#)));
    stage.hears(&[hello]);
    stage.answers(&welcome("1"));
    stage.hears(&[INITIALIZED.to_owned(), format!("> {}", m(r#""id":2,"method":"ping""#))]);
    stage.answers(&m(r#""id":2,"result":{}"#));
    stage.hears(&[format!("1: {}", m(r#""id":5,"result":{}"#))]);
}

#[test]
fn an_initialize_in_time_goes_before_what_overtook_it() {
    let mut stage = Stage::new();
    let a = stage.join();
    stage.starts();
    stage.says(a, &m(r#""id":5,"method":"ping""#));
    stage.wait(1_999);
    stage.says(a, &hello("4"));
    stage.hears(&[greeting(1)]);
    stage.answers(&welcome("1"));
    stage.hears(&[
        INITIALIZED.to_owned(),
        format!("1: {}", welcome("4")),
        format!("> {}", m(r#""id":2,"method":"ping""#)),
    ]);
}

#[test]
fn a_server_that_refuses_our_own_handshake_fails_who_waits_and_nobody_later() {
    let mut stage = Stage::new();
    let a = stage.join();
    stage.starts();
    stage.says(a, &m(r#""id":5,"method":"ping""#));
    stage.says(a, &m(r#""method":"notifications/x""#));
    stage.wait(2_000);
    stage.heard();
    stage.answers(&m(r#""id":1,"error":{"code":1,"message":"no"}"#));
    let said = r#"MCP server process refused initialize: {\"code\":1,\"message\":\"no\"}"#;
    let error = format!(r#"{{"code":-32603,"message":"{said}"}}"#);
    stage.hears(&[format!("1: {}", m(&format!(r#""id":5,"error":{error}"#)))]);
    assert_eq!(stage.mux.poll_timeout(), None);
    assert_eq!(stage.mux.counts().notifications_dropped, 1);
    stage.says(a, &hello("6"));
    stage.hears(&[greeting(2)]);
}

#[test]
fn a_server_that_never_answers_initialize_is_given_up_once() {
    let mut stage = Stage::new();
    let a = stage.join();
    stage.starts();
    stage.says(a, &hello("1"));
    stage.heard();
    stage.wait(119_999);
    stage.hears::<&str>(&[]);
    stage.wait(1);
    stage.hears(&["! did not answer initialize within 120s"]);
    stage.wait(500_000);
    stage.hears::<&str>(&[]);
    stage.exits();
    stage.hears(&[away(1, "1")]);
}

// ---- ids ---------------------------------------------------------------------------------------

#[test]
fn a_session_that_leaves_takes_back_what_it_asked() {
    let (mut stage, a) = Stage::ready();
    let b = stage.join();
    for id in 1..=2 {
        stage.says(a, &m(&format!(r#""id":{id},"method":"a""#)));
        stage.says(b, &m(&format!(r#""id":{id},"method":"b""#)));
    }
    stage.heard();
    stage.mux.leave(a);
    stage.mux.leave(a);
    stage.mux.check();
    let taken_back = |number: u64| {
        let params = format!(r#"{{"requestId":{number},"reason":"the session has ended"}}"#);
        format!("> {}", m(&format!(r#""method":"notifications/cancelled","params":{params}"#)))
    };
    stage.hears(&[taken_back(2), taken_back(4)]);
    stage.answers(&m(r#""id":2,"result":{}"#));
    stage.says(a, &m(r#""id":9,"method":"late""#));
    stage.answers(&m(r#""id":3,"result":{}"#));
    stage.hears(&[format!("2: {}", m(r#""id":1,"result":{}"#))]);
    assert_eq!(stage.mux.counts().answers_dropped, 1);
    assert_eq!((stage.mux.requests(), stage.mux.sessions()), (1, 1));
}

#[test]
fn the_asker_of_the_handshake_may_leave() {
    let mut stage = Stage::new();
    let (a, b) = (stage.join(), stage.join());
    stage.starts();
    stage.says(a, &hello("1"));
    stage.says(a, &m(r#""id":2,"method":"a""#));
    stage.says(b, &hello("1"));
    stage.heard();
    stage.mux.leave(a);
    stage.mux.check();
    stage.answers(&welcome("1"));
    stage.hears(&[INITIALIZED.to_owned(), format!("2: {}", welcome("1"))]);
    stage.mux.leave(b);
    assert!(!stage.mux.wants_server());
}

#[test]
fn an_exit_is_told_to_each_who_waits_and_the_next_server_is_greeted_alike() {
    let (mut stage, a) = Stage::ready();
    let b = stage.join();
    stage.says(a, &m(r#""id":1,"method":"a""#));
    stage.says(b, &m(r#""id":1,"method":"b""#));
    stage.says(a, &m(r#""id":"2","method":"a""#));
    stage.heard();
    stage.exits();
    stage.hears(&[away(1, "1"), away(2, "1"), away(1, r#""2""#)]);
    // What comes meanwhile waits for the handshake, in order.
    stage.says(b, &m(r#""id":3,"method":"b""#));
    stage.wait(1_000);
    stage.starts();
    stage.hears(&[greeting(5)]);
    stage.says(a, &m(r#""id":4,"method":"a""#));
    let c = stage.join();
    stage.says(c, &hello("5"));
    // The last server's answers come too late.
    stage.answers(&m(r#""id":2,"result":{}"#));
    stage.hears::<&str>(&[]);
    stage.answers(&m(r#""id":5,"result":{"new":1}"#));
    stage.hears(&[
        INITIALIZED.to_owned(),
        format!("> {}", m(r#""id":6,"method":"b""#)),
        format!("> {}", m(r#""id":7,"method":"a""#)),
        format!("3: {}", m(r#""id":5,"result":{"new":1}"#)),
    ]);
}

#[test]
fn an_exit_during_the_handshake_is_the_askers() {
    let mut stage = Stage::new();
    let (a, b) = (stage.join(), stage.join());
    stage.starts();
    stage.says(a, &hello("1"));
    stage.says(b, &hello("2"));
    stage.heard();
    assert_eq!(stage.mux.requests(), 1, "it is lost with the process; the other waits");
    stage.exits();
    stage.hears(&[away(1, "1")]);
    stage.starts();
    stage.hears(&[greeting(2)]);
    stage.answers(&welcome("2"));
    stage.hears(&[INITIALIZED.to_owned(), format!("2: {}", welcome("2"))]);
}

#[test]
fn nobody_waits_for_a_server_that_stays_away() {
    let (mut stage, a) = Stage::ready();
    stage.exits();
    stage.says(a, &m(r#""id":1,"method":"a""#));
    stage.says(a, &m(r#""method":"notifications/x""#));
    stage.wait(4_000);
    // Trying again and failing does not begin the time anew.
    stage.starts();
    stage.heard();
    stage.exits();
    stage.says(a, &m(r#""id":2,"method":"a""#));
    stage.hears::<&str>(&[]);
    stage.wait(1_000);
    stage.hears(&[away(1, "1"), away(1, "2")]);
    assert_eq!(stage.mux.counts().notifications_dropped, 1);
    stage.wait(1_000);
    stage.says(a, &m(r#""id":3,"method":"a""#));
    stage.hears(&[away(1, "3")]);
    // Back in order: the next outage has its own time.
    stage.starts();
    stage.heard();
    stage.answers(&welcome("3"));
    stage.heard();
    stage.exits();
    stage.says(a, &m(r#""id":4,"method":"a""#));
    stage.wait(4_999);
    stage.hears::<&str>(&[]);
    stage.wait(1);
    stage.hears(&[away(1, "4")]);
}

#[test]
fn what_the_last_server_was_to_be_told_the_next_is_not() {
    let (mut stage, a) = Stage::ready();
    stage.says(a, &m(r#""id":1,"method":"a""#));
    stage.answers(&m(r#""id":1,"method":"ping""#));
    stage.exits();
    stage.hears(&[away(1, "1")]);
}

// ---- limits ------------------------------------------------------------------------------------

#[test]
fn requests_are_bounded() {
    let (mut stage, a) = Stage::ready();
    stage.mux.limits.requests_max = 2;
    for id in 1..=3 {
        stage.says(a, &m(&format!(r#""id":{id},"method":"a""#)));
    }
    let heard = stage.heard();
    assert_eq!(heard[2], busy(1, "3"));
    stage.answers(&m(r#""id":2,"result":{}"#));
    stage.heard();
    stage.says(a, &m(r#""id":4,"method":"a""#));
    stage.hears(&[format!("> {}", m(r#""id":4,"method":"a""#))]);
    assert_eq!(stage.mux.counts().requests_refused, 1);
}

#[test]
fn ids_that_are_kept_are_bounded() {
    let (mut stage, a) = Stage::ready();
    let b = stage.join();
    stage.mux.limits.session_ids_bytes_max = 10;
    stage.mux.limits.ids_bytes_max = 25;
    let ask = |id: &str| m(&format!(r#""id":"{id}","method":"a""#));
    stage.says(a, &ask("01234567"));
    assert_eq!(stage.heard().len(), 1);
    stage.says(a, &ask(""));
    stage.hears(&[busy(1, r#""""#)]);
    stage.says(b, &ask("01"));
    stage.says(b, &ask("0123"));
    assert_eq!(stage.mux.requests(), 3);
    stage.heard();
    // All together.
    let c = stage.join();
    stage.says(c, &ask("0123456"));
    stage.hears(&[busy(3, r#""0123456""#)]);
    // Tokens count as well.
    stage.answers(&m(r#""id":2,"result":{}"#));
    stage.heard();
    let token = r#""params":{"_meta":{"progressToken":"0123456789"}}"#;
    stage.says(c, &m(&format!(r#""id":9,"method":"a",{token}"#)));
    stage.hears(&[busy(3, "9")]);
}

#[test]
fn long_ids_and_tokens_are_refused() {
    let (mut stage, a) = Stage::ready();
    stage.mux.limits.id_bytes_max = 6;
    stage.says(a, &m(r#""id":"0123","method":"a""#));
    assert_eq!(stage.heard().len(), 1);
    let error = |code: i32, what: &str| {
        format!(r#""error":{{"code":{code},"message":"the {what} is longer than 6 bytes"}}"#)
    };
    for method in ["a", "initialize"] {
        stage.says(a, &m(&format!(r#""id":"01234","method":"{method}""#)));
        let told = m(&format!(r#""id":"01234",{}"#, error(-32600, "id")));
        stage.hears(&[format!("1: {told}")]);
    }
    let token = r#""params":{"_meta":{"progressToken":"01234"}}"#;
    stage.says(a, &m(&format!(r#""id":9,"method":"a",{token}"#)));
    let told = m(&format!(r#""id":9,{}"#, error(-32602, "progress token")));
    stage.hears(&[format!("1: {told}")]);
}

#[test]
fn what_is_parked_is_bounded() {
    let mut stage = Stage::with(|limits| {
        limits.session_parked_max = 2;
        limits.parked_max = 3;
        limits.parked_bytes_max = 1_000;
    });
    let (a, b) = (stage.join(), stage.join());
    for id in 1..=3 {
        stage.says(a, &m(&format!(r#""id":{id},"method":"a""#)));
    }
    stage.hears(&[busy(1, "3")]);
    stage.says(b, &m(r#""id":1,"method":"b""#));
    stage.says(b, &m(r#""id":2,"method":"b""#));
    stage.hears(&[busy(2, "2")]);
    stage.says(b, &m(r#""method":"notifications/x""#));
    assert_eq!(stage.mux.counts().notifications_dropped, 1);
    // The places of a session that leaves are free.
    stage.mux.leave(a);
    stage.mux.check();
    let long = "x".repeat(1_000);
    stage.says(b, &m(&format!(r#""id":3,"method":"{long}""#)));
    stage.hears(&[busy(2, "3")]);
    stage.says(b, &m(r#""id":4,"method":"b""#));
    stage.hears::<&str>(&[]);
}
