//! Prints how many round trips a second are made: a POST, its 202, and the response on the stream.
//! Client and server are processes with one working thread each; at the end the server has two.

use core::net::SocketAddr;
use core::time::Duration;
use std::env;
use std::time::Instant;

use mcp_sse_core::Config;
use mcp_sse_tests::adapter::{self, Adapter, HandlerThread, Listen, RunningServer};
use mcp_sse_tests::child::{self, ChildProcess, DescriptorLimit};
use mcp_sse_tests::client::{Client, Stream, call};
use mcp_sse_tests::handlers;

fn main() {
    if let Some(role) = child::role() {
        let (name, workers) = role.split_once('/').expect("a server and a number");
        let adapter = adapter::named(name).expect("an adapter");
        let listen = Listen::Bind(SocketAddr::from(([127, 0, 0, 1], 0)));
        let workers = workers.parse().expect("a number");
        let (handler_thread, config) = (HandlerThread::Local, Config::default());
        let server = RunningServer::try_start_workers(
            &adapter,
            listen,
            workers,
            handler_thread,
            config,
            handlers::echo(),
        );
        let server = server.expect("a server");
        child::send_to_parent(server.address());
        return child::wait_for_parent();
    }
    let seconds = env::var("SECONDS_EACH").ok().and_then(|n| n.parse().ok()).unwrap_or(2);
    for (sessions, workers) in [(1, 1), (100, 1), (100, 2)] {
        for adapter in adapter::ALL {
            run(&adapter, sessions, workers, Duration::from_secs(seconds));
        }
    }
}

/// Every session always has a request in progress.
fn run(adapter: &Adapter, sessions: usize, workers: usize, for_how_long: Duration) {
    let role = format!("{}/{workers}", adapter.name);
    let child = ChildProcess::start(&role, &[], DescriptorLimit::Most);
    let address: SocketAddr = child.line().parse().expect("an address");
    let mut peers: Vec<(Stream, Client, Vec<u8>)> = (0..sessions)
        .map(|_| {
            let stream = Stream::open(address);
            let post = stream.post_request(&call(1, r#"{"text":"hello"}"#));
            (stream, Client::connect(address), post)
        })
        .collect();
    let start = Instant::now();
    let mut trips = 0_u64;
    while start.elapsed() < for_how_long {
        for (_, poster, post) in &mut peers {
            poster.send(&*post);
        }
        for (stream, poster, _) in &mut peers {
            assert_eq!(poster.response().status, 202);
            stream.message();
            trips += 1;
        }
    }
    let each = start.elapsed() / u32::try_from(trips).unwrap_or(u32::MAX);
    let rate = trips as f64 / start.elapsed().as_secs_f64();
    let name = adapter.name;
    println!(
        "{name}, workers: {workers}, sessions: {sessions}, {rate:.0} round trips a second, {each:?} each"
    );
}
