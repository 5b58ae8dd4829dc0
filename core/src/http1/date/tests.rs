use super::*;
use std::format;

#[track_caller]
fn check(seconds: u64, http: &str, rfc: &str) {
    assert_eq!(HttpDate::from_unix(seconds).as_str(), http);
    assert_eq!(rfc3339(seconds), rfc);
}

#[test]
fn known_times_are_formatted_as_expected() {
    check(0, "Thu, 01 Jan 1970 00:00:00 GMT", "1970-01-01T00:00:00Z");
    check(59, "Thu, 01 Jan 1970 00:00:59 GMT", "1970-01-01T00:00:59Z");
    check(86_399, "Thu, 01 Jan 1970 23:59:59 GMT", "1970-01-01T23:59:59Z");
    check(86_400, "Fri, 02 Jan 1970 00:00:00 GMT", "1970-01-02T00:00:00Z");
    check(68_169_599, "Mon, 28 Feb 1972 23:59:59 GMT", "1972-02-28T23:59:59Z");
    check(68_169_600, "Tue, 29 Feb 1972 00:00:00 GMT", "1972-02-29T00:00:00Z");
    check(68_256_000, "Wed, 01 Mar 1972 00:00:00 GMT", "1972-03-01T00:00:00Z");
    // The example of RFC 9110 §5.6.7.
    check(784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT", "1994-11-06T08:49:37Z");
    // 2000 is a leap year because 400 divides it; 2100 is not a leap year.
    check(951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT", "2000-02-29T00:00:00Z");
    check(4_107_542_399, "Sun, 28 Feb 2100 23:59:59 GMT", "2100-02-28T23:59:59Z");
    check(4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT", "2100-03-01T00:00:00Z");
    check(1_709_164_800, "Thu, 29 Feb 2024 00:00:00 GMT", "2024-02-29T00:00:00Z");
    check(1_735_689_599, "Tue, 31 Dec 2024 23:59:59 GMT", "2024-12-31T23:59:59Z");
    check(1_795_251_600, "Sat, 21 Nov 2026 09:00:00 GMT", "2026-11-21T09:00:00Z");
    // Around the largest signed and unsigned 32-bit numbers.
    check(2_147_483_647, "Tue, 19 Jan 2038 03:14:07 GMT", "2038-01-19T03:14:07Z");
    check(4_294_967_296, "Sun, 07 Feb 2106 06:28:16 GMT", "2106-02-07T06:28:16Z");
}

#[test]
fn times_after_9999_are_formatted_as_its_last_second() {
    let (http, rfc) = ("Fri, 31 Dec 9999 23:59:59 GMT", "9999-12-31T23:59:59Z");
    check(253_402_300_799, http, rfc);
    check(253_402_300_800, http, rfc);
    check(u64::MAX, http, rfc);
}

#[test]
fn every_day_of_450_years_is_formatted_as_expected() {
    const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [(&str, u64); 12] = [
        ("Jan", 31),
        ("Feb", 28),
        ("Mar", 31),
        ("Apr", 30),
        ("May", 31),
        ("Jun", 30),
        ("Jul", 31),
        ("Aug", 31),
        ("Sep", 30),
        ("Oct", 31),
        ("Nov", 30),
        ("Dec", 31),
    ];
    let mut seconds = 0;
    for year in 1970..2420_u64 {
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        for (month, (name, days)) in (1..).zip(MONTHS) {
            for day in 1..=days + u64::from(leap && month == 2) {
                let weekday = WEEKDAYS[(seconds / 86_400 % 7) as usize];
                let http = format!("{weekday}, {day:02} {name} {year} 00:00:00 GMT");
                assert_eq!(HttpDate::from_unix(seconds).as_str(), http);
                assert_eq!(rfc3339(seconds), format!("{year}-{month:02}-{day:02}T00:00:00Z"));
                seconds += 86_400;
            }
        }
    }
}
