//! Formats wall-clock time for the `Date` field and for JSON and logs.
//!
//! Knows: the proleptic Gregorian calendar from 1970 to 9999.
//! Does not know: the current time (it is an argument), or time zones: everything is UTC.

use alloc::format;
use alloc::string::String;

/// The last second of the year 9999. Later times are formatted as this one.
const SECONDS_MAX: u64 = 253_402_300_799;

/// A time in the format of the `Date` field: `Sun, 06 Nov 1994 08:49:37 GMT` (IMF-fixdate, RFC 9110
/// §5.6.7).
///
/// ```
/// # use mcp_sse_core::http1::HttpDate;
/// let date = HttpDate::from_unix(784_111_777);
/// assert_eq!(date.as_str(), "Sun, 06 Nov 1994 08:49:37 GMT");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpDate(String);

impl HttpDate {
    /// Formats the time that is `seconds` after the Unix epoch. Times after the year 9999 give the
    /// last second of 9999.
    #[must_use]
    pub fn from_unix(seconds: u64) -> Self {
        const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
        const MONTHS: [&str; 12] =
            ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let Civil { year, month, day, hour, minute, second, weekday } = Civil::from_unix(seconds);
        let weekday = WEEKDAYS.get(weekday).copied().unwrap_or_default();
        let month = MONTHS.get(month - 1).copied().unwrap_or_default();
        Self(format!("{weekday}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} GMT"))
    }

    /// The formatted time, 29 ASCII characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Formats a time as [`HttpDate::from_unix`] does, in the format of RFC 3339:
/// `1994-11-06T08:49:37Z`.
pub(crate) fn rfc3339(seconds: u64) -> String {
    let Civil { year, month, day, hour, minute, second, .. } = Civil::from_unix(seconds);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// A time split into the fields of the calendar.
struct Civil {
    year: u64,
    /// 1 to 12.
    month: usize,
    /// 1 to 31.
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    /// 0 is Sunday.
    weekday: usize,
}

impl Civil {
    fn from_unix(seconds: u64) -> Self {
        let seconds = seconds.min(SECONDS_MAX);
        let days = seconds / 86_400;
        // Count years from March 1st, so that a leap day is the last day of its year. March 1st of
        // the year 0 is 719,468 days before 1970. The calendar repeats every 400 years (146,097
        // days).
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        // Subtract the leap days that have passed: one every 1,461 days, except every 36,524 days,
        // except every 146,096 days.
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        // Counted from March, months begin every 30.6 days on average; (153 m + 2) / 5 rounds to
        // the exact day.
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let (month, later) = if month_from_march < 10 {
            (month_from_march + 3, 0)
        } else {
            (month_from_march - 9, 1)
        };
        Self {
            year: era * 400 + year_of_era + later,
            month: month as usize,
            day,
            hour: seconds / 3_600 % 24,
            minute: seconds / 60 % 60,
            second: seconds % 60,
            // 1970 began on a Thursday.
            weekday: ((days + 4) % 7) as usize,
        }
    }
}

#[cfg(test)]
mod tests;
