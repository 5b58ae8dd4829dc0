//! The values of flags: times, counts and sizes, each with a word for "no limit".

use core::time::Duration;

/// A time, or `None` for "off".
pub type TimeFlag = OrNone<Duration>;
/// A number of at least 1, or `None` for "unlimited".
pub type CountFlag = OrNone<u32>;
/// A number of bytes of at least 1, or `None` for "unlimited".
pub type SizeFlag = OrNone<u64>;

/// A value, or `None` for "no limit". It is a type of its own because `clap` gives [`Option`] another meaning: a flag
/// that may be omitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrNone<T>(pub Option<T>);

/// Parses a time such as `15s`, `500ms`, `2m` or `15` (seconds), or `off`.
///
/// # Errors
///
/// Returns a message that describes the expected value.
///
/// ```
/// use core::time::Duration;
///
/// use mcp_sse_demo::options::values::{OrNone, parse_time};
///
/// assert_eq!(parse_time("500ms"), Ok(OrNone(Some(Duration::from_millis(500)))));
/// assert_eq!(parse_time("off"), Ok(OrNone(None)));
/// ```
pub fn parse_time(text: &str) -> Result<TimeFlag, String> {
    if text == "off" {
        return Ok(OrNone(None));
    }
    let time = match text.parse::<u32>() {
        Ok(seconds) => Ok(Duration::from_secs(seconds.into())),
        Err(_) => humantime::parse_duration(text),
    };
    time.map(|time| OrNone(Some(time)))
        .map_err(|_| "expected a time as in 15s, 500ms or 2m, or \"off\"".into())
}

/// Parses a number of at least 1, or `unlimited`.
///
/// # Errors
///
/// Returns a message that describes the expected value.
pub fn parse_count(text: &str) -> Result<CountFlag, String> {
    match text.parse() {
        _ if text == "unlimited" => Ok(OrNone(None)),
        // With a limit of 0 no client could be served.
        Ok(count) if count > 0 => Ok(OrNone(Some(count))),
        Ok(_) | Err(_) => Err("expected a whole number of at least 1, or \"unlimited\"".into()),
    }
}

/// Parses a size such as `4MiB` or `65536` (bytes), or `unlimited`.
///
/// # Errors
///
/// Returns a message that describes the expected value.
pub fn parse_size(text: &str) -> Result<SizeFlag, String> {
    const UNITS: [(&str, u32); 4] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("", 0)];
    if text == "unlimited" {
        return Ok(OrNone(None));
    }
    UNITS
        .into_iter()
        .find_map(|(unit, shift)| {
            let count: u64 = text.strip_suffix(unit)?.parse().ok()?;
            count.checked_mul(1 << shift).filter(|bytes| *bytes > 0)
        })
        .map(|bytes| OrNone(Some(bytes)))
        .ok_or_else(|| "expected a size as in 4MiB or 65536, or \"unlimited\"".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_parsed_with_units() {
        let check = |text: &str, bytes| assert_eq!(parse_size(text).ok(), Some(OrNone(bytes)));
        check("1", Some(1));
        check("500KiB", Some(500 << 10));
        check("2GiB", Some(2 << 30));
        check("unlimited", None);
        for wrong in ["", "0", "0MiB", "-1", "1MB", "KiB", "20000000000GiB", "1 MiB"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
