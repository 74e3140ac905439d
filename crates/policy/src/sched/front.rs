//! When the front group waits for the back group.
//!
//! The operating system gives front threads the CPU whenever they want it, so shares between the groups can only be
//! kept by the front group parking: then the kernel runs the back threads.
//!
//! The front group is judged by what it took itself, against what it is entitled to of the machine's capacity
//! (parallelism × wall time), and never by what the back group got: the back group may have got little because other
//! processes use the machine, or may hold a slice for ten seconds, and parking front threads would mend neither. What
//! the front group takes beyond its entitlement, on the other hand, the back group cannot have had.
//!
//! A bucket fills at the entitlement. Its depth is forgiving (100 ms) while the front group now and then has nothing
//! queued: arrivals that stay within the entitlement on average then never wait, for the odds that random arrivals at
//! half of the machine overdraw 100 ms of an entitlement of 60 % are about e^-25. Once front work has been queued
//! without a pause for 50 ms it is a backlog, not arrivals; then the depth is 1 ms and shares hold closely.
//!
//! What the front group is entitled to while a back class is awake: its weight among those awake (`cfs`,
//! `proportional_share`); its number among those awake (`round_robin`), but six tenths while it has no backlog, as equal
//! turns for classes must not make arrivals late; nine tenths under `priority`, where beyond that it waits only for a
//! back class that outranks it by ageing.
//!
//! Hysteresis: once dry, the gate stays shut until 1 ms worth of entitlement has come in, so that back threads get
//! a piece of time worth the switch; waits are 0.2 to 5 ms.

use flyball_core::time::Timestamp;

use super::algorithm::Algorithm;
use super::bucket::{Bucket, fixed_rate};

const SHORTEST_WAIT_NS: u64 = 200_000;
const LONGEST_WAIT_NS: u64 = 5_000_000;
const ARRIVALS_DEPTH_NS: u64 = 100_000_000;
const BACKLOG_DEPTH_NS: u64 = 1_000_000;
const BACKLOG_AFTER_NS: u64 = 50_000_000;
/// The entitlement that comes in before a shut gate opens, as time.
const RESUME_NS: u64 = 1_000_000;
/// Entitlements in 2^-20.
const ONE: u64 = 1 << 20;
const ROUND_ROBIN_ARRIVALS: u64 = ONE * 6 / 10;
const PRIORITY_PART: u64 = ONE * 9 / 10;

#[derive(Clone, Debug)]
pub(crate) struct FrontGate {
    bucket: Bucket,
    rate: u64,
    queued_since: Option<Timestamp>,
    backlogged: bool,
    shut: bool,
}

impl FrontGate {
    pub(crate) fn new(parallelism: u32) -> Self {
        let rate = f64::from(parallelism);
        Self {
            bucket: Bucket::full(Timestamp::ZERO, rate, ARRIVALS_DEPTH_NS),
            rate: fixed_rate(rate),
            queued_since: None,
            backlogged: false,
            shut: false,
        }
    }

    /// Is told whether front work is queued; says whether that made a backlog begin or end.
    #[inline]
    pub(crate) fn watch(&mut self, now: Timestamp, queued: bool) -> bool {
        let since = if queued {
            Some(*self.queued_since.get_or_insert(now))
        } else {
            None
        };
        self.queued_since = since;
        let backlogged =
            since.is_some_and(|since| now.saturating_nanos_since(since) >= BACKLOG_AFTER_NS);
        core::mem::replace(&mut self.backlogged, backlogged) != backlogged
    }

    /// Sets what the front group is entitled to: `parts` are the weights of its classes that are awake and of all that
    /// are; `alone` says that no back class is.
    pub(crate) fn entitle(
        &mut self,
        now: Timestamp,
        algorithm: Algorithm,
        parallelism: u32,
        (front, all): (u64, u64),
        alone: bool,
    ) {
        let by_weight = (u128::from(front) * u128::from(ONE) / u128::from(all.max(1))) as u64;
        let part = match algorithm {
            _ if alone => ONE,
            Algorithm::Cfs | Algorithm::ProportionalShare => by_weight,
            Algorithm::RoundRobin if self.backlogged => by_weight,
            Algorithm::RoundRobin => by_weight.max(ROUND_ROBIN_ARRIVALS),
            Algorithm::Priority => PRIORITY_PART,
        };
        self.rate = (part * u64::from(parallelism)).max(1);
        let strict = self.backlogged && !alone;
        self.bucket.reshape(
            now,
            self.rate,
            if strict {
                BACKLOG_DEPTH_NS
            } else {
                ARRIVALS_DEPTH_NS
            },
        );
    }

    #[inline]
    pub(crate) fn take(&mut self, used_ns: u64) {
        self.bucket.take(used_ns);
    }

    /// Returns how long the front group must wait, with `pending_ns` of its grants out; `None` if it need not.
    #[inline]
    pub(crate) fn wait(&mut self, now: Timestamp, pending_ns: u64) -> Option<u64> {
        self.bucket.refill_beside(now, pending_ns);
        let resume = ((u128::from(RESUME_NS) * u128::from(self.rate)) >> 20) as u64;
        // The bucket of a backlog is as deep as the level at which the gate opens: allow for rounding.
        let needed = if self.shut {
            (resume - resume / 16).max(1)
        } else {
            1
        };
        self.shut = self.bucket.left_ns(pending_ns) < needed as i64;
        self.shut.then(|| {
            self.bucket
                .nanos_until(resume, pending_ns)
                .clamp(SHORTEST_WAIT_NS, LONGEST_WAIT_NS)
        })
    }
}
