//! Where a run's decisions come from: a seed, or somebody's bytes.
//!
//! Knows: SplitMix64, and how bytes are spent. Does not know: what is decided.

use mcp_sse_core::{Entropy, EntropyUnavailable};

/// A source of decisions. The same source decides the same, on every machine.
#[derive(Clone, Debug)]
pub struct Chance {
    state: u64,
    /// Where decisions are somebody's: what is left of them, the last first.
    bytes: Option<Vec<u8>>,
}

impl Chance {
    /// Decides by a seed, for ever.
    #[must_use]
    pub const fn seeded(seed: u64) -> Self {
        Self { state: seed, bytes: None }
    }

    /// Decides by `bytes`, most decisions taking one; then always the first of its choices.
    #[must_use]
    pub fn spending(bytes: &[u8]) -> Self {
        Self { state: 0, bytes: Some(bytes.iter().rev().copied().collect()) }
    }

    /// Whether the bytes are spent.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.bytes.as_ref().is_some_and(Vec::is_empty)
    }

    /// The next 64 bits.
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

    /// Whether something happens that happens once in `times`.
    pub fn one_in(&mut self, times: usize) -> bool {
        // Not the first choice: spent bytes should not go on making trouble.
        self.below(times) == times - 1 && times > 0
    }

    /// One of `choices`.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    /// How many of `len` bytes go in one piece: all of them often, one often, anything else.
    pub fn piece(&mut self, len: usize) -> usize {
        match self.below(4) {
            0 | 1 => len,
            2 => 1,
            _ => 1 + self.below(len),
        }
    }
}

/// Tokens for sessions; now and then there is none to be had.
#[derive(Debug)]
pub struct Tokens {
    chance: Chance,
    failing: bool,
}

impl Tokens {
    /// Draws from a seed, and if `failing` fails one time in sixteen.
    #[must_use]
    pub const fn new(seed: u64, failing: bool) -> Self {
        Self { chance: Chance::seeded(seed), failing }
    }
}

impl Entropy for Tokens {
    fn fill(&mut self, dest: &mut [u8]) -> Result<(), EntropyUnavailable> {
        if self.failing && self.chance.one_in(16) {
            return Err(EntropyUnavailable);
        }
        dest.fill_with(|| self.chance.next() as u8);
        Ok(())
    }
}
