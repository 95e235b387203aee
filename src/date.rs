//! Dates as text: the `Date` field of every answer, and the ISO 8601 of whoever sends the time as data.
//!
//! std knows seconds since 1970 and no calendar, so the calendar is here: some ten lines of integer arithmetic. This
//! room reads no clock; it is given the time. Both forms are UTC with a year of four digits, so a time before 1970 is
//! shown as 1970 and one after 9999 as the last instant of 9999: a box whose clock is wrong still answers.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// 9999-12-31T23:59:59.999Z in milliseconds, the last instant that four digits of a year can tell.
const LAST_MILLIS: u64 = 253_402_300_799_999;

/// The time in UTC with milliseconds, as JavaScript's `toISOString` writes it: `2026-11-21T08:00:00.000Z`.
///
/// Times before 1970 are given as 1970-01-01, times after the year 9999 as its last millisecond.
pub fn iso8601(time: SystemTime) -> String {
    let Utc { year, month, day, hour, minute, second, millis, .. } = Utc::of(time);
    // Every event of a clock has one: by `format!` this was a third of what such an event costs beside its write.
    let mut text = *b"0000-00-00T00:00:00.000Z";
    put(&mut text[0..4], year);
    put(&mut text[5..7], month);
    put(&mut text[8..10], day);
    put(&mut text[11..13], hour);
    put(&mut text[14..16], minute);
    put(&mut text[17..19], second);
    put(&mut text[20..23], millis);
    String::from_utf8(text.to_vec()).expect("digits and signs are ASCII")
}

/// Writes a number over zeros, as many digits as there are.
fn put(zeros: &mut [u8], mut number: u64) {
    for digit in zeros.iter_mut().rev() {
        *digit += (number % 10) as u8;
        number /= 10;
    }
}

/// The time as HTTP wants it, an IMF-fixdate (RFC 9110, section 5.6.7): `Sun, 06 Nov 1994 08:49:37 GMT`.
pub(crate) fn http_date(time: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let Utc { year, month, day, weekday, hour, minute, second, .. } = Utc::of(time);
    let (weekday, month) = (DAYS[weekday as usize], MONTHS[month as usize - 1]);
    let mut text = String::with_capacity("Sun, 06 Nov 1994 08:49:37 GMT".len());
    // Writing to a String cannot fail.
    let _ = write!(text, "{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT");
    text
}

/// A point in time in the parts people read. Months and days count from 1, weekdays from Sunday = 0.
struct Utc {
    year: u64,
    month: u64,
    day: u64,
    weekday: u64,
    hour: u64,
    minute: u64,
    second: u64,
    millis: u64,
}

impl Utc {
    fn of(time: SystemTime) -> Utc {
        let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let total = u64::try_from(since_epoch.as_millis()).unwrap_or(LAST_MILLIS).min(LAST_MILLIS);
        let (seconds, millis) = (total / 1000, total % 1000);
        let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = civil_from_days(days);
        Utc {
            year,
            month,
            day,
            weekday: (days + 4) % 7, // 1970-01-01 was a Thursday
            hour: second_of_day / 3600,
            minute: second_of_day / 60 % 60,
            second: second_of_day % 60,
            millis,
        }
    }
}

/// Days since 1970-01-01 to year, month and day of the Gregorian calendar.
///
/// The year is counted from March, so that a leap day is the last day of a year and the months before it have a fixed
/// pattern (153 days every five months). 400 years, an era, are always 146,097 days. Era 0 begins on 0000-03-01, which
/// is 719,468 days before 1970.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    // Take the leap days out (one in 4 years, none in 100, one in 400), and what remains are years of 365 days.
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(millis)
    }

    #[test]
    fn dates_are_written_as_the_standards_write_them() {
        let table = [
            (0, "1970-01-01T00:00:00.000Z", "Thu, 01 Jan 1970 00:00:00 GMT"),
            (86_399_999, "1970-01-01T23:59:59.999Z", "Thu, 01 Jan 1970 23:59:59 GMT"),
            (784_111_777_000, "1994-11-06T08:49:37.000Z", "Sun, 06 Nov 1994 08:49:37 GMT"), // RFC 9110's own
            (951_782_400_000, "2000-02-29T00:00:00.000Z", "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z", "Wed, 01 Mar 2000 00:00:00 GMT"),
            (1_709_164_800_000, "2024-02-29T00:00:00.000Z", "Thu, 29 Feb 2024 00:00:00 GMT"),
            (1_735_689_599_001, "2024-12-31T23:59:59.001Z", "Tue, 31 Dec 2024 23:59:59 GMT"),
            (1_795_248_000_000, "2026-11-21T08:00:00.000Z", "Sat, 21 Nov 2026 08:00:00 GMT"),
            (4_107_456_000_000, "2100-02-28T00:00:00.000Z", "Sun, 28 Feb 2100 00:00:00 GMT"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z", "Mon, 01 Mar 2100 00:00:00 GMT"),
            (LAST_MILLIS, "9999-12-31T23:59:59.999Z", "Fri, 31 Dec 9999 23:59:59 GMT"),
        ];
        for (millis, iso, http) in table {
            assert_eq!(iso8601(at(millis)), iso);
            assert_eq!(http_date(at(millis)), http);
        }
    }

    #[test]
    fn a_clock_beyond_four_digits_of_a_year_is_clamped() {
        assert_eq!(iso8601(UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso8601(at(LAST_MILLIS + 1)), "9999-12-31T23:59:59.999Z");
        assert_eq!(http_date(at(LAST_MILLIS + 1)), "Fri, 31 Dec 9999 23:59:59 GMT");
    }

    /// The plain way to count a calendar, day by day, agrees with the arithmetic over two eras.
    #[test]
    fn every_day_of_eight_hundred_years_follows_the_one_before() {
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..2 * 146_097 {
            assert_eq!(civil_from_days(days), (year, month, day));
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month as usize - 1];
            day += 1;
            if day > length {
                (day, month) = (1, month + 1);
            }
            if month > 12 {
                (month, year) = (1, year + 1);
            }
        }
    }
}
