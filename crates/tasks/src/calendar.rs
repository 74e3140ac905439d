//! Calendar expressions: when a cron entry starts its next task.
//!
//! ```text
//! ┌──────── second, 0 to 59 (may be left out: 0)
//! │ ┌────── minute, 0 to 59
//! │ │ ┌──── hour, 0 to 23
//! │ │ │ ┌── day of the month, 1 to 31; L is the last
//! │ │ │ │ ┌ month, 1 to 12 or JAN to DEC
//! │ │ │ │ │ ┌ day of the week, 0 to 7 or SUN to SAT, Sunday is 0 and 7; 5L is the last Friday, 1#2 the second Monday
//! 0 */15 8-17 * * MON-FRI
//! ```
//!
//! A field is `*`, a number, a range `a-b`, either with a step `/n`, or several of these with commas. `?` is `*` in the fields of days. Where both fields of days
//! say something (neither begins with `*`), either is enough, as in every cron since Vixie's. `@yearly`, `@annually`, `@monthly`, `@weekly`, `@daily`, `@midnight`
//! and `@hourly` stand for what they say.
//!
//! **Daylight saving.** An expression that names hours follows the clock on the wall: a tick in the hour that is left out runs once, at the first instant after it (several
//! of them still once), and a tick in the hour that comes twice runs once, the first time. An expression for every hour (`*`) follows time as it passes: nothing is made up for the
//! hour that was left out, and ticks go on through both of the hour that comes twice, so that what runs every five minutes does.
//!
//! Invariants: the next tick is later than the instant it is asked after; ticks are whole seconds; the search ends, in the year 2554 at the latest, and an expression that never fires is refused
//! before it is taken.
//!
//! Zones are those of the system's database, or where it has none of the one in this program.
//!
//! Sources: POSIX.1-2024, `crontab`; P. Vixie's cron, crontab(5), for names, steps, days and daylight saving; Quartz for `L` and `#`.
//!
//! Leaves out years, `W` (nearest weekday), and `@reboot`: a task that is submitted at the start of the machine is no entry of a calendar.

use flyball_core::time::WallTime;
use flyball_policy::queue::Cron;
use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan};

mod expression;
#[cfg(test)]
mod tests;

use expression::Expression;

/// Reads calendar expressions of cron in time zones by their IANA names.
#[derive(Clone, Copy, Debug, Default)]
pub struct CronCalendar;

impl CronCalendar {
    /// Says in words what is wrong with an entry's expression or time zone: the field, what it says, and what was expected.
    ///
    /// # Errors
    /// The fault.
    pub fn check(&self, cron: &Cron) -> Result<(), String> {
        let expression = Expression::parse(&cron.expression)?;
        zone(&cron.time_zone)?;
        // Dates repeat after 400 years, so what does not come in that time never does.
        let (from, to) = (Date::constant(2000, 1, 1), Date::constant(2400, 1, 1));
        match expression.next_civil(from.at(0, 0, 0, 0), to) {
            Some(_) => Ok(()),
            None => Err(format!(
                "{:?} never fires: no month of those named has such a day",
                cron.expression
            )),
        }
    }

    /// The first tick after an instant; none if there is no further one, or the entry cannot be read.
    #[must_use]
    pub fn next(&self, cron: &Cron, after: WallTime) -> Option<WallTime> {
        let expression = Expression::parse(&cron.expression).ok()?;
        let zone = zone(&cron.time_zone).ok()?;
        let after = Timestamp::from_nanosecond(i128::from(after.unix_nanos())).ok()?;
        // The first second that is later.
        let from = Timestamp::from_second(after.as_second() + 1).ok()?;
        let tick = if expression.every_hour() {
            next_by_time(&expression, &zone, from)
        } else {
            next_by_clock(&expression, &zone, from)
        };
        let nanos = u64::try_from(tick?.as_nanosecond()).ok()?;
        Some(WallTime::from_unix_nanos(nanos))
    }
}

impl flyball_policy::queue::Calendar for CronCalendar {
    fn check(&self, cron: &Cron) -> Result<(), String> {
        CronCalendar::check(self, cron)
    }

    fn next(&self, cron: &Cron, after: WallTime) -> Option<WallTime> {
        CronCalendar::next(self, cron, after)
    }
}

/// No tick can be told after this day.
const LAST: Date = Date::constant(2554, 7, 21);

fn zone(name: &str) -> Result<TimeZone, String> {
    if name.is_empty() {
        return Ok(TimeZone::UTC);
    }
    TimeZone::get(name).map_err(|_| {
        format!("the time zone {name:?} is not known: expected an IANA name such as Europe/Berlin, or UTC")
    })
}

/// The first tick at `from` or later, by the clock on the wall.
///
/// Each reading of the clock stands for one instant: that of its first pass, or, if it is left out, the end of the gap. Later readings never stand for earlier
/// instants, so the first reading that matches and stands for an instant late enough is the answer.
fn next_by_clock(expression: &Expression, zone: &TimeZone, from: Timestamp) -> Option<Timestamp> {
    // All readings up to that of the second before stand for earlier instants; those of a gap that ends at `from` do not.
    let before = from.checked_sub(SignedDuration::from_secs(1)).ok()?;
    let mut reading = later(zone.to_datetime(before))?;
    loop {
        reading = expression.next_civil(reading, LAST)?;
        let instant = instant_of(zone, reading)?;
        if instant >= from {
            return Some(instant);
        }
        // In the second pass of an hour that comes twice.
        reading = later(reading)?;
    }
}

/// The reading a second later.
fn later(reading: DateTime) -> Option<DateTime> {
    reading.checked_add(1.second()).ok()
}

fn instant_of(zone: &TimeZone, reading: DateTime) -> Option<Timestamp> {
    let ambiguous = zone.to_ambiguous_timestamp(reading);
    match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(reading).ok(),
        AmbiguousOffset::Fold { before, .. } => before.to_timestamp(reading).ok(),
        AmbiguousOffset::Gap { after, .. } => {
            // With the offset that holds after the gap the reading is an instant before it: the gap's end is the next change.
            let inside = after.to_timestamp(reading).ok()?;
            Some(zone.following(inside).next()?.timestamp())
        }
    }
}

/// The first tick at `from` or later, as time passes: stretch by stretch between changes of the offset.
fn next_by_time(
    expression: &Expression,
    zone: &TimeZone,
    mut from: Timestamp,
) -> Option<Timestamp> {
    /// Offsets differ by less than 26 hours, so a tick that is this far away in one is still to come in any other a day earlier.
    const FAR: SignedDuration = SignedDuration::from_hours(72);
    const NEAR: SignedDuration = SignedDuration::from_hours(48);
    loop {
        let offset = zone.to_offset(from);
        let reading = expression.next_civil(offset.to_datetime(from), LAST)?;
        let tick = offset.to_timestamp(reading).ok()?;
        let Some(change) = zone.following(from).next() else {
            return Some(tick);
        };
        let change = change.timestamp();
        if tick < change {
            return Some(tick);
        }
        let soon = tick.checked_sub(NEAR).ok()?;
        from = if tick.duration_since(change) > FAR {
            soon
        } else {
            change
        };
    }
}
