//! The checks of `Host` and `Origin`, and the routes beside streams and posts.

use super::*;
use crate::{Authorization, StaticTokens};

fn peer(remote: &str, local: &str) -> Peer {
    Peer::tcp(remote.parse().unwrap(), local.parse().unwrap())
}

fn loopback() -> Peer {
    peer("127.0.0.1:50000", "127.0.0.1:8000")
}

fn network() -> Peer {
    peer("192.0.2.7:50000", "192.0.2.1:8000")
}

fn guarded() -> ConfigBuilder {
    Config::builder().allow_host("mcp.example").allow_origin("https://app.example")
}

#[track_caller]
fn check(config: ConfigBuilder, peer: Peer, fields: &str, status: u16, says: &str) {
    // On the stream, on posts, and where nothing is: the guard stands in front of everything.
    for request in ["GET /sse", "POST /messages?session_id=x", "GET /nothing"] {
        let mut bench = Bench::with(config.clone());
        let conn = bench.connect_from(peer);
        bench.says(conn, format!("{request} HTTP/1.1\r\n{fields}Content-Length: 0\r\n\r\n"));
        let text = bench.text(conn);
        let refused = status != 200;
        assert_eq!(
            text.starts_with(&format!("HTTP/1.1 {status} ")),
            refused || request == "GET /sse"
        );
        assert!(text.contains(says), "{request} {fields}: {text}");
        assert_eq!(bench.server.sessions_open(), u32::from(text.starts_with("HTTP/1.1 200")));
    }
}

#[test]
fn host_is_checked_against_loopback_names_and_allow_host() {
    let open = Config::builder;
    check(open(), loopback(), "Host: localhost:8000\r\n", 200, "");
    check(open(), loopback(), "Host: [::1]\r\n", 200, "");
    check(open(), network(), "Host: anything.example\r\n", 200, "");
    check(
        open(),
        loopback(),
        "Host: evil.example\r\n",
        403,
        "Host \"evil.example\" is not allowed here; see allow_host",
    );
    check(guarded(), loopback(), "Host: localhost\r\n", 200, "");
    check(guarded(), network(), "Host: mcp.example:8000\r\n", 200, "");
    check(guarded(), network(), "Host: localhost\r\n", 403, "allow_host");
    check(open(), loopback(), "", 400, "missing Host");
    check(open(), loopback(), "Host: localhost\r\nHost: localhost\r\n", 400, "more than one Host");
    check(open(), loopback(), "Host: local host\r\n", 400, "malformed Host");
}

#[test]
fn absolute_target_replaces_the_host() {
    let mut bench = Bench::new();
    let ask = |bench: &mut Bench, authority: &str| {
        let request = format!("GET http://{authority}/x HTTP/1.1\r\nHost: localhost\r\n\r\n");
        bench.ask(request).status
    };
    assert_eq!(ask(&mut bench, "evil.example"), 403);
    assert_eq!(ask(&mut bench, "LOCALHOST:1"), 404);
}

#[test]
fn origin_is_checked_against_loopback_origins_and_allow_origin() {
    let host = |origin: &str| format!("Host: mcp.example\r\n{origin}");
    let check =
        |peer, origin: &str, status, says| check(guarded(), peer, &host(origin), status, says);
    check(network(), "", 200, "");
    check(network(), "Origin: https://app.example\r\n", 200, "");
    check(network(), "Origin: http://localhost\r\n", 403, "see allow_origin");
    check(loopback(), "Origin: http://localhost:3000\r\n", 200, "");
    check(
        loopback(),
        "Origin: http://evil.example\r\n",
        403,
        "Origin \"http://evil.example\" is not allowed here; see allow_origin",
    );
    check(loopback(), "Origin: null\r\n", 403, "Origin \"null\"");
    let twice = "Origin: http://localhost\r\nOrigin: http://localhost\r\n";
    check(loopback(), twice, 403, "see allow_origin");
}

#[test]
fn refused_origin_is_escaped_and_cut_in_the_answer() {
    let mut bench = Bench::new();
    let origin = format!("<script>\"{}", "x".repeat(500));
    let answer =
        bench.ask(format!("GET /sse HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\n\r\n"));
    assert_eq!(answer.status, 403);
    assert!(answer.body.contains("\\\"xxx") && answer.body.len() < 250, "{}", answer.body);
    assert_eq!(answer.field("Content-Type"), Some("text/plain; charset=utf-8"));
}

#[test]
fn health_is_answered_for_any_host_and_counts_sessions() {
    let mut bench = Bench::new();
    bench.open();
    bench.wait(secs(5));
    let conn = bench.connect_from(network());
    bench.says(conn, "GET /health HTTP/1.1\r\nHost: evil.example\r\nOrigin: null\r\n\r\n");
    let answer = bench.answers(conn).remove(0);
    assert_eq!((answer.status, answer.field("Content-Type")), (200, Some("application/json")));
    assert_eq!(
        answer.body,
        "{\"status\":\"healthy\",\"active_sessions\":1,\"active_connections\":2,\
         \"uptime_seconds\":5}\n"
    );
    assert_eq!(bench.server.sessions_open(), 1);

    bench.server.handle_wall_clock(784_111_777);
    let answer = bench.ask("GET /health/ HTTP/1.0\r\n\r\n");
    let stamp = r#""uptime_seconds":5,"timestamp":"1994-11-06T08:49:37Z"}"#;
    assert!(answer.body.trim_end().ends_with(stamp), "{}", answer.body);
    let body = answer.body.len().to_string();
    let answer = bench.ask("HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(answer.body, "");
    assert!(answer.field("Content-Length") >= Some(&body));
    let answer = bench.ask("POST /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!((answer.status, answer.field("Allow")), (405, Some("GET, HEAD")));
}

#[test]
fn ready_is_503_without_room_for_a_session() {
    const READY: &str = "GET /ready HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    let mut bench = Bench::with(limited(|limits| limits.sessions_max = Some(1)));
    let answer = bench.ask(READY);
    assert_eq!((answer.status, answer.body.as_str()), (200, "{\"status\":\"ready\"}\n"));
    bench.open();
    let answer = bench.ask(READY);
    assert_eq!((answer.status, answer.body.as_str()), (503, "{\"status\":\"full\"}\n"));
    assert_eq!(answer.field("Retry-After"), Some("1"));
}

#[test]
fn probe_with_a_long_body_closes_the_connection() {
    let mut bench = Bench::new();
    for (length, closes) in [(65_536, false), (65_537, true)] {
        for path in ["/health", "/ready", "/nothing"] {
            let answer = bench.ask(format!(
                "GET {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
            ));
            assert_eq!(answer.closes(), closes, "{path} {length}");
        }
    }
}

#[test]
fn unknown_path_is_404_and_not_repeated() {
    let mut bench = Bench::new();
    for request in [
        "GET /",
        "GET /nothing",
        "POST /register",
        "GET /.well-known/oauth-authorization-server",
        "GET /.well-known/oauth-protected-resource/sse",
        "DELETE /mcp",
        "OPTIONS /mcp",
        "GET /sse%2F",
        "GET /%73se",
        "GET //sse",
        "GET /./sse",
        "GET /sse/..",
    ] {
        let answer = bench.ask(format!("{request} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        let body = "{\"error\":\"not found\",\"hint\":\"the SSE stream is at /sse\"}\n";
        assert_eq!((answer.status, answer.body.as_str()), (404, body), "{request}");
        assert_eq!(answer.field("Content-Type"), Some("application/json"), "{request}");
    }
    // Nothing of the path is repeated, however harmless it looks.
    let answer = bench.ask("GET /secret HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(!answer.body.contains("secret"), "{answer:?}");
    let answer = bench.ask("OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!((answer.status, answer.field("Allow")), (405, Some("GET, HEAD, POST")));
}

#[track_caller]
fn check_hint(config: ConfigBuilder, from: Peer, fields: &str, hint: &str) {
    for path in ["/", "/mcp"] {
        let mut bench = Bench::with(config.clone());
        let conn = bench.connect_from(from);
        bench.says(conn, format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n"));
        let answer = bench.answers(conn).remove(0);
        assert_eq!(answer.status, if path == "/" && hint.starts_with("GET") { 200 } else { 404 });
        if answer.status == 404 {
            let json: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
            assert_eq!(
                (json["error"].as_str(), json["hint"].as_str()),
                (Some("not found"), Some(hint))
            );
            assert!(answer.body.ends_with("}\n"), "{answer:?}");
        }
    }
}

#[test]
fn unknown_path_is_answered_with_the_paths_of_the_streams() {
    let peer = Peer::local();
    let config = Config::builder;
    check_hint(config().stream_path("/a/b"), peer, "", "the SSE stream is at /a/b");
    check_hint(config().service_path("/x"), peer, "", "the SSE stream is at /x/sse");
    let prefixed = config().public_path_prefix("/mcp").trust_local_peers(true);
    check_hint(prefixed.clone(), peer, "", "the SSE stream is at /mcp/sse");
    let forwarded = "X-Forwarded-Prefix: /api\r\n";
    check_hint(prefixed, peer, forwarded, "the SSE stream is at /api/sse");
    let two = config().service_path("/x").service_path("/y");
    check_hint(two.clone(), peer, "", "the SSE streams are at /x/sse, /y/sse");
    let index = "GET / lists the SSE streams that are served here";
    check_hint(two.index_page("x and y"), peer, "", index);
    let many = (0..20).fold(config(), |config, n| config.service_path(&format!("/s{n}")));
    let names = (0..8).map(|n| format!("/s{n}/sse")).collect::<Vec<_>>().join(", ");
    check_hint(many, peer, "", &format!("the SSE streams are at {names}, and 12 more"));
}

/// What a router cut off the path may hold what a stranger typed.
#[test]
fn unknown_path_below_a_mount_is_answered_without_the_mount() {
    let mut bench = Bench::new();
    let exchange = crate::exchange::Exchange {
        method: "GET",
        target: "/x",
        fields: &[("host", b"localhost")],
        mount: "/stranger",
    };
    let conn = bench.server.exchange(exchange, Peer::local(), bench.now).unwrap();
    let body = bench.server.transmit(conn).chunks().collect::<Vec<_>>().concat();
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let hint = "the SSE stream is at /sse, below the path at which this server is mounted";
    assert_eq!(json["hint"], hint);
}

/// People ask with curl; programs pass over it.
#[test]
fn every_body_but_that_of_a_stream_ends_in_one_line_feed() {
    let tokens = StaticTokens::builder().token("alice", "alpha").build().unwrap();
    let config = Config::builder().authorization(Authorization::Static(tokens)).index_page("here");
    let mut bench = Bench::with(config);
    for (request, fields, status) in [
        ("GET /sse", "", 401),
        ("GET /sse", "Authorization: Bearer wrong\r\n", 401),
        ("GET /sse", "Authorization: Bearer a\r\nAuthorization: Bearer b\r\n", 400),
        ("GET /sse", "Authorization: Bearer alpha\r\nAccept: text/html\r\n", 406),
        ("GET /", "Authorization: Bearer alpha\r\n", 200),
        ("GET /nothing", "", 404),
        ("GET /nothing", "Origin: https://evil.example\r\n", 403),
        ("POST /sse", "", 405),
        ("BREW /sse", "", 501),
        ("GET /health", "", 200),
        ("GET /ready", "", 200),
        ("POST /messages", "Authorization: Bearer alpha\r\n", 415),
    ] {
        let answer = bench.ask(format!("{request} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n"));
        assert_eq!(answer.status, status, "{request} {fields}");
        let text = answer.body.strip_suffix('\n');
        assert!(text.is_some_and(|text| !text.ends_with('\n')), "{request} {fields}: {answer:?}");
        // Of a HEAD the length is the same.
        let length = answer.field("Content-Length").unwrap().to_string();
        assert_eq!(length, answer.body.len().to_string());
    }
    let mut bench = Bench::new();
    let client = bench.open();
    for (body, status) in [("{", 400), ("[]", 400), (NOTE, 202)] {
        let answer = bench.ask(post(&client.token, body));
        assert_eq!(answer.status, status);
        assert!(answer.body.ends_with('\n'), "{answer:?}");
    }
}
