//! Prints how much memory an idle stream takes in the server.
//!
//! `STREAMS=5000 cargo bench -p mcp-sse-tests --bench idle_streams`

use std::env;
use std::fs;

use mcp_sse_core::{Config, Limits, Timeouts};
use mcp_sse_tests::adapter::{self, Adapter, RunningServer};
use mcp_sse_tests::child::{self, ChildProcess, DescriptorLimit};
use mcp_sse_tests::client::{Client, Stream, health};
use mcp_sse_tests::{handlers, wait_until};

fn main() {
    match child::role().as_deref() {
        // The descriptor limit is set when a process starts, so even the clients run in a child
        // process.
        None => ChildProcess::start("clients", &[], DescriptorLimit::Most).run_to_end(),
        Some("clients") => adapter::ALL.iter().for_each(run_clients),
        Some(name) => serve(&adapter::named(name).expect("an adapter")),
    }
}

fn serve(adapter: &Adapter) {
    let limits = Limits { connections_max: None, sessions_max: None, ..Limits::default() };
    let timeouts = Timeouts { heartbeat: None, ..Timeouts::default() };
    let config = Config::builder().limits(limits).timeouts(timeouts).build().expect("good");
    let server = RunningServer::start(adapter, config, handlers::echo());
    child::send_to_parent(server.address());
    child::wait_for_parent();
}

fn run_clients(adapter: &Adapter) {
    let wanted = env::var("STREAMS").ok().and_then(|n| n.parse().ok()).unwrap_or(5_000);
    let spare = 64;
    let streams = descriptors_max().map_or(wanted, |max| wanted.min(max.saturating_sub(spare)));
    if streams < wanted {
        child::send_to_parent(format_args!(
            "only {streams} of {wanted} streams: too few descriptors"
        ));
    }
    let server = ChildProcess::start(adapter.name, &[], DescriptorLimit::Most);
    let address: core::net::SocketAddr = server.line().parse().expect("an address");
    // The first streams load code and grow allocators, which is no cost of a further stream.
    let warm: Vec<_> = (0..50).map(|_| Stream::open(address)).collect();
    drop(warm);
    wait_until("the first streams are gone", || health(address).sessions == 0);
    let before = resident_kib(server.id());
    let open: Vec<Client> = (0..streams).map(|_| Stream::open(address).client).collect();
    assert_eq!(health(address).sessions, streams as u64);
    let after = resident_kib(server.id());
    let each = (after.saturating_sub(before) * 1_024) as f64 / streams as f64;
    child::send_to_parent(format_args!(
        "{}: {streams} idle streams: server RSS {before} KiB before, {after} KiB with them, \
         {each:.0} bytes a stream",
        adapter.name
    ));
    drop(open);
}

fn descriptors_max() -> Option<usize> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn resident_kib(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.split_whitespace().next().and_then(|kib| kib.parse().ok()).expect("a number")
}
