//! The command `health`.

use std::net::TcpListener;

use mcp_sse_tests::scratch::Scratch;

use crate::scripted::{Script, Scripted, Step};
use crate::support::{Server, run};

/// The command exits with this status and one line that contains this text.
#[track_caller]
fn check(code: i32, args: &[&str], said: &str) {
    let output = run(&[&["health"], args].concat(), &[]);
    let lines = if code == 0 { output.stdout } else { output.stderr };
    let told = String::from_utf8_lossy(&lines);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
    assert_eq!(told.lines().count(), 1, "{args:?}: {told}");
    assert!(told.contains(said), "{args:?}: {told}");
}

#[test]
fn running_server_is_healthy_and_ready() {
    let server = Server::start(&["--port=0"], &[]);
    let url = format!("http://127.0.0.1:{}", server.port());
    check(0, &[&url, "--timeout=60s"], &format!("200 from {url}/health in "));
    check(0, &[&url, "--timeout=60s", "--ready"], &format!("200 from {url}/ready in "));
    check(1, &[&format!("{url}/prefix/"), "--timeout=60s"], "404 from http://127.0.0.1:");
}

#[test]
fn port_without_a_url_is_that_of_the_environment() {
    let server = Server::start(&["--port=0"], &[]);
    let port = server.port().to_string();
    let ask = |variables: &[(&str, &str)]| run(&["health", "--timeout=60s"], variables).status;
    assert_eq!(ask(&[("PORT", &port), ("MCP_SSE_PORT", "tcp://10.0.0.1:80")]).code(), Some(0));
    assert_eq!(ask(&[("PORT", "1"), ("MCP_SSE_PORT", &port)]).code(), Some(0));
    assert_eq!(ask(&[("PORT", "1"), ("MCP_SSE_PORT", "")]).code(), Some(1));
    assert_eq!(ask(&[("PORT", "http"), ("MCP_SSE_PORT", "")]).code(), Some(2));
}

#[test]
fn unix_socket_is_asked() {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    let path = path.to_str().expect("a path");
    check(1, &["--unix", path], "cannot connect: ");
    let _server = Server::start(&["--unix", path], &[]);
    check(0, &["--unix", path, "--timeout=60s"], "200 from ");
}

#[test]
fn other_answers_are_unhealthy() {
    const FULL: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
    let full = Scripted::start(Script { other: &[("GET /ready ", FULL)], ..Script::GOOD });
    let base = format!("http://127.0.0.1:{}", full.port());
    check(1, &[&base, "--ready", "--timeout=60s"], "503 from ");
    let silent = Scripted::start(Script { path: "/health", ..Script::getting(&[Step::Wait(60)]) });
    let base = format!("http://127.0.0.1:{}", silent.port());
    check(1, &[&base, "--timeout=300ms"], "no ");
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address").port()
    };
    check(
        1,
        &[&format!("http://127.0.0.1:{port}"), "--timeout=60s"],
        "nothing accepts connections",
    );
    check(1, &["http://nowhere.invalid", "--timeout=60s"], "cannot be resolved");
}
