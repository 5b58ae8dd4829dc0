//! A long simulated run: so many sessions and messages, and at least so much time.
//!
//! `cargo run --release -p mcp-sse-tests --example simulate -- --seed 1 --sessions 100000
//! --messages 10000000 --minutes 60` says now and then how far it is and what memory it takes, and in the end
//! where it has been. What the core holds should be flat. Nothing may be lost, doubled or misdelivered; if
//! anything is, it panics and prints what happened last.

use std::time::Instant;

use mcp_sse_tests::sim::chance::Chance;
use mcp_sse_tests::sim::meter;
use mcp_sse_tests::sim::setup::Setup;
use mcp_sse_tests::sim::trace::Trace;
use mcp_sse_tests::sim::world::World;

#[global_allocator]
static COUNTING: meter::Counting = meter::Counting;

const LINES: u64 = 20;

fn main() {
    let seed = argument("--seed", 1);
    let sessions = argument("--sessions", 100_000);
    let messages = argument("--messages", 10_000_000);
    let minutes = argument("--minutes", 60);
    let (start, mut lines) = (Instant::now(), 0);
    println!("seed {seed}: {sessions} sessions, {messages} messages, {minutes} minutes");
    println!("      sessions      messages  minutes   core kB  process kB");
    let name = format!("the long run of seed {seed}");
    let setup = Setup::busy(64);
    let mut world = World::new(setup, name, Chance::seeded(seed), Trace::new(false, false));
    loop {
        for _ in 0..1_000 {
            world.step();
        }
        let done = (
            world.model.tour.of("sessions"),
            world.model.messages,
            world.now.as_micros() / 60_000_000,
        );
        let parts = [(done.0, sessions), (done.1, messages), (done.2, minutes)];
        let part = parts.iter().map(|&(done, all)| done * LINES / all.max(1)).min().unwrap_or(0);
        if part > lines {
            lines = part;
            let core = meter::live() / 1_000;
            println!("{:14}{:14}{:9}{core:10}{:12}", done.0, done.1, done.2, process_kb());
        }
        if parts.iter().all(|&(done, all)| done >= all) {
            break;
        }
    }
    world.finish();
    let (trace, tour, messages, peak) = world.leave();
    println!("{:#?}", tour.counts);
    println!("messages: {messages}, bytes in all: {:016x}", trace.number());
    println!("the core held {} kB at most, {} in the end", peak / 1_000, meter::live());
    println!("{:?}", start.elapsed());
}

fn argument(name: &str, default: u64) -> u64 {
    let mut arguments = std::env::args().skip_while(|argument| argument != name).skip(1);
    arguments.next().map_or(default, |value| value.parse().expect("a number"))
}

/// Resident memory, where the system tells; 0 where it does not.
fn process_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
