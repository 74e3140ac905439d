//! One run: calls arrive whether or not they are answered, find room, wait or are refused, and take CPU.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use flyball_core::rng::Rng;
use flyball_core::time::Timestamp;
use flyball_policy::limit::adaptive::Started;
use flyball_policy::limit::admission::{Admission, AdmissionConfig, Admit, Request, Shed, Ticket};
use flyball_policy::limit::precedence::Inside;

use super::cells::{Cell, Mix, RUN_NS, SLOT_NS, Timeline};
use super::limiter::{Kind, Limiter};
use super::service::{Cpus, Service};
use crate::Error;

/// Policies are stepped this often at least, ns.
const TICK_NS: u64 = 5_000_000;
/// Callers that try again wait so long in the mean, ns.
const BACKOFF_NS: f64 = 50e6;
/// From a call being let in from the queue until it runs: a thread or task is woken, ns.
const HANDOFF_NS: u64 = 30_000;
/// Users, which are the cohorts of calls.
const USERS: u64 = 1_000;
/// The priorities of interactive calls and of all others. Of two only the order counts.
const PRIORITIES: [u8; 2] = [4, 2];
const INTERACTIVE: u8 = 0;
const BATCH: u8 = 1;
/// Good answers are counted by pieces of a run of this length, ns.
pub(crate) const PIECE_NS: u64 = 100_000_000;

/// What came out of a run.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    /// Calls that callers made, tries after the first not counted.
    pub(crate) arrived: u64,
    /// Attempts that were refused.
    pub(crate) refused: u64,
    /// Attempts.
    pub(crate) attempts: u64,
    /// Calls answered in time, by pieces of the run.
    pub(crate) good: Vec<u32>,
    /// From sending to answer, late ones too, µs.
    pub(crate) latencies: Vec<u32>,
    /// Changes of the limit.
    pub(crate) changes: u64,
    /// Limit at the end.
    pub(crate) limit: u32,
    /// Of all that, where there are classes.
    pub(crate) interactive: Interactive,
}

/// Of interactive calls.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interactive {
    /// Calls that callers made.
    pub(crate) arrived: u64,
    /// Calls answered in time.
    pub(crate) good: u64,
    /// From sending to answer, late ones too, µs.
    pub(crate) latencies: Vec<u32>,
}

/// An attempt of a call: what its caller knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Attempt {
    /// Draws of this call, the same under all limiters.
    draw: u64,
    user: u64,
    /// The place of its class in [`PRIORITIES`].
    class: u8,
    /// Those before it.
    attempts: u8,
}

impl Attempt {
    fn place(self) -> usize {
        usize::from(self.class).min(PRIORITIES.len() - 1)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The time of one who waits may be over.
    Impatient(Ticket),
    /// What a call waited for beside CPUs is there.
    Ready(u32),
    /// The caller waits no longer, and maybe tries again: call and its serial number.
    Deadline(u32, u64),
    /// A caller tries again.
    Again(Attempt),
    Tick,
}

struct Call {
    serial: u64,
    sent: u64,
    began: u64,
    started: Option<Started>,
    rng: Rng,
    attempt: Attempt,
    burst_ns: f64,
    bursts: u32,
    /// The caller has given up.
    given_up: bool,
}

struct Sim<'a> {
    service: &'a Service,
    attempts_max: u8,
    now: u64,
    limiter: Limiter,
    in_flight: u32,
    /// The same by class.
    inside: [u64; 2],
    mix: Mix,
    admission: Admission,
    cpus: Cpus,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    number: u64,
    calls: Vec<Call>,
    free: Vec<u32>,
    waiting: BTreeMap<Ticket, u32>,
    serial: u64,
    refused_now: Vec<Ticket>,
    timeline: Timeline,
    rng: Rng,
    out: Outcome,
}

/// Runs a cell under a limiter.
pub(crate) fn run(cell: &Cell, kind: Kind, seed: u64) -> Result<Outcome, Error> {
    let mut sim = Sim {
        service: &cell.service,
        attempts_max: cell.course.attempts(),
        now: 0,
        limiter: Limiter::new(kind, &cell.service)?,
        in_flight: 0,
        inside: [0; 2],
        mix: cell.mix,
        admission: Admission::new(Timestamp::ZERO, AdmissionConfig::default())?,
        cpus: Cpus::new(&cell.service),
        events: BinaryHeap::new(),
        number: 0,
        calls: Vec::new(),
        free: Vec::new(),
        waiting: BTreeMap::new(),
        serial: 0,
        refused_now: Vec::new(),
        timeline: cell.course_of(seed),
        rng: Rng::seeded(seed ^ 0xBAC0_FF00),
        out: Outcome {
            arrived: 0,
            refused: 0,
            attempts: 0,
            good: vec![0; (RUN_NS / PIECE_NS) as usize],
            latencies: Vec::new(),
            changes: 0,
            limit: 0,
            interactive: Interactive::default(),
        },
    };
    sim.play(Rng::seeded(seed));
    sim.out.changes = sim.limiter.changes();
    sim.out.limit = sim.limiter.limit();
    Ok(sim.out)
}

impl Sim<'_> {
    fn play(&mut self, mut arrivals: Rng) {
        self.at(TICK_NS, Event::Tick);
        let mut arrives = self.next_arrival(0, &mut arrivals);
        loop {
            let event = self.events.peek().map_or(u64::MAX, |Reverse((at, ..))| *at);
            let burst = self.cpus.next_end();
            let next = arrives.min(event).min(burst);
            if next >= RUN_NS {
                return;
            }
            self.now = next;
            self.cpus.advance(next);
            if burst == next {
                self.end_burst();
            } else if event == next {
                if let Some(Reverse((_, _, event))) = self.events.pop() {
                    self.handle(event);
                }
            } else {
                let draw = arrivals.next_u64();
                let user = arrivals.below(USERS);
                let class = self.class_of(draw);
                self.out.arrived += 1;
                self.out.interactive.arrived += u64::from(class == INTERACTIVE);
                self.arrive(Attempt {
                    draw,
                    user,
                    class,
                    attempts: 0,
                });
                arrives = self.next_arrival(next, &mut arrivals);
            }
        }
    }

    /// When the next call comes: the load of each slot is used up until an exponential draw is.
    fn next_arrival(&self, from: u64, rng: &mut Rng) -> u64 {
        let mut left = rng.exp(1.0);
        let mut at = from as f64;
        while (at as u64) < RUN_NS {
            let slot = Timeline::slot(at as u64);
            let per_ns = self.timeline.load[slot] * self.service.capacity() / 1e9;
            let end = ((slot as u64 + 1) * SLOT_NS) as f64;
            let takes = left / per_ns.max(1e-15);
            if at + takes < end {
                return (at + takes) as u64;
            }
            left -= (end - at) * per_ns;
            at = end;
        }
        u64::MAX
    }

    /// The class of a call that is made now.
    fn class_of(&self, draw: u64) -> u8 {
        if self.mix == Mix::None {
            return BATCH;
        }
        let part = self.timeline.interactive[Timeline::slot(self.now)];
        // Another draw than that of its work.
        let is_interactive = Rng::seeded(!draw).chance(part);
        if is_interactive { INTERACTIVE } else { BATCH }
    }

    /// Whether a call of this priority comes in though no slot is free.
    fn beyond(&self, priority: u8) -> bool {
        let inside = |place: usize| Inside {
            priority: PRIORITIES[place],
            calls: self.inside[place],
        };
        let classes = [inside(0), inside(1)];
        self.limiter.beyond(self.in_flight, priority, classes)
    }

    fn at(&mut self, at: u64, event: Event) {
        self.number += 1;
        self.events.push(Reverse((at, self.number, event)));
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Impatient(ticket) => {
                if self.admission.cancel(self.time(), ticket).is_some()
                    && let Some(call) = self.waiting.remove(&ticket)
                {
                    self.refuse(call);
                }
            }
            Event::Ready(call) => self.burst(call),
            Event::Deadline(call, serial) => {
                let waits = &mut self.calls[call as usize];
                if waits.serial == serial && !waits.given_up {
                    waits.given_up = true;
                    let attempt = waits.attempt;
                    self.again(attempt);
                }
            }
            Event::Again(attempt) => self.arrive(attempt),
            Event::Tick => {
                let cpus = self.timeline.cpus[Timeline::slot(self.now)];
                self.cpus.set(cpus);
                self.step();
                self.at(self.now + TICK_NS, Event::Tick);
            }
        }
    }

    fn time(&self) -> Timestamp {
        Timestamp::from_nanos(self.now)
    }

    fn arrive(&mut self, attempt: Attempt) {
        self.out.attempts += 1;
        let deadline = self.now + self.service.deadline_ns;
        let request = Request {
            priority: PRIORITIES[attempt.place()],
            cohort: Some(attempt.user),
            deadline: Some(Timestamp::from_nanos(deadline)),
        };
        let room = self.in_flight < self.limiter.limit() || self.beyond(request.priority);
        let admit = self.admission.arrive(self.time(), &request, room);
        if !matches!(admit, Admit::Now) {
            self.limiter.blocked();
        }
        if let Admit::Shed(_) = admit {
            self.out.refused += 1;
            self.again(attempt);
            return;
        }
        let mut rng = Rng::seeded(attempt.draw);
        let factor = self.timeline.work[Timeline::slot(self.now)];
        let bursts = self.service.waits + 1;
        let work = self
            .service
            .work
            .draw(&mut rng, self.service.work_ns * factor);
        self.serial += 1;
        let call = Call {
            serial: self.serial,
            sent: self.now,
            began: 0,
            started: None,
            rng,
            attempt,
            burst_ns: work / f64::from(bursts),
            bursts,
            given_up: false,
        };
        let index = match self.free.pop() {
            Some(index) => {
                self.calls[index as usize] = call;
                index
            }
            None => {
                self.calls.push(call);
                (self.calls.len() - 1) as u32
            }
        };
        if self.attempts_max > 1 {
            self.at(deadline, Event::Deadline(index, self.serial));
        }
        match admit {
            Admit::Now => {
                self.enter(index);
                self.begin(index, 0);
            }
            Admit::Wait(ticket, until) => {
                self.waiting.insert(ticket, index);
                self.at(until.as_nanos(), Event::Impatient(ticket));
            }
            Admit::Shed(_) => {}
        }
    }

    /// A caller whose attempt failed tries again, if it does that.
    fn again(&mut self, failed: Attempt) {
        let attempts = failed.attempts + 1;
        if attempts < self.attempts_max {
            let wait = self.rng.exp(BACKOFF_NS) as u64;
            let again = Attempt { attempts, ..failed };
            self.at(self.now + wait, Event::Again(again));
        }
    }

    /// A call that waited is refused.
    fn refuse(&mut self, index: u32) {
        self.out.refused += 1;
        let call = &mut self.calls[index as usize];
        let attempt = call.attempt;
        let tries = !call.given_up;
        call.serial = 0;
        self.free.push(index);
        if tries {
            self.again(attempt);
        }
    }

    /// Takes a slot.
    fn enter(&mut self, index: u32) {
        self.in_flight += 1;
        self.inside[self.calls[index as usize].attempt.place()] += 1;
    }

    fn begin(&mut self, index: u32, handoff_ns: u64) {
        let started = self.limiter.start(self.now);
        let call = &mut self.calls[index as usize];
        call.began = self.now;
        call.started = started;
        if handoff_ns == 0 {
            self.burst(index);
        } else {
            self.at(self.now + handoff_ns, Event::Ready(index));
        }
    }

    fn burst(&mut self, index: u32) {
        let work = self.calls[index as usize].burst_ns;
        self.cpus.push(index, work);
    }

    fn end_burst(&mut self) {
        let Some(index) = self.cpus.pop() else { return };
        let call = &mut self.calls[index as usize];
        call.bursts -= 1;
        if call.bursts > 0 {
            let mean = self.service.wait_ns / f64::from(self.service.waits);
            let wait = call.rng.exp(mean) as u64;
            self.at(self.now + wait, Event::Ready(index));
            return;
        }
        let latency = self.now - call.sent;
        let late = latency > self.service.deadline_ns || call.given_up;
        call.serial = 0;
        let began = (call.began, call.started);
        let class = call.attempt.class;
        let place = call.attempt.place();
        self.limiter.end(self.now, began, late, self.in_flight);
        self.in_flight -= 1;
        self.inside[place] -= 1;
        self.free.push(index);
        let micros = (latency / 1_000) as u32;
        self.out.latencies.push(micros);
        if class == INTERACTIVE {
            self.out.interactive.latencies.push(micros);
            self.out.interactive.good += u64::from(!late);
        }
        if !late {
            self.out.good[(self.now / PIECE_NS) as usize] += 1;
        }
        self.step();
    }

    /// Steps the limiter, and lets in who waits.
    fn step(&mut self) {
        self.limiter.step(self.now, self.cpus.times());
        let now = self.time();
        let mut refused = std::mem::take(&mut self.refused_now);
        let mut expired = |ticket: Ticket, _: Shed| refused.push(ticket);
        if self.in_flight >= self.limiter.limit() {
            self.admission.expire(now, &mut expired);
        }
        let mut begins = Vec::new();
        loop {
            // Who is over its time is out, so that who is looked at is who would be named.
            let room = self.in_flight < self.limiter.limit()
                || self
                    .admission
                    .first_waiting()
                    .is_some_and(|priority| self.beyond(priority));
            if !room {
                break;
            }
            let Some(ticket) = self.admission.next(now, &mut expired) else {
                break;
            };
            if let Some(index) = self.waiting.remove(&ticket) {
                self.enter(index);
                begins.push(index);
            }
        }
        for index in begins {
            self.begin(index, HANDOFF_NS);
        }
        for ticket in refused.drain(..) {
            if let Some(index) = self.waiting.remove(&ticket) {
                self.refuse(index);
            }
        }
        self.refused_now = refused;
    }
}
