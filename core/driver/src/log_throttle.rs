//! Limits how many lines of the log peers can cause, for adapters and programs.
//!
//! Knows: a clock and a lock around the core's [`LineThrottle`], which decides when a line is due.
//! Does not know: the text of lines.

use mcp_sse_core::{Clock, LineThrottle, SuppressedLines};

use super::shared::Shared;

/// Lets one line per second into the log, for one cause, and counts the lines that are left out.
///
/// It is for adapters and programs, which have no [`Server`](mcp_sse_core::Server) that tells the
/// time, and can be a `static`. Write the line if [`tell`](Self::tell) returns `Some`, with the
/// value at its end:
///
/// ```
/// use mcp_sse_driver::LogThrottle;
///
/// static UNREADABLE: LogThrottle = LogThrottle::new();
/// if let Some(suppressed) = UNREADABLE.tell() {
///     log::warn!("a message cannot be read{suppressed}");
/// }
/// ```
#[derive(Debug, Default)]
pub struct LogThrottle(Shared<Option<(Clock, LineThrottle)>>);

impl LogThrottle {
    /// Makes a throttle that lets the next line through.
    #[must_use]
    pub const fn new() -> Self {
        Self(Shared::new(None))
    }

    /// Decides about a line now. `Some` means that the line is to be written, with the value at its
    /// end; `None` means that the line is left out and was counted.
    pub fn tell(&self) -> Option<SuppressedLines> {
        let mut state = self.0.lock();
        let (clock, throttle) = state.get_or_insert_with(|| (Clock::start(), LineThrottle::new()));
        throttle.tell(clock.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_throttle_lets_one_line_per_second_through() {
        let throttle = LogThrottle::new();
        let start = Clock::start();
        let written = (0..1_000).filter_map(|_| throttle.tell()).count() as u64;
        assert!((1..=1 + start.now().as_micros() / 1_000_000).contains(&written), "{written}");
    }
}
