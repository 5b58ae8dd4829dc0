//! What trusted proxies state about their clients, and whether HTTPS is used.

use core::net::IpAddr;
use std::string::ToString;

use super::*;
use crate::error::{AcceptError, Fault};
use crate::exchange::Exchange;

const PROXY: &str = "10.0.0.1:1";
const STRANGER: &str = "203.0.113.9:1";

fn peer(remote: &str) -> Peer {
    Peer::tcp(remote.parse().unwrap(), "10.0.0.9:80".parse().unwrap())
}

fn trusting() -> ConfigBuilder {
    Config::builder().trusted_proxy("10.0.0.0/8").trusted_proxy("127.0.0.0/8")
}

fn get(fields: &str) -> String {
    format!("GET /sse HTTP/1.1\r\nHost: mcp.example\r\n{fields}\r\n")
}

impl Bench {
    /// Opens a session; who asked, as its event says, and where to post.
    #[track_caller]
    fn opened(&mut self, from: Peer, fields: &str) -> (Option<IpAddr>, String) {
        let conn = self.connect_from(from);
        self.says(conn, get(fields));
        match self.events().as_slice() {
            [Event::Opened { head, .. }] => {
                (head.client(), self.stream(conn).events[0].data.clone())
            }
            other => panic!("expected a session: {other:?}, {}", self.text(conn)),
        }
    }
}

#[track_caller]
fn check_client(from: Peer, fields: &str, expected: Option<&str>) {
    let (client, _) = Bench::with(trusting()).opened(from, fields);
    assert_eq!(client.map(|ip| ip.to_string()).as_deref(), expected, "{from} {fields}");
}

#[test]
fn client_is_the_address_that_a_trusted_proxy_states() {
    check_client(peer(PROXY), "", Some("10.0.0.1"));
    check_client(peer(PROXY), "X-Forwarded-For: 192.0.2.1\r\n", Some("192.0.2.1"));
    check_client(peer(PROXY), "Forwarded: for=192.0.2.1\r\n", Some("192.0.2.1"));
    check_client(
        peer(PROXY),
        "X-Forwarded-For: 192.0.2.9, 192.0.2.1, 10.9.9.9\r\n",
        Some("192.0.2.1"),
    );
    check_client(peer(PROXY), "Forwarded: for=_hidden\r\n", None);
    // From a stranger it is a stranger's word.
    check_client(peer(STRANGER), "X-Forwarded-For: 192.0.2.1\r\n", Some("203.0.113.9"));
    check_client(peer(STRANGER), "Forwarded: what is this\r\n", Some("203.0.113.9"));
    check_client(peer("[::ffff:10.0.0.1]:1"), "X-Forwarded-For: 192.0.2.1\r\n", Some("192.0.2.1"));
}

#[test]
fn local_peer_is_trusted_where_configured() {
    let local = "GET /sse HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n";
    for (config, expected) in [
        (Config::builder(), None),
        (Config::builder().trust_local_peers(true), Some("192.0.2.1".parse().unwrap())),
    ] {
        let mut bench = Bench::with(config);
        let conn = bench.connect();
        bench.says(conn, local);
        let [Event::Opened { head, .. }] = &bench.events()[..] else { panic!("a session") };
        assert_eq!(head.client(), expected);
    }
}

/// To trust whoever is on the Unix socket is not to trust whoever is on this machine.
#[test]
fn loopback_tcp_peer_is_not_trusted_as_a_local_peer() {
    let near = Peer::tcp("127.0.0.1:5".parse().unwrap(), "127.0.0.1:80".parse().unwrap());
    let six = Peer::tcp("[::1]:5".parse().unwrap(), "[::1]:80".parse().unwrap());
    for (peer, own) in [(near, "127.0.0.1"), (six, "::1")] {
        let mut bench = Bench::with(Config::builder().trust_local_peers(true));
        let fields = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Prefix: /evil\r\n";
        let conn = bench.connect_from(peer);
        bench.says(conn, get(fields).replace("mcp.example", "localhost"));
        let heard = String::from_utf8(bench.heard(conn)).unwrap();
        assert!(heard.contains("data: /messages?"), "{heard}");
        let [Event::Opened { head, .. }] = &bench.events()[..] else { panic!("a session") };
        assert_eq!(head.client(), own.parse().ok());

        // Nor is its word taken for https, nor for the host.
        let mut bench = Bench::with(Config::builder().trust_local_peers(true).require_https(true));
        let conn = bench.connect_from(peer);
        bench
            .says(conn, "GET /sse HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-Proto: https\r\n\r\n");
        assert_eq!(bench.statuses(conn), [403]);
        let mut bench = Bench::with(Config::builder().trust_local_peers(true));
        let conn = bench.connect_from(peer);
        bench.says(
            conn,
            "GET /x HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-Host: evil.example\r\n\r\n",
        );
        assert_eq!(bench.statuses(conn), [404], "what it says of the host is ignored");
    }
}

#[test]
fn malformed_forwarding_fields_are_400() {
    let mut bench = Bench::with(trusting());
    for fields in [
        "X-Forwarded-For: nonsense\r\n",
        "Forwarded: for\r\n",
        "X-Forwarded-Proto: gopher\r\n",
        "X-Forwarded-Host: a b\r\n",
        "X-Forwarded-Prefix: //evil.example\r\n",
        "X-Forwarded-For: 192.0.2.1\r\nForwarded: for=192.0.2.1\r\n",
    ] {
        let conn = bench.connect_from(peer(PROXY));
        bench.says(conn, get(fields));
        let answer = bench.answers(conn).remove(0);
        assert_eq!(answer.status, 400, "{fields}");
        assert!(answer.body.contains("X-Forwarded"), "{answer:?}");
        // Probes are in front of the guard.
        bench.says(conn, get(fields).replace("/sse", "/health"));
        assert_eq!(bench.statuses(conn), [400, 200]);
    }
    assert!(bench.events().is_empty());
    assert_eq!(bench.server.metrics().fault(Fault::MalformedForwarded), 6);
}

#[test]
fn limits_apply_to_the_forwarded_client() {
    let mut bench = Bench::with(trusting().limits(Limits {
        connections_per_address_max: Some(1),
        sessions_per_address_max: Some(1),
        ..Limits::default()
    }));
    let ask = |bench: &mut Bench, from: &str, client: &str| {
        let conn = bench.connect_from(peer(from));
        bench.says(conn, get(&format!("X-Forwarded-For: {client}\r\n")));
        bench.events();
        bench.heard(conn)[9..12].to_vec()
    };
    assert_eq!(ask(&mut bench, PROXY, "192.0.2.1"), b"200");
    assert_eq!(ask(&mut bench, PROXY, "192.0.2.1"), b"503");
    assert_eq!(ask(&mut bench, "10.0.0.2:2", "192.0.2.1"), b"503");
    assert_eq!(ask(&mut bench, PROXY, "192.0.2.2"), b"200");
    assert_eq!(ask(&mut bench, PROXY, "2001:db8::1"), b"200");
    assert_eq!(ask(&mut bench, PROXY, "2001:db8::2"), b"503");
    // Who speaks for others, and who is hidden, is not counted.
    assert_eq!(ask(&mut bench, PROXY, "10.0.0.7"), b"200");
    assert_eq!(ask(&mut bench, PROXY, "10.0.0.7"), b"200");
    assert_eq!(ask(&mut bench, PROXY, "unknown"), b"200");
    assert_eq!(ask(&mut bench, PROXY, "unknown"), b"200");
    // A stranger has one connection.
    bench.connect_from(peer(STRANGER));
    let refused = bench.server.accept(peer(STRANGER), bench.now);
    assert_eq!(refused, Err(AcceptError::AddressAtCapacity));
    assert_eq!(bench.server.metrics().fault(Fault::ConnectionsPerAddressFull), 1);
}

#[track_caller]
fn check_host(peer: Peer, host: &str, fields: &str, status: u16) {
    let mut bench = Bench::with(trusting().allow_host("mcp.example"));
    let conn = bench.connect_from(peer);
    bench.says(conn, format!("GET /nothing HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"));
    assert_eq!(bench.statuses(conn), [status], "{host} {fields}");
}

#[test]
fn forwarded_host_is_checked() {
    let says = "X-Forwarded-Host: mcp.example:8443\r\n";
    let evil = "X-Forwarded-Host: evil.example\r\n";
    check_host(peer(PROXY), "backend:8000", "", 403);
    check_host(peer(PROXY), "backend:8000", says, 404);
    check_host(peer(PROXY), "backend:8000", "Forwarded: host=\"mcp.example\"\r\n", 404);
    check_host(peer(PROXY), "mcp.example", evil, 403);
    check_host(peer(STRANGER), "backend:8000", says, 403);
    check_host(peer(STRANGER), "mcp.example", evil, 404);
    // On loopback a browser is as near as a proxy, and what it cannot write is `Host`.
    let near = Peer::tcp("127.0.0.1:5".parse().unwrap(), "127.0.0.1:80".parse().unwrap());
    check_host(near, "127.0.0.1:8000", says, 404);
    check_host(near, "evil.example", says, 403);
    check_host(near, "evil.example", "X-Forwarded-Host: localhost\r\n", 403);
}

/// An absolute target's authority replaces `Host` (RFC 9112 section 3.2.2), and so has to pass where
/// `Host` has to.
#[test]
fn absolute_target_with_evil_host_on_loopback_is_403_whatever_host_is_forwarded() {
    let near = Peer::tcp("127.0.0.1:5".parse().unwrap(), "127.0.0.1:80".parse().unwrap());
    let says = "X-Forwarded-Host: mcp.example\r\n";
    for (target, fields, status) in [
        ("http://evil.example/nothing", "", 403),
        ("http://evil.example/nothing", says, 403),
        ("http://evil.example/nothing", "X-Forwarded-Host: localhost\r\n", 403),
        ("http://evil.example/nothing", "Forwarded: host=mcp.example\r\n", 403),
        ("http://localhost/nothing", says, 404),
        ("http://mcp.example/nothing", says, 404),
        ("http://localhost/nothing", "X-Forwarded-Host: evil.example\r\n", 403),
    ] {
        let mut bench = Bench::with(trusting().allow_host("mcp.example"));
        let conn = bench.connect_from(near);
        bench.says(conn, format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n"));
        assert_eq!(bench.statuses(conn), [status], "{target} {fields}");
    }
    // Away from loopback a proxy's word replaces it, as it replaces `Host`.
    let mut bench = Bench::with(trusting().allow_host("mcp.example"));
    let conn = bench.connect_from(peer(PROXY));
    bench.says(conn, format!("GET http://backend/nothing HTTP/1.1\r\nHost: backend\r\n{says}\r\n"));
    assert_eq!(bench.statuses(conn), [404]);
}

#[test]
fn endpoint_begins_with_the_forwarded_prefix() {
    let mut bench = Bench::with(trusting().public_path_prefix("/static"));
    let mut endpoint = |from, fields: &str| {
        let (_, endpoint) = bench.opened(peer(from), fields);
        endpoint.split('?').next().unwrap().to_string()
    };
    assert_eq!(endpoint(PROXY, ""), "/static/messages");
    assert_eq!(endpoint(PROXY, "X-Forwarded-Prefix: /mcp/\r\n"), "/mcp/messages");
    assert_eq!(endpoint(PROXY, "X-Forwarded-Prefix: /\r\n"), "/messages");
    assert_eq!(endpoint(STRANGER, "X-Forwarded-Prefix: /mcp\r\n"), "/static/messages");

    let exchange = Exchange {
        method: "GET",
        target: "/sse",
        fields: &[("host", b"a"), ("x-forwarded-prefix", b"/mcp")],
        mount: "/api",
    };
    let conn = bench.server.exchange(exchange, peer(PROXY), bench.now).unwrap();
    let body = bench.server.transmit(conn).chunks().collect::<Vec<_>>().concat();
    let body = String::from_utf8(body).unwrap();
    assert!(body.contains("data: /mcp/api/messages?"), "{body}");
}

#[track_caller]
fn check_https(peer: Peer, fields: &str, passes: bool) {
    let mut bench = Bench::with(trusting().require_https(true));
    for (request, passed) in
        [("GET /nothing", 404), ("POST /messages", 415), ("HEAD /sse", 200), ("OPTIONS /sse", 405)]
    {
        let conn = bench.connect_from(peer);
        let head = format!("{request} HTTP/1.1\r\nHost: mcp.example\r\n{fields}");
        bench.says(conn, head + "Content-Length: 0\r\n\r\n");
        let status = if passes { passed } else { 403 };
        assert_eq!(
            &bench.heard(conn)[9..12],
            status.to_string().as_bytes(),
            "{peer} {request} {fields}"
        );
    }
    let conn = bench.connect_from(peer);
    bench.says(conn, "GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(bench.statuses(conn), [200], "probes are no clients");
    assert_eq!(bench.server.sessions_open(), 0);
}

#[test]
fn request_without_https_is_refused_where_https_is_required() {
    check_https(peer(STRANGER), "", false);
    check_https(peer(STRANGER).secure(), "", true);
    check_https(peer(STRANGER), "X-Forwarded-Proto: https\r\n", false);
    check_https(peer(STRANGER).secure(), "X-Forwarded-Proto: http\r\n", true);
    check_https(peer(PROXY), "", false);
    check_https(peer(PROXY), "X-Forwarded-Proto: https\r\n", true);
    check_https(peer(PROXY), "Forwarded: for=192.0.2.1;proto=https\r\n", true);
    check_https(peer(PROXY), "X-Forwarded-Proto: http\r\n", false);
    check_https(peer(PROXY).secure(), "X-Forwarded-Proto: http\r\n", false);
    check_https(peer(PROXY).secure(), "", true);
    check_https(peer("127.0.0.1:1"), "", false);
}
