//! Whether a CPU quota holds its group back, judged by the kernel's own counts.
//!
//! A control group with a quota may use so much CPU time in each period (of 100 ms as a rule); when that is spent, all its threads stand still until the
//! period is over, those that serve people included. The kernel counts the periods in which something ran and those of them that were spent too early
//! (`nr_periods`, `nr_throttled`), and for how long its CPUs stood still (`throttled_usec`).
//!
//! Rules: the counts are smoothed over some seconds; less than [`SELDOM`] of the periods is nothing to tell, from [`OFTEN`] on it is a bottleneck: the group
//! wants more than its quota most of the time, and not just in a burst.
//!
//! Sources: the kernel's `Documentation/admin-guide/cgroup-v2.rst` and `Documentation/scheduler/sched-bwc.rst`; a quarter of the periods is where
//! Kubernetes' alert CPUThrottlingHigh stands (kubernetes-mixin, `cpuThrottlingPercent: 25`).
//!
//! Absent on purpose: reading the counts (`sense`), and what is to be done.

use core::fmt;
use core::time::Duration;

use flyball_core::ewma::Ewma;
use flyball_core::time::Timestamp;

/// Below this part of the periods there is nothing to tell.
pub const SELDOM: f64 = 0.01;
/// From this part of the periods on the quota is a bottleneck.
pub const OFTEN: f64 = 0.25;
/// The half-life of the counts: twenty periods, so that one alone is a small part.
const SMOOTH: Duration = Duration::from_secs(2);

/// What a quota does to its group.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub enum QuotaVerdict {
    /// Nothing that anybody would notice.
    Free,
    /// The kernel held the group back in some of the periods.
    Bursts(Throttled),
    /// The kernel holds the group back again and again: more is wanted than the quota has.
    Bottleneck(Throttled),
}

/// For how much of the time the kernel held a group back.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Throttled {
    /// Of the periods in which something ran, those whose quota was spent too early, 0 to 100.
    pub percent: f64,
    /// CPUs that stood still, on average; at least 0.
    pub cpus: f64,
}

impl QuotaVerdict {
    /// Its name: `free`, `bursts`, `bottleneck`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Bursts(_) => "bursts",
            Self::Bottleneck(_) => "bottleneck",
        }
    }

    /// How much was held back; `None` where it is nothing to tell.
    pub fn throttled(&self) -> Option<Throttled> {
        match self {
            Self::Free => None,
            Self::Bursts(throttled) | Self::Bottleneck(throttled) => Some(*throttled),
        }
    }
}

impl fmt::Display for QuotaVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Throttled { percent, cpus }) = self.throttled() else {
            return f.write_str("the kernel throttled next to nothing");
        };
        write!(
            f,
            "the kernel throttled {percent:.0}% of the periods, {cpus:.2} CPUs stood still"
        )?;
        match self {
            Self::Bottleneck(_) => f.write_str(": the CPU quota is a bottleneck"),
            _ => Ok(()),
        }
    }
}

/// Judges one window: the part of the periods that were throttled, 0 to 1, and the CPUs that stood still. What is no number counts as nothing.
pub fn judge(part: f64, cpus: f64) -> QuotaVerdict {
    let part = if part.is_nan() {
        0.0
    } else {
        part.clamp(0.0, 1.0)
    };
    let throttled = Throttled {
        percent: part * 100.0,
        cpus: if cpus.is_finite() { cpus.max(0.0) } else { 0.0 },
    };
    match part {
        ..SELDOM => QuotaVerdict::Free,
        ..OFTEN => QuotaVerdict::Bursts(throttled),
        _ => QuotaVerdict::Bottleneck(throttled),
    }
}

/// The counts of a group's quota, smoothed.
#[derive(Clone, Debug)]
pub struct QuotaWatch {
    part: Ewma,
    cpus: Ewma,
}

impl Default for QuotaWatch {
    fn default() -> Self {
        Self {
            part: Ewma::new(SMOOTH),
            cpus: Ewma::new(SMOOTH),
        }
    }
}

impl QuotaWatch {
    /// Takes in what was counted since the last look, as [`judge`] takes it; `None` where there is no quota, which forgets what was before.
    pub fn saw(&mut self, now: Timestamp, part: Option<f64>, cpus: Option<f64>) {
        let Some(part) = part else {
            *self = Self::default();
            return;
        };
        let sane = |figure: f64| if figure.is_finite() { figure } else { 0.0 };
        self.part.update(now, sane(part).clamp(0.0, 1.0));
        self.cpus.update(now, sane(cpus.unwrap_or(0.0)).max(0.0));
    }

    /// What the quota does now; `None` where there is none.
    pub fn verdict(&self) -> Option<QuotaVerdict> {
        Some(judge(self.part.get()?, self.cpus.get().unwrap_or(0.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use proptest::prelude::*;

    fn at(tick: u64) -> Timestamp {
        Timestamp::from_nanos(tick * 250_000_000)
    }

    /// CPU-31: a quota that is spent early now and then is told, one that is again and again is a bottleneck.
    #[test]
    fn a_spent_quota_is_named() {
        assert_eq!(judge(0.009, 1.0), QuotaVerdict::Free);
        assert_eq!(judge(f64::NAN, f64::NAN), QuotaVerdict::Free);
        let bursts = judge(0.1, 0.05);
        assert_eq!(bursts.name(), "bursts");
        assert_eq!(
            bursts.to_string(),
            "the kernel throttled 10% of the periods, 0.05 CPUs stood still"
        );
        let bound = judge(0.4, 0.5);
        assert_eq!(
            bound.to_string(),
            "the kernel throttled 40% of the periods, 0.50 CPUs stood still: the CPU quota is a bottleneck"
        );
        assert_eq!(judge(7.0, -1.0).throttled().unwrap().percent, 100.0);
    }

    /// CPU-31: one bad moment is no bottleneck, ten seconds are; what is over is forgotten, and without a quota there is no verdict.
    #[test]
    fn a_moment_is_no_bottleneck() {
        let mut watch = QuotaWatch::default();
        assert_eq!(watch.verdict(), None);
        for tick in 0..40 {
            watch.saw(at(tick), Some(0.0), Some(0.0));
        }
        watch.saw(at(40), Some(1.0), Some(1.0));
        assert_eq!(watch.verdict().unwrap().name(), "bursts");
        for tick in 41..80 {
            watch.saw(at(tick), Some(0.5), Some(0.3));
        }
        assert_eq!(watch.verdict().unwrap().name(), "bottleneck");
        for tick in 80..160 {
            watch.saw(at(tick), Some(0.0), None);
        }
        assert_eq!(watch.verdict(), Some(QuotaVerdict::Free));
        watch.saw(at(160), None, None);
        assert_eq!(watch.verdict(), None);
    }

    proptest! {
        /// CPU-31: any counts give figures that can be shown.
        #[test]
        fn any_counts_are_borne(
            looks in prop::collection::vec((any::<u64>(), any::<Option<f64>>(), any::<Option<f64>>()), 1..50),
        ) {
            let mut watch = QuotaWatch::default();
            for (now, part, cpus) in looks {
                watch.saw(Timestamp::from_nanos(now), part, cpus);
                if let Some(throttled) = watch.verdict().and_then(|verdict| verdict.throttled()) {
                    prop_assert!((0.0..=100.0).contains(&throttled.percent) && throttled.cpus >= 0.0);
                    prop_assert!(throttled.cpus.is_finite());
                }
            }
        }
    }
}
