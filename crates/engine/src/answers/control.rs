//! Decisions, knobs, limits, sizes, and the whole at a glance.

use crate::Engine;
use crate::answers::work::ScaleRequest;
use crate::config::{self, Loaded};
use crate::error::Error;
#[cfg(feature = "tasks")]
use crate::health;
use crate::knobs;
use crate::view::{
    CpuHealth, DecisionView, KnobView, LimitView, PartFlag, PartHealth, StatusView, Time,
    Utilisation,
};
use flyball_core::class::{ClassSpec, Group};
use flyball_executor::{Stats, WorkerState};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Which decisions to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DecisionQuery {
    /// Only those of this part.
    pub part: Option<String>,
    /// Only those made after the one of this number.
    pub after: Option<u64>,
    /// Only those not made before.
    pub since: Option<Time>,
}

impl Engine {
    /// What was decided, oldest first, at most `limit`.
    pub fn decisions(&self, query: &DecisionQuery, limit: usize) -> Vec<DecisionView> {
        self.shared
            .decisions
            .list(query.part.as_deref(), query.after, query.since, limit)
    }

    /// The knobs.
    pub fn knobs(&self) -> Vec<KnobView> {
        self.shared.knob_views()
    }

    /// Holds a knob at a value, for a person, until it is unpinned.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Conflict`] with the reason for which it was refused.
    pub fn pin(&self, knob: &str, value: f64, who: &str) -> Result<DecisionView, Error> {
        let id = self.knob(knob)?;
        let counts = self.shared.knobs().arbiter.get(id).spec().unit == "workers";
        if counts && value.fract() != 0.0 {
            return Err(Error::Invalid {
                field: "value",
                found: value.to_string(),
                expected: "a whole number of workers".to_owned(),
            });
        }
        settle(self.shared.pin(id, value, who))
    }

    /// Gives a knob back to its controllers.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Conflict`] when nobody had pinned it.
    pub fn unpin(&self, knob: &str, who: &str) -> Result<DecisionView, Error> {
        let id = self.knob(knob)?;
        match self.shared.unpin(id, who) {
            (true, decision) => settle(decision),
            (false, _) => Err(Error::Conflict(format!("nobody has pinned {knob}"))),
        }
    }

    fn knob(&self, name: &str) -> Result<flyball_policy::control::KnobId, Error> {
        let knobs = self.shared.knobs();
        match knobs.arbiter.knob(name) {
            Some(knob) => Ok(knob.id()),
            None => Err(Error::Unknown {
                what: "knob",
                name: name.to_owned(),
                known: format!(
                    "; there are {}",
                    knobs
                        .arbiter
                        .knobs()
                        .map(|knob| knob.name())
                        .collect::<Vec<_>>()
                        .join(", ")
                ),
            }),
        }
    }

    /// Sizes a group of workers: a target is held until it is given back, bounds are settings of the pool.
    ///
    /// # Errors
    /// Values out of range or that contradict each other; nothing has changed then.
    pub fn scale(
        &self,
        group: Group,
        request: ScaleRequest,
        who: &str,
    ) -> Result<Vec<DecisionView>, Error> {
        let mut pool = Map::new();
        for (key, value) in [("min_workers", request.min), ("max_workers", request.max)] {
            if let Some(value) = value {
                pool.insert(key.to_owned(), value.into());
            }
        }
        if pool.is_empty() && request.target.is_none() {
            return Err(Error::Invalid {
                field: "target",
                found: "nothing".to_owned(),
                expected: "target, min or max".to_owned(),
            });
        }
        let name = match group {
            Group::Front => knobs::FRONT,
            Group::Back => knobs::BACK,
        };
        let changing = self.changing();
        if let Some(target) = request.target {
            self.fits(group, target, &request)?;
        }
        let before = self.configuration();
        if !pool.is_empty() {
            changing.configure(&json!({ "worker_pool": Value::Object(pool) }), who, false)?;
        }
        let Some(target) = request.target else {
            return Ok(Vec::new());
        };
        match self.pin(name, f64::from(target), who) {
            Ok(decision) => Ok(vec![decision]),
            Err(error) => {
                changing.restore(&before, who)?;
                Err(error)
            }
        }
    }

    /// Checks a target against the bounds that will hold, before any of them changes.
    fn fits(&self, group: Group, target: u32, request: &ScaleRequest) -> Result<(), Error> {
        let mut config = (*self.config()).clone();
        let pool = &mut config.worker_pool;
        pool.min_workers = request.min.unwrap_or(pool.min_workers);
        pool.max_workers = request.max.unwrap_or(pool.max_workers);
        let parallelism = self.shared.executor.stats().parallelism;
        let range = crate::settings::range(&config, group, parallelism, self.shared.cpus);
        if (range.min..=range.max).contains(&(target as usize)) {
            Ok(())
        } else {
            Err(Error::Invalid {
                field: "target",
                found: target.to_string(),
                expected: format!("{} to {}", range.min, range.max),
            })
        }
    }

    /// Lets a worker finish its task and ends its thread; its group keeps one worker less until it is unpinned.
    ///
    /// # Errors
    /// [`Error::Unknown`]; the group is as small as it may be.
    pub fn drain_worker(&self, id: &str, who: &str) -> Result<DecisionView, Error> {
        let number = self.worker_number(id)?;
        let workers = self.shared.executor.workers();
        let group = workers
            .iter()
            .find(|worker| worker.id == number)
            .map_or(Group::Back, |worker| worker.group);
        settle(self.shared.pin_without(group, number, who))
    }

    /// Holds a class back: what is queued stays queued, nothing of it starts.
    ///
    /// # Errors
    /// The executor's, when there is no such class.
    pub fn pause_class(&self, name: &str, who: &str) -> Result<(), Error> {
        self.shared.executor.pause_class(name)?;
        tracing::info!(who, class = name, "class paused");
        Ok(())
    }

    /// Lets a class run again.
    ///
    /// # Errors
    /// The executor's, when there is no such class.
    pub fn resume_class(&self, name: &str, who: &str) -> Result<(), Error> {
        self.shared.executor.resume_class(name)?;
        tracing::info!(who, class = name, "class resumed");
        Ok(())
    }

    /// Creates a class: the fields of `classes` in the configuration. What it does not say is as in `normal`.
    ///
    /// # Errors
    /// [`Error::Exists`]; [`Error::Config`] with everything that is wrong. Nothing has changed then.
    pub fn create_class(&self, fields: &Map<String, Value>, who: &str) -> Result<(), Error> {
        let name = match fields.get("name") {
            None => "",
            Some(Value::String(name)) => name,
            // A file may leave out the quotes of `name: 1`; JSON tells a number from a name.
            Some(other) => {
                return Err(Error::Invalid {
                    field: "name",
                    found: other.to_string(),
                    expected: "a text".to_owned(),
                });
            }
        };
        let changing = self.changing();
        let exists = self.shared.executor.class(name).is_ok();
        if exists {
            return Err(Error::Exists {
                what: "class",
                name: name.to_owned(),
            });
        }
        let mut classes = class_maps(&self.configuration());
        classes.push(fields.clone());
        changing.configure(&json!({ "classes": classes }), who, false)?;
        Ok(())
    }

    /// Changes fields of a class; the others stay. A null takes back what is said of a field.
    ///
    /// # Errors
    /// There is no such class; [`Error::Config`] with everything that is wrong. Nothing has changed then.
    pub fn change_class(
        &self,
        name: &str,
        fields: &Map<String, Value>,
        who: &str,
    ) -> Result<(), Error> {
        let changing = self.changing();
        self.class(name)?;
        if let Some(other) = fields.get("name")
            && other.as_str() != Some(name)
        {
            return Err(Error::Invalid {
                field: "name",
                found: other.to_string(),
                expected: format!("{name:?}, or nothing: a class keeps its name"),
            });
        }
        let mut classes = class_maps(&self.configuration());
        let known =
            |map: &Map<String, Value>| map.get("name").and_then(Value::as_str) == Some(name);
        match classes.iter_mut().find(|map| known(map)) {
            Some(map) => patch(map, fields),
            None if is_built_in(name) => {
                let mut map = Map::new();
                map.insert("name".to_owned(), name.into());
                patch(&mut map, fields);
                classes.push(map);
            }
            None => return Err(not_configured(name)),
        }
        changing.configure(&json!({ "classes": classes }), who, false)?;
        Ok(())
    }

    /// Removes a class, or takes back what the configuration says of a built-in one.
    ///
    /// # Errors
    /// There is no such class; it has tasks; it is built in and as it always was.
    pub fn delete_class(&self, name: &str, who: &str) -> Result<(), Error> {
        let changing = self.changing();
        self.class(name)?;
        let mut classes = class_maps(&self.configuration());
        let before = classes.len();
        classes.retain(|map| map.get("name").and_then(Value::as_str) != Some(name));
        if classes.len() == before {
            return Err(if is_built_in(name) {
                Error::Conflict(format!("class {name} is built in and cannot be removed"))
            } else {
                not_configured(name)
            });
        }
        changing.configure(&json!({ "classes": classes }), who, false)?;
        Ok(())
    }

    /// The bounds that are in force, and how near each is; also adaptive limits that the configuration names and that bound nothing, with the reason.
    pub fn limits(&self) -> Vec<LimitView> {
        let shared = &self.shared;
        let stats = shared.executor.stats();
        let last = shared.history.last();
        let busy = last.as_ref().map(|snapshot| snapshot.work.busy_workers);
        let mut limits = vec![LimitView {
            name: "parallelism".to_owned(),
            kind: "workers".to_owned(),
            unit: "workers".to_owned(),
            limit: Some(stats.parallelism as f64),
            unused: None,
            used: busy,
            refused: None,
            would_refuse: None,
            setting: "knob parallelism".to_owned(),
        }];
        for class in &stats.classes {
            let limit =
                |kind: &str, unit: &str, limit: Option<f64>, used: Option<f64>, field: &str| {
                    LimitView {
                        name: format!("class/{}/{kind}", class.name),
                        kind: kind.to_owned(),
                        unit: unit.to_owned(),
                        limit,
                        unused: None,
                        used,
                        refused: None,
                        would_refuse: None,
                        setting: format!("classes[{}].{field}", class.name),
                    }
                };
            let mut queue = limit(
                "queue",
                "tasks",
                Some(class.spec.queue_limit as f64),
                Some(class.queued as f64),
                "queue_limit",
            );
            queue.refused = Some(class.refused);
            limits.push(queue);
            if let Some(shedding) = &class.shedding {
                let target = shedding.settings.target.as_secs_f64() * 1e3;
                let waited = class.oldest_wait.map(|wait| wait.as_secs_f64() * 1e3);
                let mut wait = limit("wait", "ms", Some(target), waited, "shed_after");
                wait.refused = Some(shedding.refused + shedding.refused_late);
                let observes = shedding.settings.observe;
                wait.would_refuse = observes.then_some(shedding.would_refuse);
                limits.push(wait);
            }
            limits.push(limit(
                "concurrency",
                "workers",
                class.spec.concurrency.map(f64::from),
                Some(class.running as f64),
                "concurrency",
            ));
            let cpu = last
                .as_ref()
                .and_then(|snapshot| snapshot.cpus_of(&class.name));
            let allowed =
                (class.spec.ceiling < 1.0).then_some(class.spec.ceiling * stats.parallelism as f64);
            limits.push(limit("cpu", "CPUs", allowed, cpu, "ceiling"));
            let Ok(known) = shared.executor.class(&class.name) else {
                continue;
            };
            let keys = known.key_limits();
            let excess = known.key_excess();
            let (together, queued) = (keys.concurrency, keys.queued);
            for (kind, unit, bound, beyond) in [
                ("key_rate", "tasks a second", keys.rate, excess.rate),
                (
                    "key_concurrency",
                    "tasks",
                    together.map(f64::from),
                    excess.concurrency,
                ),
                ("key_queued", "tasks", queued.map(f64::from), excess.queued),
            ] {
                if bound.is_some() {
                    let mut of_keys = limit(kind, unit, bound, None, kind);
                    of_keys.would_refuse = keys.observe.then_some(beyond);
                    limits.push(of_keys);
                }
            }
        }
        let adaptive = self.adaptive_limits().into_iter().map(|gate| LimitView {
            name: format!("adaptive/{}", gate.name),
            kind: "adaptive".to_owned(),
            unit: "calls".to_owned(),
            limit: Some(f64::from(gate.limit)),
            unused: gate.unused,
            used: Some(f64::from(gate.in_flight)),
            // Who only observes has refused nobody.
            refused: Some(if gate.mode == "observe" { 0 } else { gate.shed }),
            would_refuse: (gate.mode == "observe").then_some(gate.shed),
            setting: format!("limits.adaptive[{}]", gate.name),
        });
        limits.extend(adaptive);
        let without_gate = shared.limits_without_gate().into_iter();
        limits.extend(without_gate.map(|(name, why)| LimitView {
            name: format!("adaptive/{name}"),
            kind: "adaptive".to_owned(),
            unit: "calls".to_owned(),
            limit: None,
            unused: Some(why),
            used: None,
            refused: None,
            would_refuse: None,
            setting: format!("limits.adaptive[{name}]"),
        }));
        #[cfg(feature = "tasks")]
        limits.extend(self.breaker_limits());
        limits
    }

    /// The breakers of what durable tasks call; none where there is no queue.
    #[cfg(feature = "tasks")]
    fn breaker_limits(&self) -> Vec<LimitView> {
        let all = self.breakers().unwrap_or_default();
        let one = |status: &flyball_tasks::run::DependencyStatus| {
            let view = crate::view::tasks::BreakerView::from(status);
            LimitView {
                name: format!("breaker/{}", view.name),
                kind: "breaker".to_owned(),
                unit: "calls".to_owned(),
                // Open it lets nobody through, closed everybody.
                limit: (view.state == "open").then_some(0.0),
                unused: None,
                used: Some(view.in_flight as f64),
                refused: Some(if status.config.observe {
                    0
                } else {
                    view.refused
                }),
                would_refuse: status.config.observe.then_some(view.refused),
                setting: "scheduler.breaker".to_owned(),
            }
        };
        all.iter().map(one).collect()
    }

    /// The whole at a glance.
    pub fn status(&self) -> StatusView {
        let shared = &self.shared;
        let (stats, workers) = (shared.executor.stats(), shared.executor.workers());
        let health = self.whole_health(self.health_of(&stats, &workers));
        let last = shared.history.last();
        let work = last
            .as_ref()
            .map(|snapshot| (&snapshot.work, snapshot.interval.as_secs_f64()));
        let alive = workers
            .iter()
            .filter(|worker| worker.state != WorkerState::Stopped);
        StatusView {
            timestamp: Time::now(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: shared.now().duration_since(shared.started).as_millis() as u64,
            health: health.status,
            score: health.score,
            reasons: health.reasons,
            level: self.degradation().name().to_owned(),
            parts: self.parts(&stats),
            utilisation: self.utilisation(),
            workers: alive.count() as u32,
            parallelism: stats.parallelism as u32,
            queue_length: stats.classes.iter().map(|class| class.queued as u64).sum(),
            running: stats.running as u64,
            response_time_ms: work.and_then(|(work, _)| {
                (work.polls > 0)
                    .then(|| (work.wait_ns + work.run_ns) as f64 / work.polls as f64 / 1e6)
            }),
            throughput_per_second: work
                .and_then(|(work, seconds)| (seconds > 0.0).then(|| work.ended as f64 / seconds)),
            error_rate_percent: work.and_then(|(work, _)| {
                (work.ended > 0).then(|| work.failed as f64 / work.ended as f64 * 100.0)
            }),
        }
    }

    /// The health of all parts together: the product of their scores, and all reasons.
    #[cfg(feature = "tasks")]
    fn whole_health(&self, cpu: CpuHealth) -> CpuHealth {
        let Some(tasks) = self.shared.tasks.health() else {
            return cpu;
        };
        let score = cpu.score * tasks.score;
        CpuHealth {
            status: health::status(score),
            score,
            reasons: cpu.reasons.into_iter().chain(tasks.reasons).collect(),
        }
    }

    #[cfg(not(feature = "tasks"))]
    fn whole_health(&self, cpu: CpuHealth) -> CpuHealth {
        cpu
    }

    fn utilisation(&self) -> Utilisation {
        let Some(last) = self.shared.history.last() else {
            return Utilisation::default();
        };
        let sample = &last.sample;
        let part = |used: u64, of: u64| (of > 0).then(|| used as f64 / of as f64 * 100.0);
        let machine = sample.memory.and_then(|memory| {
            part(
                memory.total_bytes.saturating_sub(memory.available_bytes),
                memory.total_bytes,
            )
        });
        let group = sample
            .cgroup_memory
            .and_then(|group| part(group.current_bytes, group.limit_bytes?));
        let parallelism = last.work.parallelism.max(1) as f64;
        Utilisation {
            cpu_percent: last.overall(),
            process_cpu_percent: last.usage.process_percent,
            memory_percent: group.or(machine),
            resident_bytes: sample.process.and_then(|process| process.resident_bytes),
            network_percent: None,
            disk_percent: None,
            worker_percent: Some((last.work.busy_workers / parallelism * 100.0).min(100.0)),
        }
    }

    fn parts(&self, stats: &Stats) -> Vec<PartFlag> {
        let status = self.cpu_status_of(stats);
        let mut parts = vec![
            status.cpu_profiling,
            status.load_balancing,
            status.cpu_scheduling,
            PartFlag {
                part: "pool_size".to_owned(),
                enabled: self.config().performance.enabled,
                detail: std::iter::once(format!("sizing {}", self.config().worker_pool.sizing))
                    .chain(
                        self.knobs()
                            .iter()
                            .map(|knob| format!("{} {}", knob.name, knob.value)),
                    )
                    .collect::<Vec<_>>()
                    .join(", "),
            },
            status.cpu_throttling,
        ];
        #[cfg(feature = "tasks")]
        parts.push(self.shared.tasks.flag());
        let absent: BTreeSet<&str> = config::schema()
            .iter()
            .filter_map(|key| key.absent_part())
            .filter(|part| *part != "fast tick")
            .collect();
        parts.extend(absent.into_iter().map(|part| PartFlag {
            part: part.to_lowercase().replace("i/o", "io").replace(' ', "_"),
            enabled: false,
            detail: format!("unavailable: this build has no {part}"),
        }));
        parts
    }

    /// Each part's health.
    pub fn part_health(&self) -> Vec<PartHealth> {
        let (stats, workers) = (self.shared.executor.stats(), self.shared.executor.workers());
        let health = self.health_of(&stats, &workers);
        let cpu = PartHealth {
            part: "cpu".to_owned(),
            status: Some(health.status),
            score: Some(health.score),
            reasons: health.reasons,
        };
        let others = self
            .parts(&stats)
            .into_iter()
            .filter(|part| !part.enabled)
            .map(|part| PartHealth {
                part: part.part,
                status: None,
                score: None,
                reasons: vec![part.detail],
            });
        #[cfg(feature = "tasks")]
        let tasks = self.shared.tasks.health().map(|health| PartHealth {
            part: "task_queue".to_owned(),
            status: Some(health.status),
            score: Some(health.score),
            reasons: health.reasons,
        });
        #[cfg(not(feature = "tasks"))]
        let tasks = None;
        std::iter::once(cpu).chain(tasks).chain(others).collect()
    }
}

fn settle(decision: DecisionView) -> Result<DecisionView, Error> {
    match &decision.refusal {
        None => Ok(decision),
        Some(refusal) => Err(Error::Conflict(format!(
            "{} stays at {}: {refusal}",
            decision.knob,
            decision.from.unwrap_or_default()
        ))),
    }
}

/// Puts fields into a map; those that are null are taken out.
fn patch(map: &mut Map<String, Value>, fields: &Map<String, Value>) {
    for (field, value) in fields {
        if value.is_null() {
            map.remove(field);
        } else {
            map.insert(field.clone(), value.clone());
        }
    }
}

fn is_built_in(name: &str) -> bool {
    ClassSpec::built_in().iter().any(|class| class.name == name)
}

fn not_configured(name: &str) -> Error {
    Error::Conflict(format!(
        "class {name} was added by the program, not by the configuration; only the program can change it"
    ))
}

/// What the configuration says of classes.
fn class_maps(loaded: &Loaded) -> Vec<Map<String, Value>> {
    match loaded.to_json().get("classes") {
        Some(Value::Array(classes)) => classes
            .iter()
            .filter_map(|class| class.as_object().cloned())
            .collect(),
        _ => Vec::new(),
    }
}
