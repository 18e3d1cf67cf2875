//! RFC 3339 times as Go writes them (`time.RFC3339Nano`): in UTC, the fraction of a second without its trailing
//! zeros. Image configs hold times in this form.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY_S: i64 = 86_400;
/// 0000-01-01T00:00:00Z and 9999-12-31T23:59:59Z: what four digits of a year can say.
const FIRST_S: i64 = -62_167_219_200;
const LAST_S: i64 = 253_402_300_799;

/// `time` as text; a time outside the years 0000–9999 becomes the nearest one inside.
pub fn format(time: SystemTime) -> String {
    let (seconds, nanos) = since_epoch(time);
    let (seconds, nanos) = match seconds {
        ..FIRST_S => (FIRST_S, 0),
        FIRST_S..=LAST_S => (seconds, nanos),
        _ => (LAST_S, 0),
    };
    let (year, month, day) = civil_from_days(seconds.div_euclid(DAY_S));
    let second = seconds.rem_euclid(DAY_S);
    let mut text = format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}",
        second / 3600,
        second / 60 % 60,
        second % 60
    );
    if nanos != 0 {
        text.push_str(format!(".{nanos:09}").trim_end_matches('0'));
    }
    text.push('Z');
    text
}

/// The time that `text` (`2024-02-29T12:00:00.5Z`, `…+02:00`) says, `None` if it says none.
pub fn parse(text: &str) -> Option<SystemTime> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = bytes.get(from..to)?;
        digits
            .iter()
            .try_fold(0, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + i64::from(digit - b'0')))
    };
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if separators.iter().any(|&(at, separator)| bytes.get(at) != Some(&separator)) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let days = days_from_civil(year, month, day);
    if civil_from_days(days) != (year, month, day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }

    let mut rest = &bytes[19..];
    let mut nanos = 0;
    if let Some(fraction) = rest.strip_prefix(b".") {
        let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        let padded = fraction[..digits].iter().copied().chain(std::iter::repeat(b'0'));
        nanos = padded.take(9).fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
        rest = &fraction[digits..];
    }
    let offset_s = match rest {
        b"Z" => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let at = bytes.len() - 5;
            let (hours, minutes) = (number(at, at + 2)?, number(at + 3, at + 5)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 3600 + minutes * 60) * if *sign == b'+' { 1 } else { -1 }
        }
        _ => return None,
    };

    let seconds = days * DAY_S + hour * 3600 + minute * 60 + second - offset_s;
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    time?.checked_add(Duration::from_nanos(u64::from(nanos)))
}

/// The time `seconds` after the epoch (`SOURCE_DATE_EPOCH`), at most the last that [`format`] can say.
pub fn from_epoch(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds.min(LAST_S.unsigned_abs()))
}

/// Whole seconds, rounded down, and the nanoseconds left over.
fn since_epoch(time: SystemTime) -> (i64, u32) {
    let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (seconds(after), after.subsec_nanos()),
        Err(before) => match (seconds(before.duration()), before.duration().subsec_nanos()) {
            (seconds, 0) => (-seconds, 0),
            (seconds, nanos) => (-seconds - 1, 1_000_000_000 - nanos),
        },
    }
}

// The Gregorian calendar repeats every 400 years ("an era", 146,097 days). Years are counted from 1 March, so that
// the leap day is the last day of a year and the months before it have lengths that one line of integers gives.
const ERA_DAYS: i64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01.
const EPOCH_DAYS: i64 = 719_468;

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * ERA_DAYS + day_of_era - EPOCH_DAYS
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + EPOCH_DAYS;
    let (era, day_of_era) = (days.div_euclid(ERA_DAYS), days.rem_euclid(ERA_DAYS));
    let leap_days_gone = day_of_era / 1_460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days_gone) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64, nanos: u32) -> SystemTime {
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let time = if seconds < 0 { UNIX_EPOCH - whole } else { UNIX_EPOCH + whole };
        time + Duration::from_nanos(u64::from(nanos))
    }

    #[test]
    fn times_are_written_as_go_writes_them() {
        for (seconds, nanos, text) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (0, 1, "1970-01-01T00:00:00.000000001Z"),
            (0, 500_000_000, "1970-01-01T00:00:00.5Z"),
            (1_700_000_000, 123_456_000, "2023-11-14T22:13:20.123456Z"),
            (951_782_400, 0, "2000-02-29T00:00:00Z"),
            (951_868_800, 0, "2000-03-01T00:00:00Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00Z"),
            (4_107_542_399, 0, "2100-02-28T23:59:59Z"),
            (-1, 0, "1969-12-31T23:59:59Z"),
            (-1, 250_000_000, "1969-12-31T23:59:59.25Z"),
            (FIRST_S, 0, "0000-01-01T00:00:00Z"),
            (LAST_S, 0, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(format(at(seconds, nanos)), text);
            assert_eq!(parse(text), Some(at(seconds, nanos)), "{text}");
        }
    }

    #[test]
    fn times_beyond_four_digits_of_a_year_become_the_nearest() {
        assert_eq!(format(at(LAST_S + 1, 5)), "9999-12-31T23:59:59Z");
        assert_eq!(format(at(FIRST_S - 1, 5)), "0000-01-01T00:00:00Z");
        assert_eq!(format(from_epoch(u64::MAX)), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn every_day_of_eight_centuries_is_its_own_inverse() {
        let (first, last) = (days_from_civil(1600, 1, 1), days_from_civil(2400, 12, 31));
        for days in first..=last {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year, month, day), days);
        }
        assert_eq!(last - first, 292_559);
    }

    #[test]
    fn offsets_are_read() {
        let noon = parse("2024-02-29T12:00:00Z").unwrap();
        for text in
            ["2024-02-29T14:00:00+02:00", "2024-02-29T06:30:00-05:30", "2024-02-29T12:00:00.000+00:00"]
        {
            assert_eq!(parse(text), Some(noon), "{text}");
        }
        assert_eq!(parse("2024-02-29T12:00:00.1234567899Z"), Some(noon + Duration::from_nanos(123_456_789)));
    }

    #[test]
    fn other_texts_are_no_times() {
        for text in [
            "",
            "today",
            "2024-02-29",
            "2024-02-29T12:00:00",
            "2024-02-30T12:00:00Z",
            "2023-02-29T12:00:00Z",
            "2024-13-01T12:00:00Z",
            "2024-00-01T12:00:00Z",
            "2024-02-29T24:00:00Z",
            "2024-02-29T12:60:00Z",
            "2024-02-29T12:00:00.Z",
            "2024-02-29T12:00:00+2:00",
            "2024-02-29T12:00:00+0200",
            "2024-02-29T12:00:00Zulu",
            "2024-02-29 12:00:00Z",
            "+024-02-29T12:00:00Z",
            "2024-02-29T12:00:é0Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
