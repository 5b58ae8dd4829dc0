//! Rates of posts and of sessions.

use super::*;
use crate::error::Fault;
use crate::event::Outcome;
use crate::{Authorization, StaticTokens};

fn rated(change: impl FnOnce(&mut Limits)) -> ConfigBuilder {
    let tokens = StaticTokens::builder().token("alice", "alpha").token("bob", "beta");
    limited(change).authorization(Authorization::Static(tokens.build().unwrap()))
}

const ALICE: &str = "Authorization: Bearer alpha\r\n";
const BOB: &str = "Authorization: Bearer beta\r\n";

impl Bench {
    #[track_caller]
    fn open_as(&mut self, fields: &str) -> String {
        let conn = self.connect();
        self.says(conn, GET.replace("\r\n\r\n", &format!("\r\n{fields}\r\n")));
        assert!(matches!(self.events()[..], [Event::Opened { .. }]));
        self.stream(conn).token()
    }
}

#[track_caller]
fn check_late(answer: &Answer, status: u16, seconds: &str, limit: &str) {
    assert_eq!((answer.status, answer.field("Retry-After")), (status, Some(seconds)), "{answer:?}");
    assert!(answer.body.contains(limit), "{answer:?}");
    assert!(!answer.closes());
}

#[test]
fn post_over_the_rate_of_its_session_is_429() {
    let rate = "2/minute".parse().ok();
    let mut bench = Bench::with(limited(|limits| limits.posts_rate_per_session = rate));
    let (first, second) = (bench.open(), bench.open());
    assert_eq!(bench.ask(post(&first.token, NOTE)).status, 202);
    assert_eq!(bench.ask(post(&first.token, NOTE)).status, 202);
    let limit = "limit posts_rate_per_session";
    check_late(&bench.ask(post(&first.token, NOTE)), 429, "30", limit);
    bench.wait(Duration::from_millis(500));
    check_late(&bench.ask(post(&first.token, NOTE)), 429, "30", limit);
    bench.wait(Duration::from_millis(600));
    check_late(&bench.ask(post(&first.token, NOTE)), 429, "29", limit);
    assert_eq!(bench.ask(post(&second.token, NOTE)).status, 202, "each has its own");
    bench.wait(secs(29));
    assert_eq!(bench.ask(post(&first.token, NOTE)).status, 202);
    assert_eq!(bench.inbox().len(), 4, "what was refused has not arrived");
    assert_eq!(bench.server.metrics().fault(Fault::RateLimited), 3);
    // The stream does not care.
    bench.send(first.session, &note("still here"));
    assert_eq!(bench.messages(first.conn).len(), 1);
}

#[test]
fn post_over_the_rate_of_its_principal_is_429() {
    let rate = "3/second".parse().ok();
    let mut bench = Bench::with(rated(|limits| limits.posts_rate_per_principal = rate));
    let sessions = [ALICE, ALICE].map(|who| bench.open_as(who));
    let bobs = bench.open_as(BOB);
    assert_eq!(bench.ask(post_with(&sessions[0], ALICE, NOTE)).status, 202);
    assert_eq!(bench.ask(post_with(&sessions[1], ALICE, NOTE)).status, 202);
    // Guessing counts as well, and then all ids are told the same.
    assert_eq!(bench.ask(post_with(&bobs, ALICE, NOTE)).status, 404);
    let limit = "limit posts_rate_per_principal";
    let late = bench.ask(post_with(&sessions[0], ALICE, NOTE));
    check_late(&late, 429, "1", limit);
    assert_eq!(bench.ask(post_with(&bobs, ALICE, NOTE)), late);
    assert_eq!(bench.ask(post_with("no-session", ALICE, NOTE)), late);
    assert_eq!(bench.ask(post_with(&bobs, BOB, NOTE)).status, 202);
    // And without credentials nobody is anybody.
    assert_eq!(bench.ask(post(&bobs, NOTE)).status, 401);
    assert_eq!(bench.server.metrics().fault(Fault::RateLimited), 3);
}

#[test]
fn refused_posts_count_in_the_rate_of_their_principal() {
    let rate = "2/second".parse().ok();
    let mut bench = Bench::with(rated(|limits| limits.posts_rate_per_principal = rate));
    let token = bench.open_as(ALICE);
    let good = post_with(&token, ALICE, NOTE);
    assert_eq!(bench.ask(good.replace("application/json", "text/plain")).status, 415);
    assert_eq!(bench.ask(good.replace("session_id", "id")).status, 400);
    let limit = "limit posts_rate_per_principal";
    let late = bench.ask(good.replace("application/json", "text/plain"));
    check_late(&late, 429, "1", limit);
    assert_eq!(bench.ask(good), late);
}

#[test]
fn new_session_does_not_reset_the_rate_of_its_principal() {
    let rate = "1/hour".parse().ok();
    let mut bench = Bench::with(rated(|limits| limits.posts_rate_per_principal = rate));
    let conn = bench.connect();
    bench.says(conn, GET.replace("\r\n\r\n", &format!("\r\n{ALICE}\r\n")));
    let token = bench.stream(conn).token();
    assert_eq!(bench.ask(post_with(&token, ALICE, NOTE)).status, 202);
    bench.reset(conn);
    bench.events();
    let token = bench.open_as(ALICE);
    assert_eq!(bench.ask(post_with(&token, ALICE, NOTE)).status, 429);
}

#[test]
fn session_over_the_rate_of_its_address_is_503() {
    let rate = "2/minute".parse().ok();
    let mut bench = Bench::with(limited(|limits| limits.sessions_rate_per_address = rate));
    let ask = |bench: &mut Bench, from: &str| {
        let peer = Peer::tcp(from.parse().unwrap(), "192.0.2.1:80".parse().unwrap());
        let conn = bench.connect_from(peer);
        bench.says(conn, GET);
        let opened = bench.events().len();
        (opened, (opened == 0).then(|| bench.answers(conn).remove(0)))
    };
    assert_eq!(ask(&mut bench, "[2001:db8::1]:1").0, 1);
    assert_eq!(ask(&mut bench, "[2001:db8::2]:1").0, 1);
    let (opened, answer) = ask(&mut bench, "[2001:db8::3]:1");
    assert_eq!(opened, 0);
    check_late(&answer.unwrap(), 503, "30", "limit sessions_rate_per_address");
    assert_eq!(ask(&mut bench, "[2001:db8:0:1::1]:1").0, 1, "another network");
    for _ in 0..5 {
        assert_eq!(ask(&mut bench, "127.0.0.1:1").0, 1, "loopback speaks for others");
    }
    bench.wait(secs(30));
    assert_eq!(ask(&mut bench, "[2001:db8::3]:1").0, 1);
    assert_eq!(bench.server.metrics().fault(Fault::SessionRateLimited), 1);
}

#[test]
fn forwarded_post_over_the_rate_of_its_session_is_429() {
    let rate = "1/minute".parse().ok();
    let config = || limited(|limits| limits.posts_rate_per_session = rate).forwarding(true);
    let mut owner = Bench::with(config().shard(crate::ShardId(1)));
    let mut other = Bench::with(config());
    let client = owner.open();
    for (status, seconds) in [(202, None), (429, Some("60"))] {
        let conn = other.connect();
        other.says(conn, post(&client.token, NOTE));
        let Some(Event::Foreign { post, ticket, .. }) = other.event() else { panic!("a post") };
        let outcome = owner.deliver(post);
        assert_eq!(outcome == Outcome::Accepted, status == 202);
        other.server.acknowledge(ticket, outcome, other.now).unwrap();
        other.pump();
        let answer = other.answers(conn).remove(0);
        assert_eq!((answer.status, answer.field("Retry-After")), (status, seconds));
    }
}

#[test]
fn session_refused_for_want_of_memory_does_not_count_in_the_rate_of_its_address() {
    let mut bench = Bench::with(limited(|limits| {
        limits.sessions_rate_per_address = "1/hour".parse().ok();
        limits.bodies_bytes_max = Some(10_000);
    }));
    let client = bench.open();
    let mut status = |backlog| {
        bench.server.set_backlog(client.session, 1, backlog, bench.now);
        let remote = "[2001:db8::1]:1".parse().unwrap();
        let conn = bench.connect_from(Peer::tcp(remote, "192.0.2.1:80".parse().unwrap()));
        bench.says(conn, GET);
        bench.events();
        bench.heard(conn)[9..12].to_vec()
    };
    assert_eq!(status(10_000), b"503");
    assert_eq!(status(0), b"200");
    assert_eq!(status(0), b"503");
    assert_eq!(bench.server.metrics().fault(Fault::BodiesFull), 1);
    assert_eq!(bench.server.metrics().fault(Fault::SessionRateLimited), 1);
}

#[test]
fn forwarded_post_that_is_refused_busy_counts_in_the_rate_of_its_session() {
    let config = limited(|limits| {
        limits.posts_rate_per_session = "1/minute".parse().ok();
        limits.bodies_bytes_max = Some(10_000);
    });
    let mut owner = Bench::with(config.shard(crate::ShardId(1)));
    let mut other = Bench::with(Config::builder().forwarding(true));
    let client = owner.open();
    let mut outcome = |backlog| {
        owner.server.set_backlog(client.session, 1, backlog, owner.now);
        let conn = other.connect();
        other.says(conn, post(&client.token, NOTE));
        let Some(Event::Foreign { post, .. }) = other.event() else { panic!("a post") };
        owner.deliver(post)
    };
    assert_eq!(outcome(10_000), Outcome::Busy);
    assert_eq!(outcome(10_000), Outcome::RateLimited { retry_after: secs(60) });
    assert_eq!(outcome(0), Outcome::RateLimited { retry_after: secs(60) });
}
