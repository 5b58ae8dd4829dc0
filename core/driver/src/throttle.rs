//! At most one log line a second for each cause that peers bring about, for adapters and programs.
//!
//! Knows: a clock and a lock around the core's [`Throttle`], which decides when a line is due. Does not
//! know: what the line says.

use std::sync::{Mutex, PoisonError};

use mcp_sse_core::{Clock, Throttle, Unsaid};

/// Limits the log lines of one cause that peers bring about to one a second.
///
/// It is for adapters and programs, which have no [`Server`](mcp_sse_core::Server) to ask for the time,
/// and may be a `static`. Log the line if [`tell`](Self::tell) returns a value, and put that value at
/// its end:
///
/// ```
/// use mcp_sse_driver::LogThrottle;
///
/// static UNREADABLE: LogThrottle = LogThrottle::new();
/// if let Some(unsaid) = UNREADABLE.tell() {
///     log::warn!("a message cannot be read{unsaid}");
/// }
/// ```
#[derive(Debug, Default)]
pub struct LogThrottle(Mutex<Option<(Clock, Throttle)>>);

impl LogThrottle {
    /// A throttle that lets the next line through.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Returns a value if a line is to be logged now: the number of lines that were left out before it.
    /// Other lines are counted, for the next one that is logged.
    pub fn tell(&self) -> Option<Unsaid> {
        // Nothing panics while it holds the lock, so a poisoned lock guards a valid state.
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (clock, throttle) = state.get_or_insert_with(|| (Clock::start(), Throttle::new()));
        throttle.tell(clock.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throttle_of_a_driver_lets_the_first_of_many_lines_through() {
        let throttle = LogThrottle::new();
        let start = Clock::start();
        let said = (0..1_000).filter_map(|_| throttle.tell()).count() as u64;
        assert!((1..=1 + start.now().as_micros() / 1_000_000).contains(&said), "{said}");
    }
}
