//! The simulator: whole runs of servers, peers and an application under one virtual clock, held against a
//! model of what every session must have received.
//!
//! A run follows from its seed alone. When one fails it says how to have it again:
//!
//! - `MCP_SSE_SIM_SEED=7 cargo test -p mcp-sse-tests --test sim` runs seed 7 and prints every step;
//! - `MCP_SSE_SIM_SEEDS=10000 cargo test -p mcp-sse-tests --test sim` runs so many seeds.
//!
//! The fuzz target `ops` lets bytes decide in place of a seed: [`run_ops`].
//!
//! The invariants are those of ARCHITECTURE.md; where one is checked, the message or a comment begins with
//! its number. 1 is not a matter of runs. 2 is that a seed's runs are the same, 3 that a run in which
//! input is cut otherwise is. 4 and 5 are that a run ends at all.
//!
//! Everything here needs the core and the standard library and nothing else, so that a fuzz target may
//! include it as a module.

pub mod application;
pub mod ask;
pub mod chance;
pub mod driver;
pub mod due;
pub mod faults;
pub mod hearing;
pub mod hostile;
pub mod link;
pub mod meter;
pub mod model;
pub mod peer;
pub mod posts;
pub mod reader;
pub mod setup;
pub mod trace;
pub mod world;

use chance::Chance;
use model::Tour;
use setup::{Cuts, Setup};
use trace::Trace;
use world::World;

/// What is left of a run.
#[derive(Debug)]
pub struct Outcome {
    /// Stands for every byte and every event.
    pub number: u64,
    /// Where it has been.
    pub tour: Tour,
    /// Posts delivered and frames received.
    pub messages: u64,
    /// The most that the core held, in bytes, and the most that it was allowed to.
    pub memory_peak: i64,
    pub memory_max: i64,
}

/// Runs a seed for so many steps.
#[must_use]
pub fn run(seed: u64, steps: u64, aloud: bool) -> Outcome {
    let mut chance = Chance::seeded(seed);
    let setup = Setup { steps, ..Setup::draw(&mut chance, false) };
    let name = format!("seed {seed}: MCP_SSE_SIM_SEED={seed}");
    finish(World::new(setup, name, chance, Trace::new(true, aloud)))
}

/// Runs a seed with its input cut in this way. Budgets that depend on how much of it lies where are those
/// of the defaults, and what the application is told and peers hear is all that counts.
#[must_use]
pub fn run_cut(seed: u64, steps: u64, cuts: Cuts, aloud: bool) -> Outcome {
    let mut chance = Chance::seeded(seed);
    let setup = Setup { steps, cuts, ..Setup::draw(&mut chance, true) };
    let name = format!("seed {seed}, input cut: {cuts:?}");
    finish(World::new(setup, name, chance, Trace::new(true, aloud)))
}

/// Runs a setup of one's own.
#[must_use]
pub fn run_setup(setup: Setup, seed: u64, trace: Trace) -> Outcome {
    let name = format!("seed {seed} of a setup of its own");
    finish(World::new(setup, name, Chance::seeded(seed), trace))
}

/// Lets bytes decide what happens, and panics if anything happens that should not.
pub fn run_ops(data: &[u8]) {
    let_decide(data, Trace::new(true, false));
}

/// As [`run_ops`], in two thirds of the time: nothing is written down, and so not searched for secrets.
pub fn run_ops_untraced(data: &[u8]) {
    let_decide(data, Trace::new(false, false));
}

fn let_decide(data: &[u8], trace: Trace) {
    let mut chance = Chance::spending(data);
    let setup = Setup { steps: 4_096, ..Setup::draw(&mut chance, false) };
    finish(World::new(setup, "a run of bytes".into(), chance, trace));
}

fn finish(mut world: World) -> Outcome {
    world.run();
    let (memory_peak, memory_max) = (world.memory_peak, world.memory_max);
    let (trace, tour, messages) = world.leave();
    Outcome { number: trace.number(), tour, messages, memory_peak, memory_max }
}
