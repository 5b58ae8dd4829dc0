//! A long simulated run: so many sessions and messages, and at least so much time.
//!
//! `cargo run --release -p mcp-sse-tests --example simulate -- --seed 1 --sessions 100000
//! --messages 10000000 --minutes 60` says now and then how far it is and what memory it takes, and in the end
//! where it has been. Nothing may be lost, doubled or misdelivered, and what the core holds must not grow: in a
//! run of 2,000 sessions or more its highest in the second half may not be above twice that of the first. (The
//! process holds the simulator's own records as well.) If anything of that is not so, it panics, and where it is
//! about messages prints what happened last.

use std::time::Instant;

use mcp_sse_tests::sim::chance::Chance;
use mcp_sse_tests::sim::meter;
use mcp_sse_tests::sim::setup::Setup;
use mcp_sse_tests::sim::trace::Trace;
use mcp_sse_tests::sim::world::World;

#[global_allocator]
static COUNTING: meter::Counting = meter::Counting;

const LINES: u64 = 20;

/// How far above the highest of the first half that of the second may be: peaks come by chance, and lists
/// double. Whatever grows with sessions or messages would be above it soon.
const FLAT: u64 = 2;
/// Sessions by which lists have grown to what they need.
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
    let mut world = World::new(setup, name, Chance::seeded(seed), Trace::new(false, false));
    // The highest in the first half of the lines, and in the second.
    let mut highest = [0; 2];
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
    let (trace, tour, messages) = world.leave();
    println!("{:#?}", tour.counts);
    println!("messages: {messages}, bytes in all: {:016x}", trace.number());
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

/// Resident memory, where the system tells; 0 where it does not.
fn process_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
