//! What the tests of this layer share: every way to cut an input, and chance with a seed.

use alloc::vec::Vec;
use core::fmt::Debug;

/// Gives `input` to `run` whole, in crumbs, and cut in two at every point, and wants one outcome.
#[track_caller]
pub(super) fn every_way<T: PartialEq + Debug>(
    input: &[u8],
    mut run: impl FnMut(&[&[u8]]) -> T,
) -> T {
    let whole = run(&[input]);
    let text = input.escape_ascii();
    assert_eq!(whole, run(&input.chunks(1).collect::<Vec<_>>()), "byte by byte: {text}");
    for cut in 0..=input.len() {
        let (head, tail) = input.split_at(cut);
        assert_eq!(whole, run(&[head, tail]), "cut at {cut}: {text}");
    }
    whole
}

/// Marsaglia's xorshift: reproducible, and good enough to pick octets with.
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn seeded(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `end`.
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % end
    }

    /// One of `choices`.
    pub(super) fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    /// `bytes` with a few of them changed, removed, doubled or moved.
    pub(super) fn mutate(&mut self, bytes: &[u8], octets: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len().max(1)).min(bytes.len());
            match self.below(6) {
                0 if !bytes.is_empty() => drop(bytes.remove(at)),
                1 => bytes.insert(at, *self.pick(octets)),
                2 if !bytes.is_empty() => bytes[at] = *self.pick(octets),
                3 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                4 if !bytes.is_empty() => bytes.insert(at, bytes[at]),
                5 if !bytes.is_empty() => {
                    let other = self.below(bytes.len());
                    bytes.swap(at, other);
                }
                _ => {}
            }
        }
        bytes
    }

    /// `input` in pieces.
    pub(super) fn cut<'a>(&mut self, mut input: &'a [u8]) -> Vec<&'a [u8]> {
        let mut pieces = Vec::new();
        while !input.is_empty() {
            let (piece, rest) = input.split_at(1 + self.below(input.len()));
            pieces.push(piece);
            input = rest;
        }
        pieces
    }
}
