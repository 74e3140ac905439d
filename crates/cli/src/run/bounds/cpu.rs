//! CPU time of all commands together: `--cpu N%`.
//!
//! A throttle (`policy::control::throttle`) looks at what the commands and all they started have used, and sets the part of the time for
//! which they run; the others stand still meanwhile, by turns (`process::bounds::turns`).

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
    /// `percent` is 1 to 100, of all CPUs.
    pub(super) fn new(percent: f64, cpus: u32, now: Timestamp) -> Result<Cpu, String> {
        let settings = Settings::at(percent);
        let throttle = Throttle::new(settings).map_err(|error| format!("--cpu: {error}"))?;
        let used = of_descendants();
        Ok(Cpu {
            percent,
            cpus: f64::from(cpus.max(1)),
            throttle,
            turns: Turns::new(now),
            part: 1.0,
            next_turn: None,
            used,
            read: now,
            next_look: now.saturating_add(PERIOD),
            begun: (now, used),
            released: false,
        })
    }

    pub(super) fn started(&mut self, now: Timestamp, number: u64, control: Control) {
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
        if self.released {
            return;
        }
        if self.next_look <= now {
            self.look(now, of_descendants());
            self.turns.set_parts(|_| self.part);
        }
        self.next_turn = self.turns.tick(now);
    }

    fn look(&mut self, now: Timestamp, total: u64) {
        let passed = now.saturating_nanos_since(self.read);
        if passed > 0 {
            let spent = total.saturating_sub(self.used) as f64;
            let usage = spent / passed as f64 / self.cpus * 100.0;
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

    /// CPU-20: what commands use is brought to the bound by the part of the time that they run: a controller, commands that want
    /// everything, and a clock.
    #[test]
    fn use_settles_on_the_bound() {
        for (percent, wants) in [(30.0, 1.0), (50.0, 1.0), (75.0, 1.0), (20.0, 0.5)] {
            let at = |tick: u64| Timestamp::from_nanos(tick * 250_000_000);
            let mut cpu = Cpu::new(percent, 2, at(0)).unwrap();
            let (mut total, mut late) = (cpu.used, 0.0);
            for tick in 1..=80 {
                let spent = cpu.part * wants * 2.0 * 250_000_000.0;
                total += spent as u64;
                cpu.look(at(tick), total);
                if tick > 20 {
                    late += spent / 2.0 / 250_000_000.0 * 100.0 / 60.0;
                }
            }
            assert!((late - percent).abs() < 3.0, "{percent} {wants}: {late}");
        }
    }

    /// CPU-20: bounds out of range are refused.
    #[test]
    fn bounds_out_of_range_are_refused() {
        for percent in [0.0, 101.0, f64::NAN] {
            assert!(Cpu::new(percent, 2, Timestamp::ZERO).is_err());
        }
    }
}
