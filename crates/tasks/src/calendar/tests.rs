use std::time::Duration;

use flyball_policy::queue::{Missed, Overlap};
use proptest::prelude::{
    Just, ProptestConfig, Strategy, prop, prop_assert, prop_assert_eq, prop_oneof, proptest,
};

use super::*;

fn cron(expression: &str, zone: &str) -> Cron {
    Cron {
        expression: expression.into(),
        time_zone: zone.into(),
        overlap: Overlap::default(),
        missed: Missed::default(),
        grace: Duration::ZERO,
    }
}

fn wall(time: Timestamp) -> WallTime {
    WallTime::from_unix_nanos(time.as_nanosecond() as u64)
}

fn instant(time: WallTime) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(time.unix_nanos())).unwrap()
}

/// The ticks after an instant, as they are read in the zone.
fn ticks(expression: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
    let cron = cron(expression, zone);
    CronCalendar.check(&cron).unwrap();
    let zone = super::zone(zone).unwrap();
    let mut now = wall(after.parse().unwrap());
    (0..count)
        .map(|_| {
            now = CronCalendar.next(&cron, now).unwrap();
            let local = instant(now).to_zoned(zone.clone());
            local.strftime("%F %T %:z").to_string()
        })
        .collect()
}

/// TASK-15: five fields, six fields, names, steps, lists, last days, and nicknames.
#[test]
fn expressions() {
    for (expression, expected) in [
        ("5 4 * * *", ["2026-01-01 04:05", "2026-01-02 04:05"]),
        ("*/40 * * * *", ["2026-01-01 00:40", "2026-01-01 01:00"]),
        (
            "0 9-17/8 * * MON-FRI",
            ["2026-01-01 09:00", "2026-01-01 17:00"],
        ),
        ("0 0 1,15 * *", ["2026-01-15 00:00", "2026-02-01 00:00"]),
        ("0 0 13 * FRI", ["2026-01-02 00:00", "2026-01-09 00:00"]),
        ("0 0 */7 * SUN", ["2026-02-01 00:00", "2026-02-08 00:00"]),
        ("0 0 L * *", ["2026-01-31 00:00", "2026-02-28 00:00"]),
        ("0 0 ? * 5L", ["2026-01-30 00:00", "2026-02-27 00:00"]),
        ("0 0 * * tue#2", ["2026-01-13 00:00", "2026-02-10 00:00"]),
        ("0 0 * * 7", ["2026-01-04 00:00", "2026-01-11 00:00"]),
        (
            "0 0 * feb fri-sun",
            ["2026-02-01 00:00", "2026-02-06 00:00"],
        ),
        ("0 0 29 2 *", ["2028-02-29 00:00", "2032-02-29 00:00"]),
        ("@yearly", ["2027-01-01 00:00", "2028-01-01 00:00"]),
        ("@Weekly", ["2026-01-04 00:00", "2026-01-11 00:00"]),
        (" @midnight ", ["2026-01-02 00:00", "2026-01-03 00:00"]),
        ("@hourly", ["2026-01-01 01:00", "2026-01-01 02:00"]),
        ("@monthly", ["2026-02-01 00:00", "2026-03-01 00:00"]),
    ] {
        let expected = expected.map(|time| format!("{time}:00 +00:00"));
        assert_eq!(
            ticks(expression, "", "2026-01-01T00:00:00Z", 2),
            expected,
            "{expression}"
        );
    }
    assert_eq!(
        ticks("*/30 * * * * *", "UTC", "2026-01-01T00:00:00.5Z", 2),
        ["2026-01-01 00:00:30 +00:00", "2026-01-01 00:01:00 +00:00"]
    );
}

/// TASK-15: a tick in the hour that is left out runs once, just after it; several of them once.
#[test]
fn a_tick_in_the_gap_runs_after_it() {
    assert_eq!(
        ticks("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", 3),
        [
            "2026-03-28 02:30:00 +01:00",
            "2026-03-29 03:00:00 +02:00",
            "2026-03-30 02:30:00 +02:00"
        ]
    );
    assert_eq!(
        ticks("*/20 2 * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 2),
        ["2026-03-29 03:00:00 +02:00", "2026-03-30 02:00:00 +02:00"]
    );
    // Half an hour is left out at Lord Howe, and once a whole day was in Samoa.
    assert_eq!(
        ticks(
            "15 2 * * *",
            "Australia/Lord_Howe",
            "2026-10-03T12:00:00Z",
            2
        ),
        ["2026-10-04 02:30:00 +11:00", "2026-10-05 02:15:00 +11:00"]
    );
    assert_eq!(
        ticks("0 12 * * *", "Pacific/Apia", "2011-12-29T00:00:00Z", 3),
        [
            "2011-12-29 12:00:00 -10:00",
            "2011-12-31 00:00:00 +14:00",
            "2011-12-31 12:00:00 +14:00"
        ]
    );
}

/// TASK-15: a tick in the hour that comes twice runs once, the first time.
#[test]
fn a_tick_in_the_fold_runs_the_first_time() {
    assert_eq!(
        ticks("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2),
        ["2026-10-25 02:30:00 +02:00", "2026-10-26 02:30:00 +01:00"]
    );
    // Asked in the second pass.
    assert_eq!(
        ticks("*/20 1-2 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", 1),
        ["2026-10-26 01:00:00 +01:00"]
    );
}

/// TASK-15: what runs every few minutes does so in the hour that comes twice, and makes nothing up for the one that is left out.
#[test]
fn every_hour_follows_time() {
    assert_eq!(
        ticks("*/30 * * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", 4),
        [
            "2026-10-25 02:30:00 +02:00",
            "2026-10-25 02:00:00 +01:00",
            "2026-10-25 02:30:00 +01:00",
            "2026-10-25 03:00:00 +01:00"
        ]
    );
    assert_eq!(
        ticks("40 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 2),
        ["2026-03-29 01:40:00 +01:00", "2026-03-29 03:40:00 +02:00"]
    );
    assert_eq!(
        ticks("0 * 29 2 MON#1", "Europe/Berlin", "2026-03-05T00:00:00Z", 1),
        ["2027-02-01 00:00:00 +01:00"]
    );
}

/// TASK-15: what is wrong is said with the field, when the task is submitted.
#[test]
fn faults_name_the_field() {
    for (expression, expected) in [
        (
            "* * * *",
            "has 4 fields: expected 5 (minute, hour, day of the month, month, day of the week), or 6 with the second before them",
        ),
        (
            "",
            "has 0 fields: expected 5 (minute, hour, day of the month, month, day of the week), or 6 with the second before them",
        ),
        (
            "60 * * * *",
            "minute: \"60\" is not expected: a number from 0 to 59 is",
        ),
        (
            "x * * * * *",
            "second: \"X\" is not expected: a number from 0 to 59 is",
        ),
        (
            "* -1 * * *",
            "hour: \"\" is not expected: a number from 0 to 23 is",
        ),
        (
            "* * 0 * *",
            "day of the month: \"0\" is not expected: a number from 1 to 31 is",
        ),
        (
            "* * * 1,MAI *",
            "month: \"MAI\" is not expected: a number from 1 to 12, or JAN to DEC is",
        ),
        (
            "* * * * 8",
            "day of the week: \"8\" is not expected: a number from 0 to 7, or SUN to SAT is",
        ),
        (
            "* * * * 1#6",
            "day of the week: \"1#6\" names no week of the month: expected 1 to 5 after #",
        ),
        (
            "* * * * L",
            "day of the week: \"L\" names no day: expected one before L, such as 5L",
        ),
        (
            "* 22-4 * * *",
            "hour: the range \"22-4\" runs backwards: expected two, with a comma",
        ),
        (
            "*/90 * * * *",
            "minute: a step of 90 has no second value from 0 to 59",
        ),
        (
            "*/0 * * * *",
            "minute: \"0\" is no step: expected a number from 1",
        ),
        (
            "5/10 * * * *",
            "minute: \"5/10\" has a step but no end: expected 5-59/…, or */…",
        ),
        (
            "1,,2 * * * *",
            "minute: \"\" is not expected: a number from 0 to 59 is",
        ),
        (
            "99999999999999999999 * * * *",
            "minute: \"99999999999999999999\" is not expected: a number from 0 to 59 is",
        ),
        (
            "@reboot",
            "\"@REBOOT\" is not known: expected @yearly, @monthly, @weekly, @daily or @hourly",
        ),
        (
            "0 0 30 2 *",
            "\"0 0 30 2 *\" never fires: no month of those named has such a day",
        ),
        (
            "0 0 31 4,6,9,11 *",
            "\"0 0 31 4,6,9,11 *\" never fires: no month of those named has such a day",
        ),
    ] {
        assert_eq!(
            CronCalendar.check(&cron(expression, "UTC")).unwrap_err(),
            expected
        );
    }
    assert!(CronCalendar.check(&cron(&"1,".repeat(200), "")).is_err());
    assert_eq!(
        CronCalendar
            .check(&cron("@daily", "Europe/Atlantis"))
            .unwrap_err(),
        "the time zone \"Europe/Atlantis\" is not known: expected an IANA name such as Europe/Berlin, or UTC"
    );
}

#[test]
fn the_end_of_time_is_the_end() {
    let cron = cron("@yearly", "UTC");
    let last = CronCalendar.next(&cron, wall("2553-06-01T00:00:00Z".parse().unwrap()));
    assert_eq!(instant(last.unwrap()).to_string(), "2554-01-01T00:00:00Z");
    assert_eq!(CronCalendar.next(&cron, last.unwrap()), None);
    assert_eq!(
        CronCalendar.next(&cron, WallTime::from_unix_nanos(u64::MAX)),
        None
    );
}

const ZONES: [&str; 8] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "America/Sao_Paulo",
    "Pacific/Apia",
    "Africa/Casablanca",
];

fn list(min: u32, max: u32) -> impl Strategy<Value = String> {
    prop_oneof![
        Just("*".to_owned()),
        (2..=(max - min)).prop_map(|step| format!("*/{step}")),
        prop::collection::vec(min..=max, 1..4).prop_map(|numbers| {
            let numbers: Vec<String> = numbers.iter().map(u32::to_string).collect();
            numbers.join(",")
        }),
        (min..=max, min..=max).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
    ]
}

/// Near a change of some zone's offset, half of the time.
fn moments() -> impl Strategy<Value = i64> {
    let changes = [
        "2026-03-29T01:00:00Z",
        "2026-10-25T01:00:00Z",
        "2026-03-08T07:00:00Z",
        "2026-11-01T06:00:00Z",
        "2026-04-04T15:00:00Z",
        "2011-12-30T10:00:00Z",
        "2017-10-15T03:00:00Z",
        "2026-02-15T02:00:00Z",
    ]
    .map(|text| text.parse::<Timestamp>().unwrap().as_second());
    prop_oneof![
        0i64..4_000_000_000,
        (prop::sample::select(changes.to_vec()), -90_000i64..7_200)
            .prop_map(|(change, distance)| change + distance),
    ]
}

/// The first tick after an instant, found by looking at every minute; none within two days.
fn by_looking(expression: &str, zone: &TimeZone, after: i64) -> Option<i64> {
    let expression = Expression::parse(expression).unwrap();
    let hits = |reading: DateTime| {
        let next = reading.date().tomorrow().unwrap();
        expression.next_civil(reading, next) == Some(reading)
    };
    let reading_at = |second: i64| zone.to_datetime(Timestamp::from_second(second).unwrap());
    let first = after.div_euclid(60) * 60 + 60;
    // Changes of the last day and a half are to be known, for what comes twice.
    let mut highest = DateTime::MIN;
    let mut last = None;
    for second in (first - 129_600..first + 172_800).step_by(60) {
        let reading = reading_at(second);
        let fires = if expression.every_hour() {
            hits(reading)
        } else {
            let mut fires = reading > highest && hits(reading);
            if let Some(last) = last {
                // What the clock left out on its way from the last reading to this one.
                let mut skipped: DateTime = last;
                loop {
                    skipped = skipped.checked_add(1.minute()).unwrap();
                    if skipped >= reading {
                        break;
                    }
                    fires |= skipped > highest && hits(skipped);
                }
            }
            fires
        };
        if fires && second >= first {
            return Some(second);
        }
        highest = highest.max(reading);
        last = Some(reading);
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// TASK-15: over zones and years, ticks only grow and are those that looking at every minute finds.
    #[test]
    fn ticks_are_those_found_by_looking(
        minute in list(0, 59), hour in list(0, 23), day in list(1, 31), weekday in list(0, 6),
        zone in prop::sample::select(ZONES.to_vec()), from in moments(),
    ) {
        let expression = format!("{minute} {hour} {day} * {weekday}");
        let cron = cron(&expression, zone);
        let zone = super::zone(zone).unwrap();
        let mut now = from;
        for _ in 0..4 {
            let after = wall(Timestamp::from_second(now).unwrap());
            let next = instant(CronCalendar.next(&cron, after).unwrap()).as_second();
            prop_assert!(next > now);
            let looked = by_looking(&expression, &zone, now);
            prop_assert_eq!(looked, (next < now.div_euclid(60) * 60 + 60 + 172_800).then_some(next), "{} after {}", expression, now);
            now = next;
        }
    }

    /// TASK-15: without changes of the clock, ticks are those of another implementation.
    #[test]
    fn ticks_are_those_of_another_implementation(
        second in list(0, 59), minute in list(0, 59), hour in list(0, 23),
        day in prop_oneof![Just("*".to_owned()), Just("L".to_owned()), Just("1,15".to_owned()), Just("29-31".to_owned())],
        month in list(1, 12),
        weekday in prop_oneof![Just("*".to_owned()), Just("MON-FRI".to_owned()), Just("5L".to_owned()), Just("3#5".to_owned()), Just("0,6".to_owned())],
        from in 0i64..10_000_000_000,
    ) {
        let expression = format!("{second} {minute} {hour} {day} {month} {weekday}");
        let cron = cron(&expression, "UTC");
        if CronCalendar.check(&cron).is_err() {
            // 29-31 of February alone, in no leap year, and the like: the other one searches for minutes.
            return Ok(());
        }
        let mut now = Timestamp::from_second(from).unwrap();
        for _ in 0..3 {
            let next = instant(CronCalendar.next(&cron, wall(now)).unwrap());
            let parsed: croner::Cron = expression.parse().unwrap();
            let other = parsed.find_next_occurrence(&now.to_zoned(TimeZone::UTC), false).unwrap();
            prop_assert_eq!(next, other.timestamp(), "{} after {}", expression, now);
            now = next;
        }
    }

    /// Whatever is written, it is read or refused, and nothing overflows.
    #[test]
    fn any_text_is_read_or_refused(text in "[ -~]{0,40}", fields in "([0-9*/,LA-Z#?-]{1,4} ){5,6}", after: u64) {
        for text in [text, fields] {
            let cron = cron(&text, "America/New_York");
            let checked = CronCalendar.check(&cron);
            let next = CronCalendar.next(&cron, WallTime::from_unix_nanos(after));
            prop_assert!(next.is_none_or(|next| checked.is_ok() && next.unix_nanos() > after));
        }
    }
}
