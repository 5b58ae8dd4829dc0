//! Limits how many lines of the log peers can cause: one line per second and cause, and a count of
//! the lines left out.
//!
//! Knows: when a line was last written, and how many have been left out since. Does not know: the
//! text of lines, or which causes there are. Each place that logs what a peer did has a
//! [`LineThrottle`]; refusals have one for each [`Fault`](crate::Fault) (see `fault_log_throttle`).
//!
//! Decision: every line of level info or above that a peer can cause is limited to one per second,
//! cause and shard. A session has one line, when it ends; its opening is logged at level debug.
//! Sessions that end without a message in either direction share one line per second, because
//! opening and closing a stream costs a client nothing. Sessions with messages have up to
//! [`SESSION_LINES_PER_SECOND`] lines.
//!
//! A line for every session was considered; 12,000 per second were measured. So was one limit for
//! all causes together; a flood of one cause would hide all others. So was a timer that logs the
//! count when a flood has ended; it would wake an idle server only for the log. The count is
//! written with the next line of the same cause, and the counters of [`Metrics`](crate::Metrics)
//! have it at any time.

use core::fmt;
use core::time::Duration;

use crate::time::Time;

/// The period in which a cause has its lines.
const INTERVAL: Duration = Duration::from_secs(1);

/// The number of lines per second about ended sessions that had messages.
pub(crate) const SESSION_LINES_PER_SECOND: u32 = 20;

/// Lets one line per second into the log, for one cause, and counts the lines that are left out.
///
/// It takes the time as an argument. `LogThrottle` of the package `mcp-sse-driver` has a clock of
/// its own and can be a `static`.
///
/// ```
/// use mcp_sse_core::{LineThrottle, Time};
///
///
/// let mut throttle = LineThrottle::new();
/// let at = |millis: u64| Time::from_micros(millis * 1_000);
/// assert!(throttle.tell(at(0)).is_some());
/// assert!(throttle.tell(at(500)).is_none());
/// let suppressed = throttle.tell(at(1_000)).expect("a second has passed");
/// assert_eq!(suppressed.to_string(), " (1 more since this was last logged)");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct LineThrottle {
    /// The start of the current period.
    since: Option<Time>,
    written: u32,
    suppressed: u64,
}

impl LineThrottle {
    /// Makes a throttle that lets the next line through.
    #[must_use]
    pub const fn new() -> Self {
        Self { since: None, written: 0, suppressed: 0 }
    }

    /// Decides about a line at `now`. `Some` means that the line is to be written, with the value
    /// at its end; `None` means that the line is left out and was counted.
    pub fn tell(&mut self, now: Time) -> Option<SuppressedLines> {
        self.tell_some(1, now)
    }

    /// Like [`tell`](Self::tell), with `per_second` lines in each second.
    pub(crate) fn tell_some(&mut self, per_second: u32, now: Time) -> Option<SuppressedLines> {
        if self.since.is_none_or(|since| now.saturating_since(since) >= INTERVAL) {
            self.since = Some(now);
            self.written = 0;
        }
        if self.written < per_second {
            self.written += 1;
            Some(SuppressedLines(core::mem::take(&mut self.suppressed)))
        } else {
            self.suppressed = self.suppressed.saturating_add(1);
            None
        }
    }
}

/// The number of lines of the same cause that were left out before this one.
///
/// `Display` writes it as the end of a line, and writes nothing if the number is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuppressedLines(pub(crate) u64);

impl Default for LineThrottle {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for SuppressedLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            Ok(())
        } else {
            write!(f, " ({} more since this was last logged)", self.0)
        }
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
        let mut throttle = LineThrottle::new();
        assert_eq!(throttle.tell(at(0)), Some(SuppressedLines(0)));
        assert_eq!(throttle.tell(at(0)), None);
        assert_eq!(throttle.tell(at(999)), None);
        assert_eq!(throttle.tell(at(1_000)), Some(SuppressedLines(2)));
        assert_eq!(throttle.tell(at(2_000)), Some(SuppressedLines(0)));
    }

    #[test]
    fn lines_over_per_second_are_counted() {
        let mut throttle = LineThrottle::new();
        let written = (0..10).filter_map(|_| throttle.tell_some(3, at(5))).count();
        assert_eq!(written, 3);
        assert_eq!(throttle.tell_some(3, at(1_005)), Some(SuppressedLines(7)));
        assert_eq!(throttle.tell_some(3, at(1_005)), Some(SuppressedLines(0)));
    }
}
