//! What each fuzz target does with its input; `cargo test --workspace` does the same with what is kept in
//! `fuzz/corpus`, and with neighbours of it.
//!
//! Knows: the core's public interface, and for each part of it a naive reader that says the same in
//! another way. Does not know: libFuzzer, or anything that `fuzz/` would have to build besides.

mod bytes;
mod chunked;
mod events;
mod head;
mod heard;
mod json;
mod token;

pub use bytes::bytes;
pub use chunked::chunked;
pub use events::sse_roundtrip;
pub use head::head;
pub use json::jsonrpc;
pub use token::token;

/// Judges one input: it returns, or panics with a finding.
pub type Target = fn(&[u8]);

/// Every target, by the name of its program and of its folder of inputs.
pub const TARGETS: &[(&str, Target)] = &[
    ("bytes", bytes),
    ("chunked", chunked),
    ("head", head),
    ("jsonrpc", jsonrpc),
    ("ops", ops),
    ("sse_roundtrip", sse_roundtrip),
    ("token", token),
];

/// The bytes decide what happens in a whole world: servers, peers, links and an application, held against
/// the model.
pub fn ops(input: &[u8]) {
    crate::sim::run_ops_untraced(input);
}

/// Cuts `input` into pieces as `how` says: 0 leaves it whole, 1 makes single bytes, any other number
/// pieces of up to that many bytes, each of another length.
fn cut(how: u8, input: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut rest, mut state) = (input, u32::from(how));
    core::iter::from_fn(move || {
        // Numerical Recipes' generator: any will do that is the same everywhere.
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
