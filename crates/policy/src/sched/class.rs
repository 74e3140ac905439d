//! What the scheduler remembers of a class.

use flyball_core::class::Group;
use flyball_core::time::Timestamp;

use super::bucket::Bucket;
use super::params::ClassParams;
use super::weights;

/// Fractional bits of balances and lags, which are in 1/1024 ns of CPU time.
pub(crate) const FRACTION: u32 = 10;
/// A claim of a class (and its debt under `round_robin`) halves for every 10 ms that it sleeps: what was owed a tenth of a
/// second ago is of no use to anybody now.
const LAG_HALF_LIFE_NS: u64 = 10_000_000;
/// The largest balance that arithmetic is meant for: 12 days of CPU time.
pub(crate) const BALANCE_LIMIT: i64 = 1 << 60;

/// What a decision reads of every class comes first and fills one cache line.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(crate) struct ClassState {
    /// Shares, or what guarantees and caps make of them among the classes that are awake.
    pub(crate) weight: u64,
    /// Minus the CPU time that was used, relative to a common zero that is moved from time to time (see `cfs`). While the
    /// class sleeps: the lag that it went to sleep with.
    pub(crate) balance: i64,
    /// The length of the request that sets the virtual deadline: the slice, shorter for a class that mostly waits, longer
    /// for one whose tasks overrun it.
    pub(crate) request_ns: u64,
    /// Waiting since: the latest of waking, grant and settlement.
    pub(crate) since: Timestamp,
    /// What the class may run ahead of its turn, in nanoseconds (`round_robin`), and its last turn.
    pub(crate) allowance_ns: i64,
    pub(crate) turn: u64,
    /// Grants that are out: how many, their slices, and the sum of the instants at which they started (wrapping).
    pub(crate) out: u32,
    /// The priority of `params`.
    pub(crate) priority: u8,
    out_slices_ns: u64,
    out_started: u64,
    /// What grants that are out have left unused so far and are expected to leave unused from then on; see
    /// [`Scheduler::note_rest`](super::Scheduler::observe).
    rest: Rest,
    /// The slice less the latency bonus.
    short_slice_ns: u64,
    /// What grants use lately when they overrun their slice: the most, an eighth forgotten with every grant.
    overrun_ns: u64,
    /// Awake since, asleep since.
    pub(crate) woke: Timestamp,
    slept: Timestamp,
    /// Averages of the last times awake and asleep (each counts 1/8).
    awake_ns: u64,
    asleep_ns: u64,
    pub(crate) service_ns: u64,
    pub(crate) grants: u64,
    pub(crate) ageings: u64,
    pub(crate) params: ClassParams,
    /// Told apart from classes that had the same id before; grants carry it.
    pub(crate) generation: u32,
    pub(crate) ceiling: Option<Bucket>,
}

/// Fractional bits of [`Rest::resting`].
pub(crate) const REST_FRACTION: u32 = 10;

/// Wall time in which grants that are out did not use the CPU: they waited for a disk, a lock, another program.
#[derive(Clone, Copy, Debug, Default)]
struct Rest {
    idle_ns: u64,
    /// How many of them rest at present, in 2^-10.
    resting: u64,
    at: Timestamp,
}

impl Rest {
    #[inline]
    fn until(&self, now: Timestamp) -> u64 {
        if self.resting == 0 {
            return self.idle_ns;
        }
        let since = u128::from(now.saturating_nanos_since(self.at));
        let more = (since * u128::from(self.resting)) >> REST_FRACTION;
        self.idle_ns.saturating_add(more.min(1 << 60) as u64)
    }

    /// A grant has ended that left `idle_ns` unused; `left` are still out.
    #[inline]
    fn end_one(&mut self, now: Timestamp, idle_ns: u64, left: u32) {
        if self.idle_ns == 0 && self.resting == 0 {
            return;
        }
        *self = if left == 0 {
            Rest::default()
        } else {
            Rest {
                idle_ns: self.until(now).saturating_sub(idle_ns),
                resting: self.resting.min(u64::from(left) << REST_FRACTION),
                at: now,
            }
        };
    }
}

impl ClassState {
    pub(crate) fn new(now: Timestamp, params: ClassParams, generation: u32) -> Self {
        Self {
            weight: weights::of_shares(params.shares),
            request_ns: params.slice_ns,
            short_slice_ns: params.slice_ns,
            overrun_ns: 0,
            priority: params.priority,
            params,
            generation,
            balance: 0,
            out: 0,
            out_slices_ns: 0,
            out_started: 0,
            rest: Rest::default(),
            allowance_ns: 0,
            turn: 0,
            since: now,
            woke: now,
            slept: now,
            awake_ns: 0,
            asleep_ns: 0,
            ceiling: None,
            service_ns: 0,
            grants: 0,
            ageings: 0,
        }
    }

    pub(crate) fn is_front(&self) -> bool {
        self.params.group == Group::Front
    }

    /// Returns the CPU time that grants which are out may have used: their slices, or the wall time since they started, less what
    /// they were seen to leave unused, when that is more.
    #[inline]
    pub(crate) fn pending_ns(&self, now: Timestamp) -> u64 {
        if self.out == 0 {
            return 0;
        }
        let elapsed = u64::from(self.out)
            .wrapping_mul(now.as_nanos())
            .wrapping_sub(self.out_started);
        self.out_slices_ns
            .max(elapsed.saturating_sub(self.rest.until(now)))
    }

    /// Returns how many of the grants that are out use the CPU, as far as is known.
    pub(super) fn busy(&self) -> f64 {
        let resting = self.rest.resting as f64 / f64::from(1u32 << REST_FRACTION);
        (f64::from(self.out) - resting).max(0.0)
    }

    /// Is told what grants that are out have left unused.
    pub(crate) fn note_rest(&mut self, now: Timestamp, idle_ns: u64, resting: u64) {
        self.rest = Rest {
            idle_ns,
            resting: resting.min(u64::from(self.out) << REST_FRACTION),
            at: now,
        };
    }

    /// Returns the balance with what is pending taken off.
    #[inline]
    pub(crate) fn view(&self, now: Timestamp) -> i64 {
        self.balance - to_units(self.pending_ns(now))
    }

    #[inline]
    pub(crate) fn grant(&mut self, now: Timestamp, slice_ns: u64) {
        self.out += 1;
        self.out_slices_ns += slice_ns;
        self.out_started = self.out_started.wrapping_add(now.as_nanos());
        self.since = now;
        self.grants += 1;
    }

    #[inline]
    pub(crate) fn settle(
        &mut self,
        now: Timestamp,
        started: Timestamp,
        slice_ns: u64,
        used_ns: u64,
    ) {
        self.out -= 1;
        let elapsed = now.saturating_nanos_since(started);
        self.rest
            .end_one(now, elapsed.saturating_sub(used_ns), self.out);
        self.out_slices_ns -= slice_ns;
        self.out_started = self.out_started.wrapping_sub(started.as_nanos());
        self.since = now;
        self.service_ns = self.service_ns.saturating_add(used_ns);
        self.balance = (self.balance - to_units(used_ns)).max(-BALANCE_LIMIT);
        self.allowance_ns = self.allowance_ns.saturating_sub_unsigned(used_ns);
        let overran = if used_ns > slice_ns { used_ns } else { 0 };
        // The first settlement replaces what was expected.
        let known_ns = if self.service_ns == used_ns {
            0
        } else {
            self.overrun_ns
        };
        self.overrun_ns = overran.max(known_ns - known_ns / 8);
        self.request_ns = self.short_slice_ns.max(self.overrun_ns);
        if let Some(ceiling) = &mut self.ceiling {
            ceiling.take(used_ns);
        }
    }

    /// Is told how long tasks of other classes take: what a class that has run nothing yet must be expected to take.
    pub(crate) fn expect(&mut self, longest_ns: u64) {
        if self.service_ns == 0 {
            self.overrun_ns = self.overrun_ns.max(longest_ns);
            self.request_ns = self.short_slice_ns.max(self.overrun_ns);
        }
    }

    /// Puts the class to sleep. `lag` is what it was owed (negative: what it had too much).
    pub(crate) fn sleep(&mut self, now: Timestamp, lag: i64) {
        // A class that goes to sleep had its chance: it keeps a claim on one slice, but all of its debt.
        self.balance = lag.min(to_units(self.params.slice_ns));
        self.allowance_ns = self.allowance_ns.min(0);
        self.slept = now;
        let awake = now.saturating_nanos_since(self.woke);
        self.awake_ns = self.awake_ns - self.awake_ns / 8 + awake / 8;
    }

    /// Wakes the class; returns the lag that it went to sleep with, what is left of it if it was a claim, and how long it
    /// slept in nanoseconds.
    pub(crate) fn wake(&mut self, now: Timestamp) -> (i64, u64) {
        let asleep = now.saturating_nanos_since(self.slept);
        self.asleep_ns = self.asleep_ns - self.asleep_ns / 8 + asleep / 8;
        self.woke = now;
        self.since = now;
        self.shorten_request();
        let halvings = (asleep / LAG_HALF_LIFE_NS).min(62);
        let fade = |x: i64| x / (1i64 << halvings);
        self.allowance_ns = fade(self.allowance_ns);
        let lag = if self.balance > 0 {
            fade(self.balance)
        } else {
            self.balance
        };
        (lag, asleep)
    }

    /// The latency bonus: a class that sleeps nearly always asks for an eighth of its slice at a time.
    pub(crate) fn shorten_request(&mut self) {
        let slice = u128::from(self.params.slice_ns);
        let whole = u128::from(self.awake_ns) + u128::from(self.asleep_ns) + 1;
        let bonus = slice * 7 * u128::from(self.asleep_ns) / (8 * whole);
        self.short_slice_ns = ((slice - bonus) as u64).max(1);
        self.request_ns = self.short_slice_ns.max(self.overrun_ns);
    }
}

/// Converts nanoseconds to the units of balances; 12 days at most.
#[inline]
pub(crate) fn to_units(nanos: u64) -> i64 {
    (nanos.min(1 << 50) << FRACTION) as i64
}
