//! Commands that may run for a part of the time only, and so stand still by turns.
//!
//! Who measures what commands use says the part; `policy::control::duty` says who runs at a moment. The others stand still by SIGSTOP, so that this holds
//! whatever commands do. They go on by SIGCONT, which those can handle; and who waits for children with `WUNTRACED` or `WCONTINUED` (shells with job control,
//! sudo) is told of both (waitpid(2)). What stopped itself, or a debugger stopped, is not woken. The clock of a command's timeout stands while it does; whoever
//! keeps a lease for it goes on to renew it.
//!
//! Invariants: a command that stands still for another reason is left alone and has no turn; one that has not started, or whose keeper does not listen,
//! cannot be stopped and is asked again at the next turn; no order waits; with the part at 1, after [`release`](Turns::release), or when it is taken out, a command runs.

use std::collections::{BTreeMap, HashMap};

use flyball_core::time::Timestamp;
use flyball_policy::control::duty::{CYCLE, Duty};

use crate::child::Control;

#[derive(Debug)]
struct Job {
    control: Control,
    part: f64,
    /// It stands still because its turn is over.
    held: bool,
}

/// Commands, the part of the time for which each may run, and whose turn it is.
#[derive(Debug)]
pub struct Turns {
    since: Timestamp,
    /// In the order of their starts.
    jobs: BTreeMap<u64, Job>,
    /// Nobody is held any more.
    released: bool,
}

impl Turns {
    /// No commands yet.
    #[must_use]
    pub fn new(since: Timestamp) -> Turns {
        Turns {
            since,
            jobs: BTreeMap::new(),
            released: false,
        }
    }

    /// Takes a command in, under a number that no other has; it runs for this part of the time, 0 to 1 (what is no number is 1).
    pub fn insert(&mut self, number: u64, control: Control, part: f64) {
        let job = Job {
            control,
            part: sane(part),
            held: false,
        };
        if let Some(before) = self.jobs.insert(number, job) {
            before.let_go();
        }
    }

    /// Takes a command out; it goes on if it was held.
    pub fn remove(&mut self, number: u64) {
        if let Some(job) = self.jobs.remove(&number) {
            job.let_go();
        }
    }

    /// Sets the part of the time for which each command may run, by its number.
    pub fn set_parts(&mut self, part: impl Fn(u64) -> f64) {
        for (number, job) in &mut self.jobs {
            job.part = sane(part(*number));
        }
    }

    /// Lets everything go on, for good.
    pub fn release(&mut self) {
        self.released = true;
        for job in self.jobs.values_mut() {
            job.let_go();
            job.held = false;
        }
    }

    /// Commands that stand still now as their turn is over.
    #[must_use]
    pub fn held(&self) -> usize {
        self.jobs.values().filter(|job| job.held).count()
    }

    /// Whether there is no command.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Stops those whose turn is over and lets those go on whose turn it is. Answers when to call it again; `None` while all run always.
    pub fn tick(&mut self, now: Timestamp) -> Option<Timestamp> {
        if self.released {
            return None;
        }
        // Those with the same part share turns, so that as few as can be stop and go on.
        let mut groups: HashMap<u64, Vec<&mut Job>> = HashMap::new();
        let mut next = None;
        for job in self.jobs.values_mut() {
            if job.control.wants_turn() {
                groups.entry(job.part.to_bits()).or_default().push(job);
                continue;
            }
            // It stands still for another reason besides, or has ended: it has no turn to wait for.
            job.let_go();
            job.held = false;
            if job.part < 1.0 {
                // Nobody tells when it begins, or goes on.
                next = Some(now.saturating_add(CYCLE));
            }
        }
        for group in groups.values_mut() {
            let count = group.len();
            let mut duty = Duty::all(self.since);
            duty.set_part(group[0].part);
            for (index, job) in group.iter_mut().enumerate() {
                let holds = !duty.runs(now, index, count);
                if holds != job.held {
                    let heard = match holds {
                        true => job.control.hold(),
                        false => job.control.let_go(),
                    };
                    job.held = holds && heard;
                }
            }
            next = [next, duty.next(now, count)].into_iter().flatten().min();
        }
        next
    }
}

impl Job {
    fn let_go(&self) {
        if self.held {
            self.control.let_go();
        }
    }
}

fn sane(part: f64) -> f64 {
    if part.is_nan() {
        1.0
    } else {
        part.clamp(0.0, 1.0)
    }
}
