//! Time as the core sees it: microseconds since an epoch that the driver chose.
//!
//! Knows: saturating arithmetic between points ([`Time`]) and intervals ([`Duration`]).
//! Does not know: what time it is. Only `Clock`, for drivers with `std`, ever asks.

use core::fmt;
use core::time::Duration;

/// A point in time, in microseconds since the driver's epoch.
///
/// The epoch is whatever the driver likes (its own start is usual); the core only compares points
/// and adds intervals. Arithmetic saturates, so no deadline can wrap around into the past.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The driver's epoch.
    pub const ZERO: Self = Self(0);
    /// The end of time: a deadline that never comes.
    pub const MAX: Self = Self(u64::MAX);

    /// The point `micros` microseconds after the epoch.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the epoch.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// The point `interval` later, or [`Time::MAX`] where that cannot be represented.
    #[must_use]
    pub fn saturating_add(self, interval: Duration) -> Self {
        let micros = u64::try_from(interval.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// How long after `earlier` this is; zero if it is not after it.
    #[must_use]
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}s", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// Maps the operating system's monotonic clock to [`Time`], for drivers that have one.
#[cfg(feature = "std")]
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    epoch: std::time::Instant,
}

#[cfg(feature = "std")]
impl Clock {
    /// A clock whose epoch is now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks, for drivers")]
    pub fn start() -> Self {
        Self { epoch: std::time::Instant::now() }
    }

    /// The present.
    #[must_use]
    pub fn now(&self) -> Time {
        Time::ZERO.saturating_add(self.epoch.elapsed())
    }

    /// Seconds since the Unix epoch, by the wall clock; 0 if that is before it.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks, for drivers")]
    pub fn unix_seconds(&self) -> u64 {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs())
    }

    /// The operating system's name for `time`, to arm a timer with; `None` where it has none.
    #[must_use]
    pub fn instant(&self, time: Time) -> Option<std::time::Instant> {
        self.epoch.checked_add(time.saturating_since(Time::ZERO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        let second = Duration::from_secs(1);
        assert_eq!(Time::ZERO.saturating_add(second), Time::from_micros(1_000_000));
        assert_eq!(Time::MAX.saturating_add(second), Time::MAX);
        assert_eq!(Time::ZERO.saturating_add(Duration::MAX), Time::MAX);
        assert_eq!(Time::ZERO.saturating_since(Time::MAX), Duration::ZERO);
        assert_eq!(Time::from_micros(5).saturating_since(Time::from_micros(2)).as_micros(), 3);
    }

    #[test]
    fn prints_seconds() {
        assert_eq!(std::format!("{}", Time::from_micros(1_250_000)), "1.250000s");
    }
}
