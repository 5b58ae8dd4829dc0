//! Prints the time from SIGTERM to the exit of a server's process: without streams, with idle streams, and with
//! streams whose clients do not read.
//!
//! `STREAMS=100 cargo bench -p mcp-sse-tests --bench shutdown`

use core::fmt;
use core::net::SocketAddr;
use core::time::Duration;
use std::env;
use std::time::Instant;

use mcp_sse_core::{Config, Limits, Timeouts};
use mcp_sse_demo::signals;
use mcp_sse_tests::adapter::{self, Adapter, RunningServer};
use mcp_sse_tests::child::{self, ChildProcess, DescriptorLimit};
use mcp_sse_tests::client::{Client, Stream, call, health};
use mcp_sse_tests::{handlers, wait_until};
use rustix::process::{Pid, Signal, kill_process};

/// How often each time is measured. The median is printed, and the range.
const ROUNDS: usize = 21;
const ROUNDS_OF_STALLED: usize = 3;
const GRACE: Duration = Duration::from_secs(1);
/// More than a socket's buffers hold.
const STALLED_BYTES: usize = 8 << 20;

fn main() {
    match child::role().as_deref() {
        // The clients run in a child process too, whose limit on descriptors is the highest.
        None => ChildProcess::start("clients", &[], DescriptorLimit::Most).run_to_end(),
        Some("clients") => adapter::ALL.iter().for_each(run_clients),
        Some(name) => serve(&adapter::named(name).expect("an adapter")),
    }
}

/// Serves until a signal, as the command does.
fn serve(adapter: &Adapter) {
    let limits = Limits {
        connections_max: None,
        sessions_max: None,
        queue_bytes_max: None,
        queues_bytes_max: None,
        ..Limits::default()
    }
    .with_body_bytes_max(Some(2 * STALLED_BYTES as u64));
    // Without the other timeouts, only the grace ends streams whose clients do not read.
    let timeouts = Timeouts {
        heartbeat: None,
        stall: None,
        stall_when_full: None,
        shutdown_grace: Some(GRACE),
        ..Timeouts::default()
    };
    let config = Config::builder().limits(limits).timeouts(timeouts).build().expect("good");
    let server = RunningServer::start(adapter, config, handlers::echo());
    let (stopping, aborting) = (server.handle().clone(), server.handle().clone());
    signals::on_termination(move || stopping.shutdown(), move || aborting.abort())
        .expect("signal handlers");
    child::send_to_parent(server.address());
    server.run_to_end();
}

fn run_clients(adapter: &Adapter) {
    let streams = env::var("STREAMS").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    let none = Times::measure(ROUNDS, || time_to_exit(adapter, 0, false));
    let idle = Times::measure(ROUNDS, || time_to_exit(adapter, streams, false));
    let stalled = Times::measure(ROUNDS_OF_STALLED, || time_to_exit(adapter, streams, true));
    let name = adapter.name;
    child::send_to_parent(format_args!("{name}, no streams: {none}"));
    let ratio = idle.median().as_secs_f64() / none.median().as_secs_f64();
    child::send_to_parent(format_args!(
        "{name}, {streams} idle streams: {idle}, {ratio:.1} times as long"
    ));
    child::send_to_parent(format_args!(
        "{name}, {streams} stalled streams, grace {GRACE:?}: {stalled}"
    ));
}

fn time_to_exit(adapter: &Adapter, streams: usize, stalled: bool) -> Duration {
    let mut server = ChildProcess::start(adapter.name, &[], DescriptorLimit::Most);
    let address: SocketAddr = server.line().parse().expect("an address");
    let open = |_| {
        let client = Client::connect_with_receive_buffer(address, 4 << 10);
        Stream::open_on(client, address, "GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n")
    };
    let mut open: Vec<Stream> = (0..streams).map(open).collect();
    if stalled {
        let text = format!("\"{}\"", "x".repeat(STALLED_BYTES));
        open.iter_mut().for_each(|stream| assert_eq!(stream.post(&call(1, &text)).status, 202));
    }
    wait_until("all sessions are open", || health(address).sessions == streams as u64);
    let pid = i32::try_from(server.id()).ok().and_then(Pid::from_raw).expect("a process id");
    let start = Instant::now();
    kill_process(pid, Signal::TERM).expect("a running server");
    let status = server.wait_for_exit();
    let took = start.elapsed();
    assert!(status.success(), "{status}");
    took
}

/// Times of several rounds, in ascending order.
struct Times(Vec<Duration>);

impl Times {
    fn measure(rounds: usize, round: impl FnMut() -> Duration) -> Self {
        let mut times: Vec<_> = core::iter::repeat_with(round).take(rounds).collect();
        times.sort_unstable();
        Self(times)
    }

    fn median(&self) -> Duration {
        self.0.get(self.0.len() / 2).copied().unwrap_or_default()
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(least), Some(most)) = (self.0.first(), self.0.last()) else { return Ok(()) };
        let median = self.median();
        write!(f, "{median:.1?} from SIGTERM to exit (median; {least:.1?} to {most:.1?})")
    }
}
