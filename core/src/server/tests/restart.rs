//! What keeps the clients of a server that restarts from coming back all at once: `retry`, `drain_delay`,
//! `drain_spread` and `Retry-After`.

use super::*;
use crate::EntropyUnavailable;
use crate::error::{ConfigError, Fault};
use crate::event::ServerPhase;
use crate::testing::lines_in;
use crate::timers::TimerKind;

const READY: &str = "GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n";
const HEALTH: &str = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn spread_over(spread: Duration) -> ConfigBuilder {
    timed(|timeouts| timeouts.drain_spread = Some(spread))
}

fn delayed_by(delay: Duration) -> ConfigBuilder {
    timed(|timeouts| timeouts.drain_delay = Some(delay))
}

// ── The retry field. ────────────────────────────────────────────────────────────────────────────────────

/// The endpoint event of a new stream, without its token, and the reconnection time.
#[track_caller]
fn endpoint(bench: &mut Bench, get: &str) -> (String, Option<u64>) {
    let conn = bench.connect();
    bench.says(conn, get);
    let stream = bench.stream(conn);
    let mut decoder = sse::Decoder::new(1 << 16);
    decoder.feed(&stream.body, &mut |_| {}).unwrap();
    let text = String::from_utf8(stream.body.clone()).unwrap();
    (text.replace(&stream.token(), "TOKEN"), decoder.retry_ms())
}

#[test]
fn endpoint_event_has_no_retry_field_by_default() {
    let (text, retry) = endpoint(&mut Bench::new(), GET);
    assert_eq!(text, "event: endpoint\ndata: /messages?session_id=TOKEN\n\n");
    assert_eq!(retry, None);
}

#[test]
fn retry_field_is_drawn_for_each_stream_and_follows_the_unchanged_event() {
    for get in [GET, "GET /sse HTTP/1.0\r\n\r\n"] {
        let mut bench = Bench::with(Config::builder().retry(secs(1)..=secs(5)));
        let mut times = Vec::new();
        for _ in 0..200 {
            let (text, retry) = endpoint(&mut bench, get);
            let retry = retry.expect("a time");
            let expected =
                format!("event: endpoint\ndata: /messages?session_id=TOKEN\nretry: {retry}\n\n");
            assert_eq!(text, expected);
            times.push(retry);
        }
        assert!(times.iter().all(|time| (1_000..=5_000).contains(time)), "{times:?}");
        // Each second has its share, and few times are the same.
        for second in 1..5 {
            let count = times.iter().filter(|&&time| time / 1_000 == second).count();
            assert!((20..100).contains(&count), "{count} of {second} s");
        }
        times.sort_unstable();
        times.dedup();
        assert!(times.len() > 150, "{} times", times.len());
    }
}

#[test]
fn later_events_have_no_retry_field() {
    let mut bench = Bench::with(Config::builder().retry(secs(3)..=secs(3)));
    let client = bench.open();
    bench.send(client.session, &note("x"));
    bench.wait(secs(15));
    let body = String::from_utf8(bench.stream(client.conn).body).unwrap();
    assert_eq!(body.matches("retry: 3000\n").count(), 1);
    assert!(body.ends_with(":\n"), "a heartbeat: {body}");
}

#[test]
fn draw_that_fails_refuses_the_session_like_a_token_that_fails() {
    // Every source gives bytes so often and then fails.
    let ask = |calls: u32| {
        let config = Config::builder().retry(secs(1)..=secs(5)).build().unwrap();
        let mut left = calls;
        let source = move |dest: &mut [u8]| {
            left = left.checked_sub(1).ok_or(EntropyUnavailable)?;
            dest.fill(1);
            Ok(())
        };
        let mut bench = Bench::of(config.clone());
        bench.server = Server::new(config, Box::new(source), Time::ZERO);
        let conn = bench.connect();
        bench.says(conn, GET);
        assert_eq!(bench.server.sessions_open() as usize, bench.events().len());
        (bench.server.metrics().fault(Fault::EntropyUnavailable), bench.text(conn))
    };
    let (without_token, without_retry) = (ask(0), ask(1));
    assert!(without_token.1.starts_with("HTTP/1.1 503 "), "{}", without_token.1);
    assert_eq!(without_retry, without_token);
    assert_eq!(without_retry.0, 1);
    assert!(ask(2).1.starts_with("HTTP/1.1 200 "));
}

#[test]
fn invalid_ranges_are_errors_that_name_both_bounds() {
    let error = |builder: ConfigBuilder| builder.build().unwrap_err();
    let reversed = error(Config::builder().retry(secs(5)..=secs(1)));
    let expected =
        ConfigError::EmptyRange { setting: "retry", low: 5_000, high: 1_000, unit: "ms" };
    assert_eq!((&reversed, reversed.setting()), (&expected, Some("retry")));
    let text = "retry must not begin with 5000 ms and end with 1000 ms: the smaller comes first";
    assert_eq!(reversed.to_string(), text);
    let (low, high) = (5, 1);
    let text = error(Config::builder().retry_after(low..=high)).to_string();
    assert!(text.contains("begin with 5 s and end with 1 s"), "{text}");
    let none = Config::builder().retry(Duration::ZERO..=secs(1));
    assert_eq!(error(none).to_string(), "retry must be at least 1 ms");
    assert!(Config::builder().retry(ms(1)..=secs(86_400)).build().is_ok());
    let long = Config::builder().retry(secs(1)..=secs(86_401));
    assert_eq!(error(long).to_string(), "retry must be at most 86400000 ms");
    let longest = Config::builder().retry(Duration::MAX..=Duration::MAX);
    assert_eq!(error(longest).setting(), Some("retry"));
    assert_eq!(error(Config::builder().retry_after(0..=1)).setting(), Some("retry_after"));
    let long = error(Config::builder().retry_after(1..=86_401));
    assert_eq!(long.to_string(), "retry_after must be at most 86400 s");
}

// ── Retry-After. ────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn retry_after_is_drawn_for_each_refusal_and_probe() {
    let full = |range| {
        let mut bench =
            Bench::with(limited(|limits| limits.sessions_max = Some(0)).retry_after(range));
        let mut seconds = |request: &str| -> Vec<u64> {
            let mut answer = || {
                let answer = bench.ask(request);
                assert_eq!(answer.status, 503);
                answer.field("Retry-After").unwrap().parse().unwrap()
            };
            (0..100).map(|_| answer()).collect()
        };
        [seconds(GET), seconds(READY)]
    };
    for all in full(2..=5) {
        for second in 2..=5 {
            let count = all.iter().filter(|&&drawn| drawn == second).count();
            assert!((10..45).contains(&count), "{count} of {second}");
        }
        assert_eq!(all.iter().filter(|drawn| (2..=5).contains(*drawn)).count(), 100);
    }
    assert_eq!(full(7..=7), [[7; 100], [7; 100]]);
    assert_eq!(full(1..=1), [[1; 100], [1; 100]]);
}

#[test]
fn retry_after_of_a_rate_is_the_time_until_it_allows_more() {
    let rate = "1/minute".parse().ok();
    let config = limited(|limits| limits.sessions_rate_per_address = rate).retry_after(1..=5);
    let mut bench = Bench::with(config.trusted_proxy("10.0.0.1"));
    let peer = || Peer::tcp("10.0.0.1:5".parse().unwrap(), "10.0.0.2:1".parse().unwrap());
    let mut ask = || {
        let conn = bench.connect_from(peer());
        bench.says(conn, GET.replace("\r\n\r\n", "\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n"));
        bench.text(conn)
    };
    assert!(ask().starts_with("HTTP/1.1 200 "));
    for _ in 0..20 {
        let text = ask();
        assert!(text.contains("\r\nRetry-After: 60\r\n"), "{text}");
    }
}

// ── The delay. ──────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn delayed_shutdown_is_not_ready_and_serves_everything_until_it_begins() {
    let mut bench = Bench::with(delayed_by(secs(10)));
    let client = bench.open();
    assert_eq!(bench.ask(READY).status, 200);
    let lines = lines_in(|| bench.shutdown());
    assert_eq!(
        lines,
        ["INFO the server is not ready any more; its shutdown starts in 10s (drain_delay)"]
    );
    assert_eq!(bench.server.phase(), ServerPhase::Running);
    bench.wait(secs(10) - Duration::from_micros(1));
    let ready = bench.ask(READY);
    assert_eq!((ready.status, &*ready.body), (503, "{\"status\":\"draining\"}\n"));
    assert!(!ready.closes() && ready.field("Retry-After") == Some("1"), "{ready:?}");
    let health = bench.ask(HEALTH);
    assert!(health.status == 200 && health.body.contains(r#""status":"draining""#), "{health:?}");
    // Streams, posts and new sessions are as before.
    assert_eq!(bench.ask(post(&client.token, &call(1))).status, 202);
    assert_eq!(bench.inbox().len(), 1);
    bench.send(client.session, &reply(1));
    assert_eq!(bench.messages(client.conn).len(), 1);
    let late = bench.open();
    assert!(bench.server.can_accept());
    assert_eq!(bench.server.poll_timeout().unwrap().cause, TimerKind::Shutdown);

    bench.wait(Duration::from_micros(1));
    assert!(bench.stream(client.conn).ended && bench.stream(late.conn).ended);
    bench.wait(secs(2));
    assert_eq!(bench.server.phase(), ServerPhase::Drained);
}

#[test]
fn exchanges_are_served_and_told_that_the_server_is_not_ready_during_the_delay() {
    let mut bench = Bench::with(delayed_by(secs(10)));
    bench.shutdown();
    let mut status = |target: &str| {
        let fields: &[(&str, &[u8])] = &[("host", b"localhost")];
        let request = crate::Exchange { method: "GET", target, fields, mount: "" };
        let conn = bench.server.exchange(request, Peer::local(), bench.now).unwrap();
        let status = bench.server.response(conn).unwrap().status();
        bench.server.handle_disconnect(conn, bench.now);
        status
    };
    assert_eq!(["/ready", "/health", "/sse"].map(&mut status), [503, 200, 200]);
}

#[test]
fn second_shutdown_does_not_lengthen_the_delay_and_the_grace_follows_it() {
    let mut bench = Bench::with(delayed_by(secs(10)));
    let client = bench.open();
    bench.ask(post(&client.token, &call(1)));
    bench.inbox();
    bench.shutdown();
    bench.wait(secs(9));
    bench.shutdown();
    assert_eq!(bench.server.phase(), ServerPhase::Running);
    bench.wait(secs(1));
    let until = Some(Time::from_micros(15_000_000));
    assert_eq!(bench.server.phase(), ServerPhase::Draining { until });
    bench.wait(secs(5));
    assert_eq!(bench.server.phase(), ServerPhase::Drained);
}

#[test]
fn abort_during_the_delay_is_immediate() {
    let mut bench = Bench::with(delayed_by(secs(10)));
    let client = bench.open();
    bench.shutdown();
    bench.abort();
    assert!(!bench.is_open(client.conn));
    assert_eq!(bench.server.phase(), ServerPhase::Drained);
    assert_eq!(bench.server.poll_timeout(), None);
}

#[test]
fn empty_server_waits_for_the_delay_too() {
    let mut bench = Bench::with(delayed_by(secs(10)));
    bench.shutdown();
    bench.wait(secs(9));
    assert_eq!(bench.ask(READY).status, 503);
    bench.wait(secs(1));
    assert!(!bench.server.can_accept());
}

#[test]
fn delay_of_zero_is_no_delay() {
    let mut bench = Bench::with(delayed_by(Duration::ZERO));
    bench.shutdown();
    assert_eq!(bench.server.phase(), ServerPhase::Drained);
}

// ── The spread. ─────────────────────────────────────────────────────────────────────────────────────────

/// When each of the streams ended, in milliseconds from now, looking at every millisecond.
#[track_caller]
fn ends(bench: &mut Bench, clients: &[Client], millis: u64) -> Vec<u64> {
    let mut ends = std::vec![u64::MAX; clients.len()];
    for at in 0..=millis {
        for (end, client) in ends.iter_mut().zip(clients) {
            if *end == u64::MAX && bench.stream(client.conn).ended {
                *end = at;
            }
        }
        bench.wait(ms(1));
    }
    ends
}

#[test]
fn idle_streams_end_at_equal_intervals() {
    let mut bench = Bench::with(spread_over(secs(4)));
    let clients: Vec<Client> = (0..8).map(|_| bench.open()).collect();
    bench.shutdown();
    assert_eq!(bench.server.poll_timeout().unwrap().cause, TimerKind::Shutdown);
    assert_eq!(
        ends(&mut bench, &clients, 5_000),
        [0, 500, 1_000, 1_500, 2_000, 2_500, 3_000, 3_500]
    );
    let events = bench.events();
    let closed =
        |event: &&Event| matches!(event, Event::Closed { reason: CloseReason::Shutdown, .. });
    assert_eq!((events.len(), events.iter().filter(closed).count()), (9, 8));
    assert!(matches!(events.last(), Some(Event::Drained)));
}

#[test]
fn spread_as_long_as_the_grace_cuts_no_idle_stream() {
    let mut bench = Bench::with(spread_over(secs(5)));
    let clients: Vec<Client> = (0..3).map(|_| bench.open()).collect();
    bench.shutdown();
    bench.wait(secs(6));
    assert!(clients.iter().all(|client| bench.stream(client.conn).ended), "the terminating chunk");
}

#[test]
fn stream_with_a_request_in_flight_ends_with_its_answer_whatever_the_spread() {
    let mut bench = Bench::with(spread_over(secs(4)));
    let clients: Vec<Client> = (0..3).map(|_| bench.open()).collect();
    let busy = &clients[1];
    bench.ask(post(&busy.token, &call(1)));
    bench.inbox();
    bench.shutdown();
    // The two idle ones share the time: the busy one has no part in it.
    bench.wait(ms(1_999));
    let ended =
        |bench: &Bench| clients.iter().map(|it| bench.stream(it.conn).ended).collect::<Vec<_>>();
    assert_eq!(ended(&bench), [true, false, false]);
    bench.send(busy.session, &reply(1));
    assert_eq!(ended(&bench), [true, true, false]);
    bench.wait(ms(1));
    assert_eq!(ended(&bench), [true; 3]);
}

#[test]
fn post_that_was_held_at_the_shutdown_keeps_its_stream_until_its_answer() {
    let mut config = limited(|limits| limits.inbound_messages_max = Some(1));
    let timeouts = Timeouts { drain_spread: Some(secs(4)), ..Timeouts::default() };
    config = config.timeouts(timeouts);
    let mut bench = Bench::with(config);
    let (first, second) = (bench.open(), bench.open());
    bench.ask(post(&second.token, NOTE));
    let held = bench.connect();
    bench.says(held, post(&second.token, &call(1)));
    assert!(bench.heard(held).is_empty());
    bench.shutdown();
    // The application takes the note, which makes room for the request.
    let messages =
        bench.events().into_iter().filter(|event| matches!(event, Event::Message { .. }));
    assert_eq!(messages.count(), 2);
    assert_eq!(bench.statuses(held), [202]);
    bench.wait(ms(2_500));
    assert!(bench.stream(first.conn).ended && !bench.stream(second.conn).ended, "it is not idle");
    bench.send(second.session, &reply(1));
    assert_eq!(bench.messages(second.conn).len(), 1);
    assert!(bench.stream(second.conn).ended);
}

#[test]
fn abort_during_the_spread_is_immediate() {
    let mut bench = Bench::with(spread_over(secs(4)));
    let clients: Vec<Client> = (0..3).map(|_| bench.open()).collect();
    bench.shutdown();
    bench.wait(secs(1));
    bench.abort();
    assert!(clients.iter().all(|client| !bench.is_open(client.conn)));
    assert_eq!(bench.server.phase(), ServerPhase::Drained);
    assert_eq!(bench.server.poll_timeout(), None);
}

#[test]
fn server_whose_clients_leave_early_is_drained_before_the_spread_is_over() {
    let mut bench = Bench::with(spread_over(secs(4)));
    let clients: Vec<Client> = (0..3).map(|_| bench.open()).collect();
    bench.shutdown();
    for client in &clients[1..] {
        bench.reset(client.conn);
    }
    bench.wait(ms(100));
    assert_eq!(bench.server.phase(), ServerPhase::Drained);
    assert_eq!(bench.server.poll_timeout(), None);
}

#[test]
fn one_call_ends_a_bounded_number_of_streams() {
    let config =
        spread_over(secs(4)).limits(Limits { sessions_per_address_max: None, ..Limits::default() });
    let mut bench = Bench::with(config);
    let clients: Vec<Client> = (0..600).map(|_| bench.open()).collect();
    bench.shutdown();
    assert_eq!(bench.server.sessions_open(), 599);
    // The driver is late: all are due.
    bench.now = bench.now.saturating_add(secs(4));
    let mut left = Vec::new();
    while bench.server.sessions_open() > 0 {
        bench.server.handle_timeout(bench.now);
        bench.pump();
        left.push(bench.server.sessions_open());
    }
    assert_eq!(left, [599 - 256, 599 - 512, 0]);
    assert!(clients.iter().all(|client| bench.stream(client.conn).ended));
}

#[test]
fn delay_and_spread_follow_one_another() {
    let mut bench = Bench::with(timed(|timeouts| {
        timeouts.drain_delay = Some(secs(2));
        timeouts.drain_spread = Some(secs(4));
    }));
    let clients: Vec<Client> = (0..4).map(|_| bench.open()).collect();
    bench.shutdown();
    assert_eq!(ends(&mut bench, &clients, 6_000), [2_000, 3_000, 4_000, 5_000]);
}

#[test]
fn spread_above_the_grace_is_an_error_that_names_both() {
    let build = |spread: u64, grace: Option<u64>| {
        let (drain_spread, shutdown_grace) = (Some(ms(spread)), grace.map(ms));
        let timeouts = Timeouts { drain_spread, shutdown_grace, ..Timeouts::default() };
        Config::builder().timeouts(timeouts).build().map(drop)
    };
    assert_eq!(build(5_000, Some(5_000)), Ok(()));
    assert_eq!(build(1_000_000, None), Ok(()));
    assert_eq!(build(0, Some(0)), Ok(()));
    let error = build(5_001, Some(5_000)).unwrap_err();
    assert_eq!(error.setting(), Some("drain_spread"));
    let text = "drain_spread (5001 ms) must not be above shutdown_grace (5000 ms)";
    assert_eq!(error.to_string(), text);
}
