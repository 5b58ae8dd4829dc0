//! Limits how many log lines a peer can cause, for adapters and programs.
//!
//! Knows: a clock and a lock around the core's [`LineThrottle`], which decides when a line may be written.
//! Does not know: the text of lines.

use mcp_sse_core::{Clock, LineThrottle, SuppressedLines};

use super::shared::Shared;

/// Allows one log line per second for one cause, and counts the lines that are suppressed.
///
/// It has its own clock, so it can be a `static` in adapters and programs. Write the line if [`tell`](Self::tell)
/// returns `Some`, with the value at the end of the line:
///
/// ```
/// use mcp_sse_driver::LogThrottle;
///
/// static UNREADABLE: LogThrottle = LogThrottle::new();
/// if let Some(suppressed) = UNREADABLE.tell() {
///     log::warn!(suppressed = suppressed; "a message cannot be read{suppressed}");
/// }
/// ```
#[derive(Debug, Default)]
pub struct LogThrottle(Shared<Option<(Clock, LineThrottle)>>);

impl LogThrottle {
    /// Creates a throttle that allows the first line.
    #[must_use]
    pub const fn new() -> Self {
        Self(Shared::new(None))
    }

    /// Whether a line may be written now. `Some` means that the line has to be written, with the value at its
    /// end, which displays the number of suppressed lines. `None` means that the line is suppressed; it was counted.
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
    fn log_throttle_allows_one_line_per_second() {
        let throttle = LogThrottle::new();
        let start = Clock::start();
        let written = (0..1_000).filter_map(|_| throttle.tell()).count() as u64;
        assert!((1..=1 + start.now().as_micros() / 1_000_000).contains(&written), "{written}");
    }
}
