//! Which sessions receive updates, and which subscription requests the server receives.

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

impl MuxTest {
    /// Subscribes with the request of this number, which the server accepts.
    #[track_caller]
    fn subscribes(&mut self, key: SessionKey, uri: &str, number: u32) {
        self.says(key, &subscribe(9, uri));
        self.hears(&[format!("> {}", subscribe(number, uri))]);
        self.answers(&ok(number));
        self.hears(&[format!("{}: {}", key.0, ok(9))]);
    }

    /// The sessions that receive an update.
    fn told(&mut self, uri: &str) -> Vec<u64> {
        self.answers(&updated(uri));
        let heard = self.heard();
        heard.iter().map(|heard| heard.split_once(':').unwrap().0.parse().unwrap()).collect()
    }
}

#[test]
fn unsubscribe_is_sent_for_the_last_subscriber_only() {
    let (mut test, a) = MuxTest::ready();
    let b = test.join();
    test.subscribes(a, "r:x", 2);
    test.subscribes(b, "r:x", 3);
    test.says(a, &unsubscribe(5, "r:x"));
    test.hears(&[format!("1: {}", ok(5))]);
    assert_eq!(test.told("r:x"), [2]);
    // Unsubscribing again, and by a session that was never subscribed.
    test.says(a, &unsubscribe(6, r"\u0072:x"));
    test.hears(&[format!("1: {}", ok(6))]);
    test.says(b, &unsubscribe(7, "r:x"));
    test.hears(&[format!("> {}", unsubscribe(4, "r:x"))]);
    test.answers(&ok(4));
    test.hears(&[format!("2: {}", ok(7))]);
    // No subscriber is left: the request is passed on, and the server answers it.
    test.says(a, &unsubscribe(8, "r:x"));
    test.hears(&[format!("> {}", unsubscribe(5, "r:x"))]);
}

#[test]
fn last_subscription_ended_with_its_session_is_unsubscribed() {
    let (mut test, a) = MuxTest::ready();
    let (b, c) = (test.join(), test.join());
    test.subscribes(a, "r:x", 2);
    test.subscribes(b, "r:x", 3);
    test.subscribes(b, "r:y", 4);
    test.mux.leave(a);
    test.mux.check();
    test.hears::<&str>(&[]);
    test.mux.leave(b);
    test.mux.check();
    test.hears(&[format!("> {}", unsubscribe(5, "r:x")), format!("> {}", unsubscribe(6, "r:y"))]);
    // The answer to the bridge's own request is dropped.
    test.answers(&ok(5));
    test.answers(&refusal(6));
    test.hears::<&str>(&[]);
    // A subscription that the server has not answered yet.
    test.says(c, &subscribe(1, "r:z"));
    test.heard();
    test.mux.leave(c);
    let heard = test.heard();
    assert_eq!(heard[0], format!("> {}", unsubscribe(8, "r:z")));
}

#[test]
fn unsubscribe_crossing_an_answer_ends_no_other_subscription() {
    let (mut test, a) = MuxTest::ready();
    let b = test.join();
    test.subscribes(a, "r:x", 2);
    test.says(b, &subscribe(1, "r:x"));
    test.hears(&[format!("> {}", subscribe(3, "r:x"))]);
    test.says(a, &unsubscribe(5, "r:x"));
    test.hears(&[format!("1: {}", ok(5))]);
    test.answers(&ok(3));
    test.hears(&[format!("2: {}", ok(1))]);
    assert_eq!(test.told("r:x"), [2]);
    // The second subscription is refused, so the accepted one has no subscriber any more.
    test.subscribes(a, "r:y", 4);
    test.says(b, &subscribe(2, "r:y"));
    test.says(a, &unsubscribe(6, "r:y"));
    test.heard();
    test.answers(&refusal(5));
    test.hears(&[format!("> {}", unsubscribe(6, "r:y")), format!("2: {}", refusal(2))]);
}

#[test]
fn subscription_refused_by_the_server_is_forgotten() {
    let (mut test, a) = MuxTest::ready();
    test.says(a, &subscribe(1, "r:x"));
    test.heard();
    test.answers(&refusal(2));
    test.hears(&[format!("1: {}", refusal(1))]);
    test.mux.leave(a);
    test.mux.check();
    test.hears::<&str>(&[]);
}

#[test]
fn subscribe_answer_after_unsubscribe_grants_nothing() {
    let (mut test, a) = MuxTest::ready();
    test.says(a, &subscribe(1, "r:x"));
    test.says(a, &unsubscribe(2, "r:x"));
    test.says(a, &subscribe(3, "r:x"));
    test.heard();
    test.answers(&ok(2));
    test.answers(&ok(3));
    test.answers(&refusal(4));
    test.heard();
    test.mux.leave(a);
    test.hears::<&str>(&[]);
}

#[test]
fn updates_go_to_subscribers_or_without_any_to_all() {
    let (mut test, a) = MuxTest::ready();
    let (b, c) = (test.join(), test.join());
    test.subscribes(b, "file:///a", 2);
    test.subscribes(c, "file:///a/b/", 3);
    assert_eq!(test.told("file:///a"), [2]);
    assert_eq!(test.told("file:///a/b"), [2]);
    assert_eq!(test.told("file:///a/b/c"), [2, 3]);
    assert_eq!(test.told("file:///a#x"), [2]);
    assert_eq!(test.told("file:///ab"), [1, 2, 3], "no subscriber: all sessions");
    assert_eq!(test.told(&format!("file:///a/{}", "x/".repeat(8 << 10))), [1, 2, 3]);
    let other = m(r#""method":"notifications/message","params":{"uri":"file:///a"}"#);
    test.answers(&other);
    assert_eq!(test.heard().len(), 3);
    test.mux.leave(a);
}

#[test]
fn new_server_is_sent_all_subscriptions() {
    let (mut test, a) = MuxTest::ready();
    let b = test.join();
    test.subscribes(a, "r:x", 2);
    test.subscribes(b, "r:x", 3);
    test.subscribes(b, "r:y", 4);
    test.says(a, &subscribe(1, "r:z"));
    test.heard();
    test.exits();
    test.hears(&[away(1, "1")]);
    test.mux.leave(b);
    test.hears::<&str>(&[]);
    test.starts();
    test.hears(&[initialize(6)]);
    test.answers(&initialize_result("6"));
    test.hears(&[INITIALIZED.to_owned(), format!("> {}", subscribe(7, "r:x"))]);
    test.answers(&ok(7));
    assert_eq!(test.told("r:x"), [1]);
    test.says(a, &unsubscribe(5, "r:x"));
    test.hears(&[format!("> {}", unsubscribe(8, "r:x"))]);
}

#[test]
fn subscriptions_are_bounded() {
    let (mut test, a) = MuxTest::ready();
    let b = test.join();
    let bytes = MuxLimits::SUBSCRIPTION_BYTES + 3;
    test.mux.limits.session_subscriptions_bytes_max = 2 * bytes;
    test.mux.limits.subscriptions_bytes_max = 3 * bytes;
    for (id, uri) in ["r:x", "r:x", "r:y"].into_iter().enumerate() {
        test.subscribes(a, uri, 2 + id as u32);
    }
    let refused = |whose: &str, bytes: usize| {
        let why = format!("the subscriptions of {whose} have {bytes} bytes at most");
        m(&format!(r#""id":1,"error":{{"code":-32000,"message":"{why}"}}"#))
    };
    test.says(a, &subscribe(1, "r:z"));
    test.hears(&[format!("1: {}", refused("one session", 2 * bytes))]);
    test.subscribes(b, "r:z", 5);
    test.says(b, &subscribe(1, "r:x"));
    test.hears(&[format!("2: {}", refused("all sessions", 3 * bytes))]);
    // Unsubscribing makes room.
    test.says(a, &unsubscribe(1, "r:y"));
    test.heard();
    test.subscribes(b, "r:x", 7);
}

#[test]
fn request_with_ambiguous_uri_is_refused() {
    let (mut test, a) = MuxTest::ready();
    for method in ["subscribe", "unsubscribe"] {
        let params = r#"{"uri":"a","uri":"b"}"#;
        test.says(a, &m(&format!(r#""id":1,"method":"resources/{method}","params":{params}"#)));
        let error = r#"{"code":-32602,"message":"params can be read in more than one way"}"#;
        test.hears(&[format!("1: {}", m(&format!(r#""id":1,"error":{error}"#)))]);
    }
}
