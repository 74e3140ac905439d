//! An expression as sets of numbers, and the search in them. No zones here: readings of a clock on a wall.

use jiff::civil::{Date, DateTime};

/// A field of an expression.
struct Field {
    name: &'static str,
    min: u32,
    max: u32,
    /// Names of numbers, from `min` or 0 on.
    names: &'static [&'static str],
}

const SECOND: Field = Field {
    name: "second",
    min: 0,
    max: 59,
    names: &[],
};
const MINUTE: Field = Field {
    name: "minute",
    min: 0,
    max: 59,
    names: &[],
};
const HOUR: Field = Field {
    name: "hour",
    min: 0,
    max: 23,
    names: &[],
};
const DAY: Field = Field {
    name: "day of the month",
    min: 1,
    max: 31,
    names: &[],
};
const MONTH: Field = Field {
    name: "month",
    min: 1,
    max: 12,
    names: &[
        "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
    ],
};
const WEEKDAY: Field = Field {
    name: "day of the week",
    min: 0,
    max: 7,
    names: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
};

/// Longer ones are refused before they are looked at.
const BYTES_MAX: usize = 256;

/// A calendar expression. Sets are masks: bit n stands for the number n.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Expression {
    seconds: u64,
    minutes: u64,
    hours: u64,
    days: u64,
    /// The last day of the month as well.
    last_day: bool,
    months: u64,
    /// Sunday is 0.
    weekdays: u64,
    /// For each weekday the weeks of the month (bit 1 to 5) in which it counts; bit 6 is the last.
    weeks: [u8; 7],
    /// The field of days of the month, or of the week, begins with `*`.
    any_day: bool,
    any_weekday: bool,
}

/// The bit of the last week in [`Expression::weeks`].
const LAST_WEEK: u8 = 1 << 6;

impl Expression {
    /// Reads an expression; the error names the field.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > BYTES_MAX {
            return Err(format!("is longer than {BYTES_MAX} bytes"));
        }
        let text = text.trim().to_ascii_uppercase();
        let text = match text.as_str() {
            "@YEARLY" | "@ANNUALLY" => "0 0 1 1 *",
            "@MONTHLY" => "0 0 1 * *",
            "@WEEKLY" => "0 0 * * 0",
            "@DAILY" | "@MIDNIGHT" => "0 0 * * *",
            "@HOURLY" => "0 * * * *",
            nickname if nickname.starts_with('@') => {
                return Err(format!(
                    "{nickname:?} is not known: expected @yearly, @monthly, @weekly, @daily or @hourly"
                ));
            }
            fields => fields,
        };
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let (second, rest) = match fields.as_slice() {
            rest @ [_, _, _, _, _] => ("0", rest),
            [second, rest @ ..] if rest.len() == 5 => (*second, rest),
            other => {
                return Err(format!(
                    "has {} fields: expected 5 (minute, hour, day of the month, month, day of the week), or 6 with the second before them",
                    other.len()
                ));
            }
        };
        let mut expression = Self {
            seconds: numbers(&SECOND, second)?,
            minutes: numbers(&MINUTE, rest[0])?,
            hours: numbers(&HOUR, rest[1])?,
            days: 0,
            last_day: false,
            months: numbers(&MONTH, rest[3])?,
            weekdays: 0,
            weeks: [0; 7],
            any_day: rest[2].starts_with(['*', '?']),
            any_weekday: rest[4].starts_with(['*', '?']),
        };
        for item in rest[2].split(',') {
            match item {
                "L" => expression.last_day = true,
                "?" => expression.days |= span(DAY.min, DAY.max, 1),
                item => expression.days |= numbers_of(&DAY, item)?,
            }
        }
        for item in rest[4].split(',') {
            expression.add_weekdays(item)?;
        }
        // Sunday is both.
        expression.weekdays = (expression.weekdays | expression.weekdays >> 7) & 0x7f;
        Ok(expression)
    }

    fn add_weekdays(&mut self, item: &str) -> Result<(), String> {
        let fault = |fault: &str| Err(format!("{}: {item:?} {fault}", WEEKDAY.name));
        if item == "?" {
            self.weekdays |= span(0, 6, 1);
        } else if let Some((day, week)) = item.split_once('#') {
            match week.parse::<u32>() {
                Ok(week @ 1..=5) => self.weeks[number(&WEEKDAY, day)? as usize % 7] |= 1 << week,
                _ => return fault("names no week of the month: expected 1 to 5 after #"),
            }
        } else if item == "L" {
            return fault("names no day: expected one before L, such as 5L");
        } else if let Some(day) = item.strip_suffix('L') {
            self.weeks[number(&WEEKDAY, day)? as usize % 7] |= LAST_WEEK;
        } else {
            self.weekdays |= numbers_of(&WEEKDAY, item)?;
        }
        Ok(())
    }

    /// Whether it says nothing about hours.
    pub(super) fn every_hour(&self) -> bool {
        self.hours == span(HOUR.min, HOUR.max, 1)
    }

    /// The first reading at `from` or later, before `to`.
    pub(super) fn next_civil(&self, from: DateTime, to: Date) -> Option<DateTime> {
        let mut date = from.date();
        let mut time = seconds_of(from);
        while date < to {
            if !has(self.months, date.month() as u32) {
                date = date.last_of_month().tomorrow().ok()?;
                time = 0;
                continue;
            }
            if self.takes(date)
                && let Some((hour, minute, second)) = self.next_time(time)
            {
                return Some(date.at(hour, minute, second, 0));
            }
            date = date.tomorrow().ok()?;
            time = 0;
        }
        None
    }

    /// Whether a day counts, its month aside.
    fn takes(&self, date: Date) -> bool {
        let day = date.day() as u32;
        let days_in_month = date.days_in_month() as u32;
        let of_month = has(self.days, day) || (self.last_day && day == days_in_month);
        let weekday = date.weekday().to_sunday_zero_offset() as usize;
        let weeks = self.weeks[weekday];
        let of_week = has(self.weekdays, weekday as u32)
            || weeks & 1 << ((day - 1) / 7 + 1) != 0
            || (weeks & LAST_WEEK != 0 && day + 7 > days_in_month);
        if self.any_day || self.any_weekday {
            of_month && of_week
        } else {
            of_month || of_week
        }
    }

    /// The first time of a day at that second of the day or later.
    fn next_time(&self, from: u32) -> Option<(i8, i8, i8)> {
        let (hour, minute, second) = (from / 3_600, from / 60 % 60, from % 60);
        let first = |mask: u64| mask.trailing_zeros();
        if has(self.hours, hour) {
            if has(self.minutes, minute)
                && let Some(second) = at_least(self.seconds, second)
            {
                return Some((hour as i8, minute as i8, second as i8));
            }
            if let Some(minute) = at_least(self.minutes, minute + 1) {
                return Some((hour as i8, minute as i8, first(self.seconds) as i8));
            }
        }
        let hour = at_least(self.hours, hour + 1)?;
        Some((
            hour as i8,
            first(self.minutes) as i8,
            first(self.seconds) as i8,
        ))
    }
}

fn seconds_of(reading: DateTime) -> u32 {
    reading.hour() as u32 * 3_600 + reading.minute() as u32 * 60 + reading.second() as u32
}

fn has(mask: u64, number: u32) -> bool {
    mask >> number & 1 == 1
}

/// The least number of the set that is not below `from`.
fn at_least(mask: u64, from: u32) -> Option<u32> {
    let rest = mask.checked_shr(from)? << from;
    (rest != 0).then(|| rest.trailing_zeros())
}

/// Every `step`-th number from `low` to `high`.
fn span(low: u32, high: u32, step: u32) -> u64 {
    (low..=high)
        .step_by(step as usize)
        .fold(0, |mask, number| mask | 1 << number)
}

/// The set of a whole field.
fn numbers(field: &Field, text: &str) -> Result<u64, String> {
    text.split(',')
        .try_fold(0, |mask, item| Ok(mask | numbers_of(field, item)?))
}

/// The set of one item between commas.
fn numbers_of(field: &Field, item: &str) -> Result<u64, String> {
    let fault = |fault: String| Err(format!("{}: {fault}", field.name));
    let (range, step) = match item.split_once('/') {
        None => (item, None),
        Some((range, step)) => match step.parse::<u32>() {
            Ok(step) if step >= 1 => (range, Some(step)),
            _ => return fault(format!("{step:?} is no step: expected a number from 1")),
        },
    };
    let (low, high) = if range == "*" {
        // Seven is Sunday once more.
        (
            field.min,
            field.max.min(if field.max == 7 { 6 } else { 59 }),
        )
    } else if let Some((low, high)) = range.split_once('-') {
        let (low, high) = (number(field, low)?, number(field, high)?);
        // `FRI-SUN` ends on the seventh day.
        let high = if field.max == 7 && high == 0 && low > 0 {
            7
        } else {
            high
        };
        if low > high {
            return fault(format!(
                "the range {range:?} runs backwards: expected two, with a comma"
            ));
        }
        (low, high)
    } else {
        let number = number(field, range)?;
        if step.is_some() {
            return fault(format!(
                "{item:?} has a step but no end: expected {range}-{}/…, or */…",
                field.max
            ));
        }
        (number, number)
    };
    let step = step.unwrap_or(1);
    if step > 1 && step > high - low {
        return fault(format!(
            "a step of {step} has no second value from {low} to {high}"
        ));
    }
    Ok(span(low, high, step))
}

/// One number, or its name.
fn number(field: &Field, text: &str) -> Result<u32, String> {
    if let Some(index) = field.names.iter().position(|name| *name == text) {
        return Ok(index as u32 + u32::from(field.min == 1));
    }
    let named = match field.names {
        [first, .., last] => format!(", or {first} to {last}"),
        _ => String::new(),
    };
    match text.parse::<u32>() {
        Ok(number) if (field.min..=field.max).contains(&number) && !text.starts_with('+') => {
            Ok(number)
        }
        _ => Err(format!(
            "{}: {text:?} is not expected: a number from {} to {}{named} is",
            field.name, field.min, field.max
        )),
    }
}
