//! What keeps a flood of peers out of the log: a line a second for each cause, and a count of the rest.
//!
//! Knows: when a line was last said, and how many like it were left out since. Does not know: the
//! words, or what causes there are; each place that says something about peers has a [`Throttle`] of
//! its own, and refusals one for each [`Fault`](crate::Fault) (see `refusals`).
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

/// Lets one line a second into the log, for one cause of lines, and counts the rest.
///
/// ```
/// use mcp_sse_core::{Throttle, Time};
///
/// let mut throttle = Throttle::new();
/// let millis = |millis: u64| Time::from_micros(millis * 1_000);
/// assert!(throttle.tell(millis(0)).is_some());
/// assert!(throttle.tell(millis(500)).is_none());
/// let unsaid = throttle.tell(millis(1_000)).expect("a second later");
/// assert_eq!(unsaid.to_string(), " (1 more since this was last said)");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Throttle {
    /// When the present second began.
    since: Option<Time>,
    said: u32,
    unsaid: u64,
}

impl Throttle {
    /// One whose next line is said.
    #[must_use]
    pub const fn new() -> Self {
        Self { since: None, said: 0, unsaid: 0 }
    }

    /// Whether to say a line at `now`: if so, with what is returned at its end; if not, it is counted.
    pub fn tell(&mut self, now: Time) -> Option<Unsaid> {
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
pub struct Unsaid(pub(crate) u64);

impl Default for Throttle {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for Unsaid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { Ok(()) } else { write!(f, " ({} more since this was last said)", self.0) }
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
}
