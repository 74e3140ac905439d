//! Loads over time, in workers' worth of work.

use flyball_core::rng::Rng;
use serde::Serialize;

/// How a load goes up and down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// The same all the time.
    Steady,
    /// Twice as much from a moment on, half as much from another.
    Step,
    /// Evenly up to four times as much in about ten minutes, and down again.
    Ramp,
    /// Four times as much for a few minutes, all of a sudden.
    FlashCrowd,
    /// Evenly up, then all of a sudden down, again and again.
    Sawtooth,
    /// A day, from a fifth of its peak at night.
    Daily,
    /// A random walk around a mean.
    Noise,
    /// Nearly nothing, then much, by turns.
    OnOff,
}

/// Which cells of the grid: those that constants were chosen on, and those that never were looked at for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// For choosing constants.
    Tuning,
    /// Other heights, periods and seeds.
    HeldOut,
}

impl Shape {
    /// All shapes.
    pub const ALL: [Self; 8] = [
        Self::Steady,
        Self::Step,
        Self::Ramp,
        Self::FlashCrowd,
        Self::Sawtooth,
        Self::Daily,
        Self::Noise,
        Self::OnOff,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Step => "step",
            Self::Ramp => "ramp",
            Self::FlashCrowd => "flash crowd",
            Self::Sawtooth => "sawtooth",
            Self::Daily => "daily",
            Self::Noise => "noise",
            Self::OnOff => "on/off",
        }
    }

    /// How long it is looked at, seconds.
    pub fn seconds(self) -> u32 {
        match self {
            Self::Daily => 86_400,
            _ => 14_400,
        }
    }

    /// The load for each second, workers: of this shape, around `base`, with arrivals that scatter by `scatter` (one standard deviation) from second to
    /// second.
    pub fn load(self, part: Part, base: f64, scatter: f64, seed: u64) -> Vec<f64> {
        let mut rng = Rng::seeded(seed);
        let tuning = part == Part::Tuning;
        let pick = |a: f64, b: f64| if tuning { a } else { b };
        let mut walk = 0.0;
        (0..self.seconds())
            .map(|second| {
                let t = f64::from(second);
                let in_period = |period: f64| (t / period).fract();
                let factor = match self {
                    Self::Steady => 1.0,
                    Self::Step => {
                        let (up, down) = (pick(3_600.0, 2_500.0), pick(9_000.0, 7_700.0));
                        if t < up {
                            1.0
                        } else if t < down {
                            pick(2.0, 2.6)
                        } else {
                            0.5
                        }
                    }
                    Self::Ramp => {
                        let x = in_period(pick(1_500.0, 1_100.0));
                        1.0 + 3.0 * (1.0 - (2.0 * x - 1.0).abs())
                    }
                    Self::FlashCrowd => {
                        let x = in_period(pick(3_600.0, 4_500.0)) * pick(3_600.0, 4_500.0);
                        let from = pick(1_200.0, 1_507.0);
                        if (from..from + pick(600.0, 420.0)).contains(&x) {
                            4.0
                        } else {
                            1.0
                        }
                    }
                    Self::Sawtooth => 0.5 + 1.5 * in_period(pick(900.0, 1_300.0)),
                    Self::Daily => {
                        let night =
                            (core::f64::consts::TAU * (t / 86_400.0 + pick(0.0, 0.3))).cos();
                        0.6 - pick(0.4, 0.45) * night
                    }
                    Self::Noise => {
                        // An autoregressive walk with a memory of minutes.
                        let memory = pick(180.0, 90.0);
                        let keep = 1.0 - 1.0 / memory;
                        walk = keep * walk + (1.0 - keep * keep).sqrt() * normal(&mut rng);
                        (1.0 + pick(0.25, 0.3) * walk).max(0.05)
                    }
                    Self::OnOff => {
                        let x = in_period(pick(1_800.0, 1_100.0));
                        if x < pick(0.4, 0.5) { 1.5 } else { 0.1 }
                    }
                };
                let scattered = factor * (1.0 + scatter * normal(&mut rng));
                (base * scattered).max(0.0)
            })
            .collect()
    }
}

/// A number of the standard normal distribution, nearly: the sum of twelve even ones.
fn normal(rng: &mut Rng) -> f64 {
    (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0
}
