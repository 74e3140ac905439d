//! Memory of commands that run together, under one bound.
//!
//! Two questions. *May one more start?* Each command is held to need the larger of what was reserved for it and what it was
//! measured to use; the next may start when its own reservation fits beside the sum. Where nothing is known of it, the effect of
//! the last start is waited for: until a measurement has seen it, it has ended, or [`Admission::settle`] has passed. *What of those that
//! run?* When the measured sum nears the bound, the youngest is paused, one at each measurement, and goes on when there is room;
//! at the bound the youngest is ended, to run again alone. The youngest, because least work is lost with it, and because the oldest
//! then always goes on.
//!
//! Invariants:
//! - with no command under way the answer is `Start`, whatever the reservation;
//! - reservations of commands under way add up to at most the bound, unless there is only one;
//! - the oldest command is not paused, and ended only when it is the only one and above the bound by itself;
//! - no second command is ended before the first is gone.
//!
//! Leaves out: measuring and signalling, and how reservations are made (`peaks`).

use alloc::collections::BTreeMap;
use core::time::Duration;

use flyball_core::time::Timestamp;

/// Of the bound, in 32nds: above this sum the youngest is paused.
const PAUSE_32NDS: u64 = 28;

/// Above this one the youngest is ended: what runs may take the rest between two measurements.
const END_32NDS: u64 = 31;

/// Below this one the oldest that is paused goes on. Apart from `PAUSE_32NDS`, so that one command is not stopped and continued at each
/// measurement.
const RESUME_32NDS: u64 = 24;

/// What is expected of a command that wants to start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// It needs at most about so many bytes: somebody said so, or others like it did.
    Bytes(u64),
    /// Nothing is known.
    Unknown,
    /// It was ended for the others' sake, and runs with nobody beside it now.
    Alone,
}

/// Why a command has to wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// Its reservation does not fit beside the others.
    Reserved,
    /// The machine has not that much memory to give now.
    Machine,
    /// The effect of the last start is not known yet.
    Effect,
    /// Something is paused or being ended because of memory.
    Pressure,
    /// One that must run alone runs, or this one must and others run.
    Alone,
}

/// Whether a command may start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Yes, with so many bytes reserved.
    Start {
        /// What [`Admission::started`] is to be told.
        reserved: u64,
    },
    /// Not now. Ask again when something has ended or was measured, and at that time if there is one.
    Wait {
        /// What for.
        why: Why,
        /// When to ask again though nothing happens.
        until: Option<Timestamp>,
    },
}

/// What is to be done with those that run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nothing.
    Fine,
    /// Stop this one.
    Pause(u64),
    /// Let this one go on.
    Resume(u64),
    /// End this one; it is to run again, alone.
    End(u64),
    /// End this one; it is above the bound by itself, so that running it again is of no use.
    Fail(u64),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Going {
    Runs,
    Paused,
    /// It is being ended.
    Leaves,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    reserved: u64,
    measured: Option<u64>,
    /// A measurement has shown what it does, not only that it is there.
    seen: bool,
    started: Timestamp,
    alone: bool,
    going: Going,
}

impl Entry {
    fn committed(&self) -> u64 {
        self.reserved.max(self.measured.unwrap_or(0))
    }
}

/// Commands under way and their memory. A command is known by a number that grows from start to start.
#[derive(Clone, Debug)]
pub struct Admission {
    bound: Option<u64>,
    settle: Duration,
    entries: BTreeMap<u64, Entry>,
    /// What is committed to all entries, kept as they change: a start costs no walk over the others.
    committed: u64,
}

impl Admission {
    /// For commands that may use `bound` bytes together; `None` when only the machine bounds them. `settle`: how long the effect of a
    /// start is waited for at most.
    #[must_use]
    pub fn new(bound: Option<u64>, settle: Duration) -> Admission {
        Admission {
            bound,
            settle,
            entries: BTreeMap::new(),
            committed: 0,
        }
    }

    /// The bound on all together.
    #[must_use]
    pub fn bound(&self) -> Option<u64> {
        self.bound
    }

    /// How long the effect of a start is waited for at most.
    #[must_use]
    pub fn settle(&self) -> Duration {
        self.settle
    }

    /// What is committed to those under way: for each the larger of reserved and measured, bytes.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// What was measured of all under way, bytes.
    #[must_use]
    pub fn measured_sum(&self) -> u64 {
        self.entries
            .values()
            .filter_map(|entry| entry.measured)
            .fold(0, u64::saturating_add)
    }

    /// What those under way have reserved and do not use yet, bytes: the machine counts it as free.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        self.entries
            .values()
            .map(|entry| entry.reserved.saturating_sub(entry.measured.unwrap_or(0)))
            .fold(0, u64::saturating_add)
    }

    /// Commands under way, paused and leaving ones too.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.entries.len()
    }

    /// Whether one more may start at `now`. `room`: bytes that the machine can give now, if that is to count; it must not contain
    /// what others have reserved there.
    #[must_use]
    pub fn ask(&self, now: Timestamp, expected: Expected, room: Option<u64>) -> Answer {
        let wait = |why| Answer::Wait { why, until: None };
        let most = self.bound.unwrap_or(u64::MAX);
        let reserved = match expected {
            Expected::Bytes(bytes) => bytes.min(most),
            Expected::Unknown | Expected::Alone => 0,
        };
        let Some((_, last)) = self.entries.last_key_value() else {
            return Answer::Start { reserved };
        };
        if expected == Expected::Alone || self.entries.values().any(|entry| entry.alone) {
            return wait(Why::Alone);
        }
        if self
            .entries
            .values()
            .any(|entry| entry.going != Going::Runs)
        {
            return wait(Why::Pressure);
        }
        let needed = match expected {
            Expected::Bytes(_) => reserved,
            // As much as the largest of its kind, which is all that is known.
            _ => {
                let settled = last.started.saturating_add(self.settle);
                if !last.seen && now < settled {
                    return Answer::Wait {
                        why: Why::Effect,
                        until: Some(settled),
                    };
                }
                self.entries
                    .values()
                    .filter_map(|entry| entry.measured)
                    .max()
                    .unwrap_or(0)
            }
        };
        // One whose reservation is all of the bound does not fit beside anything, be it ever so small.
        if self.committed.saturating_add(needed) > most || needed == most {
            return wait(Why::Reserved);
        }
        if room.is_some_and(|room| self.outstanding().saturating_add(needed) > room) {
            return wait(Why::Machine);
        }
        Answer::Start { reserved }
    }

    /// Command `id` has started, or was handed over to start. `id` is larger than all before.
    pub fn started(&mut self, now: Timestamp, id: u64, reserved: u64, alone: bool) {
        let entry = Entry {
            reserved,
            measured: None,
            seen: false,
            started: now,
            alone,
            going: Going::Runs,
        };
        self.committed = self.committed.saturating_add(reserved);
        self.entries.insert(id, entry);
    }

    /// Command `id` uses so many bytes now, by a measurement that began at `at`.
    pub fn measured(&mut self, at: Timestamp, id: u64, bytes: u64) {
        if let Some(entry) = self.entries.get_mut(&id) {
            let before = entry.committed();
            entry.measured = Some(bytes);
            // Half the time that would be waited anyway: a program has been loaded and begun by then.
            entry.seen |= at >= entry.started.saturating_add(self.settle / 2);
            let after = entry.committed();
            self.committed = (self.committed - before.min(self.committed)).saturating_add(after);
        }
    }

    /// Command `id` has ended.
    pub fn ended(&mut self, id: u64) {
        if let Some(entry) = self.entries.remove(&id) {
            self.committed = self.committed.saturating_sub(entry.committed());
            if self.entries.is_empty() {
                self.committed = 0;
            }
        }
    }

    /// Judges those under way, after they were measured. What it says has happened from here on; ask until it says `Fine` only
    /// where a `Resume` may be followed by another, as one measurement justifies one step up.
    pub fn judge(&mut self) -> Verdict {
        let Some(bound) = self.bound else {
            return self.ease();
        };
        let line = |nds: u64| bound / 32 * nds + bound % 32 * nds / 32;
        let sum = self.measured_sum();
        if self
            .entries
            .values()
            .any(|entry| entry.going == Going::Leaves)
        {
            return Verdict::Fine;
        }
        if self.entries.len() == 1 {
            let above = sum > bound;
            return match self.entries.iter_mut().next() {
                Some((id, entry)) if above => {
                    entry.going = Going::Leaves;
                    Verdict::Fail(*id)
                }
                _ => self.ease(),
            };
        }
        if sum >= line(END_32NDS) {
            return self.end_youngest();
        }
        if sum >= line(PAUSE_32NDS) {
            return self.pause_youngest();
        }
        if sum < line(RESUME_32NDS) {
            return self.ease();
        }
        // Not everything may stand still.
        if self.runs() == 0 {
            return self.ease();
        }
        Verdict::Fine
    }

    /// Ends the youngest for want of memory of the machine, if there are at least two and none leaves already.
    pub fn end_youngest(&mut self) -> Verdict {
        let leaves = |entry: &Entry| entry.going == Going::Leaves;
        if self.entries.len() < 2 || self.entries.values().any(leaves) {
            return Verdict::Fine;
        }
        match self.entries.iter_mut().next_back() {
            Some((id, entry)) => {
                entry.going = Going::Leaves;
                Verdict::End(*id)
            }
            None => Verdict::Fine,
        }
    }

    fn runs(&self) -> usize {
        self.entries
            .values()
            .filter(|entry| entry.going == Going::Runs)
            .count()
    }

    fn pause_youngest(&mut self) -> Verdict {
        // The oldest goes on, or nothing would.
        let youngest = self
            .entries
            .iter_mut()
            .skip(1)
            .rev()
            .find(|(_, entry)| entry.going == Going::Runs);
        match youngest {
            Some((id, entry)) => {
                entry.going = Going::Paused;
                Verdict::Pause(*id)
            }
            None => self.wake_oldest(),
        }
    }

    /// The oldest must run, also when it became the oldest while it was paused.
    fn wake_oldest(&mut self) -> Verdict {
        match self.entries.iter_mut().next() {
            Some((id, entry)) if entry.going == Going::Paused => {
                entry.going = Going::Runs;
                Verdict::Resume(*id)
            }
            _ => Verdict::Fine,
        }
    }

    fn ease(&mut self) -> Verdict {
        let paused = self
            .entries
            .iter_mut()
            .find(|(_, entry)| entry.going == Going::Paused);
        match paused {
            Some((id, entry)) => {
                entry.going = Going::Runs;
                Verdict::Resume(*id)
            }
            None => Verdict::Fine,
        }
    }
}
