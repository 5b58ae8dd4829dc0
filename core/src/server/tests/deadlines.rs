//! Deadlines, on the virtual clock.

use super::*;
use crate::Authorization;
use crate::error::Fault;
use crate::timers::TimerKind;

const MOMENT: Duration = Duration::from_micros(1);

/// Nothing more happens until just before `interval`, and then the connection ends.
#[track_caller]
fn check_lasts(bench: &mut Bench, conn: ConnId, interval: Duration) {
    bench.wait(interval - MOMENT);
    assert!(bench.is_open(conn), "too early");
    bench.wait(MOMENT);
    assert!(!bench.is_open(conn), "too late");
}

#[test]
fn silent_connection_is_closed_without_an_answer() {
    let mut bench = Bench::new();
    let conn = bench.connect();
    check_lasts(&mut bench, conn, secs(10));
    assert!(bench.heard(conn).is_empty());
    assert_eq!(bench.server.metrics().fault(Fault::ConnectionIdle), 1);
}

#[test]
fn slow_head_is_408() {
    let mut bench = Bench::new();
    let conn = bench.connect();
    for octet in "GET /sse ".bytes() {
        bench.wait(secs(1));
        bench.says(conn, [octet]);
    }
    bench.wait(secs(1) - MOMENT);
    assert!(bench.heard(conn).is_empty());
    bench.wait(MOMENT);
    let answer = bench.answers(conn).remove(0);
    assert!(answer.status == 408 && answer.closes(), "{answer:?}");
    assert_eq!(bench.server.metrics().fault(Fault::HeadTimeout), 1);
    check_lasts(&mut bench, conn, secs(2));
}

#[test]
fn later_head_is_timed_from_its_first_byte() {
    let mut bench = Bench::new();
    let conn = bench.connect();
    bench.wait(secs(9));
    bench.says(conn, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    bench.wait(secs(70));
    bench.says(conn, "G");
    bench.wait(secs(10) - MOMENT);
    assert_eq!(bench.statuses(conn), [200]);
    bench.wait(MOMENT);
    assert_eq!(bench.statuses(conn), [200, 408]);
}

#[test]
fn slow_body_is_408() {
    let mut bench = Bench::new();
    let client = bench.open();
    let conn = bench.connect();
    let request = post(&client.token, NOTE);
    bench.says(conn, &request[..request.len() - 2]);
    bench.wait(secs(29));
    bench.says(conn, &request[request.len() - 2..request.len() - 1]);
    bench.wait(secs(1) - MOMENT);
    assert!(bench.heard(conn).is_empty());
    bench.wait(MOMENT);
    assert_eq!(bench.statuses(conn), [408]);
    assert!(bench.inbox().is_empty());
    bench.says(conn, &request[request.len() - 1..]);
    assert!(bench.inbox().is_empty());
}

#[test]
fn slow_discarded_body_closes_the_connection() {
    let mut bench = Bench::new();
    let conn = bench.connect();
    let request = post("nobody", NOTE);
    bench.says(conn, &request[..request.len() - 1]);
    assert_eq!(bench.statuses(conn), [404]);
    check_lasts(&mut bench, conn, secs(30));
    assert_eq!(bench.statuses(conn), [404]);
}

/// A peer that takes no answers, and is not read behind the first one.
fn leaving_answers() -> (Bench, ConnId) {
    let limits = Limits { answers_bytes_max: Some(1), ..Limits::default() };
    let timeouts = Timeouts { stall: Some(secs(200)), ..Timeouts::default() };
    let mut bench = Bench::with(Config::builder().limits(limits).timeouts(timeouts));
    let conn = bench.connect();
    bench.set_reading(conn, false);
    (bench, conn)
}

#[test]
fn slow_reader_of_answers_is_not_idle() {
    let (mut bench, conn) = leaving_answers();
    bench.says(conn, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(2));
    bench.wait(secs(190));
    bench.set_reading(conn, true);
    assert_eq!(bench.statuses(conn), [200, 200]);
    assert_eq!(bench.server.metrics().fault(Fault::ConnectionIdle), 0);
    check_lasts(&mut bench, conn, secs(75));
    // Nothing of it may have been read yet.
    let conn = bench.connect();
    bench.set_reading(conn, false);
    bench.says(conn, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    bench.wait(secs(90));
    bench.says(conn, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    bench.set_reading(conn, true);
    assert_eq!(bench.statuses(conn), [200, 200]);
}

#[test]
fn input_deadline_does_not_run_while_input_is_not_read() {
    let (mut bench, conn) = leaving_answers();
    // The body of a request that is refused at once is read and thrown away behind the answer.
    let refused = "POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n";
    bench.says(conn, format!("{refused}12345GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    bench.wait(secs(100));
    bench.set_reading(conn, true);
    assert_eq!(bench.statuses(conn), [405, 200]);
}

#[test]
fn input_deadline_restarts_when_reading_resumes() {
    let (mut bench, conn) = leaving_answers();
    bench.says(conn, "POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n");
    bench.wait(secs(29));
    bench.set_reading(conn, true);
    assert_eq!(bench.statuses(conn), [405]);
    bench.wait(secs(29));
    bench.says(conn, "12345GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(bench.statuses(conn), [405, 200]);
}

#[test]
fn idle_connection_is_kept_for_idle() {
    let mut bench = Bench::new();
    let client = bench.open();
    let conn = bench.connect();
    bench.says(conn, post(&client.token, NOTE));
    bench.wait(secs(74));
    bench.says(conn, post(&client.token, NOTE));
    check_lasts(&mut bench, conn, secs(75));
    assert_eq!(bench.statuses(conn), [202, 202]);
}

#[test]
fn silent_hour_is_240_heartbeats_of_two_bytes() {
    let mut bench = Bench::new();
    let client = bench.open();
    let before = bench.writes(client.conn).len();
    bench.wait(secs(3_600));
    let writes = &bench.writes(client.conn)[before..];
    assert_eq!(writes.len(), 240);
    assert!(writes.iter().all(|bytes| bytes == b"2\r\n:\n\r\n"));
    assert_eq!(bench.stream(client.conn).comments, 240);
    assert_eq!(bench.stream(client.conn).events.len(), 1);
    assert_eq!(bench.server.metrics().heartbeats, 240);
    assert!(bench.events().is_empty() && bench.is_open(client.conn));
}

#[test]
fn busy_stream_has_no_heartbeats() {
    let mut bench = Bench::new();
    let client = bench.open();
    for _ in 0..100 {
        bench.wait(secs(10));
        bench.send(client.session, &note("x"));
    }
    assert_eq!(bench.stream(client.conn).comments, 0);
    bench.wait(secs(15) - MOMENT);
    assert_eq!(bench.stream(client.conn).comments, 0);
    bench.wait(MOMENT);
    assert_eq!(bench.stream(client.conn).comments, 1);
}

#[test]
fn heartbeat_is_not_queued_before_the_endpoint_or_behind_bytes() {
    let mut bench = Bench::with(timed(|timeouts| timeouts.stall = Some(secs(1_000))));
    let conn = bench.connect();
    bench.set_reading(conn, false);
    bench.says(conn, GET);
    bench.wait(secs(40));
    bench.takes(conn, 10);
    bench.wait(secs(40));
    assert_eq!(bench.server.metrics().heartbeats, 0);
    bench.set_reading(conn, true);
    assert_eq!(bench.stream(conn).comments, 0);
    bench.wait(secs(15));
    assert_eq!(bench.stream(conn).comments, 1);
    bench.set_reading(conn, false);
    bench.wait(secs(200));
    assert_eq!(bench.server.metrics().heartbeats, 2, "one waits, and that is enough");
}

#[test]
fn heartbeat_of_none_sends_none() {
    let mut bench = Bench::with(timed(|timeouts| timeouts.heartbeat = None));
    let client = bench.open();
    assert_eq!(bench.server.poll_timeout(), None);
    bench.wait(secs(100_000));
    assert_eq!(bench.stream(client.conn).comments, 0);
    assert!(bench.is_open(client.conn));
}

#[test]
fn client_that_takes_nothing_is_stalled() {
    let mut bench = Bench::new();
    let client = bench.open();
    bench.set_reading(client.conn, false);
    bench.wait(secs(10));
    bench.send(client.session, &note("one"));
    bench.send(client.session, &note("two"));
    bench.wait(secs(29));
    bench.takes(client.conn, 1);
    bench.wait(secs(29));
    let one = bench.server.transmit(client.conn).chunks().next().unwrap().len();
    bench.takes(client.conn, one + 1);
    check_lasts(&mut bench, client.conn, secs(30));
    assert_eq!(bench.closed(), [(client.session, CloseReason::Stalled, 1)]);
    assert_eq!(bench.server.metrics().fault(Fault::Stalled), 1);
    assert_eq!(bench.server.metrics().frames_sent, 1);
}

/// A client with a long queue that takes `count` bytes every 29 seconds.
fn sipping(count: usize) -> (Bench, Client) {
    let mut bench = Bench::new();
    let client = bench.open();
    bench.set_reading(client.conn, false);
    for _ in 0..20 {
        bench.send(client.session, &note(&"x".repeat(1_000)));
    }
    for _ in 0..10 {
        bench.wait(secs(29));
        if !bench.is_open(client.conn) {
            break;
        }
        bench.takes(client.conn, count);
    }
    (bench, client)
}

#[test]
fn single_bytes_do_not_restart_the_stall_timer_of_a_long_queue() {
    let (mut bench, client) = sipping(102);
    assert_eq!(bench.now, Time::ZERO.saturating_add(secs(58)));
    assert_eq!(bench.closed(), [(client.session, CloseReason::Stalled, 20)]);
}

#[test]
fn slow_reader_is_not_stalled() {
    let (mut bench, client) = sipping(1_024);
    assert!(bench.is_open(client.conn) && bench.events().is_empty());
    // Many small steps are as good as one.
    for _ in 0..9 {
        for _ in 0..8 {
            bench.wait(secs(3));
            bench.takes(client.conn, 128);
        }
    }
    assert!(bench.is_open(client.conn) && bench.events().is_empty());
}

#[test]
fn queueing_more_does_not_restart_the_stall_timer() {
    let mut bench = Bench::new();
    let client = bench.open();
    bench.set_reading(client.conn, false);
    bench.send(client.session, &note("first"));
    for _ in 0..2 {
        bench.wait(secs(10));
        bench.send(client.session, &note("more"));
    }
    check_lasts(&mut bench, client.conn, secs(10));
    assert_eq!(bench.closed(), [(client.session, CloseReason::Stalled, 3)]);
}

#[test]
fn client_that_never_reads_is_stalled_after_its_first_heartbeat() {
    let mut bench = Bench::new();
    let client = bench.open();
    bench.set_reading(client.conn, false);
    check_lasts(&mut bench, client.conn, secs(15 + 30));
    assert_eq!(bench.closed(), [(client.session, CloseReason::Stalled, 0)]);
}

#[test]
fn answer_that_is_not_taken_is_stalled() {
    let mut bench = Bench::new();
    let conn = bench.connect();
    bench.set_reading(conn, false);
    bench.says(conn, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    check_lasts(&mut bench, conn, secs(30));
}

#[test]
fn missing_verdict_is_503_at_its_deadline() {
    let mut bench = Bench::with(Config::builder().authorization(Authorization::Deferred));
    let conn = bench.connect();
    bench.says(conn, GET);
    bench.wait(secs(4) - MOMENT);
    assert!(bench.heard(conn).is_empty());
    bench.wait(MOMENT);
    let answer = bench.answers(conn).remove(0);
    assert_eq!((answer.status, answer.field("Retry-After")), (503, Some("1")));
    assert!(bench.is_open(conn) && !answer.closes());
    assert_eq!(bench.server.sessions_open(), 0);
}

#[test]
fn lingering_ends_at_its_deadline() {
    let mut bench = Bench::new();
    let conn = bench.connect();
    bench.says(conn, "\0");
    bench.wait(secs(1));
    bench.says(conn, "more");
    check_lasts(&mut bench, conn, secs(1));
}

#[test]
fn session_without_posts_ends_at_session_idle() {
    let mut bench = Bench::with(timed(|timeouts| timeouts.session_idle = Some(secs(100))));
    let client = bench.open();
    for _ in 0..3 {
        bench.wait(secs(99));
        bench.ask(post(&client.token, NOTE));
    }
    bench.inbox();
    bench.wait(secs(99));
    assert!(bench.events().is_empty(), "frames and heartbeats are no posts, but posts are");
    bench.wait(secs(1));
    assert_eq!(bench.closed(), [(client.session, CloseReason::Idle, 0)]);
    assert!(bench.stream(client.conn).ended && !bench.is_open(client.conn));
}

#[test]
fn session_ends_at_session_lifetime() {
    let mut bench = Bench::with(timed(|timeouts| timeouts.session_lifetime = Some(secs(100))));
    let client = bench.open();
    for _ in 0..9 {
        bench.wait(secs(10));
        bench.ask(post(&client.token, NOTE));
        bench.send(client.session, &note("x"));
    }
    bench.inbox();
    bench.wait(secs(10));
    assert_eq!(bench.closed(), [(client.session, CloseReason::Expired, 0)]);
    assert!(bench.stream(client.conn).ended);
}

#[test]
fn stalled_ending_session_keeps_its_reason() {
    let mut bench = Bench::new();
    let client = bench.open();
    bench.set_reading(client.conn, false);
    bench.send(client.session, &note("x"));
    bench.server.close(client.session, bench.now);
    bench.pump();
    check_lasts(&mut bench, client.conn, secs(30));
    assert_eq!(bench.closed(), [(client.session, CloseReason::Application, 1)]);
}

#[test]
fn deadline_has_its_cause() {
    let mut bench = Bench::new();
    assert_eq!(bench.server.poll_timeout(), None);
    let conn = bench.connect();
    assert_eq!(bench.server.poll_timeout().unwrap().cause, TimerKind::Head);
    bench.says(conn, GET);
    let deadline = bench.server.poll_timeout().unwrap();
    assert_eq!(
        (deadline.cause, deadline.at),
        (TimerKind::Heartbeat, Time::from_micros(15_000_000))
    );
    bench.set_reading(conn, false);
    bench.wait(secs(15));
    assert_eq!(bench.server.poll_timeout().unwrap().cause, TimerKind::Stall);
}

#[test]
fn time_that_goes_back_is_counted_and_ignored() {
    let mut bench = Bench::new();
    bench.wait(secs(100));
    let conn = bench.connect();
    bench.server.handle_timeout(Time::from_micros(5));
    assert_eq!(bench.server.now(), bench.now);
    assert_eq!(bench.server.metrics().clock_backsteps, 1);
    check_lasts(&mut bench, conn, secs(10));
}

#[test]
fn many_due_heartbeats_are_handled_in_batches() {
    let mut bench = Bench::with(limited(|limits| limits.sessions_max = None));
    let conns: Vec<_> = (0..1_000).map(|_| bench.connect()).collect();
    for &conn in &conns {
        bench.server.handle_input(conn, GET.as_bytes(), bench.now);
    }
    bench.pump();
    bench.now = bench.now.saturating_add(secs(15));
    let mut batches = 0;
    while bench.server.poll_timeout().is_some_and(|next| next.at <= bench.now) {
        let before = bench.server.metrics().heartbeats;
        bench.server.handle_timeout(bench.now);
        let taken = bench.server.metrics().heartbeats - before;
        assert!((1..=256).contains(&taken), "{taken}");
        batches += 1;
    }
    assert_eq!((batches, bench.server.metrics().heartbeats), (4, 1_000));
}
