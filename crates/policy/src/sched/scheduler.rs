//! Grants and accounting: the frame that all algorithms share.
//!
//! What is true at any moment:
//! - A class is *awake* (runnable) while it has queued work or a grant out; the scheduler learns of it by comparing what
//!   it is told at each `pick` with what it knew.
//! - A grant counts from the moment it is given: as its slice at first, as the wall time since its start once that is
//!   longer (an upper bound of the CPU time), and as the CPU time used when it is settled. So a worker that holds a
//!   class for ten seconds never makes that class look starved.
//! - `Idle` is answered only if no class that the worker may run has work.
//! - Work conservation: a class that is ready, allowed and within its ceiling and concurrency runs, with one exception,
//!   the front rule (`front`).
//!
//! Time that goes back (workers read the clock before they take the lock) counts as standing still.

use alloc::boxed::Box;
use alloc::vec::Vec;

use flyball_core::class::MAX_CLASSES;
use flyball_core::id::{ClassId, ClassSet};
use flyball_core::time::Timestamp;

use super::algorithm::Algorithm;
use super::class::{ClassState, FRACTION};
use super::front::FrontGate;
use super::joint::Joint;
use super::params::ClassParams;
use super::weights::{self, Demand};

/// How long a worker waits for a class that has all the grants it may have: the settlement that frees one is not known
/// beforehand, and the worker that settles asks again itself.
pub(super) const CONCURRENCY_WAIT_NS: u64 = 5_000_000;
/// The shortest wait and the shortest slice that a ceiling leads to: below it, asking would cost more than running.
pub(super) const SHORTEST_NS: u64 = 10_000;

/// A slice: the right to run one class for a while. It must be settled.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use = "a grant counts against its class until it is settled"]
pub struct Grant {
    /// The class to run.
    pub class: ClassId,
    /// How long to run it, in nanoseconds, before asking again.
    pub slice_ns: u64,
    /// When the slice was granted.
    pub started: Timestamp,
    generation: u32,
}

/// The answer to a worker that asks what to run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Pick {
    /// Run this class.
    Run(Grant),
    /// There is work, but it may not run before `until`: a ceiling is spent, all grants of the class are out, or the
    /// front group is ahead of its share. Park, at most until then.
    Wait {
        /// When to ask again.
        until: Timestamp,
    },
    /// No class that the worker may run has work.
    Idle,
}

/// What a class got and is promised.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ClassService {
    /// CPU time settled since the class was added, in nanoseconds.
    pub service_ns: u64,
    /// Slices granted.
    pub grants: u64,
    /// Slices that are out.
    pub in_flight: u32,
    /// The part (0 to 1) that the class is promised among those awake now; `None` while it sleeps.
    pub promised: Option<f64>,
    /// Weighted virtual run time in nanoseconds: CPU time × 1024 / shares, or what guarantee and ceiling make of the shares.
    pub virtual_time_ns: u64,
    /// CPU time owed to the class (negative: had too much), in nanoseconds, against the classes it competes with; while
    /// it sleeps, the lag that it went to sleep with.
    pub lag_ns: i64,
    /// Slices that the class got by ageing, ahead of a class with higher priority (`priority` only).
    pub ageings: u64,
}

/// Chooses which class a worker runs next. One stands over all workers of both groups.
#[derive(Clone, Debug)]
pub struct Scheduler {
    pub(crate) algorithm: Algorithm,
    pub(crate) parallelism: u32,
    pub(crate) now: Timestamp,
    /// By class id; only the entries in `known` mean anything.
    pub(crate) classes: Box<[ClassState; MAX_CLASSES]>,
    pub(crate) demands: Box<[Demand; MAX_CLASSES]>,
    pub(crate) known: ClassSet,
    pub(crate) fronts: ClassSet,
    /// Classes with a guarantee or a cap, whose weight depends on who is awake.
    pub(crate) bounded: ClassSet,
    /// Classes with a ceiling or a limit on concurrency, which may be closed for now.
    pub(crate) restricted: ClassSet,
    pub(crate) awake: ClassSet,
    pub(crate) in_flight: ClassSet,
    /// The classes among which the last worker that runs front (0) or back (1) classes chose.
    pub(crate) arenas: [ClassSet; 2],
    pub(crate) turn: u64,
    pub(crate) max_slice_ns: u64,
    /// The most CPU time that one grant used lately; halves every second.
    pub(crate) longest_ns: u64,
    longest_at: Timestamp,
    gate: FrontGate,
    pub(crate) generation: u32,
    /// By place; see `joint`.
    pub(super) joints: Vec<Option<Joint>>,
    /// All classes that have one.
    pub(super) jointly: ClassSet,
}

impl Scheduler {
    /// Makes a scheduler without classes for `parallelism` workers running at once (at least 1).
    pub fn new(algorithm: Algorithm, parallelism: u32) -> Self {
        let placeholder = ClassParams {
            priority: 0,
            shares: 1,
            guarantee: 0.0,
            ceiling: 1.0,
            latency_target_ns: 1,
            slice_ns: 1,
            concurrency: 1,
            group: flyball_core::class::Group::Back,
        };
        let vacant = ClassState::new(Timestamp::ZERO, placeholder, 0);
        let classes: Vec<ClassState> = (0..MAX_CLASSES).map(|_| vacant.clone()).collect();
        let classes: Box<[ClassState; MAX_CLASSES]> = match classes.into_boxed_slice().try_into() {
            Ok(classes) => classes,
            Err(_) => unreachable!("the vector has MAX_CLASSES entries"),
        };
        let parallelism = parallelism.max(1);
        Self {
            algorithm,
            parallelism,
            now: Timestamp::ZERO,
            classes,
            demands: Box::new([Demand::default(); MAX_CLASSES]),
            known: ClassSet::EMPTY,
            fronts: ClassSet::EMPTY,
            bounded: ClassSet::EMPTY,
            restricted: ClassSet::EMPTY,
            awake: ClassSet::EMPTY,
            in_flight: ClassSet::EMPTY,
            arenas: [ClassSet::ALL; 2],
            turn: 0,
            max_slice_ns: 1,
            longest_ns: 0,
            longest_at: Timestamp::ZERO,
            gate: FrontGate::new(parallelism),
            generation: 0,
            joints: Vec::new(),
            jointly: ClassSet::EMPTY,
        }
    }

    /// Returns the algorithm in use.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Returns how many workers run at once.
    pub fn parallelism(&self) -> u32 {
        self.parallelism
    }

    /// Changes the algorithm. Service totals, grants that are out, ceilings and sleep stay as they are; between `cfs` and
    /// `proportional_share` lags stay too. Coming from an algorithm that does not heed lags, each is cut to one slice, so
    /// that nobody is paid back for what was not promised then.
    pub fn set_algorithm(&mut self, now: Timestamp, algorithm: Algorithm) {
        self.advance(now);
        let heeds_lag = |a| matches!(a, Algorithm::Cfs | Algorithm::ProportionalShare);
        if heeds_lag(algorithm) && !heeds_lag(self.algorithm) {
            self.rebase();
            for class in self.awake {
                let now = self.now;
                let state = &mut self.classes[class.index()];
                let slice = super::class::to_units(state.params.slice_ns);
                let lag = state.view(now);
                state.balance += lag.clamp(-slice, slice) - lag;
            }
        }
        if algorithm == Algorithm::RoundRobin && self.algorithm != algorithm {
            for class in self.known {
                self.classes[class.index()].allowance_ns = 0;
            }
        }
        self.algorithm = algorithm;
        self.update_gate();
    }

    /// Changes how many workers run at once (at least 1); limits on concurrency and ceilings follow.
    pub fn set_parallelism(&mut self, parallelism: u32) {
        self.parallelism = parallelism.max(1);
        for class in self.known {
            self.bound(class);
        }
        self.reweigh();
        self.update_gate();
    }

    /// Chooses what a worker runs next.
    ///
    /// `ready` is every class, of both groups, that has queued work now; `allowed` is the classes that the asking worker
    /// may run. Classes that were never added are ignored.
    pub fn pick(&mut self, now: Timestamp, ready: ClassSet, allowed: ClassSet) -> Pick {
        self.advance(now);
        let ready = ready & self.known;
        self.observe(ready);
        let wanted = ready & allowed;
        if wanted.is_empty() {
            return Pick::Idle;
        }
        let allowed = allowed & self.known;
        if !(allowed & self.fronts).is_empty() {
            self.arenas[0] = allowed;
        }
        if !(allowed - self.fronts).is_empty() {
            self.arenas[1] = allowed;
        }
        let (open, until) = self.open(wanted);
        if open.is_empty() {
            return Pick::Wait { until };
        }
        let class = match self.algorithm {
            Algorithm::RoundRobin => self.pick_round_robin(open),
            Algorithm::Priority => self.pick_priority(open),
            Algorithm::Cfs => self.pick_cfs(open, allowed),
            Algorithm::ProportionalShare => self.pick_proportional(open, allowed),
        };
        if self.fronts.contains(class)
            && (wanted - self.fronts).is_empty()
            && let Some(until) = self.front_wait(ready - self.fronts, class)
        {
            return Pick::Wait { until };
        }
        Pick::Run(self.grant(class))
    }

    /// Takes a grant back with the CPU time that it used, which may be 0 and may be far beyond the slice. A grant of a
    /// class that was removed is ignored.
    pub fn settle(&mut self, now: Timestamp, grant: Grant, used_ns: u64) {
        self.advance(now);
        let class = grant.class;
        let state = &mut self.classes[class.index()];
        if state.generation != grant.generation || !self.known.contains(class) {
            return;
        }
        state.settle(self.now, grant.started, grant.slice_ns, used_ns);
        if state.out == 0 {
            self.in_flight.remove(class);
        }
        if self.fronts.contains(class) {
            self.gate.take(used_ns);
        }
        if self.jointly.contains(class) {
            self.take_jointly(class, used_ns);
        }
        if used_ns > self.longest_ns / 2 {
            let seconds = self.now.saturating_nanos_since(self.longest_at) >> 30;
            let decayed = self
                .longest_ns
                .checked_shr(seconds.min(64) as u32)
                .unwrap_or(0);
            if used_ns >= decayed {
                self.longest_ns = used_ns;
                self.longest_at = self.now;
                for other in self.known {
                    self.classes[other.index()].expect(used_ns);
                }
            }
        }
        let elapsed = self.now.saturating_nanos_since(grant.started);
        if elapsed > grant.slice_ns && used_ns < elapsed - elapsed / 8 {
            self.spare_latecomers(grant.started, elapsed, elapsed - used_ns);
        }
    }

    /// Is told how much of the wall time since their start the grants of a class that are out have left unused (`idle_ns`, added up),
    /// and how many of them rest now (`resting`, in 1/1024). Without it a grant counts as using the CPU until it is settled, and tasks
    /// that block for seconds would hold up others of their group although they take nothing. Holds until it is told anew; the last
    /// settlement forgets it.
    pub fn note_rest(&mut self, now: Timestamp, class: ClassId, idle_ns: u64, resting: u64) {
        self.advance(now);
        if self.known.contains(class) {
            let now = self.now;
            self.classes[class.index()].note_rest(now, idle_ns, resting);
        }
    }

    /// Returns a grant that is out, for whoever settles it in its holder's name: it is told by what was granted. It must not be settled
    /// by both. `None` if the class does not exist or has no grant out.
    pub fn regrant(&self, class: ClassId, started: Timestamp, slice_ns: u64) -> Option<Grant> {
        let state = &self.classes[class.index()];
        (self.known.contains(class) && state.out > 0).then_some(Grant {
            class,
            slice_ns,
            started,
            generation: state.generation,
        })
    }

    /// Returns what a class got and is promised; `None` if it does not exist.
    pub fn stats(&self, class: ClassId) -> Option<ClassService> {
        if !self.known.contains(class) {
            return None;
        }
        let state = &self.classes[class.index()];
        let awake = self.awake.contains(class);
        let lag = if awake {
            let rivals = self.rivals(class);
            state.view(self.now) - self.entitled(class, &self.average(rivals))
        } else {
            state.balance
        };
        let total: u64 = self
            .awake
            .iter()
            .map(|c| self.classes[c.index()].weight)
            .sum();
        let scaled = u128::from(state.service_ns) * u128::from(weights::of_shares(1024))
            / u128::from(state.weight.max(1));
        Some(ClassService {
            service_ns: state.service_ns,
            grants: state.grants,
            in_flight: state.out,
            promised: awake.then(|| match self.algorithm {
                Algorithm::RoundRobin => 1.0 / f64::from(self.awake.len()),
                _ => state.weight as f64 / total as f64,
            }),
            virtual_time_ns: u64::try_from(scaled).unwrap_or(u64::MAX),
            lag_ns: lag >> FRACTION,
            ageings: state.ageings,
        })
    }

    #[inline]
    pub(crate) fn advance(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
    }

    /// Learns who woke and who fell asleep.
    #[inline]
    fn observe(&mut self, ready: ClassSet) {
        let awake = ready | self.in_flight;
        let persistence = self.gate.watch(self.now, !(ready & self.fronts).is_empty());
        if awake != self.awake {
            self.change_awake(awake);
            self.update_gate();
        } else if persistence {
            self.update_gate();
        }
    }

    fn change_awake(&mut self, awake: ClassSet) {
        self.rebase();
        for class in self.awake - awake {
            let state = &mut self.classes[class.index()];
            let lag = state.view(self.now);
            state.sleep(self.now, lag);
        }
        let woken = awake - self.awake;
        self.awake = awake;
        self.set_weights();
        for class in woken {
            let (lag, asleep_ns) = self.classes[class.index()].wake(self.now);
            self.place_woken(class, lag, asleep_ns, woken);
        }
    }

    /// Computes the weights anew while who is awake stays the same.
    pub(crate) fn reweigh(&mut self) {
        self.rebase();
        self.set_weights();
    }

    /// Sets the weights of those awake. The zero of balances must have been moved to the average before, so that a new
    /// weight changes no lag.
    fn set_weights(&mut self) {
        if (self.awake & self.bounded).is_empty() {
            for class in self.awake {
                let state = &mut self.classes[class.index()];
                state.weight = weights::of_shares(state.params.shares);
            }
        } else {
            let weights = weights::solve(self.awake, &self.demands);
            for class in self.awake {
                self.classes[class.index()].weight = weights[class.index()];
            }
        }
    }

    /// Returns the classes of `wanted` that are within ceiling and concurrency; if there are none, when to ask again.
    fn open(&mut self, wanted: ClassSet) -> (ClassSet, Timestamp) {
        let mut open = wanted;
        let mut wait = u64::MAX;
        for class in wanted & self.restricted {
            let state = &mut self.classes[class.index()];
            if state.out >= state.params.concurrency {
                open.remove(class);
                wait = wait.min(CONCURRENCY_WAIT_NS);
                continue;
            }
            let pending = state.pending_ns(self.now);
            if let Some(ceiling) = &mut state.ceiling {
                ceiling.refill(self.now);
                if ceiling.left_ns(pending) <= 0 {
                    open.remove(class);
                    wait = wait.min(ceiling.nanos_until(SHORTEST_NS, pending).max(SHORTEST_NS));
                }
            }
        }
        if !(open & self.jointly).is_empty() {
            let (left, until) = self.open_jointly(open, true);
            (open, wait) = (left, wait.min(until));
        }
        (open, self.now.saturating_add_nanos(wait))
    }

    fn grant(&mut self, class: ClassId) -> Grant {
        let state = &mut self.classes[class.index()];
        let mut slice_ns = match self.algorithm {
            Algorithm::RoundRobin => super::round_robin::SLICE_NS,
            _ => state.params.slice_ns,
        };
        if let Some(ceiling) = &state.ceiling {
            let left = ceiling.left_ns(state.pending_ns(self.now)).max(0) as u64;
            slice_ns = slice_ns.min(left.max(SHORTEST_NS));
        }
        if self.jointly.contains(class) {
            slice_ns = slice_ns.min(self.left_jointly(class));
        }
        let state = &mut self.classes[class.index()];
        state.grant(self.now, slice_ns);
        self.turn += 1;
        state.turn = self.turn;
        self.in_flight.insert(class);
        Grant {
            class,
            slice_ns,
            started: self.now,
            generation: state.generation,
        }
    }

    /// Answers until when a front worker must wait, if it must; `backs` are the back classes that have work.
    fn front_wait(&mut self, backs: ClassSet, class: ClassId) -> Option<Timestamp> {
        if backs.is_empty() {
            return None;
        }
        let pending = (self.fronts & self.in_flight).iter().fold(0u64, |sum, c| {
            sum.saturating_add(self.classes[c.index()].pending_ns(self.now))
        });
        let wait = self.gate.wait(self.now, pending)?;
        let (waiting, _) = self.open(backs);
        let due = match self.algorithm {
            Algorithm::Priority => waiting.iter().any(|back| self.outranks(back, class)),
            _ => !waiting.is_empty(),
        };
        due.then(|| self.now.saturating_add_nanos(wait))
    }

    /// Tells the gate what the front group is entitled to.
    pub(crate) fn update_gate(&mut self) {
        let fronts = self.awake & self.fronts;
        if fronts.is_empty() {
            return;
        }
        let total = |set: ClassSet| match self.algorithm {
            Algorithm::RoundRobin => u64::from(set.len()),
            _ => set.iter().map(|c| self.classes[c.index()].weight).sum(),
        };
        let parts = (total(fronts), total(self.awake));
        let alone = fronts == self.awake;
        self.gate
            .entitle(self.now, self.algorithm, self.parallelism, parts, alone);
    }
}
