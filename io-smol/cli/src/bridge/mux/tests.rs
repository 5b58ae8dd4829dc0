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
    let hello = format!("> {}", m(&format!(r#""id":1,"method":"initialize","params":{GREETING}"#)));
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
    for id in ["1", "3", r#""2""#, "02", "-2", "+2", "99999999999999999999999"] {
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
    for token in ["1", "2", "4", r#""3""#, "3.0", "null"] {
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
