//! A long simulated run, until it has had a number of sessions and messages and a length of virtual
//! time.
//!
//! `cargo run --release -p mcp-sse-tests --example simulate -- --seed 1 --sessions 100000
//! --messages 10000000 --minutes 60` prints its progress and the memory in use, and its coverage at
//! the end.
//! It panics, and prints the last steps, if a message is lost, doubled or delivered to another
//! session, or if the core's memory grows: in a run of 2,000 sessions or more, the maximum of the
//! second half may be at most twice that of the first. (The memory of the process includes the
//! simulator's own records.)

use std::time::Instant;

use mcp_sse_tests::sim::meter;
use mcp_sse_tests::sim::random::Random;
use mcp_sse_tests::sim::setup::Setup;
use mcp_sse_tests::sim::trace::Trace;
use mcp_sse_tests::sim::world::World;

#[global_allocator]
static COUNTING: meter::CountingAllocator = meter::CountingAllocator;

const LINES: u64 = 20;

/// The largest allowed ratio of the memory maximum of the second half to that of the first. Peaks
/// are random and lists double; a leak per session or message would exceed it soon.
const FLAT: u64 = 2;
/// After this many sessions, lists have grown to their size.
const WARM: u64 = 1_000;

fn main() {
    let seed = argument("--seed", 1);
    let sessions = argument("--sessions", 100_000);
    let messages = argument("--messages", 10_000_000);
    let minutes = argument("--minutes", 60);
    let (start, mut lines) = (Instant::now(), 0);
    println!("seed {seed}: {sessions} sessions, {messages} messages, {minutes} minutes");
    println!(
        "      sessions      messages  minutes   core kB  process kB (the core's highest since)"
    );
    let name = format!("the long run of seed {seed}");
    let setup = Setup::busy(64);
    let mut world = World::new(setup, name, Random::seeded(seed), Trace::new(false, false));
    // The maximum in the first half of the printed lines, and in the second.
    let mut highest = [0; 2];
    loop {
        for _ in 0..1_000 {
            world.step();
        }
        let done = (
            world.model.coverage.of("sessions"),
            world.model.messages,
            world.now.as_micros() / 60_000_000,
        );
        let parts = [(done.0, sessions), (done.1, messages), (done.2, minutes)];
        let part = parts.iter().map(|&(done, all)| done * LINES / all.max(1)).min().unwrap_or(0);
        if part > lines {
            lines = part;
            let core = world.memory_peak.unsigned_abs() / 1_000;
            world.memory_peak = 0;
            println!("{:14}{:14}{:9}{core:10}{:12}", done.0, done.1, done.2, process_kb());
            let half = &mut highest[usize::from(part > LINES / 2)];
            *half = core.max(*half);
        }
        if parts.iter().all(|&(done, all)| done >= all) {
            break;
        }
    }
    world.finish();
    let (trace, coverage, messages) = world.leave();
    println!("{:#?}", coverage.counts);
    println!("messages: {messages}, bytes in all: {:016x}", trace.digest());
    let [first, second] = highest;
    println!(
        "the core held {first} kB at most, then {second} kB, {} bytes in the end",
        meter::live()
    );
    println!("{:?}", start.elapsed());
    assert_eq!(meter::live(), 0, "the core leaves memory behind");
    let flat = second <= FLAT * first;
    assert!(flat || sessions < 2 * WARM, "the core held {first} kB at most, and then {second} kB");
}

fn argument(name: &str, default: u64) -> u64 {
    let mut arguments = std::env::args().skip_while(|argument| argument != name).skip(1);
    arguments.next().map_or(default, |value| value.parse().expect("a number"))
}

/// The resident memory; 0 if the system does not report it.
fn process_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
