//! Who is told of updates, and what the one server is told of who wants them.

use super::*;

fn subscribe(id: u32, uri: &str) -> String {
    m(&format!(r#""id":{id},"method":"resources/subscribe","params":{{"uri":"{uri}"}}"#))
}

fn unsubscribe(id: u32, uri: &str) -> String {
    m(&format!(r#""id":{id},"method":"resources/unsubscribe","params":{{"uri":"{uri}"}}"#))
}

fn updated(uri: &str) -> String {
    m(&format!(r#""method":"notifications/resources/updated","params":{{"uri":"{uri}"}}"#))
}

fn ok(id: u32) -> String {
    m(&format!(r#""id":{id},"result":{{}}"#))
}

fn refusal(id: u32) -> String {
    m(&format!(r#""id":{id},"error":{{"code":-32002,"message":"no such resource"}}"#))
}

impl Stage {
    /// Subscribes, by the request of this number, and is granted it.
    #[track_caller]
    fn subscribes(&mut self, member: Member, uri: &str, number: u32) {
        self.says(member, &subscribe(9, uri));
        self.hears(&[format!("> {}", subscribe(number, uri))]);
        self.answers(&ok(number));
        self.hears(&[format!("{}: {}", member.0, ok(9))]);
    }

    /// Who hears of an update.
    fn told(&mut self, uri: &str) -> Vec<u64> {
        self.answers(&updated(uri));
        let heard = self.heard();
        heard.iter().map(|heard| heard.split_once(':').unwrap().0.parse().unwrap()).collect()
    }
}

#[test]
fn unsubscribe_reaches_the_server_for_the_last_subscriber_only() {
    let (mut stage, a) = Stage::ready();
    let b = stage.join();
    stage.subscribes(a, "r:x", 2);
    stage.subscribes(b, "r:x", 3);
    stage.says(a, &unsubscribe(5, "r:x"));
    stage.hears(&[format!("1: {}", ok(5))]);
    assert_eq!(stage.told("r:x"), [2]);
    // Once more, and by one who never was.
    stage.says(a, &unsubscribe(6, r"\u0072:x"));
    stage.hears(&[format!("1: {}", ok(6))]);
    stage.says(b, &unsubscribe(7, "r:x"));
    stage.hears(&[format!("> {}", unsubscribe(4, "r:x"))]);
    stage.answers(&ok(4));
    stage.hears(&[format!("2: {}", ok(7))]);
    // Nobody is left, and the server decides what to say to that.
    stage.says(a, &unsubscribe(8, "r:x"));
    stage.hears(&[format!("> {}", unsubscribe(5, "r:x"))]);
}

#[test]
fn subscription_of_ended_session_is_undone_when_it_was_the_last() {
    let (mut stage, a) = Stage::ready();
    let (b, c) = (stage.join(), stage.join());
    stage.subscribes(a, "r:x", 2);
    stage.subscribes(b, "r:x", 3);
    stage.subscribes(b, "r:y", 4);
    stage.mux.leave(a);
    stage.mux.check();
    stage.hears::<&str>(&[]);
    stage.mux.leave(b);
    stage.mux.check();
    stage.hears(&[format!("> {}", unsubscribe(5, "r:x")), format!("> {}", unsubscribe(6, "r:y"))]);
    // What is answered to that is nobody's.
    stage.answers(&ok(5));
    stage.answers(&refusal(6));
    stage.hears::<&str>(&[]);
    // One that was still being asked for.
    stage.says(c, &subscribe(1, "r:z"));
    stage.heard();
    stage.mux.leave(c);
    let heard = stage.heard();
    assert_eq!(heard[0], format!("> {}", unsubscribe(8, "r:z")));
}

#[test]
fn unsubscribe_that_crosses_an_answer_silences_nobody() {
    let (mut stage, a) = Stage::ready();
    let b = stage.join();
    stage.subscribes(a, "r:x", 2);
    stage.says(b, &subscribe(1, "r:x"));
    stage.hears(&[format!("> {}", subscribe(3, "r:x"))]);
    stage.says(a, &unsubscribe(5, "r:x"));
    stage.hears(&[format!("1: {}", ok(5))]);
    stage.answers(&ok(3));
    stage.hears(&[format!("2: {}", ok(1))]);
    assert_eq!(stage.told("r:x"), [2]);
    // The other one's is refused in the end: then nobody wants what the first had been granted.
    stage.subscribes(a, "r:y", 4);
    stage.says(b, &subscribe(2, "r:y"));
    stage.says(a, &unsubscribe(6, "r:y"));
    stage.heard();
    stage.answers(&refusal(5));
    stage.hears(&[format!("> {}", unsubscribe(6, "r:y")), format!("2: {}", refusal(2))]);
}

#[test]
fn refused_subscription_is_none() {
    let (mut stage, a) = Stage::ready();
    stage.says(a, &subscribe(1, "r:x"));
    stage.heard();
    stage.answers(&refusal(2));
    stage.hears(&[format!("1: {}", refusal(1))]);
    stage.mux.leave(a);
    stage.mux.check();
    stage.hears::<&str>(&[]);
}

#[test]
fn stale_answer_grants_nothing() {
    let (mut stage, a) = Stage::ready();
    stage.says(a, &subscribe(1, "r:x"));
    stage.says(a, &unsubscribe(2, "r:x"));
    stage.says(a, &subscribe(3, "r:x"));
    stage.heard();
    stage.answers(&ok(2));
    stage.answers(&ok(3));
    stage.answers(&refusal(4));
    stage.heard();
    stage.mux.leave(a);
    stage.hears::<&str>(&[]);
}

#[test]
fn updates_go_to_subscribers_and_to_all_where_there_are_none() {
    let (mut stage, a) = Stage::ready();
    let (b, c) = (stage.join(), stage.join());
    stage.subscribes(b, "file:///a", 2);
    stage.subscribes(c, "file:///a/b/", 3);
    assert_eq!(stage.told("file:///a"), [2]);
    assert_eq!(stage.told("file:///a/b"), [2]);
    assert_eq!(stage.told("file:///a/b/c"), [2, 3]);
    assert_eq!(stage.told("file:///a#x"), [2]);
    assert_eq!(stage.told("file:///ab"), [1, 2, 3], "spelled in another way, perhaps");
    assert_eq!(stage.told(&format!("file:///a/{}", "x/".repeat(8 << 10))), [1, 2, 3]);
    let other = m(r#""method":"notifications/message","params":{"uri":"file:///a"}"#);
    stage.answers(&other);
    assert_eq!(stage.heard().len(), 3);
    stage.mux.leave(a);
}

#[test]
fn new_server_is_asked_for_what_is_subscribed_to() {
    let (mut stage, a) = Stage::ready();
    let b = stage.join();
    stage.subscribes(a, "r:x", 2);
    stage.subscribes(b, "r:x", 3);
    stage.subscribes(b, "r:y", 4);
    stage.says(a, &subscribe(1, "r:z"));
    stage.heard();
    stage.exits();
    stage.hears(&[away(1, "1")]);
    stage.mux.leave(b);
    stage.hears::<&str>(&[]);
    stage.starts();
    stage.hears(&[greeting(6)]);
    stage.answers(&welcome("6"));
    stage.hears(&[INITIALIZED.to_owned(), format!("> {}", subscribe(7, "r:x"))]);
    stage.answers(&ok(7));
    assert_eq!(stage.told("r:x"), [1]);
    stage.says(a, &unsubscribe(5, "r:x"));
    stage.hears(&[format!("> {}", unsubscribe(8, "r:x"))]);
}

#[test]
fn subscriptions_are_bounded() {
    let (mut stage, a) = Stage::ready();
    let b = stage.join();
    let bytes = MuxLimits::SUBSCRIPTION_BYTES + 3;
    stage.mux.limits.session_subscriptions_bytes_max = 2 * bytes;
    stage.mux.limits.subscriptions_bytes_max = 3 * bytes;
    for (id, uri) in ["r:x", "r:x", "r:y"].into_iter().enumerate() {
        stage.subscribes(a, uri, 2 + id as u32);
    }
    let refused = |whose: &str, bytes: usize| {
        let why = format!("the subscriptions of {whose} have {bytes} bytes at most");
        m(&format!(r#""id":1,"error":{{"code":-32000,"message":"{why}"}}"#))
    };
    stage.says(a, &subscribe(1, "r:z"));
    stage.hears(&[format!("1: {}", refused("one session", 2 * bytes))]);
    stage.subscribes(b, "r:z", 5);
    stage.says(b, &subscribe(1, "r:x"));
    stage.hears(&[format!("2: {}", refused("all sessions", 3 * bytes))]);
    // What is given back can be had again.
    stage.says(a, &unsubscribe(1, "r:y"));
    stage.heard();
    stage.subscribes(b, "r:x", 7);
}

#[test]
fn uri_that_can_be_read_in_two_ways_is_refused() {
    let (mut stage, a) = Stage::ready();
    for method in ["subscribe", "unsubscribe"] {
        let params = r#"{"uri":"a","uri":"b"}"#;
        stage.says(a, &m(&format!(r#""id":1,"method":"resources/{method}","params":{params}"#)));
        let error = r#"{"code":-32602,"message":"params can be read in more than one way"}"#;
        stage.hears(&[format!("1: {}", m(&format!(r#""id":1,"error":{error}"#)))]);
    }
}
