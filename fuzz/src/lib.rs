//! The code of the fuzz targets, included from the tests crate, which runs it too. Nothing else of
//! that crate is built here.

#[path = "../../tests/src/fuzz/mod.rs"]
pub mod fuzz;
#[path = "../../tests/src/sim/mod.rs"]
pub mod sim;
