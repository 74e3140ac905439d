//! Joint ceilings: what a set of classes may use together, for a while. This is how a throttle's level acts.
//!
//! Each is a bucket of CPU time that fills at the allowance. When it is spent, no class of the set is granted a slice until it has
//! filled again: the set runs by a duty cycle. And there are never more of its grants that use the CPU than the allowance has
//! whole CPUs, rounded up: fewer workers run, so that tasks which are long against the cycle do not make it swing.
//!
//! The classes of the highest priority in the set may use the bucket up, the others leave the upper half of it: so work of a
//! higher class finds something left when it comes (trunk reservation; F. P. Kelly, "Loss networks", 1991, §3).
//!
//! Invariants: a class may be in several sets and needs all of them; the guarantees of a set are never withheld; without a joint
//! ceiling a decision costs one comparison.

use flyball_core::id::{ClassId, ClassSet};
use flyball_core::time::Timestamp;

use super::Scheduler;
use super::bucket::{Bucket, fixed_rate};
use super::class::ClassState;
use super::scheduler::{CONCURRENCY_WAIT_NS, SHORTEST_NS};

/// Joint ceilings that a scheduler can have.
pub const MAX_JOINT: usize = 16;

/// How long a full bucket lasts, as that of a class's own ceiling: the set may use its part of a tenth of a second at once.
const DEPTH_NS: u64 = 100_000_000;

/// What a set of classes may use together.
#[derive(Clone, Debug)]
pub(crate) struct Joint {
    classes: ClassSet,
    bucket: Bucket,
    cpus: f64,
}

impl Joint {
    /// CPU time that classes below the highest priority of the set leave, ns.
    fn reserve_ns(&self) -> u64 {
        (self.cpus * DEPTH_NS as f64 / 2.0) as u64
    }
}

impl Scheduler {
    /// Lets the classes of a set use at most so many CPUs together, or lifts that: `place`, below [`MAX_JOINT`] (beyond it nothing
    /// happens), tells several apart. What is guaranteed to them is the least; unknown classes are left out.
    pub fn set_joint_ceiling(
        &mut self,
        now: Timestamp,
        place: usize,
        ceiling: Option<(ClassSet, f64)>,
    ) {
        if place >= MAX_JOINT {
            return;
        }
        self.advance(now);
        if self.joints.len() <= place {
            self.joints.resize_with(place + 1, || None);
        }
        self.joints[place] = ceiling.and_then(|(classes, cpus)| {
            let classes = classes & self.known;
            let guaranteed: f64 = classes
                .iter()
                .map(|class| self.classes[class.index()].params.guarantee)
                .sum();
            let parallelism = f64::from(self.parallelism);
            let least = (guaranteed * parallelism).max(0.001);
            let cpus = if cpus > least {
                cpus.min(parallelism)
            } else {
                least
            };
            let joint = self.joints[place].take();
            let bucket = match joint.filter(|joint| joint.classes == classes) {
                Some(Joint { mut bucket, .. }) => {
                    let out = classes & self.in_flight;
                    let (pending, _) = out_of(&self.classes[..], out, self.now);
                    bucket.reshape_beside(self.now, fixed_rate(cpus), DEPTH_NS, pending);
                    bucket
                }
                None => {
                    // What was begun before the ceiling was is not owed.
                    let out = classes & self.in_flight;
                    let (pending, _) = out_of(&self.classes[..], out, self.now);
                    let mut bucket = Bucket::full(self.now, cpus, DEPTH_NS);
                    bucket.give(pending);
                    bucket
                }
            };
            (!classes.is_empty()).then_some(Joint {
                classes,
                bucket,
                cpus,
            })
        });
        self.jointly = self
            .joints
            .iter()
            .flatten()
            .fold(ClassSet::EMPTY, |all, joint| all | joint.classes);
    }

    /// Returns the classes that must not run on now because a joint ceiling of theirs is spent.
    pub fn held_jointly(&mut self, now: Timestamp) -> ClassSet {
        self.advance(now);
        if self.jointly.is_empty() {
            return ClassSet::EMPTY;
        }
        let all = self.jointly;
        let (open, _) = self.open_jointly(all, false);
        all - open
    }

    /// Returns the classes that have a joint ceiling.
    pub fn jointly_limited(&self) -> ClassSet {
        self.jointly
    }

    /// Returns the CPU time that a class has used, in nanoseconds, with what grants that are out may have used; 0 for an unknown one.
    pub fn used_ns(&self, now: Timestamp, class: ClassId) -> u64 {
        match self.known.contains(class) {
            true => {
                let state = &self.classes[class.index()];
                state
                    .service_ns
                    .saturating_add(state.pending_ns(now.max(self.now)))
            }
            false => 0,
        }
    }

    /// Charges CPU time of a class that no grant stands for: its service and its joint ceilings.
    pub fn charge_beside(&mut self, class: ClassId, used_ns: u64) {
        if self.known.contains(class) {
            let state = &mut self.classes[class.index()];
            state.service_ns = state.service_ns.saturating_add(used_ns);
            self.take_jointly(class, used_ns);
        }
    }

    /// Takes the classes out of `wanted` that joint ceilings close for now, and returns how long to wait for the first of them, ns.
    /// Whether as many run as may counts for who wants to begin (`begins`) only.
    pub(super) fn open_jointly(&mut self, wanted: ClassSet, begins: bool) -> (ClassSet, u64) {
        let (mut open, mut wait) = (wanted, u64::MAX);
        let now = self.now;
        for joint in self.joints.iter_mut().flatten() {
            let mine = wanted & joint.classes;
            if mine.is_empty() {
                continue;
            }
            let (pending, busy) = out_of(&self.classes[..], joint.classes & self.in_flight, now);
            if begins && busy >= joint.cpus {
                open = open - mine;
                wait = wait.min(CONCURRENCY_WAIT_NS);
                continue;
            }
            joint.bucket.refill_beside(now, pending);
            let left = joint.bucket.left_ns(pending);
            let highest = joint
                .classes
                .iter()
                .map(|class| self.classes[class.index()].priority)
                .max();
            for class in mine {
                let leave = match Some(self.classes[class.index()].priority) == highest {
                    true => 0,
                    false => joint.reserve_ns(),
                };
                if left <= leave as i64 {
                    open.remove(class);
                    let until = joint.bucket.nanos_until(leave + SHORTEST_NS, pending);
                    wait = wait.min(until.max(SHORTEST_NS));
                }
            }
        }
        (open, wait)
    }

    /// Charges CPU time of a class.
    pub(super) fn take_jointly(&mut self, class: ClassId, used_ns: u64) {
        let mine = |joint: &&mut Joint| joint.classes.contains(class);
        for joint in self.joints.iter_mut().flatten().filter(mine) {
            joint.bucket.take(used_ns);
        }
    }

    /// Returns the longest slice that joint ceilings leave to a class, ns.
    pub(super) fn left_jointly(&self, class: ClassId) -> u64 {
        let mine = |joint: &&Joint| joint.classes.contains(class);
        let left = |joint: &Joint| {
            let (pending, _) = out_of(&self.classes[..], joint.classes & self.in_flight, self.now);
            joint.bucket.left_ns(pending).max(SHORTEST_NS as i64) as u64
        };
        let joints = self.joints.iter().flatten().filter(mine);
        joints.map(left).min().unwrap_or(u64::MAX)
    }

    /// Takes a class out that is no more.
    pub(super) fn leave_joints(&mut self, class: ClassId) {
        for joint in self.joints.iter_mut().flatten() {
            joint.classes.remove(class);
        }
        self.jointly.remove(class);
    }
}

/// CPU time that grants of these classes may have used, ns, and how many of them use the CPU.
fn out_of(classes: &[ClassState], of: ClassSet, now: Timestamp) -> (u64, f64) {
    of.iter().fold((0u64, 0.0), |(pending, busy), class| {
        let state = &classes[class.index()];
        (
            pending.saturating_add(state.pending_ns(now)),
            busy + state.busy(),
        )
    })
}
