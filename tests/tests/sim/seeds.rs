//! Runs by seed: the model holds, the same seed is the same run, and cuts change nothing.

use core::ops::Range;

use mcp_sse_tests::sim::chance::Chance;
use mcp_sse_tests::sim::model::Tour;
use mcp_sse_tests::sim::setup::Cuts;
use mcp_sse_tests::sim::{self, meter};

/// How much happens in each run.
const STEPS: u64 = 600;
/// Enough to go everywhere that the last test wants to have been, in a few seconds.
const SEEDS: u64 = 96;

/// How near, in thousandths, some run must come to the sum that bounds its memory. In the sum each list is
/// at its worst at once, doubled for its growth; a run in which much happens is at its worst in some.
const NEAR: i64 = 150;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

/// Runs each of these seeds twice. Says as well how near one of them came to the sum that bounds its
/// memory, in parts of a thousand.
fn run(seeds: Range<u64>) -> (Tour, i64) {
    let mut tour = Tour::default();
    let mut nearest = 0;
    for seed in seeds {
        let before = meter::live();
        let once = sim::run(seed, STEPS, false);
        // 6, in the end: nothing is left behind.
        assert_eq!(meter::live(), before, "6: seed {seed} leaks");
        let again = sim::run(seed, STEPS, false);
        assert_eq!(once.number, again.number, "2: seed {seed} went another way the second time");
        tour.join(&once.tour);
        nearest = nearest.max(once.memory_peak * 1_000 / once.memory_max.max(1));
    }
    (tour, nearest)
}

#[test]
fn the_model_holds_and_a_seed_is_a_run() {
    if let Some(seed) = variable("MCP_SSE_SIM_SEED") {
        let _ = sim::run(seed, STEPS, true);
        return;
    }
    let count = variable("MCP_SSE_SIM_SEEDS").unwrap_or(SEEDS);
    let (tour, nearest) = std::thread::scope(|scope| {
        let (low, high) = (0..count / 2, count / 2..count);
        let half = scope.spawn(move || run(low));
        let (mut tour, nearest) = run(high);
        let (other, as_near) = half.join().expect("the other half");
        tour.join(&other);
        (tour, nearest.max(as_near))
    });
    if count >= SEEDS {
        went_everywhere(&tour);
        println!("6: a run came to {nearest} thousandths of the memory that it might take");
        assert!(nearest >= NEAR, "6: {nearest} thousandths: a bound that nobody comes near");
    }
}

/// A simulator that refuses everything would find nothing wrong.
#[track_caller]
fn went_everywhere(tour: &Tour) {
    let mut enough = true;
    for (what, least) in [
        ("sessions", 800),
        ("messages delivered", 4_000),
        ("frames received", 4_000),
        ("frames undelivered", 100),
        ("posts held", 100),
        ("told busy", 10),
        ("heartbeats", 1_000),
        ("full", 100),
        ("unblocked", 50),
        ("questions answered", 500),
        ("questions expired", 100),
        ("foreign posts", 300),
        ("looked up: Found", 10),
        ("looked up: UnknownSession", 10),
        ("attacks", 300),
        ("corrupted", 20),
        ("dawdling", 50),
        ("stale connections", 500),
        ("stale sessions", 200),
        ("streams ended", 200),
        ("posts elsewhere", 200),
        ("continue", 100),
        ("closed: closed by the client", 20),
        ("closed: closed by the application", 20),
        ("closed: the client takes no bytes", 20),
        ("closed: idle for too long", 20),
        ("closed: its lifetime is over", 20),
        ("closed: shutting down", 20),
        ("closed: bytes after the request on an event stream", 10),
        ("status 202", 3_000),
        ("status 400", 100),
        ("status 401", 50),
        ("status 403", 50),
        ("status 404", 500),
        ("status 413", 20),
        ("status 503", 500),
        ("EntropyUnavailable", 5),
        ("EventsFull", 10),
        ("BodiesFull", 10),
        ("BodiesPerAddressFull", 10),
        ("SessionsFull", 50),
        ("SessionsPerAddressFull", 10),
        ("HeadTimeout", 20),
        ("BodyTimeout", 10),
        ("requests in two pieces", 500),
        ("half requests", 20),
        ("Truncated", 20),
        ("cancelled while held", 2),
        ("foreign posts held", 2),
        ("DuplicateHost", 5),
        ("InvalidContentLength", 5),
        ("UnsupportedTransferCoding", 5),
        ("TooManyEmptyLines", 5),
        ("UnsupportedExpectation", 3),
        ("HeadTooLarge", 5),
        ("TargetTooLong", 5),
        ("TooManyFields", 5),
        ("ChunkExtensionsTooLarge", 10),
        ("TrailersTooLarge", 5),
        ("ConnectionEvicted", 20),
        ("RateLimited", 10),
        ("SessionRateLimited", 1),
    ] {
        if tour.of(what) < least {
            eprintln!("only {} of {what}, and not {least}", tour.of(what));
            enough = false;
        }
    }
    assert!(enough, "{tour:#?}");
}

/// Invariant 3, as far as runs can be compared.
#[test]
fn cuts_change_nothing() {
    for seed in 0..16 {
        let whole = sim::run_cut(seed, STEPS / 2, Cuts::Whole, false).number;
        for cuts in [Cuts::Crumbs, Cuts::Pieces] {
            let other = sim::run_cut(seed, STEPS / 2, cuts, false).number;
            assert_eq!(whole, other, "3: seed {seed}, {cuts:?}");
        }
    }
}

/// What the fuzz target `ops` does, with bytes of a seed.
#[test]
fn bytes_decide_as_well() {
    for seed in 0..80 {
        let mut chance = Chance::seeded(seed);
        let data: Vec<u8> = (0..chance.below(2_000)).map(|_| chance.next() as u8).collect();
        sim::run_ops(&data);
    }
    sim::run_ops(&[]);
    sim::run_ops(&[0xff; 3_000]);
}
