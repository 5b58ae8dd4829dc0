//! Runs of the simulator, scenarios in which the nth operation fails, and the core's memory.
//!
//! `MCP_SSE_SIM_SEED=n` runs one seed and prints every step, `MCP_SSE_SIM_SEEDS=count` runs so many.
#![expect(clippy::unwrap_used, reason = "tests")]

mod comeback;
mod memory;
mod nth;
mod scenario;
mod seeds;
mod timer_batches;

use mcp_sse_tests::sim::meter;

// These tests are a binary of their own, because the counting allocator is global.
#[global_allocator]
static COUNTING: meter::CountingAllocator = meter::CountingAllocator;
