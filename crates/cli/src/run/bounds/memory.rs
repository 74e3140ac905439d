//! Memory of the commands of a run: reserved before they start, measured while they run, bounded by the kernel where that can be.

use std::collections::HashMap;
use std::ffi::OsString;
use std::time::Duration;

use flyball_core::time::Timestamp;
use flyball_core::units::format_size;
use flyball_policy::budget::{Admission, Answer, Expected, Peaks, Verdict};
use flyball_process::bounds::cgroup::CgroupPool;
use flyball_process::bounds::learned::{self, Learned};
use flyball_process::bounds::memory::Count;
use flyball_process::bounds::scope::Scope;
use flyball_process::{Control, Error, Exit, Options};

use super::{After, Asked, size};
use crate::run::options::MemoryEach;

/// Between two measurements of the commands that run.
const SAMPLE_NS: u64 = 50_000_000;

/// How long the effect of a start of which nothing is known is waited for at most: two measurements.
const SETTLE: Duration = Duration::from_millis(100);

/// Where memory is only watched from this part of the bound on, what is watched is counted truly.
const TRUE_FROM_32NDS: u64 = 26;

/// Who keeps the bound on all commands together.
enum Keeper {
    /// Nobody was asked to.
    None,
    /// The kernel, in groups of our own.
    Groups(CgroupPool),
    /// The kernel, in a scope of the user's service manager.
    Scope(Scope),
    /// This program, by looking; why the kernel does not.
    Sampling(String),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    No,
    /// For the others' sake.
    ForOthers,
    /// It was above the bound with nobody beside it.
    TooLarge,
}

struct Job {
    id: u64,
    control: Control,
    uses: u64,
    peak: u64,
    alone: bool,
    ending: Ending,
    paused: bool,
}

/// Memory of a run.
pub(super) struct Memory {
    admission: Admission,
    keeper: Keeper,
    /// `--mem-each SIZE`.
    given: Option<u64>,
    /// `--mem-each auto`.
    learned: Option<Learned>,
    peaks: Peaks,
    jobs: HashMap<u64, Job>,
    next_id: u64,
    /// What the last answer reserved, for the start that follows it.
    reserved: u64,
    next_sample: Option<Timestamp>,
    most: u64,
    paused: u64,
    again: u64,
    failed: u64,
    held: bool,
}

impl Memory {
    pub(super) fn wanted(asked: &Asked) -> bool {
        asked.mem.is_some() || asked.mem_each.is_some() || asked.memfree.is_some()
    }

    pub(super) fn new(asked: &Asked, command: &[OsString]) -> Memory {
        let learned = match asked.mem_each {
            Some(MemoryEach::Auto) => {
                learned::user_folder().map(|folder| Learned::of(&folder, command))
            }
            _ => None,
        };
        Memory {
            admission: Admission::new(asked.mem, SETTLE),
            keeper: asked.mem.map_or(Keeper::None, keeper_of),
            given: match asked.mem_each {
                Some(MemoryEach::Bytes(bytes)) => Some(bytes),
                _ => None,
            },
            peaks: learned.as_ref().map(Learned::load).unwrap_or_default(),
            learned,
            jobs: HashMap::new(),
            next_id: 0,
            reserved: 0,
            next_sample: None,
            most: 0,
            paused: 0,
            again: 0,
            failed: 0,
            held: false,
        }
    }

    pub(super) fn prepare(&self, options: &mut Options) {
        match &self.keeper {
            Keeper::Groups(groups) => options.groups = Some(groups.clone()),
            Keeper::Scope(scope) => options.scope = Some(scope.clone()),
            Keeper::None | Keeper::Sampling(_) => {}
        }
    }

    /// Watches by looking instead of what did not work.
    pub(super) fn give_way(&mut self, why: &str) -> bool {
        match &self.keeper {
            Keeper::Groups(_) | Keeper::Scope(_) => {
                self.keeper = Keeper::Sampling(why.to_owned());
                true
            }
            Keeper::None | Keeper::Sampling(_) => false,
        }
    }

    /// Whether one more may start; else when to ask again at the latest.
    pub(super) fn allows(
        &mut self,
        now: Timestamp,
        alone: bool,
        room: Option<u64>,
    ) -> Result<(), Timestamp> {
        let expected = match self.given.or_else(|| self.peaks.reserve()) {
            _ if alone => Expected::Alone,
            Some(bytes) => Expected::Bytes(bytes),
            None => Expected::Unknown,
        };
        match self.admission.ask(now, expected, room) {
            Answer::Start { reserved } => {
                self.reserved = reserved;
                Ok(())
            }
            Answer::Wait { until, .. } => {
                self.held = true;
                Err(until.unwrap_or_else(|| now.saturating_add_nanos(SAMPLE_NS)))
            }
        }
    }

    pub(super) fn started(&mut self, now: Timestamp, number: u64, control: Control, alone: bool) {
        self.next_id += 1;
        let reserved = std::mem::take(&mut self.reserved);
        self.admission.started(now, self.next_id, reserved, alone);
        let job = Job {
            id: self.next_id,
            control,
            uses: 0,
            peak: 0,
            alone,
            ending: Ending::No,
            paused: false,
        };
        self.jobs.insert(number, job);
        self.next_sample
            .get_or_insert(now.saturating_add_nanos(SAMPLE_NS));
    }

    pub(super) fn ended(&mut self, number: u64, result: &Result<Exit, Error>) -> After {
        let Some(job) = self.jobs.remove(&number) else {
            return After::Counts;
        };
        self.admission.ended(job.id);
        let Ok(exit) = result else {
            return After::Counts;
        };
        // One that says that it succeeded though the kernel killed a part of it (the head of a pipeline, say) has not done all of it.
        if exit.success() && !exit.out_of_memory {
            // It was quicker than its end.
            self.peaks.add(job.peak.max(exit.peak_memory));
            return After::Counts;
        }
        let bound = self.admission.bound().map(format_size).unwrap_or_default();
        let too_large = format!("out of memory: it needs more than --mem {bound} by itself");
        match job.ending {
            Ending::TooLarge => {
                self.failed += 1;
                After::Failed(too_large)
            }
            Ending::ForOthers if !job.alone => {
                self.again += 1;
                After::Again
            }
            _ if exit.out_of_memory && job.alone => {
                self.failed += 1;
                After::Failed(too_large)
            }
            _ if exit.out_of_memory => {
                self.again += 1;
                After::Again
            }
            _ => {
                if !exit.killed {
                    self.peaks.add(job.peak.max(exit.peak_memory));
                }
                After::Counts
            }
        }
    }

    pub(super) fn due(&self) -> Option<Timestamp> {
        self.next_sample
    }

    /// Measures all commands, and does what has to be done. `scarce`: the machine itself has too little left.
    pub(super) fn sample(&mut self, now: Timestamp, scarce: bool) {
        self.measure(now, Count::Resident);
        let near = self
            .admission
            .bound()
            .is_some_and(|bound| self.admission.measured_sum() >= bound / 32 * TRUE_FROM_32NDS);
        if near {
            // Pages that commands share were counted for each, which is no reason to stop one.
            self.measure(now, Count::Proportional);
        }
        for job in self.jobs.values_mut() {
            job.peak = job.peak.max(job.uses);
        }
        self.most = self.most.max(self.admission.measured_sum());
        let verdict = match self.admission.judge() {
            Verdict::Fine if scarce => self.admission.end_youngest(),
            verdict => verdict,
        };
        self.act(verdict);
        self.next_sample = (!self.jobs.is_empty()).then(|| now.saturating_add_nanos(SAMPLE_NS));
    }

    fn measure(&mut self, now: Timestamp, count: Count) {
        for job in self.jobs.values_mut() {
            if let Some(bytes) = job.control.memory(count) {
                job.uses = bytes;
                self.admission.measured(now, job.id, bytes);
            }
        }
    }

    fn act(&mut self, verdict: Verdict) {
        let find = |jobs: &mut HashMap<u64, Job>, id: u64, act: &dyn Fn(&mut Job)| {
            if let Some(job) = jobs.values_mut().find(|job| job.id == id) {
                act(job);
            }
        };
        match verdict {
            Verdict::Fine => {}
            Verdict::Pause(id) => {
                self.paused += 1;
                find(&mut self.jobs, id, &|job| {
                    job.control.pause();
                    job.paused = true;
                });
            }
            Verdict::Resume(id) => find(&mut self.jobs, id, &|job| {
                job.control.resume();
                job.paused = false;
            }),
            Verdict::End(id) => find(&mut self.jobs, id, &|job| {
                job.ending = Ending::ForOthers;
                job.control.kill_now();
            }),
            Verdict::Fail(id) => find(&mut self.jobs, id, &|job| {
                job.ending = Ending::TooLarge;
                job.control.kill_now();
            }),
        }
    }

    /// What is reserved and not used yet, bytes.
    pub(super) fn outstanding(&self) -> u64 {
        self.admission.outstanding()
    }

    pub(super) fn finish(&mut self) {
        if let Some(learned) = &self.learned {
            // A cache that cannot be written is learned anew the next time.
            let _ = learned.save(&self.peaks);
        }
    }

    /// The most that all commands were seen to use together.
    fn most(&self) -> u64 {
        self.most
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(bound) = self.admission.bound() {
            let who = match &self.keeper {
                Keeper::Groups(groups) => format!(
                    "hard, kept by the kernel (control group, version {})",
                    groups.version()
                ),
                Keeper::Scope(_) => {
                    "hard, kept by the kernel (scope of the user's service manager)".to_owned()
                }
                Keeper::Sampling(_) => {
                    "soft, sampled every 50 ms, more may be used in between".to_owned()
                }
                Keeper::None => "not kept".to_owned(),
            };
            let mut line = format!("--mem {}: {who}", format_size(bound));
            if self.most() > 0 {
                line += &format!("; most {} together", size(self.most()));
            }
            if let Keeper::Sampling(why) = &self.keeper {
                line += &format!("; not by the kernel: {why}");
            }
            lines.push(line);
        }
        if self.given.is_some() || self.learned.is_some() {
            let reserve = self.given.or_else(|| self.peaks.reserve());
            let what = match (reserve, &self.learned) {
                (Some(bytes), Some(_)) => {
                    format!(
                        "auto: {} for the next, from {} that ended",
                        size(bytes),
                        self.peaks.seen()
                    )
                }
                (Some(bytes), None) => format_size(bytes),
                (None, _) => format!(
                    "auto: too few have ended to learn from ({})",
                    self.peaks.seen()
                ),
            };
            lines.push(format!("--mem-each {what}; reserved, not enforced"));
        }
        let counts: Vec<String> = [
            (self.paused, "paused"),
            (self.again, "ended and run again alone"),
            (self.failed, "too large alone"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
        if !counts.is_empty() {
            lines.push(format!("for want of memory: {}", counts.join(", ")));
        }
        lines
    }

    pub(super) fn json(&self) -> serde_json::Value {
        let (hard, kept_by, why) = match &self.keeper {
            Keeper::None => (None, None, None),
            Keeper::Groups(_) => (Some(true), Some("control group"), None),
            Keeper::Scope(_) => (Some(true), Some("scope"), None),
            Keeper::Sampling(why) => (Some(false), Some("sampling"), Some(why)),
        };
        serde_json::json!({
            "bound_bytes": self.admission.bound(),
            "hard": hard,
            "kept_by": kept_by,
            "why_not_hard": why,
            "most_bytes": (self.most() > 0).then(|| self.most()),
            "reserve_each_bytes": self.given.or_else(|| self.peaks.reserve()),
            "starts_held": self.held,
            "paused": self.paused,
            "run_again_alone": self.again,
            "too_large": self.failed,
        })
    }
}

/// The kernel where it can be, in the order of how well it does.
fn keeper_of(bytes: u64) -> Keeper {
    let groups = CgroupPool::make().and_then(|groups| {
        groups
            .set_memory(Some(bytes))
            .map_err(|error| format!("{}: {error}", groups.directory().display()))?;
        Ok(groups)
    });
    let no_groups = match groups {
        Ok(groups) => return Keeper::Groups(groups),
        Err(why) => why,
    };
    match Scope::with_memory(bytes) {
        Ok(scope) => Keeper::Scope(scope),
        Err(no_scope) => Keeper::Sampling(format!("{no_groups}; {no_scope}")),
    }
}
