//! The CPUs: now, over the history, and how well all is.

use crate::Engine;
use crate::error::Error;
use crate::health;
use crate::snapshot::Snapshot;
use crate::usage;
use crate::view::{CoreView, CpuHealth, CpuProfile, CpuStatus, PartFlag, PressureView, UsageStats};
use flyball_executor::{Stats, WorkerState, WorkerStatus};

impl Engine {
    /// The CPUs over the last sampling interval; None before the first interval has passed.
    ///
    /// # Errors
    /// [`Error::Off`] while monitoring is switched off.
    pub fn cpu_profile(&self) -> Result<Option<CpuProfile>, Error> {
        self.monitoring()?;
        Ok(self
            .shared
            .history
            .last()
            .map(|snapshot| snapshot.profile()))
    }

    /// The newest `limit` profiles of the history, newest last.
    ///
    /// # Errors
    /// [`Error::Off`] while monitoring is switched off.
    pub fn cpu_history(&self, limit: usize) -> Result<Vec<CpuProfile>, Error> {
        self.monitoring()?;
        let newest = self.shared.history.newest(limit);
        Ok(newest.iter().map(|snapshot| snapshot.profile()).collect())
    }

    /// CPU use over the history.
    ///
    /// # Errors
    /// [`Error::Off`] while monitoring is switched off.
    pub fn usage_stats(&self) -> Result<UsageStats, Error> {
        self.monitoring()?;
        Ok(usage::stats(&self.shared.history.readings()))
    }

    fn monitoring(&self) -> Result<(), Error> {
        if self.shared.samples_cpu() {
            Ok(())
        } else {
            Err(Error::Off {
                part: "monitoring of the CPUs",
                setting: "monitor.enabled with monitor.cpu.enabled",
            })
        }
    }

    /// A flag and a line for each part that has to do with the CPUs.
    pub fn cpu_status(&self) -> CpuStatus {
        self.cpu_status_of(&self.shared.executor.stats())
    }

    pub(crate) fn cpu_status_of(&self, stats: &Stats) -> CpuStatus {
        let config = self.config();
        let flag = |part: &str, enabled: bool, detail: String| PartFlag {
            part: part.to_owned(),
            enabled,
            detail,
        };
        let lacking = |part: &str, what: &str| {
            flag(
                part,
                false,
                format!("unavailable: this build has no {what}"),
            )
        };
        let profiling = match (self.shared.samples_cpu(), self.shared.lacks().as_slice()) {
            (false, _) => "off".to_owned(),
            (true, []) => format!("each {:?}", config.monitor.collection_interval),
            (true, lacks) => format!(
                "each {:?}; not on this machine: {}",
                config.monitor.collection_interval,
                lacks.join("; ")
            ),
        };
        let tuning = lacking("parallelism_optimization", "optimizer");
        let allocator = lacking("allocator_optimization", "optimizer");
        let tasks = lacking("task_optimization", "optimizer");
        let renamed = |flag: &PartFlag, part: &str| PartFlag {
            part: part.to_owned(),
            ..flag.clone()
        };
        CpuStatus {
            cpu_profiling: flag("cpu_profiling", self.shared.samples_cpu(), profiling),
            load_balancing: flag(
                "load_balancing",
                config.load_balancer.enabled,
                format!(
                    "strategy {}, {} rebalances",
                    stats.strategy, stats.rebalances
                ),
            ),
            cpu_scheduling: flag(
                "cpu_scheduling",
                config.cpu_scheduler.enabled,
                format!(
                    "algorithm {}, {} of {} workers run",
                    stats.algorithm, stats.running, stats.parallelism
                ),
            ),
            cpu_throttling: self.throttling_flag(),
            gomaxprocs_optimization: renamed(&tuning, "gomaxprocs_optimization"),
            gc_optimization: renamed(&allocator, "gc_optimization"),
            goroutine_optimization: renamed(&tasks, "goroutine_optimization"),
            parallelism_optimization: tuning,
            allocator_optimization: allocator,
            task_optimization: tasks,
        }
    }

    fn throttling_flag(&self) -> PartFlag {
        let stats = self.shared.throttler_stats();
        let detail = match (stats.enabled, stats.throttles) {
            (false, _) => "off".to_owned(),
            (true, 0) => "no throttle is set".to_owned(),
            (true, _) => {
                let one = |throttle: &crate::view::ThrottleView| {
                    format!(
                        "{} {} at {}%",
                        throttle.name, throttle.state, throttle.threshold_percent
                    )
                };
                let all: Vec<String> = self.shared.throttle_views().iter().map(one).collect();
                all.join(", ")
            }
        };
        PartFlag {
            part: "cpu_throttling".to_owned(),
            enabled: stats.enabled && stats.throttles > 0,
            detail,
        }
    }

    /// How well the engine is, and why it is not better.
    pub fn health(&self) -> CpuHealth {
        let executor = &self.shared.executor;
        self.health_of(&executor.stats(), &executor.workers())
    }

    pub(crate) fn health_of(&self, stats: &Stats, workers: &[WorkerStatus]) -> CpuHealth {
        let shared = &self.shared;
        let alive = |worker: &&WorkerStatus| worker.state != WorkerState::Stopped;
        let last = shared.history.last();
        let work = last.as_ref().map(|snapshot| &snapshot.work);
        let sample = shared.samples().then(|| {
            let since = last.as_ref().map_or(shared.started, |snapshot| snapshot.at);
            (
                shared.now().duration_since(since),
                shared.config().monitor.collection_interval,
            )
        });
        health::judge(&health::Inputs {
            workers: workers
                .iter()
                .filter(alive)
                .map(|worker| worker.health.score)
                .collect(),
            stuck: workers
                .iter()
                .filter(|worker| worker.state == WorkerState::Stuck)
                .count(),
            waits: stats
                .classes
                .iter()
                .filter(|class| !class.paused)
                .filter_map(|class| {
                    Some((
                        class.name.clone(),
                        class.oldest_wait?,
                        class.spec.latency_target,
                    ))
                })
                .collect(),
            refused: work.map_or(0, |work| work.refused),
            ended: work.map_or(0, |work| work.ended),
            unregulated: !self.control.is_alive(),
            sample,
        })
    }
}

impl Snapshot {
    /// Overall CPU use, percent.
    pub(crate) fn overall(&self) -> Option<f64> {
        self.usage.cpu.map(|cpu| cpu.overall_percent)
    }

    pub(crate) fn cores(&self) -> Vec<(u32, Option<f64>)> {
        let core = |core: &flyball_sense::CoreUsage| (core.cpu, core.busy_percent);
        self.usage.per_core.iter().map(core).collect()
    }

    /// What people are shown of it.
    pub fn profile(&self) -> CpuProfile {
        let (usage, sample, cpu) = (&self.usage, &self.sample, self.usage.cpu);
        CpuProfile {
            timestamp: self.time,
            interval_ms: self.interval.as_millis() as u64,
            overall_percent: cpu.map(|cpu| cpu.overall_percent),
            user_percent: cpu.map(|cpu| cpu.user_percent),
            system_percent: cpu.map(|cpu| cpu.system_percent),
            idle_percent: cpu.map(|cpu| cpu.idle_percent),
            iowait_percent: cpu.map(|cpu| cpu.iowait_percent),
            steal_percent: cpu.map(|cpu| cpu.steal_percent),
            per_core_percent: usage
                .per_core
                .iter()
                .map(|core| core.busy_percent)
                .collect(),
            per_core: self
                .cores()
                .into_iter()
                .map(|(cpu, busy_percent)| CoreView { cpu, busy_percent })
                .collect(),
            load1: sample.load.map(|load| load.one),
            load5: sample.load.map(|load| load.five),
            load15: sample.load.map(|load| load.fifteen),
            cores: (!sample.cores.is_empty()).then_some(sample.cores.len() as u32),
            parallelism: self.work.parallelism as u32,
            tasks: self.work.queued + self.work.running + self.work.waiting_futures,
            threads: sample.process.and_then(|process| process.threads),
            process_percent: usage.process_percent,
            process_cpus: usage.process_cpus,
            context_switches_per_second: usage.context_switches_per_second,
            voluntary_context_switches_per_second: usage.voluntary_switches_per_second,
            involuntary_context_switches_per_second: usage.involuntary_switches_per_second,
            pressure: sample.cpu_pressure.map(|pressure| PressureView {
                some_avg10: pressure.some.avg10,
                full_avg10: pressure.full.map(|full| full.avg10),
            }),
            quota_cpus: sample.quota.map(|quota| quota.cpus),
            throttled_percent: usage.throttled_ratio.map(|ratio| ratio * 100.0),
            throttled_cpus: usage.throttled_cpus,
        }
    }
}
