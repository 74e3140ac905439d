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
    pub(super) fn new(load: Option<f64>, keep_free: Option<u64>) -> Machine {
        Machine {
            sensors: Sensors::open(&Root::default()),
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

    /// Whether load and free memory allow a start; else when to ask again.
    pub(super) fn allows(&mut self, now: Timestamp, running: usize) -> Result<(), Timestamp> {
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
                return Err(again);
            }
        }
        if let Some(keep) = self.keep_free {
            self.read_memory(now);
            if self.available.is_some_and(|available| available < keep) {
                self.held_by_memory = true;
                return Err(again);
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
