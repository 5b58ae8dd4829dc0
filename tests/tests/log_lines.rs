//! The log at the default level under a flood of clients, over real sockets: at most one line a
//! second for each cause. Tests beside the core check what needs no socket, with the virtual clock.
//!
//! This test is alone in its process, because a process has one logger.

use std::sync::Mutex;
use std::time::Instant;

use log::{Level, LevelFilter, Log, Metadata, Record};
use mcp_sse_core::Config;
use mcp_sse_tests::adapter::{Adapter, HandlerThread, RunningServer, SMOL, TOKIO};
use mcp_sse_tests::certificate::Certificate;
use mcp_sse_tests::client::{Client, Stream};
use mcp_sse_tests::sdk::Toolbox;
use mcp_sse_tests::{finish, handlers, limited, wait_until};
use mcp_sse_tokio::Listener;
use mcp_sse_tokio::rmcp::{CancellationToken, SseServer};

const TIMES: u64 = 1_000;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A logger that keeps the lines of this project's crates.
struct ProjectLogger;

impl Log for ProjectLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Info && metadata.target().starts_with("mcp_sse")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            LINES.lock().expect("lines").push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// The allowed lines a second about sessions that had messages.
const SESSION_LINES: u64 = 20;

/// Calls `act` [`TIMES`] times, and checks the log: each of `causes` has lines, at most the number
/// beside it a second, and there is no other line.
#[track_caller]
fn check(what: &str, causes: &[(&str, u64)], mut act: impl FnMut(), all_seen: impl Fn() -> bool) {
    LINES.lock().expect("lines").clear();
    let start = Instant::now();
    (0..TIMES).for_each(|_| act());
    wait_until(what, all_seen);
    let lines = LINES.lock().expect("lines").clone();
    // The first and the last second may be partial.
    let lines_max = 2 + start.elapsed().as_secs();
    for (cause, per_second) in causes {
        let count = lines.iter().filter(|line| line.contains(cause)).count() as u64;
        let lines_max = lines_max * per_second;
        assert!((1..=lines_max).contains(&count), "{what}, {cause:?}: {count} of {lines_max}");
    }
    let other = lines.iter().find(|line| !causes.iter().any(|(cause, _)| line.contains(cause)));
    assert_eq!(other, None, "{what}");
}

fn streams(on: &Adapter) {
    let server = RunningServer::start(on, Config::default(), handlers::echo());
    let closed = || server.metrics().sessions_closed;
    check(
        "opened and closed streams",
        &[("without a message", 1)],
        || drop(Stream::open(server.address())),
        || closed() == TIMES,
    );
}

fn tls(on: &Adapter) {
    let certificate = Certificate::new();
    let config = Config::default();
    let server = RunningServer::start_tls(
        on,
        certificate.tls(),
        HandlerThread::Local,
        config,
        handlers::echo(),
    );
    let say = |bytes: &[u8]| {
        let mut client = Client::connect(server.address());
        client.send(bytes);
        client.end();
        client.wait_for_end();
    };
    let none_open = || server.metrics().connections_open() == 0;
    let http = b"GET /sse HTTP/1.1\r\n\r\n";
    check("HTTP on a port of TLS", &[("does not speak TLS", 1)], || say(http), none_open);
    check("TLS garbage", &[("handshake failed", 1)], || say(&[0x16; 100]), none_open);
}

fn sdk() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let inside = runtime.enter();
    let listener = Listener::bind("127.0.0.1:0", Config::default()).expect("a free port");
    let handle = listener.handle();
    let server = SseServer::from_listener(listener, CancellationToken::new());
    let address = server.local_addr().expect("an address");
    let ct = server.with_service(Toolbox::default);
    drop(inside);
    let closed = || finish("counters", handle.metrics()).expect("a server").sessions_closed;
    let mut sessions = 0;
    // The SDK can read neither.
    let unreadable = r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":7}"#;
    let direct = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    check(
        "what the SDK is sent",
        &[
            ("the SDK cannot read", 1),
            ("served without `initialize`", 1),
            ("messages in", SESSION_LINES),
        ],
        || {
            let mut stream = Stream::open(address);
            stream.post(unreadable);
            stream.message();
            stream.post(direct);
            stream.post(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
            stream.message();
            sessions += 1;
        },
        || closed() == TIMES,
    );
    assert_eq!(sessions, TIMES);
    ct.cancel();
}

#[test]
fn flood_of_clients_logs_one_line_a_second_for_each_cause() {
    log::set_logger(&ProjectLogger).expect("the only test here");
    log::set_max_level(LevelFilter::Info);
    limited(|| {
        for on in [&SMOL, &TOKIO] {
            streams(on);
            tls(on);
        }
        sdk();
    });
}
