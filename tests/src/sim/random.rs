//! The source of a run's decisions: a seed, or bytes of a fuzzer.
//!
//! Knows: SplitMix64, and how bytes become decisions. Does not know: what is decided.

use mcp_sse_core::{Entropy, EntropyUnavailable};

/// A deterministic source of decisions: the same seed or bytes decide the same on every machine.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
    /// The bytes that are left, if bytes decide, in reverse order: the next byte is the last element.
    bytes: Option<Vec<u8>>,
}

impl Random {
    /// Decides by a seed, without an end.
    #[must_use]
    pub const fn seeded(seed: u64) -> Self {
        Self { state: seed, bytes: None }
    }

    /// Decides by `bytes`; most decisions consume one. When they are used up, every decision is the
    /// first choice.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self { state: 0, bytes: Some(bytes.iter().rev().copied().collect()) }
    }

    /// Whether the bytes are used up.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.bytes.as_ref().is_some_and(Vec::is_empty)
    }

    /// The next 64 bits of SplitMix64. The bytes of [`from_bytes`](Self::from_bytes) do not change
    /// them, and none is consumed.
    pub const fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not zero.
    pub fn below(&mut self, end: usize) -> usize {
        let Some(bytes) = &mut self.bytes else { return (self.next() % end as u64) as usize };
        let (mut drawn, mut most) = (0_usize, 1_usize);
        while most < end {
            drawn = drawn << 8 | usize::from(bytes.pop().unwrap_or(0));
            most <<= 8;
        }
        drawn % end
    }

    /// Returns `true` once in `times` calls on average. `times` is not zero.
    pub fn one_in(&mut self, times: usize) -> bool {
        // It is the last choice and not the first, so that a source whose bytes are used up causes
        // no more faults.
        self.below(times) == times - 1
    }

    /// One of `choices`.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    /// How many of `len` bytes go in one piece: all of them in half of the calls, one in a quarter,
    /// and any number otherwise.
    pub fn piece_len(&mut self, len: usize) -> usize {
        match self.below(4) {
            0 | 1 => len,
            2 => 1,
            _ => 1 + self.below(len),
        }
    }
}

/// Entropy from a seed, which can fail now and then.
#[derive(Debug)]
pub struct SeededEntropy {
    random: Random,
    failing: bool,
}

impl SeededEntropy {
    /// Makes entropy from `seed`. If `failing`, one draw in sixteen fails.
    #[must_use]
    pub const fn new(seed: u64, failing: bool) -> Self {
        Self { random: Random::seeded(seed), failing }
    }
}

impl Entropy for SeededEntropy {
    fn fill(&mut self, dest: &mut [u8]) -> Result<(), EntropyUnavailable> {
        if self.failing && self.random.one_in(16) {
            return Err(EntropyUnavailable);
        }
        dest.fill_with(|| self.random.next() as u8);
        Ok(())
    }
}
