//! The other routes: section 3 of the wire contract.

use mcp_sse_core::Config;
use mcp_sse_tests::adapter::{Adapter, RunningServer};
use mcp_sse_tests::client::{Client, Stream, health};
use mcp_sse_tests::{for_each_adapter, handlers, wait_until};

use crate::{Fixture, limits};

for_each_adapter!(
    health_is_json_with_counts,
    ready_is_503_while_sessions_are_full,
    unknown_paths_are_404,
    other_methods_are_405_or_501
);

fn health_is_json_with_counts(on: &Adapter) {
    let mut fixture = Fixture::new(on, Config::default());
    let mut check = |request: &str| {
        let response = Client::connect(fixture.server.address()).ask(format!("{request}\r\n\r\n"));
        assert_eq!(response.status_line, "HTTP/1.1 200 OK", "{request}");
        assert_eq!(response.field("Content-Type"), Some("application/json"), "{request}");
        let body: serde_json::Value = serde_json::from_slice(&response.body).expect("JSON");
        assert_eq!(body.get("status"), Some(&"healthy".into()), "{request}: {body}");
        for count in ["active_sessions", "active_connections", "uptime_seconds"] {
            assert!(body.get(count).is_some_and(serde_json::Value::is_u64), "{request}: {body}");
        }
        assert_eq!(body.get("active_sessions"), Some(&1.into()), "{request}: {body}");
        let timestamp = body.get("timestamp").and_then(|t| t.as_str()).expect("a timestamp");
        let shape: String =
            timestamp.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "0000-00-00T00:00:00Z", "{request}: {timestamp}");
        fixture.other_session.check_alive(request);
    };
    check("GET /health HTTP/1.1\r\nHost: localhost");
    check("GET /health/ HTTP/1.1\r\nHost: localhost");
    check("GET /health?verbose HTTP/1.1\r\nHost: localhost");
    check("GET /health HTTP/1.0");
    // Health checks come before the guard.
    check("GET /health HTTP/1.1\r\nHost: 10.0.0.7:8000");
    check("GET /health HTTP/1.1\r\nHost: evil.example\r\nOrigin: http://evil.example");
    check("GET http://evil.example/health HTTP/1.1\r\nHost: localhost");

    let mut client = Client::connect(fixture.server.address());
    client.send("HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let head = client.head();
    assert_eq!((head.status, head.field("Content-Type")), (200, Some("application/json")));
    let length: usize =
        head.field("Content-Length").and_then(|l| l.parse().ok()).expect("a length");
    assert!(length > 50, "{length}");
    assert_eq!(client.ask("GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n").status, 200);

    // The counts follow connections and sessions.
    let address = fixture.server.address();
    drop(client);
    wait_until("connections end", || health(address).connections == 3);
    let streams: Vec<_> = (0..5).map(|_| Stream::open(address)).collect();
    assert_eq!(health(address).sessions, 6);
    drop(streams);
    wait_until("sessions end", || health(address).sessions == 1);
}

fn ready_is_503_while_sessions_are_full(on: &Adapter) {
    let config = limits(|l| l.sessions_max = Some(2)).build().expect("good");
    let server = RunningServer::start(on, config, handlers::echo());
    let ask = |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: evil.example\r\n\r\n");
        Client::connect(server.address()).ask(request)
    };
    assert_eq!(ask("/ready").status, 200);
    let mut first = Stream::open(server.address());
    let second = Stream::open(server.address());
    let full = ask("/ready");
    assert_eq!(full.status, 503, "{full:?}");
    assert!(full.field("Retry-After").is_some());
    assert_eq!(ask("/health").status, 200, "full is not unhealthy");
    // Another session is refused before anything is created, and the refusal names the limit.
    let mut third = Client::connect(server.address());
    let refused = third.ask("GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(refused.status, 503);
    assert!(refused.text().contains("sessions_max"), "{refused:?}");
    assert!(refused.field("Retry-After").is_some());
    first.check_alive("a session refused");
    drop(second);
    wait_until("there is room", || ask("/ready").status == 200);
    first.check_alive("a session gone");
}

fn unknown_paths_are_404(on: &Adapter) {
    let mut fixture = Fixture::new(on, Config::default());
    let mut check = |line: &str| {
        let mut client = Client::connect(fixture.server.address());
        let response = client.ask(format!("{line} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!(response.status_line, "HTTP/1.1 404 Not Found", "{line}");
        assert_eq!(response.field("Content-Type"), Some("application/json"), "{line}");
        assert_eq!(response.field("Location"), None, "{line}");
        let text = "{\"error\":\"not found\",\"hint\":\"the SSE stream is at /sse\"}\n";
        assert_eq!(response.text(), text, "{line}");
        // The connection stays open.
        assert_eq!(client.ask("GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n").status, 200);
        fixture.other_session.check_alive(line);
    };
    check("GET /");
    check("POST /");
    check("POST /mcp");
    check("DELETE /x");
    check("OPTIONS /x");
    check("GET /favicon.ico");
    check("GET /metrics");
    check("POST /register");
    check("GET /.well-known/oauth-protected-resource");
    check("GET /.well-known/oauth-protected-resource/sse");
    check("GET /.well-known/oauth-authorization-server");
    check("GET /.well-known/openid-configuration");
    // Paths are compared octet by octet.
    check("GET /sse%2F");
    check("GET /sse%00");
    check("GET /%73se");
    check("GET /ss%65");
    check("GET //sse");
    check("GET /sse//");
    check("GET /./sse");
    check("GET /x/../sse");
    check("GET /sse/.");
    check("GET /sse/..");
    check("GET /sse/x");
    check("GET /sse;x");
    check("GET /SSE");
    check("GET /ssee");
    check("GET /ss");
    check("POST /Messages?session_id=x");
    check("POST /messages%3Fsession_id=x");
    check("POST /messages//?session_id=x");
    check("GET /%68ealth");
    check("GET http://localhost");
    check("GET http://localhost?/sse");
}

fn other_methods_are_405_or_501(on: &Adapter) {
    let mut fixture = Fixture::new(on, Config::default());
    let mut check = |line: &str, status: u16, allow: Option<&str>| {
        let mut client = Client::connect(fixture.server.address());
        let response = client.ask(format!("{line} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!(response.status, status, "{line}");
        assert_eq!(response.field("Allow"), allow, "{line}");
        fixture.other_session.check_alive(line);
    };
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        check(&format!("{method} /health"), 405, Some("GET, HEAD"));
        check(&format!("{method} /ready"), 405, Some("GET, HEAD"));
    }
    for target in ["/sse", "/messages", "/health", "/x"] {
        let line = format!("TRACE {target}");
        let mut client = Client::connect(fixture.server.address());
        let response = client.ask(format!("{line} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!(response.status, 405, "{line}");
        assert!(response.field("Allow").is_some_and(|allow| !allow.contains("TRACE")), "{line}");
        assert!(!response.text().contains("localhost"), "a trace: {response:?}");
    }
    let mut check_status = |line: &str, status: u16| {
        let mut client = Client::connect(fixture.server.address());
        let response = client.ask(format!("{line} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!(response.status, status, "{line}");
        fixture.other_session.check_alive(line);
    };
    check_status("CONNECT localhost:80", 405);
    check_status("OPTIONS *", 405);
    check_status("BREW /sse", 501);
    check_status("get /sse", 501);
    check_status("Get /sse", 501);
    check_status("PROPFIND /sse", 501);
    check_status(&format!("{} /sse", "G".repeat(60)), 501);
}
