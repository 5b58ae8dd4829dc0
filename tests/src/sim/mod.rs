//! The simulator: whole runs of servers, clients and an application under one virtual clock,
//! checked against a model of what every session must have received.
//!
//! A run is determined by its seed. A run that fails prints how to repeat it:
//!
//! - `MCP_SSE_SIM_SEED=7 cargo test -p mcp-sse-tests --test sim` runs seed 7 and prints every step;
//! - `MCP_SSE_SIM_SEEDS=10000 cargo test -p mcp-sse-tests --test sim` runs so many seeds.
//!
//! The fuzz target `ops` lets the fuzzer's bytes decide instead of a seed: [`run_ops`].
//!
//! The numbered invariants are listed in ARCHITECTURE.md; a failure message or comment begins with the
//! number of the invariant that it checks. Invariant 1 is not about runs. Invariant 2 is that a seed's runs are the same, 3 that a run whose input is
//! cut otherwise is the same; 4 and 5 are that a run ends at all.
//!
//! The simulator depends on the core and the standard library only, so that a fuzz target can
//! include it as a module.

pub mod application;
pub mod client;
pub mod connection;
pub mod driver;
pub mod faults;
pub mod fleet;
pub mod hostile;
pub mod invariants;
pub mod meter;
pub mod model;
pub mod posts;
pub mod random;
pub mod reader;
pub mod request;
pub mod responses;
pub mod setup;
pub mod trace;
pub mod world;

use model::Coverage;
use random::Random;
use setup::{Cuts, Setup};
use trace::Trace;
use world::World;

/// The result of a run.
#[derive(Debug)]
pub struct RunReport {
    /// A hash of every byte and every event.
    pub digest: u64,
    /// How often what happened.
    pub coverage: Coverage,
    /// Posts delivered and frames received.
    pub messages: u64,
    /// The most bytes that the core held, and the most that it was allowed to.
    pub memory_peak: i64,
    pub memory_max: i64,
}

/// Runs a seed for `steps` steps; `print` prints each.
#[must_use]
pub fn run(seed: u64, steps: u64, print: bool) -> RunReport {
    let mut random = Random::seeded(seed);
    let setup = Setup { steps, ..Setup::draw(&mut random, false) };
    let name = format!("seed {seed}: MCP_SSE_SIM_SEED={seed}");
    finish(World::new(setup, name, random, Trace::new(true, print)))
}

/// Runs a seed with its input cut by `cuts`. Budgets whose use depends on the cuts are those of the
/// defaults, and only what the application and the clients receive goes into the digest.
#[must_use]
pub fn run_cut(seed: u64, steps: u64, cuts: Cuts, print: bool) -> RunReport {
    let mut random = Random::seeded(seed);
    let setup = Setup { steps, cuts, ..Setup::draw(&mut random, true) };
    let name = format!("seed {seed}, input cut: {cuts:?}");
    finish(World::new(setup, name, random, Trace::new(true, print)))
}

/// Runs the given setup.
#[must_use]
pub fn run_setup(setup: Setup, seed: u64, trace: Trace) -> RunReport {
    let name = format!("seed {seed} of a setup of its own");
    finish(World::new(setup, name, Random::seeded(seed), trace))
}

/// Runs with decisions from `data`. Panics if an invariant fails.
pub fn run_ops(data: &[u8]) {
    run_bytes(data, Trace::new(true, false));
}

/// As [`run_ops`], in two thirds of the time: no trace is written, and so none is searched for
/// secrets.
pub fn run_ops_untraced(data: &[u8]) {
    run_bytes(data, Trace::new(false, false));
}

fn run_bytes(data: &[u8], trace: Trace) {
    let mut random = Random::from_bytes(data);
    let setup = Setup { steps: 4_096, ..Setup::draw(&mut random, false) };
    finish(World::new(setup, "a run of bytes".into(), random, trace));
}

fn finish(mut world: World) -> RunReport {
    world.run();
    let (memory_peak, memory_max) = (world.memory_peak, world.memory_max);
    let (trace, coverage, messages) = world.leave();
    RunReport { digest: trace.digest(), coverage, messages, memory_peak, memory_max }
}
