//! Time as the core uses it: microseconds since an epoch that the driver chooses.
//!
//! Knows: saturating arithmetic with points in time ([`Time`]) and intervals ([`Duration`]).
//! Does not know: the current time. Only `Clock`, for drivers with `std`, reads it.

use core::fmt;
use core::time::Duration;

/// A point in time, in microseconds since the driver's epoch.
///
/// The driver chooses the epoch, usually its own start; the core only compares points in time and
/// adds intervals. The arithmetic saturates, so a deadline never wraps around.
///
/// ```
/// use core::time::Duration;
/// use mcp_sse_core::Time;
///
/// let start = Time::ZERO;
/// let later = start.saturating_add(Duration::from_millis(1500));
/// assert_eq!(later.as_micros(), 1_500_000);
/// assert_eq!(later.saturating_since(start), Duration::from_millis(1500));
/// assert_eq!(later.to_string(), "1.500000s");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The driver's epoch.
    pub const ZERO: Self = Self(0);
    /// The latest point in time. A deadline at it is never reached.
    pub const MAX: Self = Self(u64::MAX);

    /// The point in time `micros` microseconds after the epoch.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// The microseconds since the epoch.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// The point in time `interval` later, at most [`Time::MAX`].
    #[must_use]
    pub fn saturating_add(self, interval: Duration) -> Self {
        let micros = u64::try_from(interval.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// The interval from `earlier` to this; zero if `earlier` is later.
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

/// A monotonic clock of the operating system that gives [`Time`], for drivers with `std`.
///
/// ```
/// use mcp_sse_core::{Clock, Time};
///
/// let clock = Clock::start();
/// let now = clock.now();
/// assert!(now <= clock.now());
/// assert!(clock.instant(Time::from_micros(1_000_000)).is_some());
/// ```
#[cfg(feature = "std")]
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    epoch: std::time::Instant,
}

#[cfg(feature = "std")]
impl Clock {
    /// Makes a clock whose epoch is now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the only place that reads a clock, for drivers")]
    pub fn start() -> Self {
        Self { epoch: std::time::Instant::now() }
    }

    /// The current time.
    #[must_use]
    pub fn now(&self) -> Time {
        Time::ZERO.saturating_add(self.epoch.elapsed())
    }

    /// The seconds since the Unix epoch by the system's wall clock; 0 if the wall clock is before
    /// it.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the only place that reads a clock, for drivers")]
    pub fn unix_seconds(&self) -> u64 {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs())
    }

    /// The `Instant` of `time`, for a timer of the operating system or a runtime; `None` if it
    /// cannot be represented.
    #[must_use]
    pub fn instant(&self, time: Time) -> Option<std::time::Instant> {
        self.epoch.checked_add(time.saturating_since(Time::ZERO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_arithmetic_saturates() {
        let second = Duration::from_secs(1);
        assert_eq!(Time::ZERO.saturating_add(second), Time::from_micros(1_000_000));
        assert_eq!(Time::MAX.saturating_add(second), Time::MAX);
        assert_eq!(Time::ZERO.saturating_add(Duration::MAX), Time::MAX);
        assert_eq!(Time::ZERO.saturating_since(Time::MAX), Duration::ZERO);
        assert_eq!(Time::from_micros(5).saturating_since(Time::from_micros(2)).as_micros(), 3);
    }

    #[test]
    fn time_displays_as_seconds() {
        assert_eq!(std::format!("{}", Time::from_micros(1_250_000)), "1.250000s");
    }
}
