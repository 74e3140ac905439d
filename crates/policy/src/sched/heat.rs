//! Hot and slowed cores get less work.
//!
//! What the kernel reports about a core, as far as it reports anything, becomes a weight for the placement strategies and
//! for how many workers run: 1 for a core with room, less for one that is near its critical temperature or whose
//! frequency is limited. What is not known does not count against a core.

/// What is known about the heat of a core.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Heat {
    /// Temperature in °C.
    pub temperature_c: Option<f64>,
    /// The temperature in °C at which the machine protects itself; [`DEFAULT_CRITICAL_C`] where it is not known.
    pub critical_c: Option<f64>,
    /// The frequency that the core may reach now, and that it could reach cool, in the same unit.
    pub frequency_limit: Option<(f64, f64)>,
}

/// The critical temperature of a core that reports none: 100 °C, the usual limit of server and desktop processors.
pub const DEFAULT_CRITICAL_C: f64 = 100.0;
/// Degrees below the critical temperature at which a core begins to get less work.
pub const WARM_MARGIN_C: f64 = 20.0;
/// Degrees below the critical temperature at which it gets as little as possible.
pub const HOT_MARGIN_C: f64 = 5.0;
/// The least weight: a hot core keeps a little work, so that its recovery is noticed.
pub const LEAST_WEIGHT: f64 = 0.1;

/// Returns the weight of a core, 0.1 to 1: the lesser of what its temperature and its frequency allow.
///
/// Temperature: 1 up to 20 °C below critical, falling in a line to 0.1 at 5 °C below. Frequency: the part of the cool
/// frequency that the core may reach.
pub fn weight(heat: &Heat) -> f64 {
    let by_temperature = heat
        .temperature_c
        .filter(|t| t.is_finite())
        .map_or(1.0, |temperature| {
            let critical = heat
                .critical_c
                .filter(|c| c.is_finite())
                .unwrap_or(DEFAULT_CRITICAL_C);
            let above_warm = temperature - (critical - WARM_MARGIN_C);
            1.0 - above_warm.max(0.0) / (WARM_MARGIN_C - HOT_MARGIN_C) * (1.0 - LEAST_WEIGHT)
        });
    let by_frequency = match heat.frequency_limit {
        Some((now, cool)) if now.is_finite() && now > 0.0 && cool.is_finite() && cool > 0.0 => {
            now / cool
        }
        _ => 1.0,
    };
    by_temperature.min(by_frequency).clamp(LEAST_WEIGHT, 1.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(temperature: f64) -> Heat {
        Heat {
            temperature_c: Some(temperature),
            ..Heat::default()
        }
    }

    /// CPU-14: room means full weight, heat and slowing mean less, what is unknown means nothing.
    #[test]
    fn hot_or_slowed_cores_weigh_less() {
        assert_eq!(weight(&Heat::default()), 1.0);
        assert_eq!(weight(&at(80.0)), 1.0);
        assert!((weight(&at(87.5)) - 0.55).abs() < 1e-9);
        assert!((weight(&at(95.0)) - 0.1).abs() < 1e-9);
        assert_eq!(weight(&at(150.0)), 0.1);
        assert!(
            (weight(&Heat {
                critical_c: Some(70.0),
                ..at(57.5)
            }) - 0.55)
                .abs()
                < 1e-9
        );
        let slowed = Heat {
            frequency_limit: Some((1.2, 3.0)),
            ..at(40.0)
        };
        assert!((weight(&slowed) - 0.4).abs() < 1e-9);
        let nonsense = Heat {
            frequency_limit: Some((0.0, f64::NAN)),
            temperature_c: Some(f64::NAN),
            ..slowed
        };
        assert_eq!(weight(&nonsense), 1.0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// CPU-14: the weight stays in its range and never rises with heat.
        #[test]
        fn more_heat_never_weighs_more(cooler in -50f64..200.0, by in 0f64..100.0, now in 0.1f64..5.0) {
            let limit = Some((now, 3.0));
            let of = |t| weight(&Heat { frequency_limit: limit, ..at(t) });
            prop_assert!(of(cooler + by) <= of(cooler));
            prop_assert!((LEAST_WEIGHT..=1.0).contains(&of(cooler)));
        }
    }
}
