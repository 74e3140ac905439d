//! The control loop: looks at the machine and the executor, lets controllers propose, has the arbiter decide.
//!
//! One thread. It looks once a sampling interval, and steps each controller at the controller's own period; between two looks it
//! sleeps. Where nothing is sampled and nothing is regulated, it looks each `worker_pool.health_check_interval`: what happens to workers
//! is told all the same.

use crate::config::Config;
use crate::events::EventKind;
use crate::shared::{Shared, Woken};
use crate::snapshot::{Snapshot, Work};
use crate::throttles::Watch;
use crate::view::Time;
use crate::{answers, settings};
use flyball_core::class::Group;
use flyball_core::time::Timestamp;
use flyball_executor::{ClassStats, Stats, WorkerState};
use flyball_policy::control::{Controller, Proposal};
use flyball_policy::sched::pool::{PoolView, Sizer};
use flyball_sense::{Readings, Root, Sample, Sensors};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// The loop's own state.
pub(crate) struct Loop {
    shared: Arc<Shared>,
    root: Root,
    /// None while nothing is sampled.
    sensing: Option<Sensing>,
    /// Empty while nothing is regulated.
    pools: Vec<Pool>,
    /// The pool has the size that it has while nothing regulates it.
    plain: bool,
    throttles: Watch,
    /// When the gates are next looked at.
    limits_due: Timestamp,
    health: HealthCheck,
    /// The number of the executor's last event that was passed on.
    events_seen: Option<u64>,
}

/// The verdicts on the workers' health, renewed each `worker_pool.health_check_interval`.
struct HealthCheck {
    interval: Duration,
    due: Timestamp,
    /// The workers that were not healthy at the last look.
    ill: BTreeSet<u16>,
}

struct Sensing {
    sensors: Sensors,
    before: Sample,
    sample: Sample,
    stats: Option<Stats>,
    interval: Duration,
    due: Timestamp,
}

/// The size of one group.
struct Pool {
    group: Group,
    controller: Sizer,
    due: Timestamp,
    last: Option<Seen>,
    /// What each class had refused at the last look.
    refused: BTreeMap<String, u64>,
}

/// What a group had done at a moment.
#[derive(Clone, Copy)]
struct Seen {
    at: Timestamp,
    busy_ns: u64,
    ended: u64,
}

/// Runs until the engine ends.
pub(crate) fn run(shared: Arc<Shared>, root: Root) {
    let mut this = Loop {
        shared,
        throttles: Watch::new(root.clone()),
        root,
        sensing: None,
        pools: Vec::new(),
        limits_due: Timestamp::MAX,
        plain: false,
        health: HealthCheck {
            interval: Duration::MAX,
            due: Timestamp::MAX,
            ill: BTreeSet::new(),
        },
        events_seen: None,
    };
    this.configure();
    loop {
        match this.shared.wait_until(this.due()) {
            Woken::Stop => {
                this.pass_events_on();
                return;
            }
            Woken::Changed => this.configure(),
            Woken::Due | Woken::Nudged => {}
        }
        // Also after a change or a nudge: whoever makes them all the time must not keep the loop from looking.
        if this.due() <= this.shared.now() {
            this.look();
        }
        this.shared.ticks.fetch_add(1, Relaxed);
    }
}

impl Loop {
    /// Starts and stops what the configuration says.
    fn configure(&mut self) {
        let config = self.shared.config();
        let now = self.shared.now();
        if !self.shared.samples() {
            self.sensing = None;
            self.shared.history.clear();
            self.shared.set_lacks(Vec::new());
        } else if let Some(sensing) = &mut self.sensing {
            sensing.interval = config.monitor.collection_interval;
            sensing.due = sensing.due.min(now.saturating_add(sensing.interval));
        } else {
            self.sensing = Some(self.start_sensing(&config, now));
        }
        let interval = config.worker_pool.health_check_interval;
        let due = now.saturating_add(interval);
        if self.health.interval != interval {
            (self.health.interval, self.health.due) = (interval, due);
        }
        self.throttles.configure(&self.shared);
        self.limits_due = self.shared.look_at_limits(now);
        let was_plain = std::mem::replace(&mut self.plain, !config.performance.enabled);
        if self.plain {
            self.pools.clear();
            for group in [Group::Front, Group::Back] {
                self.shared.set_sizer_state(group, None);
            }
            if !was_plain {
                self.shared.make_plain();
            }
        } else if self.pools.is_empty() {
            let pool = |group| Pool {
                group,
                controller: settings::pool_controller(&self.shared, &config, group),
                due: now,
                last: None,
                refused: BTreeMap::new(),
            };
            self.pools = [Group::Front, Group::Back].map(pool).into();
        } else {
            self.configure_pools(&config);
        }
    }

    fn configure_pools(&mut self, config: &Config) {
        let parallelism = self.shared.executor.stats().parallelism;
        for pool in &mut self.pools {
            let settings = settings::pool(config, pool.group, parallelism, self.shared.cpus);
            // Other settings begin all delays anew; a controller of another kind looks at once.
            let sizing = config.worker_pool.sizing;
            if pool.controller.sizing() != sizing {
                pool.due = self.shared.now();
            }
            pool.controller.set(sizing, settings);
            let state = pool.controller.state();
            self.shared.set_sizer_state(pool.group, Some(state));
        }
    }

    /// The first sample: figures come from the second on.
    fn start_sensing(&self, config: &Config, now: Timestamp) -> Sensing {
        let mut sensing = Sensing {
            sensors: Sensors::open(&self.root),
            before: Sample::default(),
            sample: Sample::default(),
            stats: None,
            interval: config.monitor.collection_interval,
            due: now.saturating_add(config.monitor.collection_interval),
        };
        sensing.read(config, now);
        sensing.stats = Some(self.shared.executor.stats());
        let lacks = sensing.sensors.unavailable().iter();
        let sentence =
            |lack: &flyball_sense::Unavailable| format!("{}: {}", lack.what, lack.reason);
        self.shared.set_lacks(lacks.map(sentence).collect());
        sensing
    }

    fn due(&self) -> Timestamp {
        let sensing = self.sensing.iter().map(|sensing| sensing.due);
        let pools = self.pools.iter().map(|pool| pool.due);
        let others = sensing.chain(pools).min();
        let others = others.unwrap_or(Timestamp::MAX);
        let regulated = self.throttles.due.min(self.limits_due);
        others.min(self.health.due).min(regulated)
    }

    /// One look: what is due is done.
    fn look(&mut self) {
        let now = self.shared.now();
        let stats = self.shared.executor.stats();
        if let Some(sensing) = &mut self.sensing
            && sensing.due <= now
        {
            sensing.sample(&self.shared, now, &stats);
        }
        if self.shared.follow_parallelism(stats.parallelism) {
            self.shared.set_pool_bounds();
            let config = self.shared.config();
            self.configure_pools(&config);
        }
        if self.throttles.due <= now {
            self.throttles.look(&self.shared, now, &stats);
        }
        if self.limits_due <= now {
            self.limits_due = self.shared.look_at_limits(now);
        }
        let due = self.pools.iter().any(|pool| pool.due <= now);
        if due {
            let proposals: Vec<Proposal> = self
                .pools
                .iter_mut()
                .filter(|pool| pool.due <= now)
                .filter_map(|pool| pool.step(now, &stats, &self.shared))
                .collect();
            self.shared.decide(proposals);
        }
        if self.health.due <= now {
            self.health.look(&self.shared, now);
        }
        self.pass_events_on();
    }

    /// Tells log and stream what happened to workers.
    fn pass_events_on(&mut self) {
        for event in self.shared.executor.events_after(self.events_seen) {
            self.events_seen = Some(event.number);
            let view = answers::event(&event);
            tracing::info!(
                worker = view.worker.as_deref(),
                kind = view.kind.as_str(),
                "{}{}: {}",
                view.worker
                    .iter()
                    .map(|worker| format!("worker {worker} "))
                    .collect::<String>(),
                view.kind,
                view.reason
            );
            self.shared.tell(EventKind::Worker, &view);
        }
    }
}

impl HealthCheck {
    /// Tells log and stream which workers fell ill and which are well again.
    fn look(&mut self, shared: &Shared, now: Timestamp) {
        self.due = now.saturating_add(self.interval);
        let workers = shared.executor.workers();
        let here = workers
            .iter()
            .filter(|worker| worker.state != WorkerState::Stopped);
        let mut ill = BTreeSet::new();
        for worker in here {
            let health = &worker.health;
            if !health.is_healthy() {
                ill.insert(worker.id);
            }
            if health.is_healthy() != self.ill.contains(&worker.id) {
                continue;
            }
            let (kind, reason) = if health.is_healthy() {
                ("healthy", format!("health is {:.2} again", health.score))
            } else {
                let score = health.score;
                let because = health.worst().unwrap_or("nothing");
                let reason = format!(
                    "health fell to {score:.2}, mostly for its {because}; it counts as no capacity"
                );
                ("unhealthy", reason)
            };
            let worker = worker.id.to_string();
            tracing::info!(worker, kind, "{reason}");
            let event = serde_json::json!({ "worker": worker, "kind": kind, "reason": reason });
            shared.tell(EventKind::Worker, &event);
        }
        self.ill = ill;
    }
}

impl Sensing {
    /// Reads what the configuration asks for.
    fn read(&mut self, config: &Config, now: Timestamp) {
        let (cpu, memory) = (config.monitor.cpu.enabled, config.monitor.memory.enabled);
        let mut wanted = Readings::PROCESS | Readings::PRESSURE | Readings::CGROUP;
        if cpu {
            wanted = wanted | Readings::CPU | Readings::LOAD;
        }
        if memory {
            wanted = wanted | Readings::MEMORY;
        }
        self.sensors.sample_only(wanted, now, &mut self.sample);
        let sample = &mut self.sample;
        if !cpu {
            (sample.quota, sample.cpu_pressure) = (None, None);
        }
        if !memory {
            (sample.cgroup_memory, sample.memory_pressure) = (None, None);
            if let Some(process) = &mut sample.process {
                (process.resident_bytes, process.virtual_bytes) = (None, None);
            }
        }
    }

    fn sample(&mut self, shared: &Shared, now: Timestamp, stats: &Stats) {
        let config = shared.config();
        std::mem::swap(&mut self.before, &mut self.sample);
        self.read(&config, now);
        let interval = now.duration_since(self.before.at);
        let snapshot = Arc::new(Snapshot {
            at: now,
            time: Time::now(),
            interval,
            usage: flyball_sense::usage(&self.before, &self.sample),
            sample: self.sample.clone(),
            work: Work::between(self.stats.as_ref(), stats, interval),
        });
        self.stats = Some(stats.clone());
        shared.history.push(snapshot.clone());
        if shared.events.is_followed() && config.monitor.cpu.enabled {
            shared.tell(EventKind::Sample, &snapshot.profile());
        }
        // From one multiple of the interval to the next; what was missed (the machine slept) is not made up for.
        self.due = self.due.saturating_add(self.interval);
        if self.due <= now {
            self.due = now.saturating_add(self.interval);
        }
    }
}

impl Pool {
    fn step(&mut self, now: Timestamp, stats: &Stats, shared: &Shared) -> Option<Proposal> {
        self.due = now.saturating_add(self.controller.period());
        let group = stats.group(self.group);
        let seen = Seen {
            at: now,
            busy_ns: group.busy_ns,
            ended: self.classes(stats).map(|class| class.counts.tasks).sum(),
        };
        let held = shared.held_classes();
        // What is held back does not wait for want of workers, nor is it refused for that.
        let counts = |class: &ClassStats| !class.paused && !held.contains(&class.name);
        let refused = self.refused(stats, counts);
        let last = self.last.replace(seen)?;
        let passed = now.saturating_nanos_since(last.at);
        if passed == 0 {
            return None;
        }
        let knobs = shared.knobs();
        let knob = knobs.of(self.group);
        let wanted = knobs.arbiter.value(knob) as u32;
        drop(knobs);
        let view = PoolView {
            workers: wanted,
            healthy: group.healthy as u32,
            busy: seen.busy_ns.saturating_sub(last.busy_ns) as f64 / passed as f64,
            backlog: self
                .classes(stats)
                .filter(|class| counts(class))
                .map(|class| class.queued as u64)
                .sum(),
            ran: seen.ended.saturating_sub(last.ended) as f64,
            refused: refused as f64,
            parallelism: stats.parallelism as u32,
            idle_longest: group.idle_longest,
        };
        let proposal = self.controller.step(now, &view);
        shared.set_sizer_state(self.group, Some(self.controller.state()));
        proposal
    }

    /// Returns how many tasks the classes that count have refused since the last look.
    fn refused(&mut self, stats: &Stats, counts: impl Fn(&ClassStats) -> bool) -> u64 {
        let before = std::mem::take(&mut self.refused);
        let mut refused = 0;
        for class in self.classes(stats) {
            let known = before.get(&class.name).copied();
            // A class of the same name that was made anew counts from zero; one that was not known may have refused in another group.
            if counts(class) {
                refused += class.refused.saturating_sub(known.unwrap_or(class.refused));
            }
            self.refused.insert(class.name.clone(), class.refused);
        }
        refused
    }

    fn classes<'a>(&self, stats: &'a Stats) -> impl Iterator<Item = &'a ClassStats> + use<'a> {
        let group = self.group;
        stats
            .classes
            .iter()
            .filter(move |class| class.spec.group == group)
    }
}
