//! The machine as a whole: its run queue and its free memory, read no more often than they move.

use flyball_core::time::Timestamp;
use flyball_core::units::format_size;
use flyball_policy::budget::LoadGate;
use flyball_process::bounds::memory::group_room;
use flyball_sense::{Readings, Root, Sample, Sensors};

/// Between two readings of the run queue, at least: a reading costs 5 µs, and starts may come each 300 µs.
const LOAD_AGE_NS: u64 = 2_000_000;

/// Between two readings of free memory, at least; as often as commands are measured, so that both are of one time.
const MEMORY_AGE_NS: u64 = 50_000_000;

/// When a start is held, how soon it is asked for again though nothing has ended.
const HELD_NS: u64 = 20_000_000;

/// The sensors, and what they told last.
pub(super) struct Machine {
    sensors: Sensors,
    sample: Sample,
    load: Option<LoadGate>,
    load_read: Option<Timestamp>,
    /// `--memfree`.
    keep_free: Option<u64>,
    available: Option<u64>,
    available_read: Option<Timestamp>,
    held_by_load: bool,
    held_by_memory: bool,
    highest: Option<f64>,
}

fn older(read: Option<Timestamp>, now: Timestamp, age_ns: u64) -> bool {
    read.is_none_or(|read| now.saturating_nanos_since(read) >= age_ns)
}

impl Machine {
    pub(super) fn new(root: &Root, load: Option<f64>, keep_free: Option<u64>) -> Machine {
        Machine {
            sensors: Sensors::open(root),
            sample: Sample::default(),
            load: load.map(LoadGate::new),
            load_read: None,
            keep_free,
            available: None,
            available_read: None,
            held_by_load: false,
            held_by_memory: false,
            highest: None,
        }
    }

    /// Whether load and free memory allow a start; else when to ask again, and which of them does not.
    pub(super) fn allows(
        &mut self,
        now: Timestamp,
        running: usize,
    ) -> Result<(), (Timestamp, &'static str)> {
        let again = now.saturating_add_nanos(HELD_NS);
        if let Some(gate) = &mut self.load {
            if older(self.load_read, now, LOAD_AGE_NS) {
                self.load_read = Some(now);
                self.sensors
                    .sample_only(Readings::LOAD, now, &mut self.sample);
                if let Some(load) = self.sample.load {
                    // The thread that reads this runs, too.
                    gate.measured(now, load.runnable.saturating_sub(1), running);
                }
            }
            self.highest = [self.highest, gate.load(running)]
                .into_iter()
                .flatten()
                .max_by(f64::total_cmp);
            if !gate.allows(running) {
                self.held_by_load = true;
                return Err((again, "--load"));
            }
        }
        if let Some(keep) = self.keep_free {
            self.read_memory(now);
            if self.available.is_some_and(|available| available < keep) {
                self.held_by_memory = true;
                return Err((again, "--memfree"));
            }
        }
        Ok(())
    }

    /// Bytes that can be promised to a command now, what others were promised and what is to stay free not counted; `None` when it is
    /// not known.
    pub(super) fn room(&mut self, now: Timestamp, promised: u64) -> Option<u64> {
        self.read_memory(now);
        let kept = promised.saturating_add(self.keep_free.unwrap_or(0));
        Some(self.available?.saturating_sub(kept))
    }

    /// Whether less than half of what is to stay free is free.
    pub(super) fn is_scarce(&mut self, now: Timestamp) -> bool {
        self.keep_free.is_some_and(|keep| {
            self.read_memory(now);
            self.available.is_some_and(|available| available < keep / 2)
        })
    }

    fn read_memory(&mut self, now: Timestamp) {
        if !older(self.available_read, now, MEMORY_AGE_NS) {
            return;
        }
        self.available_read = Some(now);
        self.sensors
            .sample_only(Readings::MEMORY, now, &mut self.sample);
        let machine = self.sample.memory.map(|memory| memory.available_bytes);
        self.available = [machine, group_room()].into_iter().flatten().min();
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(gate) = &self.load {
            let held = if self.held_by_load {
                "starts were held"
            } else {
                "no start was held"
            };
            let most = self.highest.map_or_else(
                || "not measured".to_owned(),
                |most| format!("most {most:.1}"),
            );
            lines.push(format!("--load {}: sampled; {most}, {held}", gate.most()));
        }
        if let Some(keep) = self.keep_free {
            let held = if self.held_by_memory {
                "starts were held"
            } else {
                "no start was held"
            };
            lines.push(format!("--memfree {}: sampled; {held}", format_size(keep)));
        }
        lines
    }

    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "load": self.load.as_ref().map(LoadGate::most),
            "load_most": self.highest,
            "load_held": self.load.as_ref().map(|_| self.held_by_load),
            "memfree_bytes": self.keep_free,
            "memfree_held": self.keep_free.map(|_| self.held_by_memory),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A machine whose files say what a test wants.
    struct Fake(PathBuf);

    impl Fake {
        fn new(name: &str) -> Fake {
            let path =
                std::env::temp_dir().join(format!("flyball-machine-{name}-{}", std::process::id()));
            std::fs::create_dir_all(path.join("proc")).unwrap();
            Fake(path)
        }

        fn load(&self, runnable: u32) {
            let text = format!("0.01 0.02 0.03 {runnable}/200 4711\n");
            std::fs::write(self.0.join("proc/loadavg"), text).unwrap();
        }

        fn available(&self, bytes: u64) {
            let text = format!(
                "MemTotal: 99999999 kB\nMemFree: 10 kB\nMemAvailable: {} kB\nBuffers: 0 kB\nCached: 0 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\nDirty: 0 kB\nShmem: 0 kB\n",
                bytes / 1024
            );
            std::fs::write(self.0.join("proc/meminfo"), text).unwrap();
        }

        fn root(&self) -> Root {
            Root::at(&self.0)
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_nanos(ms * 1_000_000)
    }

    /// TASK-12: --load holds starts by what runs now, whatever the average of the last minute says, and lets them go when that is over.
    #[test]
    fn starts_wait_for_a_shorter_run_queue() {
        let fake = Fake::new("load");
        fake.load(6);
        let mut machine = Machine::new(&fake.root(), Some(4.0), None);
        assert_eq!(machine.allows(at(0), 0), Err((at(20), "--load")));
        fake.load(1);
        assert!((1..100).any(|tick| machine.allows(at(tick * 20), 0).is_ok()));
        // Its own starts count before they are seen.
        (100..200).for_each(|tick| assert!(machine.allows(at(tick * 10), 0).is_ok()));
        assert!(machine.allows(at(1_999), 0).is_ok());
        assert!(machine.allows(at(2_000), 3).is_ok());
        assert!(machine.allows(at(2_000), 4).is_err());
        assert!(
            machine.lines()[0].ends_with("starts were held"),
            "{:?}",
            machine.lines()
        );
    }

    /// TASK-12: the run queue is not read more often than it moves.
    #[test]
    fn readings_are_kept_for_a_while() {
        let fake = Fake::new("kept");
        fake.load(1);
        let mut machine = Machine::new(&fake.root(), Some(4.0), None);
        assert!(machine.allows(at(10), 0).is_ok());
        fake.load(100);
        assert!(machine.allows(at(11), 0).is_ok());
        assert!((1..50).any(|tick| machine.allows(at(11 + tick * 20), 0).is_err()));
    }

    /// TASK-12: --memfree, and what was promised to others.
    #[test]
    fn free_memory_is_kept_free() {
        let fake = Fake::new("memory");
        fake.available(1 << 20);
        let mut machine = Machine::new(&fake.root(), None, Some(4 << 20));
        assert!(machine.allows(at(0), 0).is_err());
        assert!(machine.is_scarce(at(0)), "less than half");
        fake.available(10 << 20);
        assert!(machine.allows(at(60), 0).is_ok());
        assert!(!machine.is_scarce(at(60)));
        assert_eq!(machine.room(at(60), 1 << 20), Some(5 << 20));
        assert_eq!(machine.room(at(60), 1 << 30), Some(0));
    }

    /// TASK-12: a machine that tells nothing holds nothing.
    #[test]
    fn what_is_not_known_does_not_hold() {
        let fake = Fake::new("silent");
        let mut machine = Machine::new(&fake.root(), Some(1.0), Some(1 << 40));
        // A control group of the real machine may still say what it leaves.
        if group_room().is_none() {
            assert!(machine.allows(at(0), 100).is_ok());
            assert_eq!(machine.room(at(0), 0), None);
        }
        std::fs::write(fake.0.join("proc/loadavg"), "garbage").unwrap();
        assert_eq!(machine.load.as_ref().unwrap().load(100), None);
    }
}
