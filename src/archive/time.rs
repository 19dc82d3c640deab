//! Times and days as the archive writes them.
//!
//! Owns the two spellings: `YYYY-MM-DDTHH:MM:SS.ffffffZ` (always six digits) and `year=YYYY/month=MM/day=DD`. Written by
//! hand rather than by a date library, because a digest spells one time per entry. Pure.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::clock::Micros;
use crate::error::{self, Error};
use crate::event::time;

/// Microseconds in a day.
pub const DAY: Micros = 86_400_000_000;
/// Microseconds in an hour.
pub const HOUR: Micros = 3_600_000_000;
/// Microseconds in a second.
pub const SECOND: Micros = 1_000_000;

/// A time that is written as RFC 3339 in UTC with six fraction digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time(pub Micros);

/// Days since 1970-01-01, UTC.
pub type Day = i32;

/// The UTC day in which `at` lies.
pub fn day_of(at: Micros) -> Day {
    Day::try_from(at.div_euclid(DAY)).unwrap_or(Day::MAX)
}

/// Year, month and day of the month (proleptic Gregorian calendar).
pub fn civil(day: Day) -> (i64, u32, u32) {
    let (year, month, day) = time::civil(i64::from(day));
    (year, u32::from(month), u32::from(day))
}

/// The day of a date; `None` if there is no such date.
pub fn day_from_civil(year: i64, month: u32, day: u32) -> Option<Day> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || year.abs() > 100_000 {
        return None;
    }
    let y = if month <= 2 { year - 1 } else { year };
    let yoe = y.rem_euclid(400);
    let mp = i64::from(if month > 2 { month - 3 } else { month + 9 });
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + (153 * mp + 2) / 5 + i64::from(day) - 1;
    let n = Day::try_from(y.div_euclid(400) * 146_097 + doe - 719_468).ok()?;
    (civil(n) == (year, month, day)).then_some(n)
}

/// `YYYY-MM-DD`.
pub fn date(day: Day) -> String {
    let (y, m, d) = civil(day);
    format!("{y:04}-{m:02}-{d:02}")
}

/// Refuses a range of days that has none.
///
/// # Errors
/// `Config`.
pub fn not_empty(from: Option<Day>, to: Option<Day>) -> error::Result<()> {
    match (from, to) {
        (Some(from), Some(to)) if from > to => {
            Err(Error::config(format!("the range {} to {} is empty", date(from), date(to)))
                .hint("--from is the first day and --to the last"))
        }
        _ => Ok(()),
    }
}

/// The digits of a ULID, in lower case.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// How many of a ULID's digits are its time.
pub const TIME_DIGITS: usize = 10;

/// What the ids of chains that begin at `at` begin with: the digits of time of a ULID.
pub fn id_of(at: Micros) -> String {
    let millis = at.div_euclid(1_000).clamp(0, (1 << 48) - 1);
    (0..TIME_DIGITS).rev().map(|n| DIGITS[(millis >> (5 * n)) as usize & 31] as char).collect()
}

/// When a chain of this id begins, by its id; nothing if it does not begin as [`id_of`] tells.
pub fn begun_at(id: &str) -> Option<Micros> {
    let digits = id.as_bytes().get(..TIME_DIGITS)?;
    let value = |digit: &u8| DIGITS.iter().position(|d| d == digit);
    let millis = digits.iter().try_fold(0, |sum: i64, digit| Some(sum << 5 | value(digit)? as i64))?;
    millis.checked_mul(1_000)
}

/// Reads `YYYY-MM-DD`.
pub fn parse_date(text: &str) -> Option<Day> {
    let mut parts = text.split('-');
    let (y, m, d) = (parts.next()?, parts.next()?, parts.next()?);
    let day = day_from_civil(y.parse().ok()?, m.parse().ok()?, d.parse().ok()?)?;
    (parts.next().is_none() && date(day) == text).then_some(day)
}

/// `year=YYYY/month=MM/day=DD`, the folder of a day.
pub fn day_folder(day: Day) -> String {
    time::day_path(day)
}

/// Reads `year=YYYY/month=MM/day=DD`; only the exact spelling counts.
pub fn parse_day_folder(text: &str) -> Option<Day> {
    let mut parts = text.split('/');
    let y = parts.next()?.strip_prefix("year=")?.parse().ok()?;
    let m = parts.next()?.strip_prefix("month=")?.parse().ok()?;
    let d = parts.next()?.strip_prefix("day=")?.parse().ok()?;
    let day = day_from_civil(y, m, d)?;
    (parts.next().is_none() && day_folder(day) == text).then_some(day)
}

/// Reads RFC 3339 with any offset; digits beyond microseconds are cut off.
pub fn parse_rfc3339(text: &str) -> Option<Micros> {
    chrono::DateTime::parse_from_rfc3339(text).ok().map(|t| t.timestamp_micros())
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (y, mo, d) = civil(day_of(self.0));
        let us = self.0.rem_euclid(DAY);
        let s = us / SECOND;
        let (h, mi, s, us) = (s / 3600, s / 60 % 60, s % 60, us % SECOND);
        write!(f, "{y:04}-{mo:02}-{d:02}T{h:02}:{mi:02}:{s:02}.{us:06}Z")
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        let at = parse_rfc3339(&text).map(Time);
        at.filter(|t| t.to_string() == text).ok_or_else(|| {
            de::Error::custom(format!("`{text}` is not a time like 2026-01-31T00:00:00.000000Z"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_round_trip() {
        for day in -800_000..800_000 {
            let (y, m, d) = civil(day);
            assert_eq!(day_from_civil(y, m, d), Some(day));
        }
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(19_782), "2024-02-29");
        assert_eq!(parse_date("2023-02-29"), None);
        assert_eq!(day_folder(20_000), "year=2024/month=10/day=04");
        assert_eq!(parse_day_folder("year=2024/month=10/day=04"), Some(20_000));
        assert_eq!(parse_day_folder("year=2024/month=10/day=4"), None);
    }

    #[test]
    fn times_are_spelled_one_way() {
        let t = Time(1_700_000_000_123_456);
        assert_eq!(t.to_string(), "2023-11-14T22:13:20.123456Z");
        let json = serde_json::to_string(&t).unwrap();
        assert_eq!(serde_json::from_str::<Time>(&json).unwrap(), t);
        assert!(serde_json::from_str::<Time>("\"2023-11-14T22:13:20Z\"").is_err());
        assert_eq!(Time(-1).to_string(), "1969-12-31T23:59:59.999999Z");
    }
}
