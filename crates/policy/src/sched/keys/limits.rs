//! What a key may do.

use crate::Error;

/// The lowest rate: one task a day.
pub const RATE_MIN: f64 = 1.0 / 86_400.0;
/// The highest rate, in tasks a second: an interval of 1 µs, so that rounding it to nanoseconds costs at most 0.1%.
pub const RATE_MAX: f64 = 1_000_000.0;
/// The deepest bucket, in tasks.
pub const BURST_MAX: u32 = 100_000;

/// What a key may do. The default has no limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KeyLimits {
    /// Tasks started a second, [`RATE_MIN`] to [`RATE_MAX`]; `None` for no limit.
    pub rate: Option<f64>,
    /// Tasks that may start at once after a pause, 1 to [`BURST_MAX`]. Counts only where there is a rate. Default 1.
    pub burst: u32,
    /// Tasks that were started and have not ended, at least 1; `None` for no limit.
    pub concurrency: Option<u32>,
    /// Tasks that wait to be started, at least 1; `None` for no limit but the class's.
    pub queued: Option<u32>,
    /// Only to count what these limits would hold back or refuse ([`Excess`]). Default false.
    pub observe: bool,
}

/// Tasks that went beyond limits which only observe, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Excess {
    /// Started without a token. They take none: as many would not have started then.
    pub rate: u64,
    /// Started while as many ran as may.
    pub concurrency: u64,
    /// Let in while as many waited as may.
    pub queued: u64,
}

impl Default for KeyLimits {
    fn default() -> Self {
        KeyLimits {
            rate: None,
            burst: 1,
            concurrency: None,
            queued: None,
            observe: false,
        }
    }
}

impl KeyLimits {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::KeyLimit`], which names the field.
    pub fn validate(&self) -> Result<(), Error> {
        let refuse = |field, expected| Err(Error::KeyLimit { field, expected });
        if self
            .rate
            .is_some_and(|rate| !(RATE_MIN..=RATE_MAX).contains(&rate))
        {
            return refuse(
                "rate",
                "one task a day (1/86400) to 1,000,000 tasks a second",
            );
        }
        if !(1..=BURST_MAX).contains(&self.burst) {
            return refuse("burst", "1 to 100,000 tasks");
        }
        if self.concurrency == Some(0) {
            return refuse("concurrency", "at least 1");
        }
        if self.queued == Some(0) {
            return refuse("queued", "at least 1");
        }
        Ok(())
    }

    /// Time between two tasks at the limit's rate, ns; 0 without one.
    pub(super) fn interval_ns(&self) -> u64 {
        self.rate.map_or(0, |rate| (1e9 / rate + 0.5) as u64)
    }
}
