//! The simulator's runs, scenarios in which the nth thing fails, and what memory the core takes.
//!
//! `MCP_SSE_SIM_SEED=n` runs one seed and prints every step, `MCP_SSE_SIM_SEEDS=count` runs so many.
#![expect(clippy::unwrap_used, reason = "tests")]

mod herd;
mod memory;
mod nth;
mod seeds;
mod stage;

use mcp_sse_tests::sim::meter;

// A binary of its own, because it counts with the global allocator.
#[global_allocator]
static COUNTING: meter::Counting = meter::Counting;
