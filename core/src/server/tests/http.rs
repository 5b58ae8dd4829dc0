//! HTTP connections: heads, persistence, half-closes, lingering.

use super::*;
use crate::error::Fault;

#[test]
fn pipelined_requests_are_answered_in_order() {
    let mut bench = Bench::new();
    let client = bench.open();
    let conn = bench.connect();
    let token = client.token.as_str();
    bench.says(
        conn,
        [
            post(token, &call(1)),
            post("nobody", &call(2)),
            "GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
            post(token, "nonsense"),
            post(token, NOTE),
            "PUT /sse HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc".into(),
            "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
            "\r\n\r\n".into(),
            post(token, RESULT),
        ]
        .concat(),
    );
    assert_eq!(bench.statuses(conn), [202, 404, 404, 400, 202, 405, 200, 202]);
    assert!(bench.is_open(conn));
    assert_eq!(bench.inbox().len(), 3);
}

#[track_caller]
fn check_persistence(request: &str, connection: Option<&str>, stays: bool) {
    let mut bench = Bench::new();
    let conn = bench.connect();
    bench.says(conn, request);
    assert_eq!(bench.answers(conn)[0].field("Connection"), connection, "{request}");
    let interest = bench.server.interest(conn);
    let reads = Interest::Io { read: true, write: false };
    assert_eq!(interest, if stays { reads } else { Interest::Linger }, "{request}");
}

#[test]
fn connection_is_kept_as_its_version_and_fields_say() {
    let check = check_persistence;
    check(
        "GET /x HTTP/1.1\r\nHost: a\r\n\r\n".replace("Host: a", "Host: localhost").as_str(),
        None,
        true,
    );
    let closing = "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: x, Close\r\n\r\n";
    check(closing, Some("close"), false);
    check("GET /health HTTP/1.2\r\nHost: localhost\r\n\r\n", None, true);
    check("GET /health HTTP/1.0\r\n\r\n", Some("close"), false);
    let kept = "GET /health HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n";
    check(kept, Some("keep-alive"), true);
    let refused = "GET /nothing HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    check(refused, Some("keep-alive"), true);
    check("GET /health HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\n\r\n", None, true);
}

#[test]
fn malformed_head_closes_the_connection() {
    for (request, status) in [
        ("GET /sse HTTP/1.1\nHost: localhost\n\n", 400),
        ("GET  /sse HTTP/1.1\r\n", 400),
        ("\x16\x03\x01\x02", 400),
        ("\r\n\r\n\r\n\r\n\r\n", 400),
        ("GET /s#se HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        ("GET https://localhost/sse HTTP/1.1\r\nHost: localhost\r\n\r\n", 421),
        ("POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: +1\r\n\r\n", 400),
        ("POST /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (
            "POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\
             Transfer-Encoding: chunked\r\n\r\n",
            400,
        ),
    ] {
        let mut bench = Bench::new();
        let conn = bench.connect();
        bench.says(conn, format!("{request}GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!(bench.statuses(conn), [status], "no later byte is read: {request:?}");
        assert!(bench.answers(conn)[0].closes(), "{request:?}");
        assert_eq!(bench.server.interest(conn), Interest::Linger, "{request:?}");
        bench.fin(conn);
        assert!(!bench.is_open(conn), "{request:?}");
    }
}

#[test]
fn absolute_target_with_another_scheme_is_421() {
    let plain = Peer::local();
    for (peer, target, status) in [
        (plain, "/health", 200),
        (plain, "http://localhost/health", 200),
        (plain, "https://localhost/health", 421),
        (plain.secure(), "/health", 200),
        (plain.secure(), "https://localhost/health", 200),
        (plain.secure(), "HTTPS://localhost:443/health", 200),
        (plain.secure(), "http://localhost/health", 421),
        // The guard looks at the target's authority all the same.
        (plain.secure(), "https://evil.example/sse", 403),
    ] {
        let mut bench = Bench::new();
        let conn = bench.connect_from(peer);
        bench.says(conn, format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!(bench.statuses(conn), [status], "{peer:?} {target}");
        assert_eq!(bench.answers(conn)[0].closes(), status == 421, "{peer:?} {target}");
    }
}

#[test]
fn head_limits_have_their_status_codes() {
    let config = || {
        limited(|limits| {
            limits.head_bytes_max = Some(300);
            limits.target_bytes_max = Some(100);
            limits.fields_max = 4;
        })
    };
    let ask = |request: String| Bench::with(config()).ask(request).status;
    let head = |target: &str, fields: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")
    };
    assert_eq!(ask(head(&format!("/{}", "x".repeat(99)), "")), 404);
    assert_eq!(ask(head(&format!("/{}", "x".repeat(100)), "")), 414);
    assert_eq!(ask(head("/x", &"A: b\r\n".repeat(3))), 404);
    assert_eq!(ask(head("/x", &"A: b\r\n".repeat(4))), 431);
    assert_eq!(ask(head("/x", &format!("A: {}\r\n", "b".repeat(300)))), 431);
}

#[test]
fn small_body_of_a_refused_request_is_discarded() {
    let mut bench = Bench::with(limited(|limits| limits.discard_bytes_max = 10));
    let client = bench.open();
    let refused = |length: usize| {
        let body = "x".repeat(length);
        format!(
            "POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    };
    let conn = bench.connect();
    bench.says(conn, refused(10) + &post(&client.token, NOTE));
    assert_eq!(bench.statuses(conn), [404, 202]);
    // The answer does not wait for the body.
    let conn = bench.connect();
    bench.says(conn, &refused(10)[..refused(10).len() - 10]);
    assert_eq!(bench.statuses(conn), [404]);
    bench.says(conn, "xxxxxxxxxx".to_string() + &post(&client.token, NOTE));
    assert_eq!(bench.statuses(conn), [404, 202]);
    // A large one is not read, and neither is anything behind it.
    let conn = bench.connect();
    bench.says(conn, refused(11) + &post(&client.token, NOTE));
    assert_eq!(bench.statuses(conn), [404]);
    assert!(bench.answers(conn)[0].closes());
    assert_eq!(bench.inbox().len(), 2);
}

#[test]
fn refused_chunked_request_closes_the_connection() {
    let mut bench = Bench::new();
    let conn = bench.connect();
    bench.says(
        conn,
        "POST /nothing HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
         0\r\n\r\nGET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    );
    assert_eq!(bench.statuses(conn), [404]);
    assert!(bench.answers(conn)[0].closes());
}

#[test]
fn half_close_after_whole_requests_gets_every_answer() {
    let mut bench = Bench::new();
    let client = bench.open();
    let conn = bench.connect();
    bench.set_reading(conn, false);
    bench.says(conn, post(&client.token, &call(1)) + &post(&client.token, &call(2)));
    bench.fin(conn);
    assert!(bench.is_open(conn));
    bench.set_reading(conn, true);
    assert_eq!(bench.statuses(conn), [202, 202]);
    assert!(!bench.is_open(conn));
    assert_eq!(bench.inbox().len(), 2);
}

#[test]
fn request_cut_short_is_not_executed() {
    let mut bench = Bench::new();
    let client = bench.open();
    let request = post(&client.token, NOTE);
    for cut in 1..request.len() {
        let conn = bench.connect();
        bench.says(conn, &request[..cut]);
        bench.fin(conn);
        assert!(bench.heard(conn).is_empty() && !bench.is_open(conn), "{cut}");
    }
    assert!(bench.inbox().is_empty());
    assert_eq!(bench.server.metrics().fault(Fault::Truncated), request.len() as u64 - 1);
    let head = request.strip_suffix(NOTE).unwrap().replace("Content-Length", "X");
    let chunked = head.replace("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n");
    for body in ["", "5", "5\r\nhe", "1\r\n1\r\n", "1\r\n1\r\n0\r\n"] {
        let conn = bench.connect();
        bench.says(conn, format!("{chunked}{body}"));
        bench.fin(conn);
        assert!(bench.heard(conn).is_empty() && !bench.is_open(conn), "{body}");
    }
    assert!(bench.inbox().is_empty());
}

#[test]
fn connection_without_a_byte_ends_without_an_answer() {
    for said in ["", "\r\n"] {
        let mut bench = Bench::new();
        let conn = bench.connect();
        bench.says(conn, said);
        bench.fin(conn);
        assert!(bench.heard(conn).is_empty() && !bench.is_open(conn));
        assert_eq!(bench.server.metrics().fault(Fault::Truncated), 0);
    }
}

#[test]
fn refused_connection_lingers_so_that_no_reset_destroys_the_answer() {
    let mut bench = Bench::with(limited(|limits| limits.linger_bytes_max = 1_000));
    let conn = bench.connect();
    bench.set_reading(conn, false);
    bench.says(conn, "\0");
    bench.says(conn, [0; 600]);
    bench.set_reading(conn, true);
    assert_eq!(bench.statuses(conn), [400]);
    assert_eq!(bench.server.interest(conn), Interest::Linger);
    bench.says(conn, [0; 400]);
    assert!(bench.is_open(conn));
    bench.says(conn, [0]);
    assert!(!bench.is_open(conn), "so much and no more");
}

#[test]
fn refused_peer_that_takes_no_answer_is_read_up_to_linger_bytes_max() {
    let mut bench = Bench::with(limited(|limits| limits.linger_bytes_max = 1_000));
    let conn = bench.connect();
    bench.set_reading(conn, false);
    bench.says(conn, "\0");
    for _ in 0..5 {
        bench.says(conn, [0; 500]);
    }
    assert_eq!(bench.unread(conn), 3);
    bench.wait(secs(30));
    assert!(!bench.is_open(conn), "stalled");
}

#[test]
fn queued_answers_over_the_limit_stop_reading_and_lose_nothing() {
    for fin in [false, true] {
        let mut bench = Bench::with(limited(|limits| limits.answers_bytes_max = Some(1_000)));
        let client = bench.open();
        let conn = bench.connect();
        bench.set_reading(conn, false);
        let all: String = (0..40).map(|id| post(&client.token, &call(id))).collect();
        bench.says(conn, all);
        bench.says(conn, post(&client.token, NOTE));
        if fin {
            bench.fin(conn);
        }
        let waiting = bench.server.transmit(conn).len();
        assert!((500..1_500).contains(&waiting), "{waiting}");
        assert_eq!(bench.server.interest(conn), Interest::Io { read: false, write: true });
        // A part of it, then the rest.
        bench.takes(conn, 300);
        bench.set_reading(conn, true);
        assert_eq!(bench.statuses(conn), [202; 41]);
        assert_eq!(bench.is_open(conn), !fin);
        assert_eq!(bench.inbox().len(), 41);
    }
}

#[test]
fn half_closed_peer_does_not_linger() {
    let mut bench = Bench::new();
    let conn = bench.connect();
    bench.set_reading(conn, false);
    bench.says(conn, "\0");
    bench.fin(conn);
    assert!(bench.is_open(conn), "the answer has not left");
    bench.set_reading(conn, true);
    assert_eq!(bench.statuses(conn), [400]);
    assert!(!bench.is_open(conn));
    assert_eq!(bench.server.poll_timeout(), None);
}

#[test]
fn partial_head_is_dropped_when_it_is_refused() {
    let mut bench = Bench::new();
    let conn = bench.connect();
    bench.says(conn, "GET /sse HTTP/1.1\r\nHost: ");
    bench.set_reading(conn, false);
    bench.wait(secs(10));
    assert_eq!(bench.server.conns.find(conn.0).unwrap().partial.capacity(), 0);
    bench.set_reading(conn, true);
    assert_eq!(bench.statuses(conn), [408]);
}
