//! Figures with their units; `-` for what is not known.

use flyball_core::units::format_size;

/// What stands for an unknown figure.
pub(crate) const UNKNOWN: &str = "-";

fn or_unknown<T>(value: Option<T>, print: impl Fn(T) -> String) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), print)
}

/// `12.3%`.
pub(crate) fn percent(value: impl Into<Option<f64>>) -> String {
    or_unknown(value.into(), |value| format!("{value:.1}%"))
}

/// A time in a unit that suits it: `85 µs`, `1.25 ms`, `3.4 s`, `2m 5s`, `3d 4h`.
pub(crate) fn millis(value: impl Into<Option<f64>>) -> String {
    or_unknown(value.into(), |ms| match ms {
        _ if !ms.is_finite() => UNKNOWN.to_owned(),
        0.0 => "0 s".to_owned(),
        _ if ms < 1.0 => format!("{:.0} µs", ms * 1e3),
        _ if ms < 100.0 => format!("{ms:.2} ms"),
        _ if ms < 1e3 => format!("{ms:.0} ms"),
        _ if ms < 60e3 => format!("{:.1} s", ms / 1e3),
        _ => {
            let seconds = (ms / 1e3) as u64;
            let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
            match (days, hours) {
                (0, 0) => format!("{minutes}m {}s", seconds % 60),
                (0, _) => format!("{hours}h {}m", minutes % 60),
                _ => format!("{days}d {}h", hours % 24),
            }
        }
    })
}

/// The same of a whole number.
pub(crate) fn whole_millis(value: impl Into<Option<u64>>) -> String {
    millis(value.into().map(|ms| ms as f64))
}

/// `12.1 MB`, in the words of the configuration where it is a round number.
pub(crate) fn bytes(value: impl Into<Option<u64>>) -> String {
    or_unknown(value.into(), |bytes| {
        let scaled = |unit: f64, name: &str| format!("{:.1} {name}", bytes as f64 / unit);
        match bytes {
            ..1_000 => format_size(bytes),
            1_000..1_000_000 => scaled(1e3, "kB"),
            1_000_000..1_000_000_000 => scaled(1e6, "MB"),
            1_000_000_000..1_000_000_000_000 => scaled(1e9, "GB"),
            _ => scaled(1e12, "TB"),
        }
    })
}

/// A number with as many digits as say something: `3`, `0.25`, `1234`, `12.5`.
pub(crate) fn number(value: impl Into<Option<f64>>) -> String {
    or_unknown(value.into(), |value| {
        if !value.is_finite() {
            UNKNOWN.to_owned()
        } else if value.fract() == 0.0 && value.abs() < 1e15 {
            format!("{value:.0}")
        } else {
            let text = format!("{value:.3}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    })
}

/// A number and its unit, where it has one.
pub(crate) fn quantity(value: impl Into<Option<f64>>, unit: &str) -> String {
    let value = value.into();
    match (value, unit) {
        (None, _) | (_, "") => number(value),
        (Some(_), "%") => format!("{}%", number(value)),
        (Some(value), "bytes") if value >= 0.0 => bytes(value as u64),
        _ => format!("{} {unit}", number(value)),
    }
}

/// `12.3/s`.
pub(crate) fn rate(value: impl Into<Option<f64>>) -> String {
    or_unknown(value.into(), |value| format!("{value:.1}/s"))
}

/// A whole number.
pub(crate) fn count(value: impl Into<Option<u64>>) -> String {
    or_unknown(value.into(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_units_and_unknown_ones_are_not_zero() {
        assert_eq!(percent(12.34), "12.3%");
        for (ms, text) in [
            (0.0, "0 s"),
            (0.085, "85 µs"),
            (1.25, "1.25 ms"),
            (250.0, "250 ms"),
            (3400.0, "3.4 s"),
            (125_000.0, "2m 5s"),
            (3_600_000.0 * 5.5, "5h 30m"),
            (86_400_000.0 * 3.0, "3d 0h"),
        ] {
            assert_eq!(millis(ms), text);
        }
        assert_eq!(bytes(12_100_000), "12.1 MB");
        assert_eq!(
            (number(3.0), number(0.25), number(-1.5)),
            ("3".into(), "0.25".into(), "-1.5".into())
        );
        assert_eq!(
            (quantity(80.0, "%"), quantity(2.0, "workers")),
            ("80%".into(), "2 workers".into())
        );
        for unknown in [
            percent(None),
            millis(None),
            bytes(None),
            number(None),
            rate(None),
            count(None),
            number(f64::NAN),
        ] {
            assert_eq!(unknown, UNKNOWN);
        }
    }
}
