//! Limits of a server with many workers, and the descriptor limit of the process.

use core::net::SocketAddr;

use mcp_sse_core::Config;
use mcp_sse_tests::adapter::{Adapter, HandlerThread, Listen, RunningServer};
use mcp_sse_tests::child::{self, ChildProcess, DescriptorLimit};
use mcp_sse_tests::client::{Client, Stream, answer, call};
use mcp_sse_tests::{for_each_adapter, handlers};

for_each_adapter!(
    longest_body_is_answered_by_one_of_many_workers,
    posts_are_answered_when_streams_have_all_descriptors_they_may_have,
);

fn start(on: &Adapter, workers: usize) -> RunningServer {
    let listen = Listen::Bind(SocketAddr::from(([127, 0, 0, 1], 0)));
    let config = Config::default();
    RunningServer::try_start_workers(
        on,
        listen,
        workers,
        HandlerThread::Local,
        config,
        handlers::echo(),
    )
    .expect("a server")
}

fn longest_body_is_answered_by_one_of_many_workers(on: &Adapter) {
    let around = call(1, r#"[""]"#).len();
    let longest = Config::default().limits().body_bytes_max.expect("a limit") as usize;
    let params = format!(r#"["{}"]"#, "x".repeat(longest - around));
    let body = call(1, &params);
    assert_eq!(body.len(), longest);
    for workers in [16, 17, 65] {
        let server = start(on, workers);
        let mut stream = Stream::open(server.address());
        let said = stream.post(&body);
        assert_eq!(said.status, 202, "{workers} workers: {}", said.text());
        assert_eq!(stream.message(), answer(1, &params), "{workers} workers");
    }
}

/// The role of the child process.
const SERVE: &str = "serve with few descriptors";
const WORKERS: &str = "MCP_SSE_TESTS_WORKERS";

fn posts_are_answered_when_streams_have_all_descriptors_they_may_have(on: &Adapter) {
    const NAME: &str = "posts_are_answered_when_streams_have_all_descriptors_they_may_have";
    if child::role().as_deref() == Some(SERVE) {
        let workers = if std::env::args().any(|arg| arg == WORKERS) { 3 } else { 1 };
        let server = start(on, workers);
        child::send_to_parent(server.address());
        return child::wait_for_parent();
    }
    let test = format!("limits::{}::{NAME}", on.name);
    // The last argument matches no test; it tells the child that it needs several workers.
    for (descriptors, more) in [(64, None), (128, Some(WORKERS))] {
        let arguments: Vec<&str> = ["--exact", &test].into_iter().chain(more).collect();
        let child = ChildProcess::start(SERVE, &arguments, DescriptorLimit::Few(descriptors));
        let address: SocketAddr = child.line().parse().expect("an address");
        let mut streams = Vec::new();
        let refusal = loop {
            match Stream::try_open(address) {
                Ok(stream) => streams.push(stream),
                Err(refusal) => break refusal,
            }
            assert!(streams.len() < 128, "none is ever refused");
        };
        assert_eq!(refusal.status, 503, "{refusal:?}");
        assert!(refusal.text().contains("connections_reserve"), "{refusal:?}");
        let mut posters = Vec::new();
        for n in 0..40 {
            let mut poster = Client::connect(address);
            let said = poster.ask(streams[0].post_request(&call(n, "[]")));
            assert_eq!(said.status, 202, "post {n}: {}", said.text());
            posters.push(poster);
        }
    }
}
