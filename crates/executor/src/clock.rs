//! Which clock stamps arrival: the process's best one, or a pool's manual clock.

use crate::spine::Spine;
use flyball_core::time::Source;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::*;

static BEST: OnceLock<Source> = OnceLock::new();

/// The process's best clock, calibrated on first use.
#[inline]
pub(crate) fn best() -> &'static Source {
    BEST.get_or_init(Source::best)
}

/// The time of the pool that a spine serves now, ns. A waker that is late by a whole pool may read the next pool's clock;
/// its task has ended then and the stamp is not used.
#[inline]
pub(crate) fn now(spine: &Spine) -> u64 {
    if spine.manual.load(Relaxed) {
        return spine.manual_now.load(Relaxed);
    }
    best().now().as_nanos()
}
