//! What keeps a flood of peers out of the log: a line a second for each cause, and a count of the rest.
//!
//! Knows: when a line was last said, and how many like it were left out since. Does not know: the
//! words, or what causes there are; each place that says something about peers has a [`Throttle`] of
//! its own, refusals one for each [`Fault`](crate::Fault) (see `refusals`), and drivers a
//! [`LogThrottle`].
//!
//! Decision: every line at level info or above that a peer can cause is throttled, at most one a second
//! for each cause and shard. A session has one line, at its end, and its opening is told at level
//! debug. Sessions that end without a message in either direction share one line a second: a stream
//! that is opened and closed again costs its client nothing. A session with messages has a line of its
//! own, up to [`SESSION_LINES_PER_SECOND`] of them.
//!
//! Considered: a line for each session whatever comes (12,000 a second were measured); one rate for all
//! lines together (a flood of one cause would hide all others); a timer that tells the count when a
//! flood has ended (it would wake an idle server for the log alone). So the count of what was left out
//! is told by the next line of that cause, and by the counters of
//! [`Metrics`](crate::Metrics) at any time.

use core::fmt;
use core::time::Duration;

use crate::time::Time;

/// The time in which a cause has its lines.
const INTERVAL: Duration = Duration::from_secs(1);

/// Lines about sessions that did something before they ended, in one second.
pub(crate) const SESSION_LINES_PER_SECOND: u32 = 20;

/// One cause of lines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Throttle {
    /// When the present second began.
    since: Option<Time>,
    said: u32,
    unsaid: u64,
}

impl Throttle {
    pub(crate) const fn new() -> Self {
        Self { since: None, said: 0, unsaid: 0 }
    }

    /// Whether to say a line now: one a second. If not, it is counted.
    pub(crate) fn tell(&mut self, now: Time) -> Option<Unsaid> {
        self.tell_some(1, now)
    }

    /// Whether to say a line now: `per_second` of them. If not, it is counted.
    pub(crate) fn tell_some(&mut self, per_second: u32, now: Time) -> Option<Unsaid> {
        if self.since.is_none_or(|since| now.saturating_since(since) >= INTERVAL) {
            self.since = Some(now);
            self.said = 0;
        }
        if self.said < per_second {
            self.said += 1;
            Some(Unsaid(core::mem::take(&mut self.unsaid)))
        } else {
            self.unsaid = self.unsaid.saturating_add(1);
            None
        }
    }
}

/// How many lines of the same cause were left out before this one. Displays as the end of a line, and
/// as nothing if there were none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "driver"), expect(unreachable_pub, reason = "drivers name it"))]
pub struct Unsaid(pub(crate) u64);

impl fmt::Display for Unsaid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { Ok(()) } else { write!(f, " ({} more since this was last said)", self.0) }
    }
}

/// Lets one line a second into the log, for one cause of lines that peers bring about.
///
/// For adapters and programs, which have no [`Server`](crate::Server) to ask for the time; it may stand
/// in a `static`. Say the line if [`tell`](Self::tell) gives something, with that at its end:
///
/// ```
/// use mcp_sse_core::driver::LogThrottle;
///
/// static UNREADABLE: LogThrottle = LogThrottle::new();
/// if let Some(unsaid) = UNREADABLE.tell() {
///     log::warn!("a message cannot be read{unsaid}");
/// }
/// ```
#[cfg(feature = "driver")]
#[derive(Debug, Default)]
pub struct LogThrottle(std::sync::Mutex<Option<(crate::time::Clock, Throttle)>>);

#[cfg(feature = "driver")]
impl LogThrottle {
    /// One whose next line is said.
    #[must_use]
    pub const fn new() -> Self {
        Self(std::sync::Mutex::new(None))
    }

    /// Whether to say a line now; if not, it is counted, and the next one that is said tells.
    pub fn tell(&self) -> Option<Unsaid> {
        // Nothing in here panics, so a poisoned lock is as good as any.
        let mut state = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (clock, throttle) =
            state.get_or_insert_with(|| (crate::time::Clock::start(), Throttle::new()));
        throttle.tell(clock.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_micros(millis * 1_000)
    }

    #[test]
    fn line_within_a_second_of_the_last_is_counted() {
        let mut throttle = Throttle::new();
        assert_eq!(throttle.tell(at(0)), Some(Unsaid(0)));
        assert_eq!(throttle.tell(at(0)), None);
        assert_eq!(throttle.tell(at(999)), None);
        assert_eq!(throttle.tell(at(1_000)), Some(Unsaid(2)));
        assert_eq!(throttle.tell(at(2_000)), Some(Unsaid(0)));
    }

    #[test]
    fn several_lines_a_second() {
        let mut throttle = Throttle::new();
        let said = (0..10).filter_map(|_| throttle.tell_some(3, at(5))).count();
        assert_eq!(said, 3);
        assert_eq!(throttle.tell_some(3, at(1_005)), Some(Unsaid(7)));
        assert_eq!(throttle.tell_some(3, at(1_005)), Some(Unsaid(0)));
    }

    #[cfg(feature = "driver")]
    #[test]
    fn throttle_of_a_driver_lets_the_first_of_many_lines_through() {
        let throttle = LogThrottle::new();
        let start = crate::time::Clock::start();
        let said = (0..1_000).filter_map(|_| throttle.tell()).count() as u64;
        assert!((1..=1 + start.now().as_micros() / 1_000_000).contains(&said), "{said}");
    }
}
