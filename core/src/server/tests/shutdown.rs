//! Shutdown and abort.

use super::*;
use crate::Authorization;
use crate::error::{AcceptError, SendError};
use crate::event::{Outcome, ServerPhase};
use crate::timers::TimerKind;

/// Asserts that the server is empty, and that it said so once, last.
#[track_caller]
fn check_drained(bench: &mut Bench) -> Vec<Event> {
    assert_eq!(bench.server.phase(), ServerPhase::Drained);
    let mut events = bench.events();
    assert!(matches!(events.pop(), Some(Event::Drained)), "{events:?}");
    assert!(!events.iter().any(|event| matches!(event, Event::Drained)));
    bench.shutdown();
    bench.abort();
    bench.wait(secs(100));
    assert!(bench.events().is_empty());
    events
}

#[test]
fn empty_server_is_drained_at_once() {
    let mut bench = Bench::new();
    bench.shutdown();
    check_drained(&mut bench);
    assert_eq!(bench.server.accept(Peer::local(), bench.now), Err(AcceptError::ShuttingDown));
    assert!(!bench.server.can_accept());
}

#[test]
fn idle_connections_and_idle_sessions_end_at_once() {
    let mut bench = Bench::new();
    let client = bench.open();
    let (fresh, used) = (bench.connect(), bench.connect());
    bench.says(used, post(&client.token, NOTE));
    bench.send(client.session, &note("last"));
    bench.inbox();
    bench.shutdown();
    assert!(!bench.is_open(fresh) && !bench.is_open(used) && !bench.is_open(client.conn));
    assert!(bench.stream(client.conn).ended, "the terminating chunk");
    let events = check_drained(&mut bench);
    assert!(matches!(
        events.as_slice(),
        [Event::Closed { reason: CloseReason::Shutdown, frames_undelivered: 0, .. }]
    ));
}

#[test]
fn connection_whose_answer_has_not_left_closes_behind_it() {
    let mut bench = Bench::new();
    let conn = bench.connect();
    bench.set_reading(conn, false);
    bench.says(conn, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    bench.shutdown();
    assert_eq!(bench.server.interest(conn), Interest::Io { read: true, write: true });
    bench.set_reading(conn, true);
    assert_eq!(bench.statuses(conn), [200]);
    assert_eq!(bench.server.interest(conn), Interest::Linger, "no further request is awaited");
}

#[test]
fn shutdown_waits_for_a_request_in_flight() {
    let mut bench = Bench::new();
    let client = bench.open();
    bench.ask(post(&client.token, &call(1)));
    bench.ask(post(&client.token, &call(2)));
    bench.inbox();
    bench.shutdown();
    assert_eq!(
        bench.server.phase(),
        ServerPhase::Draining { until: Some(Time::from_micros(5_000_000)) }
    );
    assert_eq!(bench.server.poll_timeout().unwrap().cause, TimerKind::Shutdown);
    bench.send(client.session, &reply(1));
    assert!(bench.is_open(client.conn));
    bench.send(client.session, &reply(2));
    assert_eq!(bench.messages(client.conn).len(), 2);
    assert!(bench.stream(client.conn).ended && !bench.is_open(client.conn));
    assert_eq!(bench.server.send(client.session, &note("x"), bench.now), Err(SendError::Gone));
    bench.wait(secs(2));
    check_drained(&mut bench);
}

#[test]
fn draining_server_refuses_new_posts_and_finishes_begun_ones() {
    let mut bench = Bench::new();
    let client = bench.open();
    // Half a head, half a body, a whole head: all before.
    let request = post(&client.token, NOTE);
    let (head, body, probe) = (bench.connect(), bench.connect(), bench.connect());
    bench.says(head, &request[..20]);
    bench.says(body, &request[..request.len() - 1]);
    bench.says(probe, "GET /health HTTP/1.1\r\n");
    bench.ask(post(&client.token, &call(1)));
    bench.inbox();
    bench.shutdown();

    bench.says(head, &request[20..]);
    let answer = bench.answers(head).remove(0);
    assert_eq!((answer.status, answer.field("Retry-After")), (503, Some("1")));
    assert!(answer.closes() && answer.body.contains("shutting down"));

    bench.says(body, &request[request.len() - 1..]);
    let answer = bench.answers(body).remove(0);
    assert!(answer.status == 202 && answer.closes(), "it was under way: {answer:?}");

    bench.says(probe, "Host: localhost\r\n\r\nGET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let answers = bench.answers(probe);
    assert_eq!(answers.len(), 1);
    assert!(answers[0].closes() && answers[0].body.contains(r#""status":"draining""#));
    assert_eq!(bench.inbox().len(), 1);

    bench.send(client.session, &reply(1));
    for conn in [head, body, probe] {
        bench.fin(conn);
    }
    bench.wait(secs(2));
    check_drained(&mut bench);
}

#[test]
fn draining_server_opens_no_session_and_is_not_ready() {
    for (request, status) in [("GET /sse", 503), ("GET /ready", 503), ("HEAD /sse", 200)] {
        let mut bench = Bench::new();
        let client = bench.open();
        bench.ask(post(&client.token, &call(1)));
        let conn = bench.connect();
        bench.says(conn, format!("{request} HTTP/1.1\r\n"));
        bench.shutdown();
        bench.says(conn, "Host: localhost\r\n\r\n");
        let answer = bench.answers(conn).remove(0);
        assert!(answer.status == status && answer.closes(), "{request}: {answer:?}");
        assert_eq!(bench.server.sessions_open(), 1);
    }
}

#[test]
fn held_and_forwarded_posts_are_answered_and_their_connections_closed() {
    let config = limited(|limits| limits.inbound_messages_max = Some(1));
    let mut bench = Bench::with(config);
    let client = bench.open();
    let (first, second) = (bench.connect(), bench.connect());
    bench.says(first, post(&client.token, NOTE));
    bench.says(second, post(&client.token, NOTE));
    bench.shutdown();
    let answer = bench.answers(second).remove(0);
    assert!(answer.status == 503 && answer.closes(), "{answer:?}");

    let (mut bench, token) = authorize::forwarding();
    let conn = bench.connect();
    bench.says(conn, post(&token, &call(1)));
    let ticket = bench.forwarded();
    bench.shutdown();
    assert!(bench.is_open(conn));
    bench.server.acknowledge(ticket, Outcome::Accepted, bench.now).unwrap();
    bench.pump();
    let answer = bench.answers(conn).remove(0);
    assert!(answer.status == 202 && answer.closes(), "{answer:?}");
}

#[test]
fn open_question_is_503_at_shutdown() {
    let mut bench = Bench::with(Config::builder().authorization(Authorization::Deferred));
    let conn = bench.connect();
    bench.says(conn, GET);
    let Some(Event::Asked { ticket, .. }) = bench.event() else { panic!() };
    bench.shutdown();
    let verdict = crate::event::Verdict::Allow(crate::Principal::new("a"));
    bench.server.authorize(ticket, verdict, bench.now).unwrap();
    bench.pump();
    assert_eq!(bench.statuses(conn), [503]);
    assert_eq!(bench.server.sessions_open(), 0);
}

#[test]
fn cancelled_last_request_ends_its_session_while_draining() {
    let mut bench = Bench::new();
    let client = bench.open();
    bench.ask(post(&client.token, &call(1)));
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;
    let request = post(&client.token, cancel);
    let conn = bench.connect();
    bench.says(conn, &request[..request.len() - 1]);
    bench.inbox();
    bench.shutdown();
    bench.says(conn, &request[request.len() - 1..]);
    assert_eq!(bench.statuses(conn), [202]);
    assert!(bench.stream(client.conn).ended, "nothing is left to wait for");
}

#[test]
fn end_of_the_grace_cuts_what_is_left() {
    let mut bench = Bench::new();
    let client = bench.open();
    bench.ask(post(&client.token, &call(1)));
    bench.inbox();
    let half = bench.connect();
    bench.says(half, "GET /");
    let deaf = bench.connect();
    bench.set_reading(deaf, false);
    bench.says(deaf, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    bench.set_reading(client.conn, false);
    bench.send(client.session, &note("undelivered"));
    bench.shutdown();
    bench.wait(secs(5) - Duration::from_micros(1));
    assert!(bench.is_open(client.conn) && bench.is_open(half) && bench.is_open(deaf));
    bench.wait(Duration::from_micros(1));
    assert!(!bench.is_open(client.conn) && !bench.is_open(half) && !bench.is_open(deaf));
    let events = check_drained(&mut bench);
    assert!(matches!(
        events.as_slice(),
        [Event::Closed { reason: CloseReason::Shutdown, frames_undelivered: 1, .. }]
    ));
}

/// A session with a request in flight, in a server whose grace has no end.
fn busy() -> (Bench, Client) {
    let mut bench = Bench::with(timed(|timeouts| timeouts.shutdown_grace = None));
    let client = bench.open();
    bench.ask(post(&client.token, &call(1)));
    bench.inbox();
    (bench, client)
}

#[test]
fn second_shutdown_changes_nothing() {
    let (mut bench, client) = busy();
    bench.shutdown();
    for _ in 0..3 {
        bench.wait(secs(1_000));
        bench.shutdown();
        assert_eq!(bench.server.phase(), ServerPhase::Draining { until: None });
        assert!(bench.is_open(client.conn));
    }
    bench.send(client.session, &reply(1));
    assert_eq!(bench.messages(client.conn).len(), 1);
    assert!(bench.stream(client.conn).ended);
    check_drained(&mut bench);
}

#[test]
fn second_shutdown_does_not_lengthen_the_grace() {
    let mut bench = Bench::new();
    let client = bench.open();
    bench.ask(post(&client.token, &call(1)));
    bench.inbox();
    bench.shutdown();
    bench.wait(secs(4));
    bench.shutdown();
    assert_eq!(
        bench.server.phase(),
        ServerPhase::Draining { until: Some(Time::from_micros(5_000_000)) }
    );
    bench.wait(secs(1));
    assert!(!bench.is_open(client.conn));
    check_drained(&mut bench);
}

#[test]
fn abort_after_a_shutdown_cuts_what_is_left() {
    let (mut bench, client) = busy();
    bench.shutdown();
    bench.abort();
    assert!(!bench.is_open(client.conn));
    let events = check_drained(&mut bench);
    assert!(matches!(events.as_slice(), [Event::Closed { reason: CloseReason::Shutdown, .. }]));
    bench.abort();
    assert!(bench.events().is_empty(), "an end is told once");
}

#[test]
fn abort_of_a_running_server_cuts_everything_and_is_drained() {
    let (mut bench, client) = busy();
    let (fresh, half) = (bench.connect(), bench.connect());
    bench.says(half, "GET /");
    bench.set_reading(client.conn, false);
    bench.send(client.session, &note("undelivered"));
    bench.abort();
    for conn in [client.conn, fresh, half] {
        assert!(!bench.is_open(conn));
    }
    let events = check_drained(&mut bench);
    assert!(matches!(
        events.as_slice(),
        [Event::Closed { reason: CloseReason::Shutdown, frames_undelivered: 1, .. }]
    ));
    assert_eq!(bench.server.accept(Peer::local(), bench.now), Err(AcceptError::ShuttingDown));
}

#[test]
fn abort_of_an_empty_server_is_drained_at_once() {
    let mut bench = Bench::new();
    bench.abort();
    check_drained(&mut bench);
}
