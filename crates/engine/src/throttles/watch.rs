//! What throttles see of the machine: its use, that of this process, of its classes and of the commands that it runs.
//!
//! Of commands all processes are counted that descend from them, as /proc tells it, and what they have used that ended; keepers and the spawn server, of
//! which there is one for each command that runs at once and one in all, are not: they use next to nothing.

use crate::config::Scope;
use crate::shared::Shared;
use flyball_core::time::Timestamp;
use flyball_executor::Stats;
use flyball_policy::control::throttle::PERIOD;
use flyball_sense::{Readings, Root, Sample, Sensors, Usage};
use std::collections::BTreeMap;
use std::time::Duration;

/// How often it looks while nothing is near its threshold.
const QUIET_PERIOD: Duration = Duration::from_secs(1);

/// What the control loop remembers of the machine between two looks.
pub(crate) struct Watch {
    root: Root,
    /// None while there is no throttle.
    sensing: Option<Box<Sensing>>,
    pub(crate) due: Timestamp,
}

struct Sensing {
    sensors: Sensors,
    before: Sample,
    sample: Sample,
    /// CPU time of work on workers by class, ns.
    classes: BTreeMap<String, u64>,
    /// CPU time of the commands of tasks by class, ns: the most that was read, as it may fall by a moment's worth when one ends.
    commands: BTreeMap<String, u64>,
    /// Of which runners: other ones count anew.
    runners: usize,
    kernel_ns: Option<u64>,
}

/// What was seen between two looks.
pub(super) struct Seen {
    pub(super) usage: Usage,
    quota: Option<f64>,
    /// CPUs of the machine.
    cpus: f64,
    /// CPUs' worth of time of work on workers, by class.
    classes: BTreeMap<String, f64>,
    /// CPUs' worth of time of commands, by class.
    commands: BTreeMap<String, f64>,
    pub(super) kernel_ns: Option<u64>,
}

impl Watch {
    pub(crate) fn new(root: Root) -> Watch {
        Watch {
            root,
            sensing: None,
            due: Timestamp::MAX,
        }
    }

    /// Follows a change of the configuration.
    pub(crate) fn configure(&mut self, shared: &Shared) {
        let now = shared.now();
        let wanted = shared.configure_throttles();
        if !wanted {
            (self.sensing, self.due) = (None, Timestamp::MAX);
        } else if self.sensing.is_none() {
            let mut sensing = Box::new(Sensing {
                sensors: Sensors::open(&self.root),
                before: Sample::default(),
                sample: Sample::default(),
                classes: BTreeMap::new(),
                commands: BTreeMap::new(),
                runners: 0,
                kernel_ns: None,
            });
            sensing.look(shared, now, shared.cpus);
            self.sensing = Some(sensing);
            self.due = now.saturating_add(PERIOD);
        } else {
            self.due = self.due.min(now.saturating_add(PERIOD));
        }
    }

    /// Looks, steps the throttles and has their proposals decided.
    pub(crate) fn look(&mut self, shared: &Shared, now: Timestamp, stats: &Stats) {
        let Some(sensing) = &mut self.sensing else {
            return;
        };
        let seen = sensing.look(shared, now, stats.parallelism);
        let is_quiet = shared.step_throttles(now, &seen, stats);
        let period = if is_quiet { QUIET_PERIOD } else { PERIOD };
        self.due = now.saturating_add(period);
    }
}

impl Sensing {
    fn look(&mut self, shared: &Shared, now: Timestamp, parallelism: usize) -> Seen {
        std::mem::swap(&mut self.before, &mut self.sample);
        let wanted = Readings::CPU | Readings::PROCESS | Readings::CGROUP;
        self.sensors.sample_only(wanted, now, &mut self.sample);
        let passed = now.saturating_nanos_since(self.before.at);
        let times = shared.executor.class_times().into_iter().collect();
        let classes = spent(&mut self.classes, times, passed);
        let (runners, times) = commands_cpu(shared);
        if std::mem::replace(&mut self.runners, runners) != runners {
            self.commands.clear();
        }
        let commands = spent(&mut self.commands, times, passed);
        let throttled = |sample: &Sample| {
            let quota = sample.quota?;
            Some(quota.throttled_ns.saturating_add(quota.other_throttled_ns))
        };
        if let Some(after) = throttled(&self.sample) {
            let since = throttled(&self.before).map_or(0, |before| after.saturating_sub(before));
            *self.kernel_ns.get_or_insert(0) += since;
        }
        let cpus = match self.sample.cores.len() {
            0 => parallelism,
            cores => cores,
        };
        Seen {
            usage: flyball_sense::usage(&self.before, &self.sample),
            quota: self.sample.quota.map(|quota| quota.cpus),
            cpus: cpus as f64,
            classes,
            commands,
            kernel_ns: self.kernel_ns,
        }
    }
}

/// CPUs' worth of time that each has used since the last reading, which is replaced by this one.
fn spent(
    before: &mut BTreeMap<String, u64>,
    mut times: BTreeMap<String, u64>,
    passed: u64,
) -> BTreeMap<String, f64> {
    let spent = times.iter_mut().map(|(name, used)| {
        let before = before.get(name).copied().unwrap_or(*used);
        *used = before.max(*used);
        let cpus = (*used - before) as f64 / passed.max(1) as f64;
        (name.clone(), cpus)
    });
    let spent = spent.collect();
    *before = times;
    spent
}

/// CPU time of commands by class, and which runners tell it; 0 stands for none.
#[cfg(feature = "tasks")]
fn commands_cpu(shared: &Shared) -> (usize, BTreeMap<String, u64>) {
    shared.tasks.opened().map_or_else(Default::default, |open| {
        let runners = std::sync::Arc::as_ptr(&open) as usize;
        (runners, open.runners.commands_cpu())
    })
}

#[cfg(not(feature = "tasks"))]
fn commands_cpu(_: &Shared) -> (usize, BTreeMap<String, u64>) {
    (0, BTreeMap::new())
}

impl Seen {
    /// CPUs' worth of time that percentages of a scope are of; None where there is no such thing.
    pub(super) fn whole(&self, scope: &Scope) -> Option<f64> {
        match scope {
            Scope::Quota => self.quota.filter(|cpus| *cpus > 0.0),
            _ => Some(self.cpus),
        }
    }

    pub(super) fn of_scope(&self, scope: &Scope) -> Option<f64> {
        let whole = self.whole(scope)?;
        match scope {
            Scope::Machine => Some(self.usage.cpu?.overall_percent),
            Scope::Process => Some(self.own()? / whole * 100.0),
            Scope::Quota => {
                // Others of the group may have spent it.
                let spent = self.usage.throttled_ratio.is_some_and(|ratio| ratio > 0.0);
                let used = self.own()? / whole * 100.0;
                Some(if spent { 100.0 } else { used })
            }
            Scope::Class(name) => {
                let commands = self.commands.get(name).copied().unwrap_or(0.0);
                Some((self.classes.get(name)? + commands) / whole * 100.0)
            }
        }
    }

    /// CPUs' worth of time of this process and of the commands that it runs.
    fn own(&self) -> Option<f64> {
        Some(self.usage.process_cpus? + self.commands.values().sum::<f64>())
    }

    /// CPUs' worth of time of classes: on workers, and of commands.
    pub(super) fn of_classes(&self, names: &[String]) -> (f64, f64) {
        let of =
            |used: &BTreeMap<String, f64>| names.iter().filter_map(|name| used.get(name)).sum();
        (of(&self.classes), of(&self.commands))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CPU-31: of a quota counts what this process and its commands have used of it; all of it where the kernel throttled, as others of the group may
    /// have spent it.
    #[test]
    fn use_of_a_quota_is_a_part_of_it() {
        let mut seen = Seen {
            usage: Usage::default(),
            quota: Some(0.5),
            cpus: 2.0,
            classes: BTreeMap::new(),
            commands: BTreeMap::from([("batch".to_owned(), 0.2)]),
            kernel_ns: Some(0),
        };
        assert_eq!(seen.of_scope(&Scope::Quota), None);
        seen.usage.process_cpus = Some(0.28);
        seen.usage.throttled_ratio = Some(0.0);
        let percent = |seen: &Seen| seen.of_scope(&Scope::Quota).map(|used| used.round());
        assert_eq!(percent(&seen), Some(96.0));
        seen.usage.throttled_ratio = Some(0.1);
        assert_eq!(percent(&seen), Some(100.0));
        seen.quota = None;
        assert_eq!((percent(&seen), seen.whole(&Scope::Quota)), (None, None));
    }
}
