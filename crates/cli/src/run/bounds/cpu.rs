//! CPU time of all commands together: `--cpu N%`.
//!
//! A throttle (`policy::control::throttle`) looks at what the commands and all they started have used, and sets the part of the time for
//! which they run; the others stand still meanwhile, by turns (`process::bounds::turns`).
//!
//! Until the first look nobody knows what they use: so long they run for the part of the time that is the bound, which keeps it if they want all CPUs.
//!
//! Percent are of the CPUs that this process may use, by its affinity mask and the quota of its control group.

use flyball_core::time::Timestamp;
use flyball_policy::control::throttle::{PERIOD, Settings, State, Throttle, View, allowance};
use flyball_process::Control;
use flyball_process::bounds::cpu::of_descendants;
use flyball_process::bounds::turns::Turns;

/// The bound, and who runs.
pub(super) struct Cpu {
    percent: f64,
    cpus: f64,
    throttle: Throttle,
    turns: Turns,
    /// The part of the time for which commands run.
    part: f64,
    /// No command has been measured yet.
    is_first: bool,
    /// When somebody is stopped or goes on next.
    next_turn: Option<Timestamp>,
    /// CPU time of all so far, ns, and when it was read.
    used: u64,
    read: Timestamp,
    next_look: Timestamp,
    /// At the start, for the mean.
    begun: (Timestamp, u64),
    /// The run is being stopped: nothing is held any more.
    released: bool,
}

impl Cpu {
    /// `percent` is 1 to 100, of so many CPUs.
    pub(super) fn new(percent: f64, cpus: u32, now: Timestamp) -> Result<Cpu, String> {
        let settings = Settings::at(percent);
        let throttle = Throttle::new(settings).map_err(|error| format!("--cpu: {error}"))?;
        let used = of_descendants();
        Ok(Cpu {
            percent,
            cpus: f64::from(cpus.max(1)),
            throttle,
            turns: Turns::new(now),
            part: percent / 100.0,
            is_first: true,
            next_turn: None,
            used,
            read: now,
            next_look: now.saturating_add(PERIOD),
            begun: (now, used),
            released: false,
        })
    }

    pub(super) fn started(&mut self, now: Timestamp, number: u64, control: Control) {
        if self.is_first && self.turns.is_empty() {
            self.next_look = now.saturating_add(PERIOD);
        }
        self.turns.insert(number, control, self.part);
        self.next_turn = Some(now);
    }

    pub(super) fn ended(&mut self, number: u64) {
        self.turns.remove(number);
    }

    /// Lets everything go on, for good: the run ends.
    pub(super) fn release(&mut self) {
        self.released = true;
        self.turns.release();
    }

    pub(super) fn due(&self) -> Option<Timestamp> {
        if self.released || self.turns.is_empty() {
            return None;
        }
        [self.next_turn, Some(self.next_look)]
            .into_iter()
            .flatten()
            .min()
    }

    /// Measures when it is time, and stops and lets go whom the moment says.
    pub(super) fn tick(&mut self, now: Timestamp) {
        if self.is_first && self.turns.is_empty() {
            return;
        }
        self.tick_with(now, of_descendants);
    }

    fn tick_with(&mut self, now: Timestamp, used: impl FnOnce() -> u64) {
        if self.released {
            return;
        }
        if self.next_look <= now {
            self.look(now, used());
            self.turns.set_parts(|_| self.part);
        }
        self.next_turn = self.turns.tick(now);
    }

    fn look(&mut self, now: Timestamp, total: u64) {
        let passed = now.saturating_nanos_since(self.read);
        if passed > 0 {
            let spent = total.saturating_sub(self.used) as f64;
            let mut usage = spent / passed as f64 / self.cpus * 100.0;
            if std::mem::take(&mut self.is_first) {
                // What it would have been if they had always run.
                usage /= self.part;
            }
            let view = View {
                usage: Some(usage),
                acted: Some(usage),
                level: self.throttle.level(),
            };
            let step = self.throttle.step(now, &view);
            self.part = match step.level > 0.0 {
                true => allowance(step.level) / 100.0,
                false => 1.0,
            };
        }
        (self.used, self.read) = (self.used.max(total), now);
        self.next_look = now.saturating_add(PERIOD);
    }

    fn mean(&self) -> Option<f64> {
        let (at, used) = self.begun;
        let passed = self.read.saturating_nanos_since(at) as f64;
        (passed > 0.0).then(|| (self.used - used) as f64 / passed / self.cpus * 100.0)
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let held = self.throttle.throttled().as_secs_f64();
        let mut line = format!("--cpu {}%: soft, measured 4 times a second", self.percent);
        if let Some(mean) = self.mean() {
            line += &format!("; {mean:.0}% on average");
        }
        line += &match held > 0.0 {
            true => format!(", held back for {held:.1} s"),
            false => ", nothing was held back".to_owned(),
        };
        if let state @ State::CannotHold(_) = self.throttle.state() {
            line += &format!("; {state}");
        }
        vec![line]
    }

    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "bound_percent": self.percent,
            "hard": false,
            "mean_percent": self.mean(),
            "held_ms": self.throttle.throttled().as_millis() as u64,
            "held_times": self.throttle.activations(),
            "cannot_hold": matches!(self.throttle.state(), State::CannotHold(_)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(look: u64) -> Timestamp {
        Timestamp::from_nanos(look * 250_000_000)
    }

    /// Commands that want this part of two CPUs between two looks: the percentages that they used.
    fn used(cpu: &mut Cpu, looks: std::ops::Range<u64>, wants: f64) -> Vec<f64> {
        let mut total = cpu.used;
        let used = looks.map(|look| {
            let part = cpu.part * wants;
            total += (part * 2.0 * 250_000_000.0) as u64;
            // Turns come oftener than looks, and nothing is measured at them.
            let between = Timestamp::from_nanos(at(look).as_nanos() - 100_000_000);
            cpu.tick_with(between, || panic!("measured at a turn"));
            cpu.tick_with(at(look), || total);
            part * 100.0
        });
        used.collect()
    }

    /// CPU-20: what commands use is brought to the bound by the part of the time that they run: a controller, commands that want
    /// everything, and a clock. They do not use more at the beginning, either.
    #[test]
    fn use_settles_on_the_bound() {
        for (percent, wants) in [
            (2.0, 1.0),
            (30.0, 1.0),
            (50.0, 1.0),
            (75.0, 1.0),
            (20.0, 0.5),
        ] {
            let mut cpu = Cpu::new(percent, 2, at(0)).unwrap();
            let used = used(&mut cpu, 1..81, wants);
            let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
            let (begin, late) = (mean(&used[..4]), mean(&used[20..]));
            assert!((late - percent).abs() < 3.0, "{percent} {wants}: {late}");
            assert!(begin < percent + 3.0, "{percent} {wants}: {begin}");
        }
    }

    /// CPU-20: commands that use less than the bound run always from the first look on, and what ends is held no more, however low the bound.
    #[test]
    fn who_uses_little_is_not_held() {
        let mut cpu = Cpu::new(30.0, 2, at(0)).unwrap();
        used(&mut cpu, 1..20, 0.2);
        assert_eq!((cpu.part, cpu.throttle.throttled().as_millis()), (1.0, 0));
        let mut cpu = Cpu::new(3.0, 2, at(0)).unwrap();
        used(&mut cpu, 1..41, 1.0);
        let held = cpu.throttle.throttled();
        assert!(
            cpu.part < 0.1 && held.as_secs() >= 8,
            "{} {held:?}",
            cpu.part
        );
        used(&mut cpu, 41..81, 0.0);
        assert_eq!((cpu.part, cpu.throttle.state()), (1.0, State::Idle));
        let after = cpu.throttle.throttled().saturating_sub(held);
        assert!(after.as_secs() < 6, "{after:?}");
    }

    /// CPU-20: bounds out of range are refused.
    #[test]
    fn bounds_out_of_range_are_refused() {
        for percent in [0.0, 101.0, f64::NAN] {
            assert!(Cpu::new(percent, 2, Timestamp::ZERO).is_err());
        }
    }
}
