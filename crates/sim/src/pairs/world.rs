//! One run: calls come in through a gate, compute and block on workers, under a throttle's ceiling and a pool that changes its size.
//!
//! What decides is the policies' code: admission and limit, the scheduler with its joint ceilings, throttle, sizing, and the arbiter over their knobs. What the
//! shells add is done as they do it: a gate hears of a call's wait for a worker as it waits and of its work when that has ended, work that is held back is no backlog to
//! the pool.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;

use flyball_core::class::Group;
use flyball_core::id::{ClassId, ClassSet};
use flyball_core::rng::Rng;
use flyball_core::time::Timestamp;
use flyball_policy::control::throttle::{self, Settings, Throttle, View};
use flyball_policy::control::{Arbiter, Controller, KnobId, KnobSpec, Proposal};
use flyball_policy::limit::adaptive::{
    AdaptiveConfig, AdaptiveLimit, CpuTime, Outcome as Ended, Signal, Started,
};
use flyball_policy::limit::admission::{Admission, AdmissionConfig, Admit, Request, Shed, Ticket};
use flyball_policy::limit::precedence::{self, Inside};
use flyball_policy::sched::pool::{PoolConfig, PoolView, Sizer};
use flyball_policy::sched::{Algorithm, ClassParams, Grant, Pick, Scheduler};

use super::{Outcome, Pool, Scene};
use crate::Error;
use crate::overload::service::{Cpus, Service, Sharing};

/// The places of the classes, and their priorities as they come.
pub(super) const INTERACTIVE: usize = 0;
pub(super) const BATCH: usize = 1;
const PRIORITIES: [u8; 2] = [4, 1];
const SHARES: [u32; 2] = [1024, 64];
/// Demand and neighbours are looked at so often, and limits are stepped so often at least, ns.
const TICK_NS: u64 = 5_000_000;
/// Without a gate so many tasks of a class wait at most.
const ROOM: usize = 1_000;
/// Below this level next to nothing is held back, and what waits counts as a backlog: as the engine has it.
const HOLDS_LITTLE: f64 = 0.005;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The time of one who waits at the gate may be over.
    Impatient(Ticket),
    /// What a task waited for in its worker is there.
    Unblocked(u32),
    /// The scheduler said to ask again.
    Wake,
    Tick,
    Throttle,
    Pool,
}

struct Task {
    class: usize,
    sent: u64,
    handed: u64,
    began: u64,
    started: Option<Started>,
    work_ns: f64,
    blocks_ns: u64,
    grant: Option<Grant>,
}

/// The gate before the pool.
struct Gate {
    limit: AdaptiveLimit,
    admission: Admission,
    inside: [u64; 2],
    waiting: BTreeMap<Ticket, u32>,
    /// What calls told: how long they ran in a worker and how long they waited for one, ns; since the last window.
    ran: u64,
    waited: u64,
    time: CpuTime,
    /// Of the threads, ns: when a window was measured last.
    threads: (f64, f64),
}

impl Gate {
    fn new(cpus: u32) -> Result<Self, Error> {
        let config = AdaptiveConfig::for_signal(Signal::RunDelay { cpus });
        Ok(Self {
            limit: AdaptiveLimit::new(Timestamp::ZERO, config)?,
            admission: Admission::new(Timestamp::ZERO, AdmissionConfig::default())?,
            inside: [0; 2],
            waiting: BTreeMap::new(),
            ran: 0,
            waited: 0,
            time: CpuTime::default(),
            threads: (0.0, 0.0),
        })
    }

    fn room(&self, priority: u8) -> bool {
        let inside = |place: usize| Inside {
            priority: PRIORITIES[place],
            calls: self.inside[place],
        };
        let classes = [inside(INTERACTIVE), inside(BATCH)];
        let now = (self.limit.limit(), self.limit.in_flight());
        self.limit.has_room()
            || precedence::beyond(self.limit.config(), now, priority, classes).is_some()
    }

    /// The CPU time of a window: time in workers is drawn out by as much as threads waited for a CPU.
    fn read(&mut self, threads: (f64, f64)) -> CpuTime {
        let ran = threads.0 - self.threads.0;
        let waited = threads.1 - self.threads.1;
        self.threads = threads;
        let all = ran + waited;
        let share = if all > 0.0 { waited / all } else { 0.0 };
        let in_workers = std::mem::take(&mut self.ran);
        let queued = std::mem::take(&mut self.waited);
        let drawn_out = (in_workers as f64 * share) as u64;
        self.time.ran += Duration::from_nanos(in_workers.saturating_sub(drawn_out));
        self.time.waited += Duration::from_nanos(queued.saturating_add(drawn_out));
        self.time
    }
}

pub(super) struct World<'a> {
    scene: &'a Scene,
    now: u64,
    end: u64,
    gate: Option<Gate>,
    scheduler: Scheduler,
    classes: [ClassId; 2],
    queues: [VecDeque<u32>; 2],
    cpus: Cpus,
    /// CPUs that others leave.
    have: f64,
    /// Tasks on workers, and those of them that compute, by class.
    in_workers: u32,
    computing: [u32; 2],
    /// CPU time of batch, ns.
    batch_ns: f64,
    /// Worker-nanoseconds, tasks that ended and were refused since the pool was looked at.
    busy_ns: f64,
    ended: u64,
    refused: [u64; 2],
    tasks: Vec<Task>,
    free: Vec<u32>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    number: u64,
    wakes: u64,
    arbiter: Arbiter,
    size: KnobId,
    level: KnobId,
    throttle: Option<Throttle>,
    sizer: Option<Sizer>,
    looked: u64,
    /// Of all, ns, at the last look of the throttle: of our work and of batch.
    used: (f64, f64),
    rngs: [Rng; 2],
    out: Outcome,
}

fn spec(name: &str, min: f64, max: f64) -> KnobSpec {
    KnobSpec {
        name: name.to_owned(),
        unit: "",
        min,
        max,
        about: "",
    }
}

impl<'a> World<'a> {
    pub(super) fn new(scene: &'a Scene, seed: u64) -> Result<Self, Error> {
        let cpus = scene.cpus;
        let classes = [ClassId::new(0), ClassId::new(1)];
        let mut scheduler = Scheduler::new(Algorithm::Cfs, cpus);
        for (place, class) in classes.into_iter().enumerate() {
            let params = ClassParams {
                priority: PRIORITIES[place],
                shares: SHARES[place],
                guarantee: 0.0,
                ceiling: 1.0,
                latency_target_ns: 50_000_000,
                slice_ns: 1_000_000,
                concurrency: u32::MAX,
                group: Group::Back,
            };
            scheduler.insert(Timestamp::ZERO, class, params)?;
        }
        let (first, max) = match scene.pool {
            Pool::Fixed(workers) => (workers, workers),
            Pool::By { first, max, .. } => (first, max),
        };
        let mut arbiter = Arbiter::new();
        let size = arbiter.try_add_knob(spec("workers", 1.0, f64::from(max)), f64::from(first))?;
        let level = arbiter.try_add_knob(spec("throttle", 0.0, 1.0), 0.0)?;
        let sizer = match scene.pool {
            Pool::Fixed(_) => None,
            Pool::By { sizing, max, .. } => {
                let config = PoolConfig {
                    max,
                    ..PoolConfig::for_cpus(cpus)
                };
                Some(Sizer::new(sizing, config, size))
            }
        };
        let throttle = scene.throttle.map(Settings::at).map(Throttle::new);
        let service = Service {
            name: scene.name,
            cpus: f64::from(cpus),
            sharing: Sharing::Even,
            work_ns: scene.work_ms * 1e6,
            work: scene.work,
            waits: 0,
            wait_ns: 0.0,
            interference: 0.005,
            deadline_ns: scene.deadline_ms * 1_000_000,
        };
        Ok(Self {
            scene,
            now: 0,
            end: (scene.seconds * 1e9) as u64,
            gate: scene.gate.then(|| Gate::new(cpus)).transpose()?,
            scheduler,
            classes,
            queues: [VecDeque::new(), VecDeque::new()],
            cpus: Cpus::new(&service),
            have: f64::from(cpus),
            in_workers: 0,
            computing: [0; 2],
            batch_ns: 0.0,
            busy_ns: 0.0,
            ended: 0,
            refused: [0; 2],
            tasks: Vec::new(),
            free: Vec::new(),
            events: BinaryHeap::new(),
            number: 0,
            wakes: u64::MAX,
            arbiter,
            size,
            level,
            throttle: throttle.transpose()?,
            sizer,
            looked: 0,
            used: (0.0, 0.0),
            rngs: [Rng::seeded(seed), Rng::seeded(seed ^ 0xBA7C)],
            out: Outcome::new(scene.seconds),
        })
    }

    pub(super) fn play(mut self) -> Outcome {
        self.at(0, Event::Tick);
        self.at(throttle_period(), Event::Throttle);
        let period = self.sizer.as_ref().map(Sizer::period);
        if let Some(period) = period {
            self.at(nanos(period), Event::Pool);
        }
        let mut arrives = [INTERACTIVE, BATCH].map(|class| self.next_arrival(class, 0));
        loop {
            let event = self.events.peek().map_or(u64::MAX, |Reverse((at, ..))| *at);
            let computed = self.cpus.next_end();
            let [interactive, batch] = arrives;
            let next = event.min(computed).min(interactive).min(batch);
            if next >= self.end {
                return self.out;
            }
            self.advance(next);
            if computed == next {
                self.computed();
            } else if event == next {
                if let Some(Reverse((_, _, event))) = self.events.pop() {
                    self.handle(event);
                }
            } else {
                let class = if interactive == next {
                    INTERACTIVE
                } else {
                    BATCH
                };
                self.arrive(class);
                arrives[class] = self.next_arrival(class, next);
            }
        }
    }

    fn advance(&mut self, to: u64) {
        let nanos = to.saturating_sub(self.now) as f64;
        let computing = f64::from(self.computing.iter().sum::<u32>());
        let part = (self.have / computing.max(1.0)).min(1.0);
        self.batch_ns += nanos * f64::from(self.computing[BATCH]) * part;
        self.busy_ns += nanos * f64::from(self.in_workers);
        if let Some(gate) = &mut self.gate {
            let waiting = self.queues.iter().map(VecDeque::len).sum::<usize>();
            gate.waited += (to - self.now) * waiting as u64;
        }
        self.now = to;
        self.cpus.advance(to);
    }

    fn time(&self) -> Timestamp {
        Timestamp::from_nanos(self.now)
    }

    fn at(&mut self, at: u64, event: Event) {
        self.number += 1;
        self.events.push(Reverse((at, self.number, event)));
    }

    /// When the next call of a class comes: what is wanted of each tick is used up until an exponential draw is.
    fn next_arrival(&mut self, class: usize, from: u64) -> u64 {
        let mut left = self.rngs[class].exp(1.0);
        let mut at = from as f64;
        let capacity = f64::from(self.scene.cpus) / (self.scene.work_ms * 1e6);
        while (at as u64) < self.end {
            let tick = at as u64 / TICK_NS;
            let second = (tick * TICK_NS) as f64 / 1e9;
            let per_ns = ((self.scene.demand[class])(second) * capacity).max(1e-15);
            let end = ((tick + 1) * TICK_NS) as f64;
            if at + left / per_ns < end {
                return (at + left / per_ns) as u64;
            }
            left -= (end - at) * per_ns;
            at = end;
        }
        u64::MAX
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Impatient(ticket) => {
                let now = self.time();
                let Some(gate) = &mut self.gate else { return };
                if gate.admission.cancel(now, ticket).is_some()
                    && let Some(index) = gate.waiting.remove(&ticket)
                {
                    self.free.push(index);
                }
            }
            Event::Unblocked(index) => self.done(index),
            // One that an earlier one came before is nobody's any more.
            Event::Wake if self.now < self.wakes => {}
            Event::Wake => {
                self.wakes = u64::MAX;
                self.dispatch();
            }
            Event::Tick => {
                let second = self.now as f64 / 1e9;
                let others = (self.scene.others)(second).clamp(0.0, 0.99);
                self.have = f64::from(self.scene.cpus) * (1.0 - others);
                self.cpus.set(self.have);
                self.step_gate();
                let limit = self.gate.as_ref().map(|gate| gate.limit.limit());
                let workers = self.arbiter.value(self.size) as u32;
                self.out.looked(second, limit, workers);
                self.at(self.now + TICK_NS, Event::Tick);
            }
            Event::Throttle => self.throttle(),
            Event::Pool => self.resize(),
        }
    }

    fn arrive(&mut self, class: usize) {
        self.out.made(class, self.now);
        let (work_ns, blocks_ns) = {
            let rng = &mut self.rngs[class];
            let work = self.scene.work.draw(rng, self.scene.work_ms * 1e6);
            (work, rng.exp(self.scene.blocks_ms * 1e6) as u64)
        };
        let task = Task {
            class,
            sent: self.now,
            handed: self.now,
            began: 0,
            started: None,
            work_ns,
            blocks_ns,
            grant: None,
        };
        let now = self.time();
        let Some(gate) = &mut self.gate else {
            if self.queues[class].len() >= ROOM {
                self.refused[class] += 1;
            } else {
                let index = self.keep(task);
                self.hand(index);
            }
            return;
        };
        let deadline = self.now + self.scene.deadline_ms * 1_000_000;
        let request = Request {
            priority: PRIORITIES[class],
            cohort: Some(self.rngs[class].below(1_000)),
            deadline: Some(Timestamp::from_nanos(deadline)),
        };
        let room = gate.room(request.priority);
        if !room {
            gate.limit.note_blocked();
        }
        match gate.admission.arrive(now, &request, room) {
            Admit::Now => {
                let index = self.keep(task);
                self.enter(index);
                self.hand(index);
            }
            Admit::Wait(ticket, until) => {
                let index = self.keep(task);
                if let Some(gate) = &mut self.gate {
                    gate.waiting.insert(ticket, index);
                }
                self.at(until.as_nanos(), Event::Impatient(ticket));
            }
            Admit::Shed(_) => {}
        }
    }

    fn keep(&mut self, task: Task) -> u32 {
        match self.free.pop() {
            Some(index) => {
                self.tasks[index as usize] = task;
                index
            }
            None => {
                self.tasks.push(task);
                (self.tasks.len() - 1) as u32
            }
        }
    }

    /// Takes a slot of the gate.
    fn enter(&mut self, index: u32) {
        let now = self.time();
        let Some(gate) = &mut self.gate else { return };
        let task = &mut self.tasks[index as usize];
        gate.inside[task.class] += 1;
        task.started = Some(gate.limit.on_start(now));
    }

    /// Hands work to the pool.
    fn hand(&mut self, index: u32) {
        let task = &mut self.tasks[index as usize];
        task.handed = self.now;
        self.queues[task.class].push_back(index);
        self.dispatch();
    }

    /// Has free workers ask the scheduler.
    fn dispatch(&mut self) {
        while self.in_workers < self.arbiter.value(self.size) as u32 {
            let ready = [INTERACTIVE, BATCH]
                .into_iter()
                .filter(|place| !self.queues[*place].is_empty())
                .fold(ClassSet::EMPTY, |all, place| {
                    all | ClassSet::only(self.classes[place])
                });
            if ready.is_empty() {
                return;
            }
            match self.scheduler.pick(self.time(), ready, ClassSet::ALL) {
                Pick::Run(grant) => {
                    let class = usize::from(grant.class == self.classes[BATCH]);
                    let Some(index) = self.queues[class].pop_front() else {
                        self.scheduler.settle(self.time(), grant, 0);
                        return;
                    };
                    let task = &mut self.tasks[index as usize];
                    task.began = self.now;
                    task.grant = Some(grant);
                    self.in_workers += 1;
                    self.computing[class] += 1;
                    self.cpus.push(index, task.work_ns);
                }
                Pick::Wait { until } => {
                    let until = until.as_nanos().max(self.now + 1);
                    if until < self.wakes {
                        self.wakes = until;
                        self.at(until, Event::Wake);
                    }
                    return;
                }
                Pick::Idle => return,
            }
        }
    }

    /// A task has computed, and now blocks in its worker or ends.
    fn computed(&mut self) {
        let Some(index) = self.cpus.pop() else { return };
        let now = self.time();
        let task = &mut self.tasks[index as usize];
        self.computing[task.class] -= 1;
        if let Some(grant) = task.grant.take() {
            self.scheduler.settle(now, grant, task.work_ns as u64);
        }
        if task.blocks_ns > 0 {
            let until = self.now + task.blocks_ns;
            self.at(until, Event::Unblocked(index));
        } else {
            self.done(index);
        }
    }

    fn done(&mut self, index: u32) {
        let now = self.time();
        self.in_workers -= 1;
        self.ended += 1;
        let task = &mut self.tasks[index as usize];
        let (class, sent) = (task.class, task.sent);
        let late = self.now - sent > self.scene.deadline_ms * 1_000_000;
        self.out.answered(class, sent, self.now, !late);
        if let (Some(gate), Some(started)) = (&mut self.gate, task.started.take()) {
            gate.ran += self.now - task.began;
            gate.inside[class] -= 1;
            gate.limit.on_end(now, started, Ended::Succeeded);
        }
        self.free.push(index);
        self.step_gate();
        self.dispatch();
    }

    /// Steps the limit, and lets in who waits.
    fn step_gate(&mut self) {
        let now = self.time();
        let threads = self.cpus.times();
        let Some(gate) = &mut self.gate else { return };
        let cpu = gate.limit.due(now).then(|| gate.read(threads));
        gate.limit.step(now, cpu);
        let mut gone = Vec::new();
        loop {
            let Some(gate) = &mut self.gate else { return };
            let mut expired = |ticket: Ticket, _: Shed| gone.push(ticket);
            gate.admission.expire(now, &mut expired);
            let first = gate.admission.first_waiting();
            if !first.is_some_and(|priority| gate.room(priority)) {
                break;
            }
            let Some(ticket) = gate.admission.next(now, &mut expired) else {
                break;
            };
            if let Some(index) = gate.waiting.remove(&ticket) {
                self.enter(index);
                self.hand(index);
            }
        }
        if let Some(gate) = &mut self.gate {
            let gone = gone.into_iter();
            self.free
                .extend(gone.filter_map(|ticket| gate.waiting.remove(&ticket)));
        }
    }

    fn is_held(&self) -> bool {
        self.arbiter.value(self.level) > HOLDS_LITTLE
    }

    fn throttle(&mut self) {
        let period = throttle_period();
        let whole = period as f64 * f64::from(self.scene.cpus) / 100.0;
        let (ran, _) = self.cpus.times();
        let own = (ran - self.used.0) / whole;
        let batch = (self.batch_ns - self.used.1) / whole;
        self.used = (ran, self.batch_ns);
        let others = (self.scene.others)((self.now - period) as f64 / 1e9) * 100.0;
        let usage = own + others;
        self.out.used(usage);
        if let Some(throttle) = &mut self.throttle {
            let view = View {
                usage: Some(usage),
                acted: Some(batch),
                level: self.arbiter.value(self.level),
            };
            let now = Timestamp::from_nanos(self.now);
            let step = throttle.step(now, &view);
            let proposal = throttle.proposal(&step, self.level, "throttle");
            self.decide(proposal);
            let level = self.arbiter.value(self.level);
            let cpus = throttle::allowance(level) / 100.0 * f64::from(self.scene.cpus);
            let ceiling = (level > 0.0).then(|| (ClassSet::only(self.classes[BATCH]), cpus));
            self.scheduler.set_joint_ceiling(now, 0, ceiling);
            self.dispatch();
        }
        self.at(self.now + period, Event::Throttle);
    }

    fn decide(&mut self, proposal: Option<Proposal>) {
        self.arbiter
            .decide(self.time(), proposal.into_iter().collect());
    }

    fn resize(&mut self) {
        let held = self.is_held();
        let now = self.time();
        let Some(sizer) = &mut self.sizer else { return };
        let counts = |class: usize| class == INTERACTIVE || !held;
        let sum = |of: [u64; 2]| -> u64 {
            let all = of.into_iter().enumerate();
            all.filter(|(class, _)| counts(*class))
                .map(|(_, count)| count)
                .sum()
        };
        let workers = self.arbiter.value(self.size) as u32;
        let passed = (self.now - self.looked).max(1) as f64;
        let queued = [INTERACTIVE, BATCH].map(|class| self.queues[class].len() as u64);
        let view = PoolView {
            workers,
            healthy: workers,
            busy: self.busy_ns / passed,
            backlog: sum(queued),
            ran: self.ended as f64,
            refused: sum(self.refused) as f64,
            parallelism: self.scene.cpus,
            idle_longest: None,
        };
        (self.looked, self.busy_ns, self.ended, self.refused) = (self.now, 0.0, 0, [0; 2]);
        let proposal = sizer.step(now, &view);
        let period = nanos(sizer.period());
        self.decide(proposal);
        if self.arbiter.value(self.size) as u32 != workers {
            self.out.resized(self.now);
            self.dispatch();
        }
        self.at(self.now + period, Event::Pool);
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

fn throttle_period() -> u64 {
    nanos(throttle::PERIOD)
}
