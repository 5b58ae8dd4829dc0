//! Static tokens that are replaced while sessions are open.

use super::*;
use crate::{Authorization, NoStaticTokens, StaticTokens, StaticTokensBuilder, TimerKind};

fn tokens(all: &[(&str, &str)]) -> StaticTokens {
    let add = |tokens: StaticTokensBuilder, (principal, token): &(&str, &str)| {
        tokens.token(principal, token)
    };
    all.iter().fold(StaticTokens::builder(), add).build().unwrap()
}

fn bench(all: &[(&str, &str)]) -> Bench {
    let limits = Limits { sessions_per_principal_max: None, ..Limits::default() };
    let config = Config::builder().authorization(Authorization::Static(tokens(all)));
    Bench::with(config.limits(limits))
}

impl Bench {
    fn open_with_token(&mut self, token: &str) -> Client {
        self.open_with(&format!("Authorization: Bearer {token}\r\n"))
    }

    fn replace_tokens(&mut self, all: &[(&str, &str)]) {
        self.server.replace_tokens(tokens(all), self.now).unwrap();
        self.pump();
    }

    /// The status of a post with this token to this client's session.
    fn post_status(&mut self, client: &Client, token: &str) -> u16 {
        let fields = format!("Authorization: Bearer {token}\r\n");
        self.ask(post_with(&client.token, &fields, &call(1))).status
    }
}

#[test]
fn session_ends_with_its_token_and_not_with_another_of_its_principal() {
    let mut bench = bench(&[("alice", "one"), ("alice", "two"), ("bob", "three")]);
    let clients = ["one", "two", "three"].map(|token| bench.open_with_token(token));
    let [one, two, three] = &clients;
    bench.send(one.session, &note("last"));
    bench.replace_tokens(&[("alice", "two"), ("bob", "three"), ("carol", "four")]);
    // What was queued is still sent, and the stream ends in order.
    assert_eq!(bench.closed(), [(one.session, CloseReason::TokenRemoved, 0)]);
    assert_eq!(bench.messages(one.conn).len(), 1);
    assert!(bench.stream(one.conn).ended);
    for (token, status) in [("one", 401), ("two", 202), ("three", 404), ("four", 404)] {
        assert_eq!(bench.post_status(two, token), status, "{token}");
    }
    // Another token of the same principal may be used for the session that stays.
    bench.replace_tokens(&[("bob", "three"), ("bob", "five"), ("alice", "two")]);
    assert_eq!(bench.post_status(three, "five"), 202);
    assert_eq!(bench.inbox().len(), 2);
    let four = bench.open_with_token("five");
    bench.replace_tokens(&[("bob", "three")]);
    let ended =
        [(two.session, CloseReason::TokenRemoved, 0), (four.session, CloseReason::TokenRemoved, 0)];
    let mut closed = bench.closed();
    closed.sort_by_key(|(session, ..)| *session != two.session);
    assert_eq!(closed, ended);
    assert_eq!(bench.server.sessions_open(), 1);
}

#[test]
fn session_ends_if_its_token_belongs_to_another_principal() {
    let mut bench = bench(&[("alice", "one"), ("bob", "two")]);
    let one = bench.open_with_token("one");
    bench.replace_tokens(&[("bob", "one"), ("alice", "two")]);
    assert_eq!(bench.closed(), [(one.session, CloseReason::TokenRemoved, 0)]);
}

#[test]
fn token_that_returns_does_not_revive_sessions_and_equal_tokens_change_nothing() {
    let all = [("alice", "one"), ("bob", "two")];
    let mut bench = bench(&all);
    let (one, two) = (bench.open_with_token("one"), bench.open_with_token("two"));
    bench.replace_tokens(&all);
    bench.replace_tokens(&[all[1], all[0]]);
    assert_eq!(bench.closed(), []);
    bench.replace_tokens(&all[1..]);
    bench.replace_tokens(&all);
    assert_eq!(bench.closed(), [(one.session, CloseReason::TokenRemoved, 0)]);
    assert_eq!(bench.post_status(&one, "one"), 404);
    assert_eq!(bench.post_status(&two, "two"), 202);
}

/// One call looks at a limited number of sessions, and the clock is due at once until all were looked at. A
/// replacement in between starts again.
#[test]
fn sessions_are_looked_at_in_batches() {
    const SESSIONS: usize = 600;
    let mut bench = bench(&[("alice", "one"), ("bob", "two")]);
    let clients: Vec<Client> = (0..SESSIONS)
        .map(|at| bench.open_with_token(if at % 2 == 0 { "one" } else { "two" }))
        .collect();
    bench.replace_tokens(&[("bob", "two"), ("alice", "three")]);
    let first = bench.closed().len();
    assert!(first > 0 && first <= 256, "{first}");
    let due = bench.server.poll_timeout().unwrap();
    assert_eq!((due.at, due.cause), (bench.now, TimerKind::TokenRemoval));
    // A session that was not looked at is open, but cannot be posted to.
    let last = &clients[SESSIONS - 2];
    assert!(bench.server.session(last.session).is_some_and(|session| !session.is_ending()));
    assert_eq!(bench.post_status(last, "one"), 401);
    let late = bench.open_with_token("three");
    bench.replace_tokens(&[("bob", "two")]);
    bench.wait(Duration::ZERO);
    let rest = bench.closed();
    assert_eq!(first + rest.len(), SESSIONS / 2 + 1);
    assert!(rest.iter().any(|(session, ..)| *session == late.session));
    assert_eq!(bench.server.sessions_open() as usize, SESSIONS / 2);
    assert!(bench.server.poll_timeout().is_none_or(|next| next.at > bench.now));
}

#[test]
fn tokens_of_a_server_without_static_tokens_cannot_be_replaced() {
    for authorization in [Authorization::None, Authorization::Deferred] {
        let mut bench = Bench::with(Config::builder().authorization(authorization));
        let replaced = bench.server.replace_tokens(tokens(&[("alice", "one")]), bench.now);
        assert_eq!(replaced, Err(NoStaticTokens));
        assert_eq!(bench.server.poll_timeout(), None);
    }
}
