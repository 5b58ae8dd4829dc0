//! `--metrics` and `--metrics-listen`: where metrics are served, by every kind of server.

use core::net::SocketAddr;
use std::fs;

use mcp_sse_tests::client::{Client, Stream};
use mcp_sse_tests::scratch::Scratch;
use mcp_sse_tests::wait_until;
use rustix::process::Signal;

use super::support::{Program, command, failure};

const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
const CAT: &str =
    "while read -r line; do echo noise >&2; echo '{\"jsonrpc\":\"2.0\",\"method\":\"n\"}'; done";

/// The address of the metrics in the banner.
#[track_caller]
fn metrics_address(program: &Program) -> SocketAddr {
    let url = program.banner.split_once("Metrics for Prometheus: http://").expect("a URL").1;
    url.split_once("/metrics\n").expect("the path").0.parse().expect("an address")
}

/// The text of the metrics.
#[track_caller]
fn scrape(address: SocketAddr) -> String {
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let response = Client::connect(address).ask(request);
    assert_eq!(response.status, 200, "{response:?}");
    response.text().to_owned()
}

/// Waits until the metrics have this line.
#[track_caller]
fn expect_line(address: SocketAddr, line: &str) {
    wait_until(line, || scrape(address).lines().any(|it| it == line));
}

/// Starts a server with an address of its own for metrics.
#[track_caller]
fn start(flags: &[&str], served: &[&str]) -> Program {
    let args = [&flags[..1], &["--port=0", "--metrics-listen=0"], &flags[1..], served].concat();
    Program::launch(&mut command(&args))
}

#[test]
fn metrics_of_a_demo_have_an_address_of_their_own() {
    let mut program = start(&["demo", "--workers=2"], &[]);
    let (address, metrics) = (program.address(), metrics_address(&program));
    let mut stream = Stream::open(address);
    assert_eq!(stream.post(CALL).status, 202);
    stream.message();
    expect_line(metrics, "mcp_sse_sessions 1");
    expect_line(metrics, "mcp_sse_request_seconds_count{method=\"tools/list\"} 1");
    let version = env!("CARGO_PKG_VERSION");
    expect_line(metrics, &format!("mcp_sse_build_info{{version=\"{version}\"}} 1"));
    assert!(!scrape(metrics).contains("mcp_sse_bridge"), "there are no processes");
    let status = |address: SocketAddr, path: &str, host: &str| {
        Client::connect(address).ask(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).status
    };
    assert_eq!(status(address, "/metrics", "localhost"), 404, "not on the port of the server");
    assert_eq!(status(metrics, "/sse", "localhost"), 404, "no sessions beside the metrics");
    assert_eq!(status(metrics, "/metrics", "evil.example"), 403);
    // The address can be read until the server has ended, and ends with it.
    program.signal(Signal::TERM);
    assert_eq!(program.wait().code(), Some(0), "{}", program.log());
}

#[test]
fn metrics_on_the_port_of_the_server_need_its_token() {
    let mut demo = command(&["demo", "--port=0", "--metrics", "--metrics-principals=1"]);
    demo.args(["--auth-token-env=SECRET_OF_ALICE"])
        .env("SECRET_OF_ALICE", "alice:alpha-1234567890");
    let program = Program::launch(&mut demo);
    let address = program.address();
    assert_eq!(metrics_address(&program), address);
    let get =
        |path: &str, field: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{field}\r\n");
    assert_eq!(Client::connect(address).ask(get("/metrics", "")).status, 401);
    let bearer = "Authorization: Bearer alpha-1234567890\r\n";
    let _stream = Stream::open_with(address, &get("/sse", bearer));
    let mut client = Client::connect(address);
    wait_until("a principal", || {
        let response = client.ask(get("/metrics", bearer));
        assert_eq!(response.status, 200, "{response:?}");
        response.text().contains("\nmcp_sse_principal_sessions{principal=\"alice\"} 1\n")
    });
}

#[test]
fn metrics_of_a_bridge_have_its_processes() {
    let program = start(&["bridge"], &["--", "sh", "-c", CAT]);
    let metrics = metrics_address(&program);
    let mut stream = Stream::open(program.address());
    assert_eq!(stream.post(CALL).status, 202);
    stream.message();
    expect_line(metrics, "mcp_sse_bridge_children 1");
    expect_line(metrics, "mcp_sse_bridge_children_started_total 1");
    expect_line(metrics, "mcp_sse_bridge_startup_seconds_count 1");
    expect_line(metrics, "mcp_sse_bridge_restarts_total 0");
    wait_until("stderr", || !scrape(metrics).contains("mcp_sse_bridge_stderr_lines_total 0\n"));
    drop(stream);
    expect_line(metrics, "mcp_sse_bridge_children 0");
    expect_line(metrics, "mcp_sse_bridge_children_exited_total{status=\"success\"} 1");
    expect_line(metrics, "mcp_sse_sessions 0");
}

#[test]
fn metrics_of_a_shared_process_count_its_restarts() {
    let once = format!(
        "read -r line; echo '{{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{{}}}}'; exit 3; {CAT}"
    );
    let program = start(&["bridge", "--shared", "--workers=2"], &["--", "sh", "-c", &once]);
    let metrics = metrics_address(&program);
    let mut stream = Stream::open(program.address());
    assert_eq!(stream.post(CALL).status, 202);
    expect_line(metrics, "mcp_sse_bridge_children_exited_total{status=\"failure\"} 1");
    assert_eq!(stream.post(CALL).status, 202);
    expect_line(metrics, "mcp_sse_bridge_restarts_total 1");
}

#[test]
fn metrics_of_several_servers_are_added() {
    let folder = Scratch::new();
    let file = folder.path("servers.json");
    let server = format!("{{\"command\":\"sh\",\"args\":[\"-c\",{}]}}", json(CAT));
    fs::write(&file, format!("{{\"mcpServers\":{{\"a\":{server},\"b\":{server}}}}}"))
        .expect("a file");
    let program = start(&["bridge", "--config", file.to_str().expect("UTF-8")], &[]);
    let metrics = metrics_address(&program);
    let mut streams: Vec<_> = ["/a/sse", "/b/sse"]
        .map(|path| {
            Stream::open_with(
                program.address(),
                &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            )
        })
        .into();
    for stream in &mut streams {
        assert_eq!(stream.post(CALL).status, 202);
    }
    expect_line(metrics, "mcp_sse_bridge_children_started_total 2");
}

fn json(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[test]
fn address_that_other_machines_can_reach_is_refused_unless_allowed() {
    let (status, said) = failure(&mut command(&["demo", "--port=0", "--metrics-listen=0.0.0.0:0"]));
    assert_eq!(status, Some(2));
    assert!(said.contains("allow it with --insecure-metrics"), "{said}");
    let args = ["demo", "--port=0", "--metrics-listen=0.0.0.0:0", "--insecure-metrics"];
    let program = Program::launch(&mut command(&args));
    assert!(
        program.banner.contains("Metrics for Prometheus: http://0.0.0.0:"),
        "{}",
        program.banner
    );
}

#[test]
fn address_in_use_is_a_start_failure_that_names_the_flag() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let (status, said) = failure(&mut command(&["demo", "--port=0", "--metrics-listen", &port]));
    assert_eq!(status, Some(1));
    assert!(said.contains(&format!("cannot serve metrics on 127.0.0.1:{port}")), "{said}");
    assert!(said.contains("see --metrics-listen"), "{said}");
}
