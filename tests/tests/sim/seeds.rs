//! Runs by seed: the model holds, the same seed gives the same run, and cuts of input change
//! nothing.

use core::ops::Range;

use mcp_sse_tests::sim::model::Coverage;
use mcp_sse_tests::sim::random::Random;
use mcp_sse_tests::sim::setup::Cuts;
use mcp_sse_tests::sim::{self, meter};

/// The number of steps of each run.
const STEPS: u64 = 600;
/// Enough for the required coverage, in a few seconds.
const SEEDS: u64 = 96;

/// How near some run must come to its memory limit, in thousandths. The limit adds the worst case
/// of every list, doubled for growth; a run reaches it in some lists at a time.
const NEAR: i64 = 150;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

/// Runs each seed twice. Returns the coverage, and how near a run came to its memory limit, in
/// thousandths.
fn run(seeds: Range<u64>) -> (Coverage, i64) {
    let mut coverage = Coverage::default();
    let mut nearest = 0;
    for seed in seeds {
        let before = meter::live();
        let once = sim::run(seed, STEPS, false);
        // 6, at the end: all memory is freed.
        assert_eq!(meter::live(), before, "6: seed {seed} leaks");
        let again = sim::run(seed, STEPS, false);
        assert_eq!(once.digest, again.digest, "2: seed {seed} went another way the second time");
        coverage.join(&once.coverage);
        nearest = nearest.max(once.memory_peak * 1_000 / once.memory_max.max(1));
    }
    (coverage, nearest)
}

#[test]
fn seeds_hold_the_model_and_are_deterministic() {
    if let Some(seed) = variable("MCP_SSE_SIM_SEED") {
        let _ = sim::run(seed, STEPS, true);
        return;
    }
    let count = variable("MCP_SSE_SIM_SEEDS").unwrap_or(SEEDS);
    let (coverage, nearest) = std::thread::scope(|scope| {
        let (low, high) = (0..count / 2, count / 2..count);
        let half = scope.spawn(move || run(low));
        let (mut coverage, nearest) = run(high);
        let (other, as_near) = half.join().expect("the other half");
        coverage.join(&other);
        (coverage, nearest.max(as_near))
    });
    if count >= SEEDS {
        check_coverage(&coverage);
        println!("6: a run came to {nearest} thousandths of the memory that it might take");
        assert!(nearest >= NEAR, "6: {nearest} thousandths: a bound that nobody comes near");
    }
}

/// Checks that runs cover what they should: a simulator in which everything is refused would find
/// no fault.
#[track_caller]
fn check_coverage(coverage: &Coverage) {
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
        ("stalled requests", 50),
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
        if coverage.of(what) < least {
            eprintln!("only {} of {what}, and not {least}", coverage.of(what));
            enough = false;
        }
    }
    assert!(enough, "{coverage:#?}");
}

/// Invariant 3, as far as runs with different cuts can be compared.
#[test]
fn input_cuts_change_no_result() {
    for seed in 0..16 {
        let whole = sim::run_cut(seed, STEPS / 2, Cuts::Whole, false).digest;
        for cuts in [Cuts::SingleBytes, Cuts::Pieces] {
            let other = sim::run_cut(seed, STEPS / 2, cuts, false).digest;
            assert_eq!(whole, other, "3: seed {seed}, {cuts:?}");
        }
    }
}

/// Does what the fuzz target `ops` does, with random bytes.
#[test]
fn runs_decided_by_bytes_hold_the_model() {
    for seed in 0..80 {
        let mut random = Random::seeded(seed);
        let data: Vec<u8> = (0..random.below(2_000)).map(|_| random.next() as u8).collect();
        sim::run_ops(&data);
    }
    sim::run_ops(&[]);
    sim::run_ops(&[0xff; 3_000]);
}
