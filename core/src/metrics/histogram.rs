//! Histograms with fixed buckets: how many values were at most so large.
//!
//! Knows: the bounds of the buckets, and how a value is counted. Does not know: what was measured.
//!
//! Decision: bounds are constants of the program, and values are integers (microseconds, bytes). So counting a value
//! needs neither an allocation nor a floating-point number, and the histograms of several shards are added bucket by
//! bucket. Histograms that choose their buckets at run time were considered; they would need memory for each
//! distinct magnitude.

use core::ops::AddAssign;
use core::time::Duration;

macro_rules! histograms {
    ($( $(#[doc = $doc:literal])+ $name:ident = $bounds:expr; )+) => { $(
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            /// The number of values in each bucket. The last bucket is for values above all bounds.
            counts: [u64; Self::BOUNDS.len() + 1],
            sum: u64,
        }

        impl $name {
            /// The upper bounds of the buckets, in ascending order. A value that equals a bound belongs to its
            /// bucket.
            pub const BOUNDS: &'static [u64] = &$bounds;

            /// Makes a histogram without values.
            #[must_use]
            pub const fn new() -> Self {
                Self { counts: [0; Self::BOUNDS.len() + 1], sum: 0 }
            }

            /// Counts a value.
            fn count_value(&mut self, value: u64) {
                // Most values are small, so the search starts at the front.
                let bucket = Self::BOUNDS.iter().position(|bound| value <= *bound);
                let bucket = bucket.unwrap_or(Self::BOUNDS.len());
                if let Some(count) = self.counts.get_mut(bucket) {
                    *count += 1;
                }
                self.sum = self.sum.saturating_add(value);
            }

            /// The number of values.
            #[must_use]
            pub fn count(&self) -> u64 {
                self.counts.iter().sum()
            }

            /// The sum of all values, in the unit of [`BOUNDS`](Self::BOUNDS).
            #[must_use]
            pub const fn sum(&self) -> u64 {
                self.sum
            }

            /// Each bucket's upper bound and its number of values, which does not include those of smaller
            /// buckets. The bound of the last bucket is `None`: it has the values above all bounds.
            pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
                let bounds = Self::BOUNDS.iter().copied().map(Some).chain([None]);
                bounds.zip(self.counts)
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl AddAssign<&Self> for $name {
            /// Adds the values of another histogram.
            fn add_assign(&mut self, other: &Self) {
                self.counts.iter_mut().zip(other.counts).for_each(|(sum, count)| *sum += count);
                self.sum = self.sum.saturating_add(other.sum);
            }
        }
    )+ };
}

histograms! {
    /// How long something took. Bounds and sum are in microseconds.
    ///
    /// The bounds reach from 1 ms, for a tool that computes, to 5 minutes, for one that waits for something else.
    DurationHistogram = [
        1_000, 5_000, 25_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000,
        60_000_000, 300_000_000,
    ];
    /// How large something was. Bounds and sum are in bytes.
    ///
    /// The largest bounds are 4 MiB, the default of [`Limits::body_bytes_max`](crate::Limits::body_bytes_max), and
    /// four times as much.
    SizeHistogram = [
        1 << 8, 1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24,
    ];
}

impl DurationHistogram {
    /// Counts a duration, for applications that measure something themselves.
    pub fn observe(&mut self, took: Duration) {
        self.count_value(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }
}

impl SizeHistogram {
    /// Counts a size in bytes, for applications that measure something themselves.
    pub fn observe(&mut self, bytes: usize) {
        self.count_value(bytes as u64);
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[track_caller]
    fn check(bytes: &[usize], expected: &[(Option<u64>, u64)]) {
        let mut sizes = SizeHistogram::new();
        bytes.iter().for_each(|&bytes| sizes.observe(bytes));
        let filled: Vec<_> = sizes.buckets().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, expected);
        assert_eq!(sizes.count(), bytes.len() as u64);
        assert_eq!(sizes.sum(), bytes.iter().sum::<usize>() as u64);
    }

    #[test]
    fn value_belongs_to_the_first_bucket_whose_bound_it_does_not_exceed() {
        check(&[], &[]);
        check(&[0, 1, 256], &[(Some(256), 3)]);
        check(&[257, 1_024, 1_025], &[(Some(1_024), 2), (Some(4_096), 1)]);
        check(&[16 << 20], &[(Some(16 << 20), 1)]);
        check(&[(16 << 20) + 1, 1 << 30], &[(None, 2)]);
    }

    #[test]
    fn durations_are_counted_in_microseconds() {
        let mut took = DurationHistogram::new();
        took.observe(Duration::from_millis(1));
        took.observe(Duration::from_nanos(1_001_000));
        took.observe(Duration::MAX);
        let filled: Vec<_> = took.buckets().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(Some(1_000), 1), (Some(5_000), 1), (None, 1)]);
        assert_eq!(took.sum(), u64::MAX);
    }

    #[test]
    fn bounds_ascend() {
        for bounds in [DurationHistogram::BOUNDS, SizeHistogram::BOUNDS] {
            assert!(bounds.is_sorted_by(|a, b| a < b), "{bounds:?}");
        }
    }

    #[test]
    fn sum_of_histograms_has_the_values_of_both() {
        let (mut one, mut two) = (SizeHistogram::new(), SizeHistogram::new());
        one.observe(1);
        two.observe(1);
        two.observe(300);
        one += &two;
        assert_eq!((one.count(), one.sum()), (3, 302));
        assert_eq!(one.buckets().next(), Some((Some(256), 2)));
    }
}
