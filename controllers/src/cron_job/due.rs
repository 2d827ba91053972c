//! Which time of a schedule is due now, and when the next one is.

use std::time::Duration;

use api::schedule::Schedule;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// More missed times than this are worth a warning.
const MANY_MISSED: i64 = 100;
/// The next round is a little after the time, so that the clock has surely passed it.
const SLACK: SignedDuration = SignedDuration::from_millis(100);

/// A schedule with what limits it.
pub struct Timetable<'a> {
    /// The schedule.
    pub schedule: &'a Schedule,
    /// The zone in which it is read.
    pub zone: &'a TimeZone,
    /// The last time that led to a Job, or else the creation of the CronJob.
    pub since: Timestamp,
    /// How late a Job may start.
    pub deadline: Option<SignedDuration>,
    /// The time.
    pub now: Timestamp,
}

/// The most recent time that has passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// The time; `None` if nothing has become due.
    pub at: Option<Timestamp>,
    /// A great many times have passed since the last Job.
    pub many_missed: bool,
}

impl Timetable<'_> {
    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        self.schedule.next(after, self.zone)
    }

    /// The most recent time that has passed and that may still lead to a Job.
    pub fn due(&self) -> Due {
        let earliest = self.deadline.and_then(|deadline| self.now.checked_sub(deadline).ok());
        self.most_recent(earliest.map_or(self.since, |earliest| earliest.max(self.since)))
    }

    fn most_recent(&self, earliest: Timestamp) -> Due {
        let Some(first) = self.next(earliest).filter(|first| *first <= self.now) else {
            return Due::default();
        };
        let Some(second) = self.next(first).filter(|second| *second <= self.now) else {
            return Due { at: Some(first), many_missed: false };
        };
        // A rough count first: a clock that jumped by years must not cost a loop over them.
        let interval = second.duration_since(first).as_secs().max(1);
        let missed = self.now.duration_since(first).as_secs() / interval + 1;
        let back = SignedDuration::from_secs((missed - 2).max(0).saturating_mul(interval));
        let mut at = None;
        let mut candidate = first.checked_add(back).ok().and_then(|from| self.next(from));
        while let Some(time) = candidate.filter(|time| *time <= self.now) {
            at = Some(time);
            candidate = self.next(time);
        }
        Due { at: at.or(Some(second)), many_missed: missed > MANY_MISSED }
    }

    /// How long to wait for the next time.
    pub fn wait(&self) -> Option<Duration> {
        let last = self.most_recent(self.since).at.unwrap_or(self.since);
        let next = self.next(last.max(self.since))?;
        let next = if next <= self.now { self.next(self.now)? } else { next };
        Duration::try_from(next.duration_since(self.now) + SLACK).ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn due(schedule: &str, since: &str, now: &str, deadline: Option<i64>) -> (String, bool, u64) {
        let schedule = Schedule::parse(schedule).unwrap();
        let table = Timetable {
            schedule: &schedule,
            zone: &TimeZone::UTC,
            since: since.parse().unwrap(),
            deadline: deadline.map(SignedDuration::from_secs),
            now: now.parse().unwrap(),
        };
        let due = table.due();
        let at = due.at.map_or_else(|| "-".to_owned(), |at| at.to_string());
        (at, due.many_missed, table.wait().unwrap().as_secs())
    }

    #[test]
    fn only_the_most_recent_time_is_due() {
        let hourly = "0 * * * *";
        let since = "2024-01-01T00:30:00Z";
        for (now, deadline, at, many, wait) in [
            ("2024-01-01T00:59:59Z", None, "-", false, 1),
            ("2024-01-01T01:00:00Z", None, "2024-01-01T01:00:00Z", false, 3600),
            ("2024-01-01T01:10:00Z", Some(60), "-", false, 3000),
            ("2024-01-01T03:00:10Z", None, "2024-01-01T03:00:00Z", false, 3590),
            ("2024-01-05T05:00:10Z", None, "2024-01-05T05:00:00Z", true, 3590),
            ("2024-01-05T05:00:10Z", Some(60), "2024-01-05T05:00:00Z", false, 3590),
            ("2044-01-05T05:00:10Z", None, "2044-01-05T05:00:00Z", true, 3590),
            // The clock was set back.
            ("2023-12-31T23:00:10Z", None, "-", false, 7190),
        ] {
            let found = due(hourly, since, now, deadline);
            assert_eq!(found, (at.to_owned(), many, wait), "{now} {deadline:?}");
        }
    }

    #[test]
    fn uneven_schedules_are_not_overshot() {
        let found = due("30 6-16/4 * * 1-5", "2024-01-05T06:30:00Z", "2024-01-08T05:00:00Z", None);
        assert_eq!(found, ("2024-01-05T14:30:00Z".to_owned(), false, 5400));
    }
}
