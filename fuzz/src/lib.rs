//! The code of the targets, which `cargo test --workspace` runs as well: it is the tests', and nothing else of
//! theirs is built here.

#[path = "../../tests/src/fuzz/mod.rs"]
pub mod fuzz;
#[path = "../../tests/src/sim/mod.rs"]
pub mod sim;
