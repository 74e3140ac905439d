//! What the tests of the controllers begin with.

use alloc::borrow::ToOwned;

use flyball_core::time::Timestamp;

use super::PoolConfig;
use crate::control::{Arbiter, KnobId, KnobSpec};

pub(super) fn at(seconds: f64) -> Timestamp {
    Timestamp::from_nanos((seconds * 1e9) as u64)
}

pub(super) fn config(min: u32, max: u32) -> PoolConfig {
    PoolConfig {
        min,
        max,
        ..PoolConfig::for_cpus(1)
    }
}

/// The knob of a pool of so many workers.
pub(super) fn knob(config: &PoolConfig, workers: u32) -> (Arbiter, KnobId) {
    let mut arbiter = Arbiter::new();
    let spec = KnobSpec {
        name: "workers".to_owned(),
        unit: "workers",
        min: f64::from(config.min),
        max: f64::from(config.max),
        about: "how many workers there are",
    };
    let knob = arbiter.add_knob(spec, f64::from(workers));
    (arbiter, knob)
}
