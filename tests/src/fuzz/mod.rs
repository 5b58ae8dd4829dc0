//! The fuzz targets. `cargo test --workspace` runs them on the inputs in `fuzz/corpus` and on
//! mutations of these.
//!
//! Knows: the core's public interface, and for each part of it an independent naive implementation
//! to compare with. Does not know: libFuzzer, or a dependency that `fuzz/` would have to build.

mod bytes;
mod chunked;
mod events;
mod head;

mod json;
mod token;
mod transcript;

pub use bytes::bytes;
pub use chunked::chunked;
pub use events::sse_roundtrip;
pub use head::head;
pub use json::jsonrpc;
pub use token::token;

/// Runs one input: it returns, or panics with a finding.
pub type Target = fn(&[u8]);

/// Every target, by the name of its program and of its corpus folder.
pub const TARGETS: &[(&str, Target)] = &[
    ("bytes", bytes),
    ("chunked", chunked),
    ("head", head),
    ("jsonrpc", jsonrpc),
    ("ops", ops),
    ("sse_roundtrip", sse_roundtrip),
    ("token", token),
];

/// Runs the simulator with decisions from the input.
pub fn ops(input: &[u8]) {
    crate::sim::run_ops_untraced(input);
}

/// Cuts `input` into pieces: for `how` 0 into one, for 1 into single bytes, for another number into
/// pieces of random lengths up to it.
fn cut(how: u8, input: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut rest, mut state) = (input, u32::from(how));
    core::iter::from_fn(move || {
        // The generator of Numerical Recipes; any that is the same on every machine would do.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let length = match how {
            0 => rest.len(),
            _ => 1 + (state >> 16) as usize % usize::from(how),
        };
        let (piece, tail) = rest.split_at(length.min(rest.len()));
        rest = tail;
        (!piece.is_empty()).then_some(piece)
    })
}
