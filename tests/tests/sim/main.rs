//! The simulator's runs.

use mcp_sse_tests::sim::{self, meter};

#[global_allocator]
static COUNTING: meter::Counting = meter::Counting;

#[test]
fn seeds() {
    let first = std::env::var("MCP_SSE_SIM_SEED").ok().and_then(|n| n.parse().ok());
    let count = std::env::var("MCP_SSE_SIM_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(40);
    if let Some(seed) = first {
        sim::run(seed, 2_000, true);
        return;
    }
    let mut tour = sim::model::Tour::default();
    for seed in 0..count {
        let once = sim::run(seed, 2_000, false);
        let again = sim::run(seed, 2_000, false);
        assert_eq!(once.number, again.number, "2: seed {seed} went another way the second time");
        tour.join(&once.tour);
    }
    println!("{tour:#?}");
}
