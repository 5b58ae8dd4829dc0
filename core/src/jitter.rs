//! Jitter: numbers drawn from a configured range, so that clients that were told to come back do not
//! all come back at the same time.
//!
//! Knows: ranges, and how a number is drawn from one. Does not know: what the numbers are for.
//!
//! Decision: the reconnection time of a stream is drawn from the source of entropy, like the token
//! that is drawn with it. `Retry-After` is drawn from a generator that is seeded once: a server that
//! is full refuses many requests, and each draw from the source is a call of the operating system.
//! The numbers are not secret, and the seed is independent of the tokens of sessions. If there is no
//! entropy for the seed, the smallest number is used, because a missing seed must not prevent the
//! refusal of a request.

use crate::entropy::{Entropy, EntropyUnavailable};

/// The numbers from `low` to `high`, both included. `low` is never above `high`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct JitterRange {
    pub(crate) low: u64,
    pub(crate) high: u64,
}

impl JitterRange {
    /// The range of one number.
    pub(crate) const fn one(number: u64) -> Self {
        Self { low: number, high: number }
    }

    /// Draws a number from a source of entropy.
    pub(crate) fn draw(
        self,
        entropy: &mut (dyn Entropy + Send + 'static),
    ) -> Result<u64, EntropyUnavailable> {
        if self.low == self.high {
            return Ok(self.low);
        }
        let mut bits = [0; 8];
        entropy.fill(&mut bits)?;
        Ok(self.pick(u64::from_be_bytes(bits)))
    }

    /// The number that `bits` select, if all bits are random: each about equally often.
    fn pick(self, bits: u64) -> u64 {
        let count = u128::from(self.high - self.low) + 1;
        // The product is below `count << 64`, so the quotient fits.
        self.low + ((u128::from(bits) * count) >> 64) as u64
    }
}

/// A generator of numbers from a range (SplitMix64), which takes its seed when it is first used.
#[derive(Debug, Default)]
pub(crate) struct Jitter {
    state: Option<u64>,
}

impl Jitter {
    /// Draws a number. `entropy` is asked for a seed until it has given one.
    pub(crate) fn draw(
        &mut self,
        range: JitterRange,
        entropy: &mut (dyn Entropy + Send + 'static),
    ) -> u64 {
        if range.low == range.high {
            return range.low;
        }
        let seeded = self.state.or_else(|| {
            let mut seed = [0; 8];
            entropy.fill(&mut seed).ok().map(|()| u64::from_be_bytes(seed))
        });
        let Some(state) = seeded else { return range.low };
        let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.state = Some(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        range.pick(mixed ^ (mixed >> 31))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    /// Counts its calls, and fails if it is to.
    struct Source {
        calls: u32,
        fails: bool,
    }

    impl Entropy for Source {
        fn fill(&mut self, dest: &mut [u8]) -> Result<(), EntropyUnavailable> {
            self.calls += 1;
            dest.fill(7);
            if self.fails { Err(EntropyUnavailable) } else { Ok(()) }
        }
    }

    #[test]
    fn numbers_fill_the_range_evenly() {
        let range = JitterRange { low: 1_000, high: 5_000 };
        assert_eq!((range.pick(0), range.pick(u64::MAX)), (1_000, 5_000));
        let whole = JitterRange { low: 0, high: u64::MAX };
        assert_eq!((whole.pick(0), whole.pick(u64::MAX)), (0, u64::MAX));
        let (mut jitter, mut random) = (Jitter::default(), Random::seeded(1));
        let mut counts = [[0_u32; 4]; 2];
        for _ in 0..40_000 {
            let range = JitterRange { low: 10, high: 13 };
            let drawn = range.draw(&mut random).unwrap();
            counts[0][(drawn - 10) as usize] += 1;
            counts[1][(jitter.draw(range, &mut random) - 10) as usize] += 1;
        }
        // The standard deviation is 87.
        let even = |count: &u32| (9_500..10_500).contains(count);
        assert!(counts.as_flattened().iter().all(even), "{counts:?}");
    }

    #[test]
    fn generator_asks_for_entropy_once() {
        let mut source = Source { calls: 0, fails: false };
        let mut jitter = Jitter::default();
        for _ in 0..100 {
            jitter.draw(JitterRange { low: 1, high: 9 }, &mut source);
        }
        assert_eq!(source.calls, 1);
    }

    #[test]
    fn range_of_one_number_needs_no_entropy() {
        let mut source = Source { calls: 0, fails: true };
        assert_eq!(JitterRange::one(3).draw(&mut source), Ok(3));
        assert_eq!(Jitter::default().draw(JitterRange::one(3), &mut source), 3);
        assert_eq!(source.calls, 0);
    }

    #[test]
    fn generator_without_a_seed_draws_the_smallest_number() {
        let mut source = Source { calls: 0, fails: true };
        let range = JitterRange { low: 2, high: 1_000_000 };
        assert_eq!(range.draw(&mut source), Err(EntropyUnavailable));
        let mut jitter = Jitter::default();
        assert_eq!(jitter.draw(range, &mut source), 2);
        source.fails = false;
        assert_ne!(jitter.draw(range, &mut source), 2, "a later call may succeed");
    }
}
