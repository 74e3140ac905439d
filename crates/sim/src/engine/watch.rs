//! What watches over a run: samples, rebalancing, switches in the middle, the checks, the report.

use flyball_core::class::Group;
use flyball_core::id::ClassId;
use flyball_policy::sched::place;

use super::{Engine, SAMPLE_NS, slot};
use crate::Error;
use crate::config::SwitchTo;
use crate::queue::ClassQueue;
use crate::report::{Balance, ClassReport, Quantiles, Report};

impl Engine<'_> {
    pub(super) fn sample(&mut self) -> Result<(), Error> {
        self.next_sample_ns += SAMPLE_NS;
        let variance = self.placement.sample(&mut self.cpus);
        self.load_variance.add(variance);
        if let Some(limit) = self.config.rebalance_above {
            self.rebalance(limit)?;
        }
        Ok(())
    }

    /// Moves queued tasks so that the lengths of the workers' queues differ by at most one, in each group.
    pub(super) fn rebalance(&mut self, variance: f64) -> Result<(), Error> {
        for group in [Group::Front, Group::Back] {
            for step in self.placement.rebalance(slot(group), variance) {
                let (from, to) = (step.from, step.to);
                for _ in 0..step.count {
                    let held = self.cpus[from].own & self.group_classes[slot(group)];
                    let Some(class) = held.first() else { break };
                    let Some(index) = self.queues[class.index()].pop_tagged_last(from) else {
                        return Err(self.broken("a worker is said to have tags that it lacks"));
                    };
                    self.after_untag(class, from);
                    let task = &mut self.tasks[index as usize];
                    task.placed = to as u32;
                    let (holder, memory) =
                        (std::mem::replace(&mut task.holder, to as u32), task.memory);
                    self.hold(holder, to as u32, memory);
                    self.placement.tagged(to, slot(group));
                    self.queues[class.index()].push_tagged(to, index);
                    self.cpus[to].own.insert(class);
                    self.moved += 1;
                }
                if self.is_free(to, group) {
                    self.start(to, group)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn switch_if_due(&mut self) {
        while let Some(switch) = self.config.switches.get(self.switches_done)
            && switch.after_tasks < self.arrived
        {
            self.switches_done += 1;
            match switch.to {
                SwitchTo::Algorithm(algorithm) => {
                    self.algorithm = algorithm;
                    self.scheduler.set_algorithm(self.time(), algorithm);
                    self.windows.spoil();
                    for class in 0..self.queues.len() {
                        for task in self.queues[class].drain_ordered() {
                            self.enqueue_untagged(task);
                        }
                    }
                }
                SwitchTo::Strategy(strategy) => self.placement.set_strategy(strategy),
            }
        }
    }

    pub(super) fn check_nobody_idles(&self) -> Result<(), Error> {
        for group in [Group::Front, Group::Back] {
            let open = self.shared & self.group_classes[slot(group)];
            let free =
                !self.idle.is_empty() || (group == Group::Front && !self.running_back.is_empty());
            if free && !open.is_empty() && !self.told_to_wait(group) {
                return Err(self.broken("a worker is idle beside queued work"));
            }
        }
        Ok(())
    }

    pub(super) fn check_conservation(&self) -> Result<(), Error> {
        let completed: u64 = self.metrics.iter().map(|class| class.completed).sum();
        let refused: u64 = self.metrics.iter().map(|class| class.refused).sum();
        let marked: u64 = self
            .ended
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum();
        let queued: usize = self.queues.iter().map(ClassQueue::len).sum();
        if completed + refused != self.config.tasks || marked != completed || queued != 0 {
            return Err(self.broken("tasks that arrived and tasks that ended differ"));
        }
        Ok(())
    }

    pub(super) fn report(&self) -> Report {
        let span = self.now.max(1) as f64;
        let busy: Vec<f64> = self
            .cpus
            .iter()
            .map(|cpu| cpu.busy_ns as f64 / span)
            .collect();
        let mean = busy.iter().sum::<f64>() / busy.len() as f64;
        let service: u64 = self.metrics.iter().map(|class| class.service_ns).sum();
        let classes = self
            .metrics
            .iter()
            .zip(&self.config.classes)
            .zip(0..)
            .map(|((metrics, spec), index)| {
                let stats = self.scheduler.stats(ClassId::new(index));
                ClassReport {
                    name: spec.name.clone(),
                    group: spec.group.to_string(),
                    arrived: metrics.arrived,
                    refused: metrics.refused,
                    completed: metrics.completed,
                    failed_attempts: metrics.failed_attempts,
                    service_ns: metrics.service_ns,
                    share: metrics.service_ns as f64 / service.max(1) as f64,
                    grants: stats.map_or(0, |stats| stats.grants),
                    preemptions: metrics.preemptions,
                    ageing: stats.map_or(0, |stats| stats.ageings),
                    wait: Quantiles::of(&metrics.wait),
                    latency: Quantiles::of(&metrics.latency),
                }
            })
            .collect();
        Report {
            algorithm: self.algorithm.to_string(),
            strategy: self.placement.strategy().to_string(),
            workers: self.config.workers,
            seed: self.config.seed,
            simulated_ns: self.now,
            arrived: self.arrived,
            refused: self.metrics.iter().map(|class| class.refused).sum(),
            completed: self.metrics.iter().map(|class| class.completed).sum(),
            waits: self.waits,
            fairness: self.windows.fairness(&self.config.classes),
            balance: Balance {
                utilisation: mean,
                utilisation_min: busy.iter().copied().fold(f64::INFINITY, f64::min),
                utilisation_max: busy.iter().copied().fold(0.0, f64::max),
                utilisation_variance: place::variance(&busy),
                jain: place::jain(&busy),
                load_variance: self.load_variance.mean(),
                load_variance_max: self.load_variance.max(),
                steals: self.steals,
                moved: self.moved,
                cold_starts: self.cold_starts,
                overcommitted: self.overcommitted,
            },
            latency: Quantiles::of(&self.latency),
            classes,
        }
    }
}
