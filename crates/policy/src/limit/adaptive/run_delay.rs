//! The limit by run delay.
//!
//! Of the calls in flight some run or wait for something that is not a CPU, and some are ready and have no CPU. Only the latter are too
//! many. With `n` calls in flight, of whose time the part φ was run delay, `b = n·(1−φ)` calls are what the machine works at, and the limit is `b`
//! and a few more that wait in reserve, so that no CPU idles between the end of a call and the start of the next.
//!
//! Nothing is remembered but `b`, averaged over a few windows: what the machine works at follows from what it does now, whatever it did before.

use flyball_core::time::{Timestamp, nanos_of};

use super::limit::Reason;
use super::window::Window;
use crate::math::square_root;

/// What is measured is averaged over so long, ns: several times as long as calls wait for something else, whose number in flight is what scatters.
const AVERAGED_NANOS: f64 = 500e6;
/// Weight of a window that is further off than scatter explains.
const WEIGHT_OFF: f64 = 0.4;
/// How many roots of the calls elsewhere scatter explains, and at least one call.
const SCATTER: f64 = 2.0;
/// How far the limit moves at most in a window.
const STEP: (f64, f64) = (0.7, 1.4);
/// How fast it grows until CPUs are busy for the first time: as much as would keep them busy, if they are as many as was said, between these.
const START_STEP: (f64, f64) = (1.25, 2.0);
/// The least reserve, calls.
const RESERVE_MIN: f64 = 1.0;
/// Reserve by the root of the calls that wait for something else: their number scatters by its root, as that of customers in a service
/// without a queue does (Palm's theorem), and with it the number of those that want a CPU.
const RESERVE_BY_ROOT: f64 = 1.5;
/// And by that root again, over the square of the CPUs in use, which count as two at least: where they are few, one that idles for want of calls is a
/// great part of them, and few calls scatter further above their mean than below it.
const RESERVE_BY_CPUS: f64 = 5.0;
const CPUS_MIN: f64 = 2.0;
/// After a long step there is no other until calls have gone round once, or for this long, ns.
const ROUND_MAX_NANOS: u64 = 250_000_000;
/// With less than this part of the reserve waiting, the limit is far too low.
const FAR: f64 = 0.25;
/// Windows of so long must say so in a row after the start, ns; or of two rounds of calls, as they come in waves for a while after any change.
const FAR_NANOS: u64 = 60_000_000;
/// The limit that is reached for less than this part of the time has a reserve that is greater by as much, up to the second number times: calls
/// that come in clumps then run at once where a CPU is idle most of the time, instead of waiting or being refused.
const SELDOM: (f64, f64) = (0.9, 4.0);
/// That part is averaged over so long, ns.
const SELDOM_NANOS: f64 = 1e9;
/// Windows in which the limit was reached for less than this part say little of how many are too many.
const FULL: f64 = 0.5;

#[derive(Clone, Debug)]
pub(super) struct RunDelay {
    /// CPUs, as was said.
    cpus: f64,
    /// Calls that the machine works at, and those of them that wait for something else.
    works_at: Option<(f64, f64)>,
    started: bool,
    /// Since when, in all windows, too few waited.
    far_since: Option<Timestamp>,
    /// Since when, in all windows, enough did.
    near_since: Option<Timestamp>,
    /// Since when, in all windows, what was measured was further off than scatter explains.
    off_since: Option<Timestamp>,
    /// The part of the time in which the limit was reached, averaged.
    full: f64,
    /// When the limit made a long step last.
    stepped: Timestamp,
}

impl RunDelay {
    pub(super) fn new(now: Timestamp, cpus: u32) -> Self {
        Self {
            cpus: f64::from(cpus),
            works_at: None,
            started: false,
            far_since: None,
            near_since: None,
            off_since: None,
            full: 1.0,
            stepped: now,
        }
    }

    pub(super) fn step(&mut self, limit: f64, window: &Window) -> Option<(f64, Reason)> {
        let delayed = window.run_delay_share?;
        let ran = window.run_share?;
        let nanos = window.to.saturating_nanos_since(window.from) as f64;
        self.full += (window.full_share - self.full) * nanos / (nanos + SELDOM_NANOS);
        let clumps = (SELDOM.0 / self.full.max(1e-3)).clamp(1.0, SELDOM.1) - 1.0;
        if window.full_share <= 0.0 {
            return None;
        }
        // What was too many before the limit was reached counts as if it had been while it was: few, and on the safe side.
        let excess = window.in_flight_mean * delayed / window.full_share;
        // Those that calls kept busy.
        let cpus = (window.in_flight_mean * ran).max(CPUS_MIN);
        let elsewhere = window.in_flight_full_mean * (1.0 - delayed - ran).max(0.0);
        if window.full_share < FULL {
            let more = (reserve(
                cpus,
                elsewhere,
                clumps * square_root(window.in_flight_full_mean),
            ) - excess)
                .min(1.0);
            return (window.blocked && more > 0.0).then_some((limit + more, Reason::Room));
        }
        let busy = (window.in_flight_full_mean - excess).max(0.0);
        // Calls that a long step let in all want a CPU at first: until they have gone round once, the excess is theirs.
        let round = nanos_of(window.latency_mean).min(ROUND_MAX_NANOS);
        let settled =
            window.completions > 0 && window.to.saturating_nanos_since(self.stepped) >= round;
        let far = excess < FAR * reserve(cpus, elsewhere, 0.0);
        let lasts = |since: &mut Option<Timestamp>, is: bool| {
            if !is {
                *since = None;
                return 0;
            }
            window
                .to
                .saturating_nanos_since(*since.get_or_insert(window.from))
        };
        if !self.started {
            // Waves of calls come and go within a round; only what lasts that long is the CPUs' doing.
            if lasts(&mut self.near_since, !far) >= round && settled {
                self.started = true;
            } else if far && settled && window.blocked {
                self.stepped = window.to;
                let used = window.in_flight_mean * ran;
                let step = (self.cpus / used.max(1e-3)).clamp(START_STEP.0, START_STEP.1);
                return Some((limit * step, Reason::Start));
            } else {
                return None;
            }
        }
        let far_nanos = lasts(&mut self.far_since, far);
        let (works_at, waits) = match self.works_at {
            Some((works_at, waits)) => {
                let off = (busy - works_at).abs() > 1.0 + SCATTER * square_root(waits);
                let weight = if lasts(&mut self.off_since, off) >= round && settled {
                    self.stepped = window.to;
                    WEIGHT_OFF
                } else {
                    nanos / (nanos + AVERAGED_NANOS)
                };
                (
                    works_at + (busy - works_at) * weight,
                    waits + (elsewhere - waits) * weight,
                )
            }
            None => (busy, elsewhere),
        };
        self.works_at = Some((works_at, waits));
        let most = limit * STEP.1;
        let wanted = if far_nanos >= FAR_NANOS.max(2 * round) && settled {
            self.stepped = window.to;
            self.works_at = Some((busy, elsewhere));
            most
        } else {
            (works_at + reserve(cpus, waits, clumps * square_root(works_at)))
                .clamp(limit * STEP.0, most)
        };
        if wanted < limit {
            Some((wanted, Reason::RunDelay))
        } else if window.blocked {
            Some((wanted, Reason::Room))
        } else {
            None
        }
    }
}

/// How many more than the machine works at, and for clumps of arrivals on top.
fn reserve(cpus: f64, elsewhere: f64, clumps: f64) -> f64 {
    let by_root = RESERVE_BY_ROOT + RESERVE_BY_CPUS / (cpus * cpus);
    (by_root * square_root(elsewhere)).max(RESERVE_MIN) + clumps
}
