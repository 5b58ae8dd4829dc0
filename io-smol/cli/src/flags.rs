//! Values of flags that several commands have. Knows their format and their bounds. Does not know the commands.

use core::time::Duration;

use mcp_sse_demo::options::values::{OrNone, parse_time};

/// The longest time that a flag for a single wait can set.
const WAIT_MAX: Duration = Duration::from_secs(10 * 60);
/// The longest time that a flag for watching a stream can set.
const WATCH_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Parses how long to wait for one thing.
pub(crate) fn parse_wait(text: &str) -> Result<Duration, String> {
    parse_bounded(text, WAIT_MAX, "from 1ms to 10m, as in 500ms, 20s or 2m")
}

/// Parses how long to watch something.
pub(crate) fn parse_watch(text: &str) -> Result<Duration, String> {
    parse_bounded(text, WATCH_MAX, "from 1ms to 7 days, as in 90s, 10m or 2h")
}

fn parse_bounded(text: &str, max: Duration, expected: &str) -> Result<Duration, String> {
    match parse_time(text) {
        Ok(OrNone(Some(time))) if time >= Duration::from_millis(1) && time <= max => Ok(time),
        Ok(_) | Err(_) => Err(format!("expected a time {expected}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_bounded() {
        assert_eq!(parse_wait("20"), Ok(Duration::from_secs(20)));
        assert_eq!(parse_watch("10m"), Ok(Duration::from_secs(600)));
        for wrong in ["0", "off", "11m", "soon", "-1s"] {
            assert!(parse_wait(wrong).expect_err(wrong).contains("from 1ms to 10m"));
        }
        assert!(parse_watch("8d").is_err());
    }
}
