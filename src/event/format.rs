//! The text formats that a catalog type may demand. Checks only: nothing is parsed into a value here, and nothing
//! allocates.

/// True for a hyphenated UUID of any version, in any case.
pub fn is_uuid(s: &[u8]) -> bool {
    let Ok(b) = <&[u8; 36]>::try_from(s) else { return false };
    let dashes = b[8] == b'-' && b[13] == b'-' && b[18] == b'-' && b[23] == b'-';
    // All bytes count, the dashes too: hexadecimal or not, so that this is a loop without branches.
    let digits: u32 = b.iter().map(|c| u32::from(HEX[usize::from(*c)])).sum();
    dashes && digits == 32
}

/// 1 for hexadecimal digits.
const HEX: [u8; 256] = {
    let mut table = [0; 256];
    let mut c = 0;
    while c < 256 {
        table[c] = (c as u8).is_ascii_hexdigit() as u8;
        c += 1;
    }
    table
};

/// True for an RFC 3339 full-date that exists, `2024-02-29`.
pub fn is_date(s: &str) -> bool {
    let b = s.as_bytes();
    if b.len() != 10 || b[4] != b'-' || b[7] != b'-' {
        return false;
    }
    match (digits(&b[..4]), digits(&b[5..7]), digits(&b[8..])) {
        (Some(year), Some(month), Some(day)) => day >= 1 && day <= days_in(year, month),
        _ => false,
    }
}

/// True for an RFC 3339 date-time with `Z` or any offset. A leap second counts only where one can be, at the last
/// second of a UTC day.
pub fn is_date_time(s: &str) -> bool {
    s.is_char_boundary(10)
        && s.len() > 10
        && is_date(&s[..10])
        && matches!(s.as_bytes()[10], b'T' | b't')
        && is_time_of_day(&s.as_bytes()[11..])
}

/// True for `name@host`: a dot-separated local part of up to 64 ASCII characters and a host name. Quoted local parts
/// and addresses in brackets, legal but unused, are refused.
pub fn is_email(s: &str) -> bool {
    let Some((local, host)) = s.rsplit_once('@') else { return false };
    let atom = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&c);
    let local_fits =
        local.len() <= 64 && local.split('.').all(|part| !part.is_empty() && part.bytes().all(atom));
    local_fits && host.len() <= 253 && host.split('.').all(is_label)
}

/// True for a decimal number as text: digits, with a sign and a fraction if need be.
pub fn is_decimal(s: &str) -> bool {
    let unsigned = s.strip_prefix('-').unwrap_or(s);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, "0"));
    [whole, fraction].iter().all(|part| !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit()))
}

fn is_label(label: &str) -> bool {
    let b = label.as_bytes();
    (1..=63).contains(&b.len())
        && b[0] != b'-'
        && b[b.len() - 1] != b'-'
        && b.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'-')
}

fn digits(b: &[u8]) -> Option<u32> {
    b.iter().try_fold(0, |n, c| c.is_ascii_digit().then(|| n * 10 + u32::from(c - b'0')))
}

fn days_in(year: u32, month: u32) -> u32 {
    match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        _ => 0,
    }
}

/// `HH:MM:SS`, a fraction, and an offset.
fn is_time_of_day(b: &[u8]) -> bool {
    if b.len() < 9 || b[2] != b':' || b[5] != b':' {
        return false;
    }
    let (Some(hour), Some(minute), Some(second)) = (digits(&b[..2]), digits(&b[3..5]), digits(&b[6..8]))
    else {
        return false;
    };
    let mut rest = &b[8..];
    if let Some(fraction) = rest.strip_prefix(b".") {
        let n = fraction.iter().take_while(|c| c.is_ascii_digit()).count();
        if n == 0 {
            return false;
        }
        rest = &fraction[n..];
    }
    let Some(offset) = offset_minutes(rest) else { return false };
    let utc = (i64::from(hour * 60 + minute) - offset).rem_euclid(24 * 60);
    hour < 24 && minute < 60 && (second < 60 || (second == 60 && utc == 24 * 60 - 1))
}

fn offset_minutes(b: &[u8]) -> Option<i64> {
    match b {
        [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (h, m) = (digits(&[*h1, *h2])?, digits(&[*m1, *m2])?);
            let minutes = i64::from(h * 60 + m);
            (h < 24 && m < 60).then_some(if *sign == b'-' { -minutes } else { minutes })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuid() {
        assert!(
            is_uuid(b"550e8400-e29b-41d4-a716-446655440000")
                && is_uuid(b"550E8400-E29B-41D4-A716-446655440000")
        );
        assert!(
            !is_uuid(b"550e8400e29b41d4a716446655440000")
                && !is_uuid(b"550e8400-e29b-41d4-a716-44665544000g")
        );
    }

    #[test]
    fn dates_and_times() {
        for good in ["2024-02-29", "2000-02-29", "0000-01-01"] {
            assert!(is_date(good), "{good}");
        }
        for bad in ["2023-02-29", "1900-02-29", "2026-13-01", "2026-00-10", "2026-1-01", "2026-01-00"] {
            assert!(!is_date(bad), "{bad}");
        }
        for good in [
            "2026-01-23T10:00:00Z",
            "2026-01-23t10:00:00.123456789z",
            "2026-01-23T10:00:00-05:30",
            "2016-12-31T23:59:60Z",
            "2017-01-01T00:59:60+01:00",
        ] {
            assert!(is_date_time(good), "{good}");
        }
        for bad in [
            "2026-01-23",
            "2026-01-23 10:00:00Z",
            "2026-01-23T10:00:00",
            "2026-01-23T10:00:00.Z",
            "2026-01-23T24:00:00Z",
            "2026-01-23T10:00:60Z",
            "2026-01-23T10:00:00+0100",
            "2026-01-23T10:00:00+24:00",
            "2026-01-2éT10:00:00Z",
        ] {
            assert!(!is_date_time(bad), "{bad}");
        }
    }

    #[test]
    fn emails_and_decimals() {
        for good in ["a@example.com", "first.last+tag@sub.example.com", "o'neil@localhost"] {
            assert!(is_email(good), "{good}");
        }
        for bad in ["", "a", "@b", "a@", "a@@b.c", "a..b@c.d", "a b@c.d", "a@-b.c", "a@b..c", "\"q\"@c.d"] {
            assert!(!is_email(bad), "{bad}");
        }
        assert!(is_decimal("12.50") && is_decimal("-3") && is_decimal("0"));
        assert!(
            !is_decimal("")
                && !is_decimal(".5")
                && !is_decimal("1.")
                && !is_decimal("1e3")
                && !is_decimal("+1")
        );
    }
}
