//! Rates: a token bucket in integer arithmetic.
//!
//! Knows: how a rate is written, and how a bucket is refilled. Does not know: to what a rate
//! applies, or how a refusal is answered.

use core::fmt;
use core::num::NonZeroU32;
use core::str::FromStr;
use core::time::Duration;

use crate::error_text::error_text;
use crate::time::Time;

/// A rate limit: `10/minute`, or `5/second,burst=20`.
///
/// It works as a token bucket. After a period without actions, `burst` actions are allowed at once;
/// then the rate applies. The default burst is the count of the rate: all ten actions of
/// `10/minute` may happen at once.
///
/// ```
/// use mcp_sse_core::{Limits, Rate};
///
/// let rate: Rate = "10/minute,burst=30".parse()?;
/// assert_eq!(rate.to_string(), "10/minute,burst=30");
/// let limits = Limits { posts_rate_per_session: Some(rate), ..Limits::default() };
/// # Ok::<(), mcp_sse_core::RateError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    count: NonZeroU32,
    per: Per,
    burst: NonZeroU32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Per {
    Second,
    Minute,
    Hour,
}

impl Per {
    const fn micros(self) -> u64 {
        match self {
            Self::Second => 1_000_000,
            Self::Minute => 60_000_000,
            Self::Hour => 3_600_000_000,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
        }
    }
}

impl Rate {
    /// A rate of `count` actions per second, with a burst of `count`.
    ///
    /// ```
    /// # use core::num::NonZeroU32;
    /// # use mcp_sse_core::Rate;
    /// let [five, twenty] = [5, 20].map(|n| NonZeroU32::new(n).unwrap());
    /// let rate = Rate::per_second(five).burst(twenty);
    /// assert_eq!(Ok(rate), "5/second,burst=20".parse());
    /// ```
    #[must_use]
    pub const fn per_second(count: NonZeroU32) -> Self {
        Self { count, per: Per::Second, burst: count }
    }

    /// A rate of `count` actions per minute, with a burst of `count`.
    #[must_use]
    pub const fn per_minute(count: NonZeroU32) -> Self {
        Self { count, per: Per::Minute, burst: count }
    }

    /// A rate of `count` actions per hour, with a burst of `count`.
    #[must_use]
    pub const fn per_hour(count: NonZeroU32) -> Self {
        Self { count, per: Per::Hour, burst: count }
    }

    /// Sets how many actions are allowed at once.
    #[must_use]
    pub const fn burst(self, burst: NonZeroU32) -> Self {
        Self { burst, ..self }
    }

    /// The level of a full bucket. One action costs [`Per::micros`], and each microsecond adds
    /// `count`, so no rounding is needed.
    fn capacity(self) -> u64 {
        u64::from(self.burst.get()).saturating_mul(self.per.micros())
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.per.name())?;
        if self.burst == self.count { Ok(()) } else { write!(f, ",burst={}", self.burst) }
    }
}

/// Why a text is not a [`Rate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RateError {
    /// The text is not of the form `count/unit` or `count/unit,burst=count`.
    Form,
    /// The count or the burst is not a whole number from 1 to 2^32 - 1.
    Count,
    /// The unit is not `second`, `minute` or `hour`.
    Unit,
}

error_text!(RateError, |error| match error {
    RateError::Form => "a rate is written like 10/minute or 10/minute,burst=30",
    RateError::Count => {
        "the count and the burst of a rate are whole numbers from 1 to 4294967295"
    }
    RateError::Unit => "the unit of a rate is second, minute or hour",
});

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let (rate, burst) = match text.split_once(',') {
            Some((rate, burst)) => {
                (rate, Some(burst.trim_start().strip_prefix("burst=").ok_or(RateError::Form)?))
            }
            None => (text, None),
        };
        let (count, unit) = rate.split_once('/').ok_or(RateError::Form)?;
        let number = |digits: &str| {
            // `parse` alone would accept a sign.
            let plain = digits.bytes().all(|b| b.is_ascii_digit());
            digits.parse::<NonZeroU32>().ok().filter(|_| plain).ok_or(RateError::Count)
        };
        let count = number(count)?;
        let per = match unit {
            "second" => Per::Second,
            "minute" => Per::Minute,
            "hour" => Per::Hour,
            _ => return Err(RateError::Unit),
        };
        let burst = burst.map_or(Ok(count), number)?;
        Ok(Self { count, per, burst })
    }
}

/// The token bucket of one session, address or principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    level: u64,
    /// The time at which the bucket had that level.
    at: Time,
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn full(rate: Rate, now: Time) -> Self {
        Self { level: rate.capacity(), at: now }
    }

    fn level(self, rate: Rate, now: Time) -> u64 {
        let micros = now.saturating_since(self.at).as_micros();
        let micros = u64::try_from(micros).unwrap_or(u64::MAX);
        let filled = micros.saturating_mul(u64::from(rate.count.get()));
        self.level.saturating_add(filled).min(rate.capacity())
    }

    /// Whether the bucket is full, so that it need not be stored.
    pub(crate) fn is_full(self, rate: Rate, now: Time) -> bool {
        self.level(rate, now) == rate.capacity()
    }

    /// Takes the cost of one action from the bucket. If the level is too low, takes nothing and
    /// returns the time until the next action is allowed.
    pub(crate) fn take(&mut self, rate: Rate, now: Time) -> Result<(), Duration> {
        let level = self.level(rate, now);
        let cost = rate.per.micros();
        *self = Self { level, at: now };
        match level.checked_sub(cost) {
            Some(rest) => {
                self.level = rest;
                Ok(())
            }
            None => {
                Err(Duration::from_micros((cost - level).div_ceil(u64::from(rate.count.get()))))
            }
        }
    }
}

/// A duration in whole seconds for `Retry-After`: rounded up, at least 1.
pub(crate) fn whole_seconds(wait: Duration) -> u64 {
    wait.as_micros().div_ceil(1_000_000).max(1).try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;
    use crate::testing::Random;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, RateError>) {
        let read = text.parse::<Rate>().map(|rate| rate.to_string());
        assert_eq!(read, expected.map(ToString::to_string), "{text}");
    }

    #[test]
    fn rate_is_parsed_and_displayed() {
        check("10/minute", Ok("10/minute"));
        check("1/second", Ok("1/second"));
        check("4294967295/hour", Ok("4294967295/hour"));
        check("10/minute,burst=30", Ok("10/minute,burst=30"));
        check("10/minute, burst=10", Ok("10/minute"));
        for text in ["", "10", "minute", "10 per minute", "10/minute,30", "10/minute,burst"] {
            check(text, Err(RateError::Form));
        }
        for text in
            ["0/second", "-1/second", "+1/second", "/second", "1.5/second", "9999999999/hour"]
        {
            check(text, Err(RateError::Count));
        }
        check("1/second,burst=0", Err(RateError::Count));
        for text in ["1/day", "1/s", "1/Minute", "1/minutes", "1/"] {
            check(text, Err(RateError::Unit));
        }
    }

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    const fn at(millis: u64) -> Time {
        Time::from_micros(millis * 1_000)
    }

    #[test]
    fn burst_is_allowed_at_once_and_then_the_rate_applies() {
        let rate = rate("2/second,burst=3");
        let mut bucket = Bucket::full(rate, at(0));
        for _ in 0..3 {
            assert_eq!(bucket.take(rate, at(0)), Ok(()));
        }
        assert_eq!(bucket.take(rate, at(0)), Err(Duration::from_millis(500)));
        assert_eq!(bucket.take(rate, at(100)), Err(Duration::from_millis(400)));
        assert_eq!(bucket.take(rate, at(500)), Ok(()));
        assert_eq!(bucket.take(rate, at(999)), Err(Duration::from_millis(1)));
        assert_eq!(bucket.take(rate, at(1_000)), Ok(()));
        assert!(!bucket.is_full(rate, at(2_499)) && bucket.is_full(rate, at(2_500)));
        // However long nothing happens, no more than the burst is saved up.
        let taken = (0..10).filter(|_| bucket.take(rate, at(1_000_000)).is_ok()).count();
        assert_eq!(taken, 3);
    }

    #[test]
    fn action_is_allowed_after_the_returned_wait_and_not_before() {
        let mut random = Random::seeded(5);
        for text in ["7/second", "3/minute,burst=2", "999/hour,burst=1", "1/hour"] {
            let rate = rate(text);
            let (mut bucket, mut now) = (Bucket::full(rate, Time::ZERO), Time::ZERO);
            for _ in 0..500 {
                now = now.saturating_add(Duration::from_micros(random.next() % 100_000));
                let Err(wait) = bucket.take(rate, now) else { continue };
                let early = now.saturating_add(wait - Duration::from_micros(1));
                assert!(bucket.clone().take(rate, early).is_err(), "{text}");
                now = now.saturating_add(wait);
                assert_eq!(bucket.take(rate, now), Ok(()), "{text}");
            }
        }
    }

    #[test]
    fn actions_over_a_long_time_do_not_exceed_the_rate() {
        let rate = rate("7/second,burst=1");
        let (mut bucket, mut taken) = (Bucket::full(rate, Time::ZERO), 0);
        for millis in 0..100_000 {
            taken += u32::from(bucket.take(rate, at(millis)).is_ok());
        }
        assert!((690..=701).contains(&taken), "{taken}");
    }

    #[test]
    fn extreme_times_neither_overflow_nor_refill() {
        let rate = rate("4294967295/hour");
        let mut bucket = Bucket::full(rate, Time::ZERO);
        assert_eq!(bucket.take(rate, Time::MAX), Ok(()));
        assert_eq!(bucket.take(rate, Time::ZERO), Ok(()));
        let rate = rate_of_one();
        let mut bucket = Bucket::full(rate, at(10));
        assert_eq!(bucket.take(rate, at(10)), Ok(()));
        assert!(bucket.take(rate, at(0)).is_err());
    }

    fn rate_of_one() -> Rate {
        Rate::per_hour(NonZeroU32::MIN)
    }

    #[test]
    fn retry_after_is_rounded_up_to_whole_seconds() {
        for (micros, seconds) in [(0, 1), (1, 1), (1_000_000, 1), (1_000_001, 2), (60_000_000, 60)]
        {
            assert_eq!(whole_seconds(Duration::from_micros(micros)), seconds);
        }
    }
}
