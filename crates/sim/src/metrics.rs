//! What is counted while a simulation runs, and the comparison of shares with promises.

use flyball_core::class::ClassSpec;
use flyball_core::histogram::Histogram;
use flyball_core::id::{ClassId, ClassSet};
use flyball_policy::sched::Algorithm;

use crate::report::Fairness;

/// Counters of one class.
#[derive(Default)]
pub(crate) struct ClassMetrics {
    pub(crate) arrived: u64,
    pub(crate) refused: u64,
    pub(crate) completed: u64,
    pub(crate) failed_attempts: u64,
    pub(crate) service_ns: u64,
    pub(crate) preemptions: u64,
    pub(crate) wait: Histogram,
    pub(crate) latency: Histogram,
}

/// Mean and maximum of samples.
#[derive(Default, Clone, Copy)]
pub(crate) struct Samples {
    sum: f64,
    max: f64,
    count: u64,
}

impl Samples {
    pub(crate) fn add(&mut self, sample: f64) {
        self.sum += sample;
        self.max = self.max.max(sample);
        self.count += 1;
    }

    pub(crate) fn mean(&self) -> f64 {
        self.sum / self.count.max(1) as f64
    }

    pub(crate) fn max(&self) -> f64 {
        self.max
    }
}

/// Windows of equal length over which the service of backlogged classes is compared with what they were promised.
pub(crate) struct Windows {
    length_ns: u64,
    end_ns: u64,
    /// Classes whose queue was never empty in this window.
    backlogged: ClassSet,
    service_ns: Vec<u64>,
    jain: Samples,
    jain_min: f64,
    worst: f64,
    worst_class: usize,
    /// The algorithm changed in this window, so no single promise holds.
    spoilt: bool,
}

impl Windows {
    pub(crate) fn new(length_ns: u64, classes: usize) -> Self {
        Self {
            length_ns,
            end_ns: length_ns,
            backlogged: ClassSet::EMPTY,
            service_ns: vec![0; classes],
            jain: Samples::default(),
            jain_min: 1.0,
            worst: 0.0,
            worst_class: 0,
            spoilt: false,
        }
    }

    /// When the present window ends.
    #[inline]
    pub(crate) fn end_ns(&self) -> u64 {
        self.end_ns
    }

    #[inline]
    pub(crate) fn served(&mut self, class: ClassId, ns: u64) {
        self.service_ns[class.index()] += ns;
    }

    /// A class's queue has become empty.
    #[inline]
    pub(crate) fn emptied(&mut self, class: ClassId) {
        self.backlogged.remove(class);
    }

    pub(crate) fn spoil(&mut self) {
        self.spoilt = true;
    }

    /// Ends the window, judges it if `counts`, and begins the next with the classes of `ready` backlogged.
    pub(crate) fn close(
        &mut self,
        counts: bool,
        algorithm: Algorithm,
        classes: &[ClassSpec],
        ready: ClassSet,
    ) {
        if counts && !self.spoilt && self.backlogged.len() >= 2 {
            self.judge(algorithm, classes);
        }
        self.spoilt = false;
        self.backlogged = ready;
        self.service_ns.fill(0);
        self.end_ns += self.length_ns;
    }

    fn judge(&mut self, algorithm: Algorithm, classes: &[ClassSpec]) {
        let all: u64 = self.service_ns.iter().sum();
        let contended: u64 = self
            .backlogged
            .iter()
            .map(|class| self.service_ns[class.index()])
            .sum();
        if contended == 0 {
            return;
        }
        let available = contended as f64 / all as f64;
        let Some(promised) = promises(algorithm, classes, self.backlogged, available) else {
            return;
        };
        let (mut sum, mut squares) = (0.0, 0.0);
        for &(class, promise) in &promised {
            let share = self.service_ns[class.index()] as f64 / all as f64;
            let error = (share - promise).abs() * 100.0;
            if error > self.worst {
                self.worst = error;
                self.worst_class = class.index();
            }
            let part = share / promise;
            sum += part;
            squares += part * part;
        }
        let jain = sum * sum / (promised.len() as f64 * squares);
        self.jain.add(jain);
        self.jain_min = self.jain_min.min(jain);
    }

    pub(crate) fn fairness(&self, classes: &[ClassSpec]) -> Option<Fairness> {
        (self.jain.count > 0).then(|| Fairness {
            windows: self.jain.count,
            jain_mean: self.jain.mean(),
            jain_min: self.jain_min,
            worst_error_points: self.worst,
            worst_class: classes[self.worst_class].name.clone(),
        })
    }
}

/// What each backlogged class is promised of all CPU while they share `available` (0 to 1) of it; `None` where the
/// algorithm promises an order and no shares.
///
/// An independent statement of the promise, on purpose not the scheduler's own: `available` is divided by weight; a class
/// that would get less than its guarantee gets the guarantee, one that would get more than its ceiling gets the ceiling,
/// and the rest is divided again among the others.
pub(crate) fn promises(
    algorithm: Algorithm,
    classes: &[ClassSpec],
    backlogged: ClassSet,
    available: f64,
) -> Option<Vec<(ClassId, f64)>> {
    let weighted = match algorithm {
        Algorithm::RoundRobin => false,
        Algorithm::Cfs | Algorithm::ProportionalShare => true,
        Algorithm::Priority => return None,
    };
    let bounded = algorithm == Algorithm::ProportionalShare;
    let mut open: Vec<(ClassId, f64)> = backlogged
        .iter()
        .map(|class| {
            let shares = f64::from(classes[class.index()].shares);
            (class, if weighted { shares } else { 1.0 })
        })
        .collect();
    let mut settled: Vec<(ClassId, f64)> = Vec::with_capacity(open.len());
    let mut left = available;
    loop {
        let weight: f64 = open.iter().map(|&(_, weight)| weight).sum();
        let bound = |&(class, share): &(ClassId, f64)| {
            let spec = &classes[class.index()];
            let part = left * share / weight;
            if bounded && part < spec.guarantee {
                Some((part - spec.guarantee, class, spec.guarantee))
            } else if part > spec.ceiling {
                Some((spec.ceiling - part, class, spec.ceiling))
            } else {
                None
            }
        };
        // The class that is furthest from its bound is settled first; the bounds of others may then hold.
        let worst = open
            .iter()
            .filter_map(bound)
            .min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        match worst {
            Some((_, class, part)) => {
                settled.push((class, part.min(left)));
                left = (left - part).max(0.0);
                open.retain(|&(other, _)| other != class);
            }
            None => {
                settled.extend(
                    open.iter()
                        .map(|&(class, share)| (class, left * share / weight)),
                );
                settled.retain(|&(_, part)| part > 0.0);
                settled.sort_by_key(|&(class, _)| class);
                return Some(settled);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(algorithm: Algorithm, classes: &[ClassSpec]) -> Vec<f64> {
        let all = (0..classes.len() as u8).map(ClassId::new).collect();
        promises(algorithm, classes, all, 1.0)
            .unwrap()
            .into_iter()
            .map(|(_, part)| part)
            .collect()
    }

    #[test]
    fn promises_follow_shares_guarantees_and_ceilings() {
        let classes = [
            ClassSpec::new("a").with_shares(900),
            ClassSpec::new("b").with_shares(50).with_guarantee(0.2),
            ClassSpec::new("c").with_shares(50),
        ];
        assert_eq!(parts(Algorithm::Cfs, &classes), [0.9, 0.05, 0.05]);
        let even = parts(Algorithm::RoundRobin, &classes);
        assert!(even.iter().all(|part| (part - 1.0 / 3.0).abs() < 1e-12));
        let bounded = parts(Algorithm::ProportionalShare, &classes);
        assert_eq!(bounded[1], 0.2);
        assert!((bounded[0] - 0.8 * 900.0 / 950.0).abs() < 1e-12);

        let capped = [
            ClassSpec::new("a").with_shares(900).with_ceiling(0.3),
            ClassSpec::new("b").with_shares(100),
        ];
        let parts = parts(Algorithm::ProportionalShare, &capped);
        assert!((parts[0] - 0.3).abs() < 1e-12 && (parts[1] - 0.7).abs() < 1e-12);
    }
}
