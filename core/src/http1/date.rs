//! Formats wall-clock time for the `Date` field and for JSON and logs.
//!
//! Knows: the proleptic Gregorian calendar from 1970 to 9999.
//! Does not know: the current time (it is an argument), or time zones: everything is UTC.

use core::fmt;
use core::str;

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
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HttpDate([u8; 29]);

impl HttpDate {
    /// Formats the time that is `seconds` after the Unix epoch. Times after the year 9999 give the
    /// last second of 9999.
    #[must_use]
    pub fn from_unix(seconds: u64) -> Self {
        let civil = Civil::from_unix(seconds);
        let [d, a, y] = civil.weekday_name();
        let [m, o, n] = civil.month_name();
        let [y1, y2, y3, y4] = civil.year_digits();
        let [d1, d2] = two(civil.day);
        let [h1, h2] = two(civil.hour);
        let [i1, i2] = two(civil.minute);
        let [s1, s2] = two(civil.second);
        Self([
            d, a, y, b',', b' ', d1, d2, b' ', m, o, n, b' ', y1, y2, y3, y4, b' ', h1, h2, b':',
            i1, i2, b':', s1, s2, b' ', b'G', b'M', b'T',
        ])
    }

    /// The formatted time, 29 ASCII characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// A time in the format of RFC 3339: `2026-11-21T09:00:00Z`. [`rfc3339`] makes it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Rfc3339([u8; 20]);

impl Rfc3339 {
    /// The formatted time, 20 ASCII characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// Formats the time that is `seconds` after the Unix epoch, in UTC. Times after the year 9999 give
/// the last second of 9999.
///
/// ```
/// # use mcp_sse_core::http1::rfc3339;
/// assert_eq!(rfc3339(784_111_777).as_str(), "1994-11-06T08:49:37Z");
/// ```
#[must_use]
pub fn rfc3339(seconds: u64) -> Rfc3339 {
    let civil = Civil::from_unix(seconds);
    let [y1, y2, y3, y4] = civil.year_digits();
    let [m1, m2] = two(civil.month);
    let [d1, d2] = two(civil.day);
    let [h1, h2] = two(civil.hour);
    let [i1, i2] = two(civil.minute);
    let [s1, s2] = two(civil.second);
    Rfc3339([
        y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b'T', h1, h2, b':', i1, i2, b':', s1, s2, b'Z',
    ])
}

macro_rules! impl_display_and_debug {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.as_str())
            }
        }
    };
}

impl_display_and_debug!(HttpDate);
impl_display_and_debug!(Rfc3339);

/// A time split into the fields of the calendar.
struct Civil {
    year: u64,
    /// 1 to 12.
    month: u64,
    /// 1 to 31.
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    /// 0 is Sunday.
    weekday: u64,
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
            month,
            day,
            hour: seconds / 3_600 % 24,
            minute: seconds / 60 % 60,
            second: seconds % 60,
            // 1970 began on a Thursday.
            weekday: (days + 4) % 7,
        }
    }

    fn weekday_name(&self) -> [u8; 3] {
        *match self.weekday {
            0 => b"Sun",
            1 => b"Mon",
            2 => b"Tue",
            3 => b"Wed",
            4 => b"Thu",
            5 => b"Fri",
            _ => b"Sat",
        }
    }

    fn month_name(&self) -> [u8; 3] {
        *match self.month {
            1 => b"Jan",
            2 => b"Feb",
            3 => b"Mar",
            4 => b"Apr",
            5 => b"May",
            6 => b"Jun",
            7 => b"Jul",
            8 => b"Aug",
            9 => b"Sep",
            10 => b"Oct",
            11 => b"Nov",
            _ => b"Dec",
        }
    }

    fn year_digits(&self) -> [u8; 4] {
        let [[a, b], [c, d]] = [two(self.year / 100), two(self.year)];
        [a, b, c, d]
    }
}

/// The last two decimal digits of `number`.
fn two(number: u64) -> [u8; 2] {
    [b'0' + (number / 10 % 10) as u8, b'0' + (number % 10) as u8]
}

#[cfg(test)]
mod tests;
