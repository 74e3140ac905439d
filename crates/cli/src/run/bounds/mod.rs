//! What bounds a run beside its slots: memory, load, and the other runs on this machine.
//!
//! The loop asks before each start whether it may, tells of starts and ends, and lets time pass; everything that is measured is
//! measured from here, on the loop's own thread. The judgements are `flyball_policy::budget`, the effects `flyball_process::bounds`.
//!
//! Invariants: with no bound asked for, nothing is measured; a start that may not be now is asked about again when something has
//! ended and at [`Bounds::due`]; a command that was ended for the others' sake runs once more, alone.

mod cpu;
mod machine;
mod memory;
mod share;

use std::sync::mpsc::Sender;

use flyball_core::time::{Clock, OsClock, Timestamp};
use flyball_process::{Control, Error, Exit, Options};
use flyball_sense::Root;

use super::batch;
use super::batch::Event;
use super::options::{self, Load};
use super::plan::Plan;
use cpu::Cpu;
use machine::Machine;
use memory::Memory;
use share::Share;

/// What becomes of a command that has ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// What it answered counts.
    Counts,
    /// It was ended so that others can go on, and is to run again, alone.
    Again,
    /// It failed for this reason, whatever it answered.
    Failed(String),
}

/// The bounds of a run.
pub(crate) struct Bounds {
    memory: Option<Memory>,
    machine: Option<Machine>,
    cpu: Option<Cpu>,
    share: Share,
    jobs: u32,
    /// When to look again although nothing has happened.
    look_again: Option<Timestamp>,
    held_by: Option<&'static str>,
}

impl Bounds {
    /// Sets up what was asked for.
    pub(crate) fn new(plan: &Plan, events: &Sender<Event>) -> Bounds {
        let asked = &plan.options.bounds;
        let cpus = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
        let load = asked.load.map(|load| match load {
            Load::Threads(threads) => threads,
            Load::Percent(percent) => f64::from(cpus) * percent / 100.0,
        });
        let memory = Memory::wanted(asked).then(|| Memory::new(asked, &plan.command));
        let machine = (memory.is_some() || load.is_some())
            .then(|| Machine::new(&Root::default(), load, asked.memfree));
        let now = OsClock.now();
        Bounds {
            memory,
            machine,
            // Its range was checked with the options.
            cpu: asked
                .cpu
                .and_then(|percent| Cpu::new(percent, cpus, now).ok()),
            share: Share::new(plan, cpus, events),
            jobs: plan.jobs,
            look_again: None,
            held_by: None,
        }
    }

    /// Puts the spawn server where the kernel keeps the bounds, as far as that can be.
    pub(crate) fn prepare(&self, options: &mut Options) {
        if let Some(memory) = &self.memory {
            memory.prepare(options);
        }
    }

    /// The spawn server did not start where [`prepare`](Bounds::prepare) put it. Answers whether it may be tried elsewhere.
    pub(crate) fn give_way(&mut self, error: &Error) -> bool {
        self.memory
            .as_mut()
            .is_some_and(|memory| memory.give_way(&batch::with_cause(error)))
    }

    /// What people should be told before it begins.
    pub(crate) fn warning(&self) -> Option<String> {
        self.share.warning()
    }

    /// Whether each start has to be asked for when it can happen, so that nothing is handed over ahead.
    pub(crate) fn careful(&self) -> bool {
        self.machine.is_some()
    }

    /// Commands that may run at once now.
    pub(crate) fn slots(&self) -> u32 {
        self.share.slots(self.jobs).min(self.jobs)
    }

    /// Says how many commands there are still to run, those that run included, where that is known.
    pub(crate) fn left(&mut self, commands: Option<usize>) {
        self.share.left(commands, self.jobs);
    }

    /// Whether one more command may start while `running` are under way.
    pub(crate) fn may_start(&mut self, now: Timestamp, running: usize, alone: bool) -> bool {
        (self.look_again, self.held_by) = (None, None);
        let Some(machine) = &mut self.machine else {
            return true;
        };
        let answer = machine
            .allows(now, running)
            .and_then(|()| match &mut self.memory {
                Some(memory) => {
                    let room = machine.room(now, self.share.outstanding());
                    memory
                        .allows(now, alone, room)
                        .map_err(|until| (until, "memory"))
                }
                None => Ok(()),
            });
        if let Err((until, bound)) = answer {
            (self.look_again, self.held_by) = (Some(until), Some(bound));
        }
        answer.is_ok()
    }

    /// What the next start waits for, in a word.
    pub(crate) fn held_by(&self) -> Option<&'static str> {
        self.held_by
    }

    /// A command was handed over to start.
    pub(crate) fn started(&mut self, now: Timestamp, number: u64, control: Control, alone: bool) {
        if let Some(cpu) = &mut self.cpu {
            cpu.started(now, number, control.clone());
        }
        if let Some(memory) = &mut self.memory {
            memory.started(now, number, control, alone);
        }
    }

    /// A command has ended.
    pub(crate) fn ended(&mut self, number: u64, result: &Result<Exit, Error>) -> After {
        if let Some(cpu) = &mut self.cpu {
            cpu.ended(number);
        }
        match &mut self.memory {
            Some(memory) => memory.ended(number, result),
            None => After::Counts,
        }
    }

    /// When to call [`tick`](Bounds::tick) and ask again though nothing has happened.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        let sample = self.memory.as_ref().and_then(Memory::due);
        let cpu = self.cpu.as_ref().and_then(Cpu::due);
        [sample, self.look_again, cpu].into_iter().flatten().min()
    }

    /// Measures and acts, when it is time.
    pub(crate) fn tick(&mut self, now: Timestamp) {
        self.tick_memory(now);
        if let Some(cpu) = &mut self.cpu {
            cpu.tick(now);
        }
    }

    fn tick_memory(&mut self, now: Timestamp) {
        let Some(memory) = &mut self.memory else {
            return;
        };
        if memory.due().is_none_or(|due| now < due) {
            return;
        }
        let scarce = self
            .machine
            .as_mut()
            .is_some_and(|machine| machine.is_scarce(now));
        memory.sample(now, scarce);
        self.share.reserved(memory.outstanding());
    }

    /// The run is being stopped: what stands still for the CPU's sake goes on, so that it can end.
    pub(crate) fn release(&mut self) {
        if let Some(cpu) = &mut self.cpu {
            cpu.release();
        }
    }

    /// Keeps what was learned.
    pub(crate) fn finish(&mut self) {
        if let Some(memory) = &mut self.memory {
            memory.finish();
        }
    }

    /// What became of the bounds, a line each, for people.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        lines.extend(self.memory.iter().flat_map(Memory::lines));
        lines.extend(self.machine.iter().flat_map(Machine::lines));
        lines.extend(self.cpu.iter().flat_map(Cpu::lines));
        lines.extend(self.share.line());
        lines
    }

    /// The same for machines; null without bounds.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "memory": self.memory.as_ref().map(Memory::json),
            "machine": self.machine.as_ref().map(Machine::json),
            "cpu": self.cpu.as_ref().map(Cpu::json),
            "shared": self.share.json(),
        })
    }
}

/// A size to three figures, in binary units as memory is counted.
fn size(bytes: u64) -> String {
    super::summary::format_rounded(bytes)
}

impl std::fmt::Debug for Bounds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bounds")
            .field("jobs", &self.jobs)
            .finish_non_exhaustive()
    }
}

/// The options that are asked for here.
type Asked = options::Bounds;
