//! Limits of connections, sessions, events and bytes. A refusal names its limit and changes
//! nothing.

use super::*;
use crate::error::{AcceptError, Fault};
use crate::event::{Outcome, Verdict};
use crate::{Authorization, Entropy, EntropyUnavailable, Principal, ShardId};

fn peer(remote: &str) -> Peer {
    Peer::tcp(remote.parse().unwrap(), "192.0.2.1:80".parse().unwrap())
}

#[test]
fn connection_over_connections_max_is_not_accepted() {
    let mut bench = Bench::with(limited(|limits| limits.connections_max = Some(2)));
    let first = bench.connect();
    assert!(bench.server.can_accept());
    bench.connect();
    assert!(!bench.server.can_accept());
    let refused = bench.server.accept(Peer::local(), bench.now);
    assert_eq!(refused, Err(AcceptError::AtCapacity));
    assert_eq!(bench.server.connections_open(), 2);
    assert_eq!(bench.server.metrics().connections_refused, 1);
    bench.reset(first);
    assert!(bench.server.can_accept());
    bench.connect();
}

#[test]
fn connection_over_connections_per_address_max_is_not_accepted() {
    let config = limited(|limits| limits.connections_per_address_max = Some(1));
    let mut bench = Bench::with(config);
    let first = bench.connect_from(peer("198.51.100.1:1"));
    let accept = |bench: &mut Bench, from| bench.server.accept(peer(from), bench.now).map(drop);
    let full = Err(AcceptError::AddressAtCapacity);
    assert_eq!(accept(&mut bench, "198.51.100.1:2"), full);
    assert_eq!(accept(&mut bench, "[::ffff:198.51.100.1]:2"), full);
    assert_eq!(accept(&mut bench, "198.51.100.2:1"), Ok(()));
    assert_eq!(accept(&mut bench, "[2001:db8::1]:1"), Ok(()));
    assert_eq!(accept(&mut bench, "[2001:db8::2]:1"), full, "one /64 is one subscriber");
    assert_eq!(accept(&mut bench, "[2001:db8:0:1::1]:1"), Ok(()));
    // Loopback speaks for others.
    assert_eq!(accept(&mut bench, "127.0.0.1:1"), Ok(()));
    assert_eq!(accept(&mut bench, "127.0.0.1:2"), Ok(()));
    assert!(bench.server.can_accept());
    bench.reset(first);
    assert_eq!(accept(&mut bench, "198.51.100.1:3"), Ok(()));
}

#[track_caller]
fn check_refused(bench: &mut Bench, conn: ConnId, limit: &str) {
    let before = bench.server.sessions_open();
    bench.says(conn, GET);
    let answer = bench.answers(conn).pop().unwrap();
    assert_eq!((answer.status, answer.field("Retry-After")), (503, Some("1")), "{limit}");
    assert!(answer.body.contains(limit), "{answer:?}");
    assert!(bench.is_open(conn) && !answer.closes(), "the connection may ask again");
    assert_eq!(bench.server.sessions_open(), before);
    assert!(bench.events().is_empty());
}

#[test]
fn session_over_sessions_max_is_503() {
    let mut bench = Bench::with(limited(|limits| limits.sessions_max = Some(1)));
    let first = bench.open();
    let conn = bench.connect();
    check_refused(&mut bench, conn, "sessions_max");
    check_refused(&mut bench, conn, "sessions_max");
    bench.reset(first.conn);
    bench.events();
    let before = bench.heard(conn).len();
    bench.says(conn, GET);
    assert_eq!(read_stream(&bench.heard(conn)[before..]).token().len(), 32);
}

#[test]
fn session_over_sessions_per_address_max_is_503() {
    let config = limited(|limits| limits.sessions_per_address_max = Some(1));
    let mut bench = Bench::with(config);
    let first = bench.connect_from(peer("198.51.100.1:1"));
    bench.open_on(first);
    let second = bench.connect_from(peer("198.51.100.1:2"));
    check_refused(&mut bench, second, "sessions_per_address_max");
    let other = bench.connect_from(peer("198.51.100.2:1"));
    bench.open_on(other);
    let (a, b) = (bench.connect(), bench.connect());
    bench.open_on(a);
    bench.open_on(b);
    bench.reset(first);
    bench.events();
    let third = bench.connect_from(peer("198.51.100.1:3"));
    bench.open_on(third);
}

#[test]
fn session_over_sessions_per_principal_max_is_503() {
    let config = limited(|limits| limits.sessions_per_principal_max = Some(1));
    let mut bench = Bench::with(config.authorization(Authorization::Deferred));
    let open = |bench: &mut Bench, name: &str| {
        let conn = bench.connect();
        bench.says(conn, GET);
        let Some(Event::Asked { ticket, .. }) = bench.event() else { panic!("nobody was asked") };
        let verdict = Verdict::Allow(Principal::new(name));
        bench.server.authorize(ticket, verdict, bench.now).unwrap();
        bench.events();
        conn
    };
    let first = open(&mut bench, "alice");
    let second = open(&mut bench, "alice");
    let answer = bench.answers(second).remove(0);
    assert!(answer.status == 503 && answer.body.contains("sessions_per_principal_max"));
    open(&mut bench, "bob");
    assert_eq!(bench.server.sessions_open(), 2);
    bench.reset(first);
    bench.events();
    open(&mut bench, "alice");
    assert_eq!(bench.server.sessions_open(), 2);
}

#[test]
fn limit_of_zero_allows_none() {
    let mut bench = Bench::with(limited(|limits| limits.sessions_max = Some(0)));
    let conn = bench.connect();
    check_refused(&mut bench, conn, "sessions_max");
    let bench = Bench::with(limited(|limits| limits.connections_max = Some(0)));
    assert!(!bench.server.can_accept());
}

/// Fails at these calls, counted from zero.
struct Failing(Random, Vec<u32>, u32);

impl Entropy for Failing {
    fn fill(&mut self, dest: &mut [u8]) -> Result<(), EntropyUnavailable> {
        self.2 += 1;
        if self.1.contains(&(self.2 - 1)) {
            return Err(EntropyUnavailable);
        }
        self.0.fill(dest)
    }
}

#[test]
fn failed_entropy_refuses_one_session() {
    let mut bench = Bench::new();
    let entropy = Box::new(Failing(Random::seeded(1), std::vec![1], 0));
    bench.server = Server::new(Config::default(), entropy, Time::ZERO);
    bench.open();
    let conn = bench.connect();
    check_refused(&mut bench, conn, "entropy");
    bench.open();
}

#[test]
fn unpolled_events_over_events_max_refuse_sessions() {
    let mut bench = Bench::with(limited(|limits| limits.events_max = Some(1)));
    for _ in 0..2 {
        let conn = bench.connect();
        bench.says(conn, GET);
        assert!(bench.heard(conn).starts_with(b"HTTP/1.1 200 "));
    }
    let answer = bench.ask(GET);
    assert!(answer.status == 503 && answer.body.contains("events_max"), "{answer:?}");
    assert_eq!(bench.events().len(), 2);
    bench.open();
}

#[test]
fn full_queues_refuse_sessions() {
    let mut bench = Bench::with(limited(|limits| limits.queues_bytes_max = Some(1_000)));
    let client = bench.open();
    bench.set_reading(client.conn, false);
    bench.send(client.session, &note(&"x".repeat(750)));
    let second = bench.connect();
    bench.set_reading(second, false);
    bench.says(second, GET);
    bench.events();
    let third = bench.connect();
    check_refused(&mut bench, third, "queues_bytes_max");
}

#[test]
fn bodies_over_bodies_bytes_max_are_503() {
    let mut bench = Bench::with(limited(|limits| limits.bodies_bytes_max = Some(1_000)));
    let client = bench.open();
    let large = format!(r#"{{"jsonrpc":"2.0","method":"{}"}}"#, "x".repeat(600));
    let request = post(&client.token, &large);
    let (early, late) = request.split_at(request.len() - 1);
    let conns = [bench.connect(), bench.connect()];
    bench.says(conns[0], early);
    bench.says(conns[1], early);
    let answer = bench.answers(conns[1]).remove(0);
    assert!(answer.status == 503 && answer.body.contains("bodies_bytes_max"), "{answer:?}");
    assert!(answer.closes());
    bench.says(conns[0], late);
    assert_eq!(bench.statuses(conns[0]), [202]);
    // It counts until the application has it.
    assert_eq!(bench.ask(&request).status, 503);
    assert_eq!(bench.inbox().len(), 1);
    assert_eq!(bench.ask(&request).status, 202);
    // And what the application says it still holds counts as well.
    bench.inbox();
    bench.server.set_backlog(client.session, 1, 600, bench.now);
    assert_eq!(bench.ask(&request).status, 503);
    bench.reset(client.conn);
    bench.events();
    let client = bench.open();
    assert_eq!(bench.ask(post(&client.token, &large)).status, 202);
    assert_eq!(bench.server.metrics().fault(Fault::BodiesFull), 3);
}

#[test]
fn pending_input_counts_in_bodies_bytes_max() {
    let config = limited(|limits| {
        limits.bodies_bytes_max = Some(1_000);
        limits.inbound_messages_max = Some(1);
    });
    let mut bench = Bench::with(config);
    let client = bench.open();
    let conn = bench.connect();
    bench.says(conn, post(&client.token, NOTE).repeat(4));
    assert_eq!(bench.statuses(conn), [202], "one is held, two wait behind it");
    let greedy = bench.connect();
    bench.says(greedy, post(&client.token, NOTE).repeat(10));
    let answers = bench.answers(greedy);
    assert!(answers[0].status == 503 && answers[0].body.contains("bodies_bytes_max"));
    assert_eq!(bench.inbox().len(), 4);
    assert_eq!(bench.statuses(conn), [202; 4]);
}

#[test]
fn delivered_message_is_not_refused_for_input_behind_it() {
    let config = limited(|limits| limits.bodies_bytes_max = Some(100));
    let token = Bench::with(Config::builder().shard(ShardId(2))).open().token;
    let mut bench = Bench::with(config.shard(ShardId(1)).forwarding(true));
    let conn = bench.connect();
    bench.says(conn, post(&token, NOTE) + &"x".repeat(100));
    assert_eq!(bench.server.metrics().fault(Fault::BodiesFull), 1);
    assert!(bench.heard(conn).is_empty(), "its ticket answers it");
    let ticket = bench.forwarded();
    bench.server.acknowledge(ticket, Outcome::Accepted, bench.now).unwrap();
    bench.pump();
    let answers = bench.answers(conn);
    assert!(answers.len() == 1 && answers[0].status == 202 && answers[0].closes(), "{answers:?}");
}

#[test]
fn refused_request_is_answered_once() {
    let mut bench = Bench::with(limited(|limits| {
        limits.bodies_bytes_max = Some(100);
        limits.answers_bytes_max = Some(10);
    }));
    let conn = bench.connect();
    bench.set_reading(conn, false);
    let unread = "x".repeat(200);
    bench.says(
        conn,
        format!("PUT /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200\r\n\r\n{unread}"),
    );
    bench.set_reading(conn, true);
    let answers = bench.answers(conn);
    assert_eq!(answers.len(), 1, "{answers:?}");
    bench.fin(conn);
    assert!(!bench.is_open(conn));
}

#[test]
fn heads_in_events_count_in_bodies_bytes_max() {
    for config in [Config::builder(), Config::builder().authorization(Authorization::Deferred)] {
        let limits = Limits {
            body_bytes_max: Some(1_000),
            bodies_bytes_max: Some(1_000),
            ..Limits::default()
        };
        let mut bench = Bench::with(config.limits(limits));
        let long =
            format!("GET /sse HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(600));
        let first = bench.connect();
        bench.says(first, &long);
        let answer = bench.ask(&long);
        assert!(answer.status == 503 && answer.body.contains("bodies_bytes_max"), "{answer:?}");
        assert_eq!(bench.events().len(), 1);
        let second = bench.connect();
        bench.says(second, &long);
        assert_eq!(bench.events().len(), 1);
    }
}

#[test]
fn decoded_method_counts_twice_in_bodies_bytes_max() {
    let mut bench = Bench::with(limited(|limits| limits.bodies_bytes_max = Some(2_500)));
    let client = bench.open();
    let body = |escape| format!(r#"{{"jsonrpc":"2.0","method":"{escape}{}"}}"#, "x".repeat(1_000));
    bench.ask(post(&client.token, &body("\\u0061")));
    assert_eq!(bench.ask(post(&client.token, &body(""))).status, 503);
    bench.inbox();
    bench.ask(post(&client.token, &body("a")));
    assert_eq!(bench.ask(post(&client.token, &body("a"))).status, 202);
}

#[test]
fn partial_head_has_no_more_capacity_than_head_bytes_max() {
    let mut bench = Bench::new();
    let conn = bench.connect();
    let long = format!("GET /sse HTTP/1.1\r\nHost: localhost\r\nX: {}", "x".repeat(16_000));
    bench.says_in_pieces(conn, &long.as_bytes().chunks(900).collect::<Vec<_>>());
    let partial = &bench.server.conns.find(conn.0).unwrap().partial;
    assert_eq!(partial.len(), long.len());
    assert!(partial.capacity() <= 16 << 10, "{}", partial.capacity());
}

#[test]
fn chunked_body_is_kept_without_spare_capacity() {
    let mut bench = Bench::new();
    let client = bench.open();
    let conn = bench.connect();
    let head = post(&client.token, "").replace("Content-Length: 0", "Transfer-Encoding: chunked");
    let body = format!(r#"{{"jsonrpc":"2.0","method":"{}"}}"#, "x".repeat(1_450));
    let chunks: String = body
        .as_bytes()
        .chunks(100)
        .map(|chunk| format!("{:x}\r\n{}\r\n", chunk.len(), core::str::from_utf8(chunk).unwrap()))
        .collect();
    bench.says(conn, head + &chunks + "0\r\n\r\n");
    assert_eq!(bench.server.bodies_bytes, body.len() as u64);
    assert_eq!(bench.inbox().len(), 1);
}

#[test]
fn burst_gives_its_memory_back() {
    let mut bench = Bench::new();
    let clients: Vec<_> = (0..40).map(|_| bench.open()).collect();
    for client in &clients {
        let conn = bench.connect();
        bench.says(conn, post(&client.token, NOTE).repeat(20));
    }
    assert!(bench.server.events.capacity() >= 800);
    assert_eq!(bench.inbox().len(), 800);
    assert!(bench.server.events.capacity() <= 256, "{}", bench.server.events.capacity());
}
