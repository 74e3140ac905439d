//! Statistics of CPU use: average, quantiles, and departures from what is usual.
//!
//! Spikes and drops are judged against the median of the samples just before, by the median absolute deviation (Hampel's
//! identifier: Hampel 1974; the factor 1.4826 makes it the standard deviation of normal noise). Fixed marks such as 80% and
//! 20% would call a steady 85% a spike and miss a fall from 70% to 25%. Pure: samples in, figures out.

use crate::view::{CoreView, Time, UsageEvent, UsageEventKind, UsageStats};
use std::collections::VecDeque;

/// Samples before the judged one that say what is usual.
pub const WINDOW: usize = 60;
/// Fewest samples that say what is usual.
pub const WARM_UP: usize = 10;
/// A departure is more than this many robust deviations (Pearson 2002 recommends 3 to 3.5 for Hampel's identifier).
pub const DEVIATIONS: f64 = 3.5;
/// … and more than this many points, so that a quiet machine's small stirrings are none.
pub const POINTS: f64 = 10.0;
/// The robust deviation is taken as at least this many points: counters of 10 ms cannot tell less in a second.
pub const LEAST_DEVIATION: f64 = 2.0;
/// Samples over which a CPU's use is averaged before it is called a bottleneck.
pub const CORE_SAMPLES: usize = 10;
/// A bottleneck CPU is busier than this.
pub const CORE_BUSY: f64 = 90.0;
/// … and so many points busier than the mean of all.
pub const CORE_APART: f64 = 20.0;

/// One reading of the CPUs.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// When.
    pub at: Time,
    /// Overall use, percent; None where the kernel did not tell.
    pub overall: Option<f64>,
    /// Use of each CPU.
    pub cores: Vec<(u32, Option<f64>)>,
}

/// Sums up readings, oldest first.
pub fn stats(readings: &[Reading]) -> UsageStats {
    let known: Vec<(Time, f64)> = readings
        .iter()
        .filter_map(|reading| Some((reading.at, reading.overall?)))
        .collect();
    let mut sorted: Vec<f64> = known.iter().map(|(_, percent)| *percent).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let mean = mean(&sorted);
    UsageStats {
        samples: known.len(),
        from: known.first().map(|(at, _)| *at),
        to: known.last().map(|(at, _)| *at),
        average_percent: mean,
        peak_percent: sorted.last().copied(),
        minimum_percent: sorted.first().copied(),
        variance: mean.map(|mean| {
            sorted.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / sorted.len() as f64
        }),
        p50_percent: quantile(&sorted, 0.5),
        p95_percent: quantile(&sorted, 0.95),
        p99_percent: quantile(&sorted, 0.99),
        events: departures(&known),
        bottleneck_cores: bottlenecks(readings),
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The value below which `q` of the values lie (nearest rank); they are sorted.
fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_unstable_by(f64::total_cmp);
    quantile(&sorted, 0.5)
}

/// Departures from what was usual, and returns, oldest first.
fn departures(known: &[(Time, f64)]) -> Vec<UsageEvent> {
    let mut events = Vec::new();
    let mut state = UsageEventKind::Normal;
    let mut usual: VecDeque<f64> = VecDeque::with_capacity(WINDOW);
    for &(timestamp, percent) in known {
        if usual.len() >= WARM_UP
            && let Some(middle) = median(usual.iter().copied())
        {
            let spread = median(usual.iter().map(|x| (x - middle).abs())).unwrap_or(0.0);
            let deviation = (1.4826 * spread).max(LEAST_DEVIATION);
            let away = (percent - middle) / deviation;
            let kind = if away.abs() <= DEVIATIONS || (percent - middle).abs() <= POINTS {
                UsageEventKind::Normal
            } else if away > 0.0 {
                UsageEventKind::Spike
            } else {
                UsageEventKind::Drop
            };
            if kind != state {
                state = kind;
                events.push(UsageEvent {
                    timestamp,
                    kind,
                    percent,
                    median_percent: middle,
                    deviations: away,
                });
            }
        }
        if usual.len() == WINDOW {
            usual.pop_front();
        }
        usual.push_back(percent);
    }
    events
}

/// CPUs that are full while others are not.
fn bottlenecks(readings: &[Reading]) -> Vec<CoreView> {
    let last = &readings[readings.len().saturating_sub(CORE_SAMPLES)..];
    let Some(newest) = last.last().filter(|_| last.len() == CORE_SAMPLES) else {
        return Vec::new();
    };
    let busy: Vec<(u32, f64)> = newest
        .cores
        .iter()
        .filter_map(|(cpu, _)| {
            let values: Option<Vec<f64>> = last
                .iter()
                .map(|reading| reading.cores.iter().find(|(other, _)| other == cpu)?.1)
                .collect();
            Some((*cpu, mean(&values?)?))
        })
        .collect();
    let all: Vec<f64> = busy.iter().map(|(_, percent)| *percent).collect();
    let Some(mean) = mean(&all) else {
        return Vec::new();
    };
    busy.into_iter()
        .filter(|(_, percent)| *percent >= CORE_BUSY && percent - mean >= CORE_APART)
        .map(|(cpu, percent)| CoreView {
            cpu,
            busy_percent: Some(percent),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use flyball_core::rng::Rng;

    fn readings(percents: impl IntoIterator<Item = f64>) -> Vec<Reading> {
        percents
            .into_iter()
            .enumerate()
            .map(|(second, percent)| Reading {
                at: Time::from_unix_nanos(second as u64 * 1_000_000_000),
                overall: Some(percent),
                cores: Vec::new(),
            })
            .collect()
    }

    fn kinds(percents: impl IntoIterator<Item = f64>) -> Vec<UsageEventKind> {
        let stats = stats(&readings(percents));
        stats.events.iter().map(|event| event.kind).collect()
    }

    /// API-2: average, peak, minimum, variance and quantiles are those of the samples; unknown ones are left out.
    #[test]
    fn figures_are_those_of_the_samples() {
        let mut samples = readings((1..=100).map(f64::from));
        samples.push(Reading {
            at: Time::from_unix_nanos(0),
            overall: None,
            cores: Vec::new(),
        });
        let stats = stats(&samples);
        assert_eq!(stats.samples, 100);
        assert_eq!(stats.average_percent, Some(50.5));
        assert_eq!(stats.peak_percent, Some(100.0));
        assert_eq!(stats.minimum_percent, Some(1.0));
        assert_eq!(stats.variance, Some(833.25));
        assert_eq!(
            (stats.p50_percent, stats.p95_percent, stats.p99_percent),
            (Some(50.0), Some(95.0), Some(99.0))
        );
        assert_eq!(super::stats(&[]).average_percent, None);
    }

    /// API-2: a step up is a spike once, and normal again when the new level is what is usual.
    #[test]
    fn a_step_is_a_spike_and_then_usual() {
        use UsageEventKind::{Drop, Normal, Spike};
        let step = [vec![20.0; 60], vec![80.0; 60], vec![20.0; 60]].concat();
        assert_eq!(kinds(step), [Spike, Normal, Drop, Normal]);
    }

    /// API-2: a steady high or low level is no event, nor is noise, nor a slow ramp.
    #[test]
    fn steady_levels_noise_and_ramps_are_no_events() {
        assert!(kinds(vec![95.0; 200]).is_empty());
        assert!(kinds(vec![3.0; 200]).is_empty());
        let mut rng = Rng::seeded(7);
        assert!(kinds((0..900).map(|_| 50.0 + 8.0 * (rng.f64() - 0.5))).is_empty());
        assert!(kinds((0..200).map(|second| f64::from(second) * 0.2)).is_empty());
    }

    /// API-2: a CPU that is full while others are not is named; when all are full none is.
    #[test]
    fn a_full_cpu_among_idle_ones_is_a_bottleneck() {
        let with = |other: f64| -> Vec<Reading> {
            (0..CORE_SAMPLES as u64)
                .map(|second| Reading {
                    at: Time::from_unix_nanos(second),
                    overall: Some(50.0),
                    cores: vec![(0, Some(99.0)), (1, Some(other)), (2, Some(other))],
                })
                .collect()
        };
        let named = |readings: &[Reading]| -> Vec<u32> {
            let found = stats(readings).bottleneck_cores;
            found.iter().map(|core| core.cpu).collect()
        };
        assert_eq!(named(&with(10.0)), [0]);
        assert!(named(&with(98.0)).is_empty());
        assert!(named(&with(10.0)[1..]).is_empty(), "too few samples");
    }
}
