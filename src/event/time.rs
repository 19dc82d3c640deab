//! Points in time: RFC 3339 in, microseconds and calendar days out. Pure arithmetic on the proleptic Gregorian calendar.

use std::fmt::Write as _;

use crate::clock::Micros;

const DAY_SECONDS: i64 = 86_400;
/// 0000-01-01T00:00:00Z and 9999-12-31T23:59:59Z, in seconds.
const FIRST_SECOND: i64 = -62_167_219_200;
const LAST_SECOND: i64 = 253_402_300_799;

/// An instant with the precision in which it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instant {
    seconds: i64,
    nanos: u32,
    digits: u8,
}

impl Instant {
    /// Reads an RFC 3339 date-time with any offset; `None` if it is not one or lies outside the years 0000 to 9999.
    ///
    /// A leap second counts as the first moment of the next minute; digits behind the ninth are cut off.
    pub fn parse(text: &str) -> Option<Instant> {
        let b = text.as_bytes();
        if b.len() < 20 || !matches!(b[10], b'T' | b't' | b' ') || b[13] != b':' || b[16] != b':' {
            return None;
        }
        let days = parse_date(&b[..10])?;
        let (h, m, s) = (two(b, 11)?, two(b, 14)?, two(b, 17)?);
        if h > 23 || m > 59 || s > 60 {
            return None;
        }
        let (nanos, digits, at) = fraction(b)?;
        let seconds = days * DAY_SECONDS + h * 3600 + m * 60 + s - offset(&b[at..])?;
        Instant::checked(seconds, nanos, digits)
    }

    /// An instant in milliseconds since the epoch, three fraction digits; `None` outside the years 0000 to 9999.
    pub fn from_millis(millis: i64) -> Option<Instant> {
        let nanos = millis.rem_euclid(1000) as u32 * 1_000_000;
        Instant::checked(millis.div_euclid(1000), nanos, 3)
    }

    /// An instant in whole seconds since the epoch; `None` outside the years 0000 to 9999.
    pub fn from_seconds(seconds: i64) -> Option<Instant> {
        Instant::checked(seconds, 0, 0)
    }

    fn checked(seconds: i64, nanos: u32, digits: u8) -> Option<Instant> {
        (FIRST_SECOND..=LAST_SECOND).contains(&seconds).then_some(Instant { seconds, nanos, digits })
    }

    /// Microseconds since the epoch, rounded down.
    pub fn micros(self) -> Micros {
        self.seconds * 1_000_000 + i64::from(self.nanos / 1000)
    }

    /// True if `text`, from which it was parsed, is what [`Instant::write_utc`] writes.
    #[inline]
    pub fn is_written(self, text: &str) -> bool {
        let b = text.as_bytes();
        let len = if self.digits > 0 { 21 + usize::from(self.digits) } else { 20 };
        // A leap second is written as the moment after it.
        b.len() == len && b[10] == b'T' && b[len - 1] == b'Z' && b[17] != b'6'
    }

    /// ISO 8601 in UTC with `Z` and as many fraction digits as were sent (at most nine), appended to `out`.
    pub fn write_utc(self, out: &mut Vec<u8>) {
        let (y, mo, d) = civil(self.seconds.div_euclid(DAY_SECONDS));
        let s = self.seconds.rem_euclid(DAY_SECONDS);
        let mut text = *b"YYYY-MM-DDThh:mm:ss.nnnnnnnnnZ";
        let pairs = [y / 100, y % 100, i64::from(mo), i64::from(d), s / 3600, s / 60 % 60, s % 60];
        for (at, value) in [0, 2, 5, 8, 11, 14, 17].into_iter().zip(pairs) {
            text[at] = b'0' + (value / 10) as u8;
            text[at + 1] = b'0' + (value % 10) as u8;
        }
        let digits = usize::from(self.digits);
        let mut fraction = self.nanos / 10u32.pow(9 - u32::from(self.digits));
        for place in text[20..20 + digits].iter_mut().rev() {
            *place = b'0' + (fraction % 10) as u8;
            fraction /= 10;
        }
        let end = if digits > 0 { 20 + digits } else { 19 };
        text[end] = b'Z';
        out.extend_from_slice(&text[..=end]);
    }
}

/// Days since the epoch of a `YYYY-MM-DD`; `None` if it is not a day of the calendar.
pub fn parse_date(b: &[u8]) -> Option<i64> {
    if b.len() != 10 || b[4] != b'-' || b[7] != b'-' {
        return None;
    }
    let (y, m, d) = (two(b, 0)? * 100 + two(b, 2)?, two(b, 5)?, two(b, 8)?);
    let leap = y % 4 == 0 && (y % 100 != 0 || y % 400 == 0);
    let last = match m {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    (1..=last).contains(&d).then(|| days(y, m, d))
}

fn two(b: &[u8], at: usize) -> Option<i64> {
    let (x, y) = (b[at].wrapping_sub(b'0'), b[at + 1].wrapping_sub(b'0'));
    (x < 10 && y < 10).then(|| i64::from(x) * 10 + i64::from(y))
}

/// Nanoseconds, digits sent (at most nine), and where the offset begins.
fn fraction(b: &[u8]) -> Option<(u32, u8, usize)> {
    if b.get(19) != Some(&b'.') {
        return Some((0, 0, 19));
    }
    let len = b[20..].iter().take_while(|c| c.is_ascii_digit()).count();
    let kept = len.min(9);
    let value = b[20..20 + kept].iter().fold(0u32, |n, c| n * 10 + u32::from(c - b'0'));
    (len > 0).then(|| (value * 10u32.pow(9 - kept as u32), kept as u8, 20 + len))
}

/// Seconds east of UTC.
fn offset(b: &[u8]) -> Option<i64> {
    match b {
        [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let (h, m) = (two(b, 1)?, two(b, 4)?);
            let seconds = h * 3600 + m * 60;
            (h <= 23 && m <= 59).then_some(if *sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

/// Days since the epoch of a calendar date (Howard Hinnant's `days_from_civil`).
fn days(y: i64, m: i64, d: i64) -> i64 {
    let y = if m <= 2 { y - 1 } else { y };
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let doy = (153 * ((m + 9) % 12) + 2) / 5 + d - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

/// Year, month and day of a day since the epoch (the inverse of `days`).
pub fn civil(day: i64) -> (i64, u8, u8) {
    let z = day + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let m = if mp < 10 { mp + 3 } else { mp - 9 };
    let y = yoe + era * 400 + i64::from(m <= 2);
    (y, m as u8, (doy - (153 * mp + 2) / 5 + 1) as u8)
}

/// The UTC day of an instant, in days since the epoch.
pub fn day_of(at: Micros) -> i32 {
    at.div_euclid(DAY_SECONDS * 1_000_000) as i32
}

/// `year=YYYY/month=MM/day=DD` of a day since the epoch.
pub fn day_path(day: i32) -> String {
    let (y, m, d) = civil(i64::from(day));
    format!("year={y:04}/month={m:02}/day={d:02}")
}

/// ISO 8601 in UTC with six fraction digits.
pub fn format_micros(at: Micros) -> String {
    let (y, mo, d) = civil(at.div_euclid(DAY_SECONDS * 1_000_000));
    let us = at.rem_euclid(DAY_SECONDS * 1_000_000);
    let s = us / 1_000_000;
    let mut out = String::with_capacity(27);
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "{y:04}-{mo:02}-{d:02}T{:02}:{:02}:{:02}.{:06}Z",
        s / 3600,
        s / 60 % 60,
        s % 60,
        us % 1_000_000
    );
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn utc(text: &str) -> Option<String> {
        let mut out = Vec::new();
        Instant::parse(text)?.write_utc(&mut out);
        String::from_utf8(out).ok()
    }

    #[test]
    fn keeps_fraction_digits_and_moves_to_utc() {
        assert_eq!(utc("2026-01-23T10:00:00Z").as_deref(), Some("2026-01-23T10:00:00Z"));
        assert_eq!(utc("2026-01-23T01:30:00.120+02:00").as_deref(), Some("2026-01-22T23:30:00.120Z"));
        assert_eq!(utc("2024-02-29t23:59:60.5z").as_deref(), Some("2024-03-01T00:00:00.5Z"));
        assert_eq!(
            utc("2026-01-01T00:00:00.1234567891-00:00").as_deref(),
            Some("2026-01-01T00:00:00.123456789Z")
        );
        assert_eq!(utc("0000-01-01T00:00:00Z").as_deref(), Some("0000-01-01T00:00:00Z"));
        assert_eq!(utc("9999-12-31T23:59:59Z").as_deref(), Some("9999-12-31T23:59:59Z"));
    }

    proptest! {
        #[test]
        fn text_that_would_be_written_so_is_known(
            text in r"20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|2[0-8])[T t](0[0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)(\.[0-9]{1,10})?(Z|z|[+-]00:00|[+-]01:30)"
        ) {
            let at = Instant::parse(&text).expect("an instant");
            prop_assert_eq!(at.is_written(&text), utc(&text).as_deref() == Some(&text));
        }
    }

    #[test]
    fn refuses_what_is_not_an_instant() {
        for bad in [
            "",
            "2026-01-23",
            "2026-01-23T10:00:00",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-23T24:00:00Z",
            "2026-01-23T10:00:00.Z",
            "2026-01-23T10:00:00+2:00",
            "2026-01-23T10:00:00Zx",
            "0000-01-01T00:00:00+01:00",
            "9999-12-31T23:59:59-01:00",
            "2026-1-23T10:00:00Z",
            "２026-01-23T10:00:00Z",
        ] {
            assert_eq!(Instant::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn agrees_with_chrono_over_all_days() {
        for day in (-719_528..2_932_896).step_by(97) {
            let date = chrono::NaiveDate::from_ymd_opt(1970, 1, 1)
                .and_then(|d| d.checked_add_signed(chrono::TimeDelta::days(day)))
                .expect("in range");
            let (y, m, d) = civil(day);
            assert_eq!(
                format!("{y:04}-{m:02}-{d:02}"),
                date.format("%Y-%m-%d").to_string().trim_start_matches('+')
            );
            assert_eq!(parse_date(format!("{y:04}-{m:02}-{d:02}").as_bytes()), Some(day));
        }
    }

    #[test]
    fn negative_times_belong_to_the_day_before() {
        assert_eq!(day_of(-1), -1);
        assert_eq!(day_path(-1), "year=1969/month=12/day=31");
        assert_eq!(format_micros(-1), "1969-12-31T23:59:59.999999Z");
    }
}
