//! The daemon under faults: killed at any moment, its power cut, its disk failing, full or damaged.
//!
//! The real binary, over its socket. A model keeps what was acknowledged (`model`); whatever happens to the daemon, the next one must agree with it.
//! Every test prints its seed; `FLYBALL_SEED` repeats it, and `FLYBALL_KILLS`, `FLYBALL_CUTS` and the like make a run longer.
//!
//! | module | what it is |
//! |---|---|
//! | `daemon`, `client` | a daemon that can die, and HTTP over its socket |
//! | `model`, `load` | what was acknowledged; clients and workers that keep it |
//! | `disk` | file systems for one test, and what stands between a daemon and its disk |
//! | `kills`, `cuts`, `errors`, `full`, `flips`, `letters` | the tests |
//!
//! Power cuts and full disks need mounts, so they need root, and run in a process and mount namespace of their own: whatever becomes of the
//! test, nothing of it is left. Where that cannot be had they fail and say so.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "seeds and figures are for who runs the tests"
)]

mod client;
mod cuts;
mod daemon;
mod disk;
mod errors;
mod flips;
mod full;
mod kills;
mod letters;
mod load;
mod model;

use flyball_core::rng::Rng;
use flyball_core::time::{Clock, OsClock};
use std::sync::mpsc;
use std::time::Duration;

/// More than anything here takes on a busy machine: a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// A number from the environment.
fn setting(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is {text:?}, expected a number")),
        Err(_) => otherwise,
    }
}

/// The seed of a test, printed so that it can be repeated.
fn seeded(test: &str) -> Rng {
    let seed = setting("FLYBALL_SEED", 0x00f1_7ba1);
    println!("{test}: FLYBALL_SEED={seed} repeats this run");
    Rng::seeded(seed)
}

/// Lets a moment pass, where the moment is what is tested: nobody could wake.
fn let_pass(time: Duration) {
    let (_nobody, silence) = mpsc::channel::<()>();
    let _ = silence.recv_timeout(time);
}

/// Looks again and again until it is so.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = OsClock.now().saturating_add(PATIENCE);
    while !is_so() {
        assert!(OsClock.now() < end, "waited in vain: {what}");
        let_pass(Duration::from_millis(2));
    }
}
