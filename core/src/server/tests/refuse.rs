//! What is counted and what the log has when something is refused: no token, no payload, no query.

use log::LevelFilter;

use super::*;
use crate::error::{AcceptError, Fault};
use crate::line_throttle::SESSION_LINES_PER_SECOND;
use crate::testing::{lines_in, records_in};
use crate::{Authorization, StaticTokens};

fn network(remote: &str) -> Peer {
    Peer::tcp(remote.parse().unwrap(), "192.0.2.1:80".parse().unwrap())
}

#[test]
fn refusals_are_logged_once_a_second_for_each_fault() {
    let mut bench = Bench::new();
    let conn = bench.connect_from(network("192.0.2.7:50000"));
    let lines = lines_in(|| {
        for _ in 0..3 {
            bench.says(conn, "GET /a?secret=hunter2 HTTP/1.1\r\nHost: a\r\n\r\n");
        }
        bench.says(conn, "DELETE /sse?secret=hunter2 HTTP/1.1\r\nHost: a\r\n\r\n");
        bench.wait(secs(1));
        bench.says(conn, "GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
    });
    assert_eq!(
        lines,
        [
            "INFO refused GET of an unknown path from 192.0.2.7:50000: not found (404)",
            "INFO refused DELETE of an event stream from 192.0.2.7:50000: method not allowed (405)",
            "INFO refused GET of an unknown path from 192.0.2.7:50000: not found (404) \
             (2 more since this was last logged)",
        ]
    );
    assert_eq!(bench.server.metrics().fault(Fault::NotFound), 4);
}

#[test]
fn forwarding_fields_of_an_untrusted_peer_are_warned_of_once() {
    let config = Config::builder().build().unwrap();
    // As the shards of one server have it.
    let mut benches = [0, 1].map(|_| Bench::of(config.clone()));
    let lines = lines_in(|| {
        for bench in &mut benches {
            for field in ["", "x-forwarded-proto: https\r\n", "Forwarded: for=192.0.2.9\r\n"] {
                let conn = bench.connect_from(network("192.0.2.7:50000"));
                bench.says(conn, format!("GET /ready HTTP/1.1\r\nHost: a\r\n{field}\r\n"));
            }
        }
    });
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert!(line.starts_with("WARN X-Forwarded-Proto from 192.0.2.7:50000 is ignored"), "{line}");
    assert!(line.contains("trusted_proxy(\"192.0.2.7\")"), "{line}");
    assert!(line.ends_with("--trusted-proxy 192.0.2.7"), "{line}");
}

#[test]
fn forwarding_fields_on_a_unix_socket_are_warned_of_and_those_of_trusted_proxies_are_not() {
    let ask = |config: ConfigBuilder, peer: Peer| {
        let mut bench = Bench::with(config);
        let conn = bench.connect_from(peer);
        let head = "GET /ready HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-Prefix: /p\r\n\r\n";
        lines_in(|| bench.says(conn, head))
    };
    let lines = ask(Config::builder().trusted_proxy("10.0.0.0/8"), Peer::local());
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].ends_with("--trusted-proxy unix"), "{lines:?}");
    let trusting = || Config::builder().trusted_proxy("10.0.0.0/8").trust_local_peers(true);
    assert!(ask(trusting(), Peer::local()).is_empty());
    assert!(ask(trusting(), network("10.1.1.1:9")).is_empty());
}

#[test]
fn refusal_sentence_says_what_was_refused_to_whom_and_why() {
    let rate = "1/hour".parse().ok();
    let config = limited(|limits| {
        limits.posts_rate_per_session = rate;
        limits.connections_max = Some(3);
    });
    let mut bench = Bench::with(config.trusted_proxy("10.0.0.1"));
    let client = bench.open();
    let conn = bench.connect_from(network("10.0.0.1:5"));
    let fields = "X-Forwarded-For: 192.0.2.7\r\n";
    bench.says(conn, post_with(&client.token, fields, NOTE));
    let lines = lines_in(|| {
        bench.says(conn, post_with(&client.token, fields, NOTE));
        bench.says(conn, format!("GET /a HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
        bench.connect();
        for _ in 0..2 {
            assert_eq!(bench.server.accept(Peer::local(), bench.now), Err(AcceptError::AtCapacity));
        }
    });
    assert_eq!(
        lines,
        [
            "INFO refused POST of a message from 192.0.2.7 through 10.0.0.1:5: \
             too many posts to this session (limit posts_rate_per_session) (429)",
            "INFO refused GET of an unknown path from 192.0.2.7 through 10.0.0.1:5: not found (404)",
            "INFO refused a connection from a local peer: too many connections (limit connections_max)",
        ]
    );
    assert_eq!(bench.server.metrics().connections_refused, 2);
    assert_eq!(bench.server.metrics().fault(Fault::ConnectionsFull), 2);
}

#[test]
fn log_records_hold_no_secret() {
    let tokens = StaticTokens::builder().token("alice", "alpha-hunter2").build().unwrap();
    let config = Config::builder().authorization(Authorization::Static(tokens));
    let mut bench = Bench::with(config);
    let good = "Authorization: Bearer alpha-hunter2\r\n";
    let conn = bench.connect();
    bench.says(conn, GET.replace("\r\n\r\n", &format!("\r\n{good}\r\n")));
    let token = bench.stream(conn).token();
    let records = records_in(LevelFilter::Debug, || {
        let bad = "Authorization: Bearer wrong-hunter2\r\n";
        for request in [
            post_with(&token, bad, NOTE),
            post_with(&token, &good.repeat(2), NOTE),
            post_with(&token, &format!("{good}traceparent: hunter2\r\n"), "hunter2"),
            post_with(&token, good, r#"{"hunter2":1}"#),
            post_with(&token.replace(&token[30..], "xx"), good, NOTE),
            post_with(&token, &format!("{good}Origin: http://hunter2.example\r\n"), NOTE),
            post(&token, NOTE).replace("Host: localhost", "Host: hunter2.example"),
            format!("GET /sse?hunter2 HTTP/1.1\r\nHost: localhost\r\nAccept: a/b\r\n{good}\r\n"),
            "GET /hunter2 HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
        ] {
            assert!((400..500).contains(&bench.ask(request).status));
        }
    });
    let refused = records.iter().filter(|record| record.event() == "refused");
    assert_eq!(refused.count(), 9, "{records:#?}");
    // Sentences, keys and values.
    for record in &records {
        let all = format!("{record:?}");
        assert!(!all.contains("hunter2") && !all.contains(&token[8..]), "{all}");
    }
}

#[test]
fn malformed_head_is_not_logged_with_the_last_requests_client() {
    let mut bench = Bench::with(Config::builder().trusted_proxy("10.0.0.1"));
    let ask = "GET /a HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n";
    let [bad, slow] = [0; 2].map(|_| bench.connect_from(network("10.0.0.1:5")));
    bench.says(bad, ask);
    bench.says(slow, ask);
    let lines = lines_in(|| {
        bench.says(bad, "nonsense\r\n\r\n");
        bench.says(slow, "GET ");
        bench.wait(secs(11));
    });
    assert_eq!(lines.len(), 2, "{lines:#?}");
    for line in &lines {
        assert!(line.contains(" from 10.0.0.1:5: "), "{line}");
    }
}

const TIMES: usize = 1_000;

/// Does something [`TIMES`] times in one instant, and once more a second later: how many lines that makes
/// in all. The last of them tells how many were left out.
#[track_caller]
fn check_flood(what: &str, mut bench: Bench, lines_max: usize, mut act: impl FnMut(&mut Bench)) {
    let lines = lines_in(|| {
        for _ in 0..TIMES {
            act(&mut bench);
        }
    });
    assert!(
        (1..=lines_max).contains(&lines.len()),
        "{what}: {} lines, {:?}",
        lines.len(),
        lines.last()
    );
    let said = lines.len();
    bench.wait(secs(1));
    let lines = lines_in(|| act(&mut bench));
    let more = format!("({} more since this was last logged)", TIMES - said);
    assert!(lines.iter().any(|line| line.ends_with(&more)), "{what}: {more}: {lines:?}");
}

#[test]
fn repeated_refusals_are_one_line_a_second() {
    let tokens = StaticTokens::builder().token("alice", "alpha").build().unwrap();
    let tokens = Config::builder().authorization(Authorization::Static(tokens));
    for (request, config) in [
        ("nonsense\r\n\r\n".to_string(), Config::builder()),
        ("GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n".into(), Config::builder()),
        ("BREW /sse HTTP/1.1\r\nHost: a\r\n\r\n".into(), Config::builder()),
        ("POST /sse HTTP/1.1\r\nHost: a\r\n\r\n".into(), Config::builder()),
        ("GET /sse HTTP/1.1\r\nHost: a\r\nAccept: a/b\r\n\r\n".into(), Config::builder()),
        ("GET /sse HTTP/1.1\r\nHost: a\r\n\r\n".into(), tokens),
        ("GET /sse HTTP/1.1\r\nHost: a\r\n\r\n".into(), limited(|it| it.sessions_max = Some(0))),
        (post(&"A".repeat(32), NOTE), Config::builder()),
        (post(&"A".repeat(32), "{"), Config::builder()),
        (post(&"A".repeat(32), NOTE).replace("application", "text"), Config::builder()),
    ] {
        check_flood(&request, Bench::with(config), 1, |bench| {
            let conn = bench.connect_from(network("192.0.2.7:5"));
            bench.says(conn, &request);
            if bench.is_open(conn) {
                bench.reset(conn);
            }
        });
    }
    let full = Bench::with(limited(|limits| limits.connections_max = Some(0)));
    check_flood("refused connections", full, 1, |bench| {
        assert!(bench.server.accept(network("192.0.2.7:5"), bench.now).is_err());
    });
    let full = Bench::with(limited(|limits| limits.connections_per_address_max = Some(0)));
    check_flood("connections of one address", full, 1, |bench| {
        assert!(bench.server.accept(network("192.0.2.7:5"), bench.now).is_err());
    });
    let few = Bench::with(limited(|limits| limits.connections_max = Some(8)));
    check_flood("evictions", few, 1, |bench| {
        // As many as there may be, and one of them makes room.
        let before = bench.server.metrics().fault(Fault::ConnectionEvicted);
        while bench.server.metrics().fault(Fault::ConnectionEvicted) == before {
            bench.connect();
            bench.pump();
        }
    });
}

#[test]
fn unused_sessions_are_one_line_a_second() {
    check_flood("opened and closed", Bench::new(), 1, |bench| {
        let client = bench.open();
        bench.reset(client.conn);
        bench.events();
    });
}

#[test]
fn used_sessions_have_a_line_each_up_to_a_limit() {
    let act = |bench: &mut Bench| {
        let client = bench.open();
        bench.ask(post(&client.token, NOTE));
        bench.reset(client.conn);
        bench.events();
    };
    check_flood("with a message", Bench::new(), SESSION_LINES_PER_SECOND as usize, act);
    // Those say nothing that keeps the others from saying something.
    let mut bench = Bench::new();
    let lines = lines_in(|| {
        for _ in 0..10 {
            let client = bench.open();
            bench.reset(client.conn);
            bench.events();
            act(&mut bench);
        }
    });
    assert_eq!(lines.len(), 11, "{lines:#?}");
}

#[test]
fn stalled_sessions_are_limited_lines_a_second() {
    const SESSIONS: usize = 200;
    let mut bench = Bench::new();
    let lines = lines_in(|| {
        for _ in 0..SESSIONS {
            let client = bench.open();
            bench.set_reading(client.conn, false);
            bench.send(client.session, &note("x"));
        }
        bench.wait(secs(31));
    });
    let stalled = bench.server.metrics().sessions_closed;
    assert_eq!((stalled, bench.server.sessions_open()), (SESSIONS as u64, 0));
    assert!((1..=SESSION_LINES_PER_SECOND as usize * 2).contains(&lines.len()), "{}", lines.len());
}

#[test]
fn large_messages_are_one_warning_a_second() {
    let large = note(&"x".repeat(1 << 20));
    let mut bench = Bench::new();
    let lines = lines_in(|| {
        for _ in 0..TIMES / 10 {
            let client = bench.open();
            bench.send(client.session, &large);
            bench.reset(client.conn);
            bench.events();
        }
    });
    let warnings = lines.iter().filter(|line| line.starts_with("WARN ")).count();
    assert_eq!(warnings, 1, "{lines:#?}");
}

#[test]
fn session_is_one_line_at_its_end() {
    let mut bench = Bench::new();
    let lines = lines_in(|| {
        let conn = bench.connect_from(network("192.0.2.7:50000"));
        let client = bench.open_on(conn);
        bench.ask(post(&client.token, NOTE));
        bench.wait(Duration::from_millis(2_350));
        bench.ask(post(&client.token, NOTE));
        bench.send(client.session, &note("an event"));
        bench.server.close(client.session, bench.now);
        bench.pump();
        bench.events();
        let idle = bench.open();
        bench.wait(secs(90));
        bench.reset(idle.conn);
    });
    assert_eq!(
        lines,
        [
            "INFO session s0v1 of 192.0.2.7:50000 ended after 2.3 s, 2 messages in, 1 out, \
             0 undelivered: closed by the application",
            "INFO session s0v2 of a local peer ended after 90.0 s without a message: closed by the client",
        ]
    );
}
