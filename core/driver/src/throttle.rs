//! A line a second in the log for each cause that peers bring about, for adapters and programs.
//!
//! Knows: a clock and a lock around the core's [`Throttle`], which says when a line is due. Does not
//! know: the words.

use std::sync::{Mutex, PoisonError};

use mcp_sse_core::{Clock, Throttle, Unsaid};

/// Lets one line a second into the log, for one cause of lines that peers bring about.
///
/// For adapters and programs, which have no [`Server`](mcp_sse_core::Server) to ask for the time; it may stand
/// in a `static`. Say the line if [`tell`](Self::tell) gives something, with that at its end:
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
    /// One whose next line is said.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Whether to say a line now; if not, it is counted, and the next one that is said tells.
    pub fn tell(&self) -> Option<Unsaid> {
        // Nothing in here panics, so a poisoned lock is as good as any.
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
