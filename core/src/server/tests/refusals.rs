//! What is counted and what the log says when something is refused: no token, no payload, no query.

use core::cell::RefCell;

use super::*;
use crate::error::{AcceptError, Fault};
use crate::{Authorization, StaticTokens};

std::thread_local! {
    static LINES: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Keeps the lines of the threads that want to see theirs.
struct Lines;

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        LINES.with_borrow(Option::is_some)
    }

    fn log(&self, record: &log::Record<'_>) {
        LINES.with_borrow_mut(|lines| {
            if let Some(lines) = lines {
                lines.push(format!("{} {}", record.level(), record.args()));
            }
        });
    }

    fn flush(&self) {}
}

/// What the log says in `run` at the level at which servers are run, without openings and ends.
pub(crate) fn lines_in(run: impl FnOnce()) -> Vec<String> {
    let _ = log::set_logger(&Lines);
    log::set_max_level(log::LevelFilter::Info);
    LINES.set(Some(Vec::new()));
    run();
    let lines = LINES.take().unwrap();
    let wanted = |line: &String| {
        line.contains(" to c") || line.contains("onnections") || line.starts_with("WARN")
    };
    lines.into_iter().filter(wanted).collect()
}

fn network(remote: &str) -> Peer {
    Peer::tcp(remote.parse().unwrap(), "192.0.2.1:80".parse().unwrap())
}

#[test]
fn one_line_a_second_for_each_cause() {
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
            "INFO NotFound to c0v1 from 192.0.2.7:50000, no route: not found",
            "INFO MethodNotAllowed to c0v1 from 192.0.2.7:50000, stream: method not allowed",
            "INFO NotFound to c0v1 from 192.0.2.7:50000, no route: not found \
             (2 more since this was last said)",
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
fn a_line_says_who_and_about_which_session() {
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
            "INFO RateLimited to c1v2 from 192.0.2.7 by 10.0.0.1:5, message, s0v1: \
             too many posts to this session (limit posts_rate_per_session)",
            "INFO NotFound to c1v2 from 192.0.2.7 by 10.0.0.1:5, no route: not found",
            "INFO ConnectionsFull: too many connections (limit connections_max)",
        ]
    );
    assert_eq!(bench.server.metrics().connections_refused, 2);
    assert_eq!(bench.server.metrics().fault(Fault::ConnectionsFull), 2);
}

#[test]
fn no_line_holds_a_secret() {
    let tokens = StaticTokens::builder().token("alice", "alpha-hunter2").build().unwrap();
    let config = Config::builder().authorization(Authorization::Static(tokens));
    let mut bench = Bench::with(config);
    let good = "Authorization: Bearer alpha-hunter2\r\n";
    let conn = bench.connect();
    bench.says(conn, GET.replace("\r\n\r\n", &format!("\r\n{good}\r\n")));
    let token = bench.stream(conn).token();
    let lines = lines_in(|| {
        let bad = "Authorization: Bearer wrong-hunter2\r\n";
        for request in [
            post_with(&token, bad, NOTE),
            post_with(&token, &good.repeat(2), NOTE),
            post_with(&token, good, "hunter2"),
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
    assert_eq!(lines.len(), 9, "{lines:#?}");
    for line in &lines {
        assert!(!line.contains("hunter2") && !line.contains(&token[8..]), "{line}");
    }
}

#[test]
fn what_is_refused_before_it_is_understood_is_not_laid_at_the_door_of_the_last_client() {
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
