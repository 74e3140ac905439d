//! A straight line through what was offered, and whether it has been worth following.
//!
//! Every reading, a line is fitted by least squares to the readings of the trend's time. Where its slope is positive and more than
//! [`SLOPE_ERRORS`] standard errors, it makes a *forecast* for the horizon: when a worker asked for now would be at work. Each forecast is
//! remembered, followed or not, and compared with what came: with the mistake of taking the last value, the forecast that costs nothing.
//! [`Forecast::observe`] answers with a forecast only while the recent ones have been closer.
//!
//! Readings close to each other share their noise, so the standard error is too small by some; the record of forecasts is what protects,
//! the slope only saves it from being asked all the time.

use alloc::collections::VecDeque;
use core::time::Duration;

use flyball_core::time::Timestamp;

use crate::math::square_root;

/// A slope counts when it is more than so many standard errors above zero.
pub const SLOPE_ERRORS: f64 = 3.0;
/// A forecast is at most so many times what is offered now.
pub const RAISE_MAX: f64 = 2.0;
/// Forecasts that must have been judged before one is followed.
pub const JUDGED_MIN: u32 = 4;

/// The weight of the newest judgement in the record: about the last ten count.
const NEWEST: f64 = 0.2;
/// Readings of a fit: at most, and at least.
const READINGS_MAX: usize = 96;
const READINGS_MIN: usize = 5;
/// Forecasts that wait for their time.
const PENDING_MAX: usize = 64;

/// A forecast whose time has not come.
#[derive(Clone, Copy, Debug)]
struct Pending {
    due: Timestamp,
    foreseen: f64,
    last: f64,
}

/// Predicts offered work, and keeps the record of its predictions.
#[derive(Clone, Debug)]
pub struct Forecast {
    trend: Duration,
    horizon: Duration,
    readings: VecDeque<(Timestamp, f64)>,
    pending: VecDeque<Pending>,
    /// Mean mistakes, the newest counting most.
    mistake: f64,
    mistake_of_last: f64,
    judged: u32,
}

impl Forecast {
    /// Makes one that looks back for `trend` and forward for `horizon`. A trend of zero never predicts.
    pub fn new(trend: Duration, horizon: Duration) -> Self {
        Self {
            trend,
            horizon,
            readings: VecDeque::new(),
            pending: VecDeque::new(),
            mistake: 0.0,
            mistake_of_last: 0.0,
            judged: 0,
        }
    }

    /// Returns how far ahead it looks.
    pub fn horizon(&self) -> Duration {
        self.horizon
    }

    /// Returns how many forecasts have been compared with what came.
    pub fn judged(&self) -> u32 {
        self.judged
    }

    /// Returns the mean mistake of its recent forecasts, and that of taking the last value instead, in workers; `None` before the first was judged.
    pub fn mistakes(&self) -> Option<(f64, f64)> {
        (self.judged > 0).then_some((self.mistake, self.mistake_of_last))
    }

    /// Says whether its recent forecasts were closer than the last value would have been.
    pub fn is_trusted(&self) -> bool {
        self.judged >= JUDGED_MIN && self.mistake < self.mistake_of_last
    }

    /// Takes in what is offered now, in workers, finite and not negative; answers with what will be offered at the horizon if that is more, the
    /// slope is beyond doubt and the record is good.
    pub fn observe(&mut self, now: Timestamp, offered: f64) -> Option<f64> {
        if self.trend.is_zero() {
            return None;
        }
        self.judge(now, offered);
        let spacing = self.trend / READINGS_MAX as u32;
        let is_new = self
            .readings
            .back()
            .is_none_or(|(at, _)| now > *at && now.duration_since(*at) >= spacing);
        if !is_new {
            return None;
        }
        if self.readings.len() == READINGS_MAX {
            self.readings.pop_front();
        }
        self.readings.push_back((now, offered));
        let oldest = now.saturating_sub(self.trend);
        while self.readings.front().is_some_and(|(at, _)| *at < oldest) {
            self.readings.pop_front();
        }
        let foreseen = self.extend(now)?.min(offered * RAISE_MAX);
        if foreseen <= offered {
            return None;
        }
        if self.pending.len() == PENDING_MAX {
            self.pending.pop_front();
        }
        self.pending.push_back(Pending {
            due: now.saturating_add(self.horizon),
            foreseen,
            last: offered,
        });
        self.is_trusted().then_some(foreseen)
    }

    fn judge(&mut self, now: Timestamp, offered: f64) {
        while let Some(pending) = self.pending.front().filter(|pending| pending.due <= now) {
            let size = |x: f64| if x < 0.0 { -x } else { x };
            let mistakes = [
                (&mut self.mistake, size(pending.foreseen - offered)),
                (&mut self.mistake_of_last, size(pending.last - offered)),
            ];
            // The first few weigh the same.
            self.judged = self.judged.saturating_add(1);
            let weight = NEWEST.max(1.0 / f64::from(self.judged));
            for (mean, mistake) in mistakes {
                *mean += weight * (mistake - *mean);
            }
            self.pending.pop_front();
        }
    }

    /// Returns the line's value at the horizon, if its slope is beyond doubt.
    fn extend(&self, now: Timestamp) -> Option<f64> {
        let n = self.readings.len();
        let (first, _) = self.readings.front()?;
        if n < READINGS_MIN || now.duration_since(*first) < self.trend / 4 {
            return None;
        }
        let count = n as f64;
        let time = |at: &Timestamp| -now.duration_since(*at).as_secs_f64();
        let mean_t = self.readings.iter().map(|(at, _)| time(at)).sum::<f64>() / count;
        let mean_y = self.readings.iter().map(|(_, y)| y).sum::<f64>() / count;
        let (mut tt, mut ty, mut yy) = (0.0, 0.0, 0.0);
        for (at, y) in &self.readings {
            let (t, y) = (time(at) - mean_t, y - mean_y);
            tt += t * t;
            ty += t * y;
            yy += y * y;
        }
        if tt <= 0.0 {
            return None;
        }
        let slope = ty / tt;
        let unexplained = (yy - slope * ty).max(0.0);
        let error = square_root(unexplained / (count - 2.0) / tt);
        if slope <= 0.0 || slope <= SLOPE_ERRORS * error {
            return None;
        }
        let foreseen = mean_y + slope * (self.horizon.as_secs_f64() - mean_t);
        foreseen.is_finite().then_some(foreseen)
    }
}

#[cfg(test)]
mod tests {
    use flyball_core::rng::Rng;

    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(seconds * 1_000_000_000)
    }

    fn forecast() -> Forecast {
        Forecast::new(Duration::from_secs(120), Duration::from_secs(45))
    }

    /// A ramp is foreseen once the record is there, and not above twice what is offered.
    #[test]
    fn a_ramp_is_foreseen() {
        let mut forecast = forecast();
        let mut first = None;
        for look in 0..60 {
            let seconds = look * 15;
            let offered = 10.0 + seconds as f64 / 30.0;
            if let Some(foreseen) = forecast.observe(at(seconds), offered) {
                first.get_or_insert(seconds);
                assert!((foreseen - (offered + 1.5)).abs() < 0.01, "{foreseen}");
            }
        }
        assert!((90..=240).contains(&first.expect("some day")), "{first:?}");
        let steep = (0..60).filter_map(|look| {
            let mut fresh = Forecast::new(Duration::from_secs(120), Duration::from_secs(3_600));
            let mut best: f64 = 0.0;
            for step in 0..=look {
                best = best.max(
                    fresh.observe(at(step * 15), step as f64).unwrap_or(0.0)
                        / (step as f64).max(1.0),
                );
            }
            (best > RAISE_MAX).then_some(best)
        });
        assert_eq!(steep.count(), 0);
    }

    /// Noise without a trend is hardly ever foreseen, and a sawtooth loses its credit.
    #[test]
    fn noise_is_not_foreseen() {
        let mut rng = Rng::seeded(5);
        let mut noise = forecast();
        let followed = (0..4_000)
            .filter(|look| noise.observe(at(look * 15), 10.0 + rng.f64()).is_some())
            .count();
        assert!(followed < 40, "{followed}");
        let mut sawtooth = forecast();
        let followed = (0..4_000u64)
            .filter(|look| sawtooth.observe(at(look * 15), (look % 9) as f64).is_some())
            .count();
        assert!(followed < 800, "{followed}");
    }

    /// A clock that stands still, and figures out of all measure, leave it finite.
    #[test]
    fn it_stays_finite() {
        let mut forecast = forecast();
        for figure in [0.0, 1e12, 0.0, 1e12, 5.0] {
            for seconds in [0, 0, 10, 1_000, 1_000_000] {
                let foreseen = forecast.observe(at(seconds), figure);
                assert!(foreseen.is_none_or(f64::is_finite));
            }
        }
        assert!(forecast.mistake.is_finite() && forecast.mistake_of_last.is_finite());
        assert!(forecast.pending.len() <= PENDING_MAX && forecast.readings.len() <= READINGS_MAX);
    }
}
