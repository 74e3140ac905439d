//! `cfs`: weighted virtual time with eligibility and virtual deadlines (EEVDF).
//!
//! After Stoica and Abdel-Wahab, "Earliest Eligible Virtual Deadline First" (1995), and the description of the Linux
//! scheduler of that name. Each class i has a virtual run time vᵢ = used CPU time / weightᵢ; the virtual time V is the
//! average of the vᵢ, weighted; the lag is weightᵢ·(V − vᵢ), the CPU time that the class is owed. A class is eligible while
//! its lag is not negative. Of the eligible classes the one with the earliest virtual deadline vᵢ + requestᵢ/weightᵢ runs,
//! so a class with short requests is served soon and a class with many shares often.
//!
//! How this is kept: not vᵢ but the *balance* −weightᵢ·vᵢ is stored, minus the CPU time used, so charging is an exact
//! subtraction. V then is −(sum of balances)/(sum of weights) and is computed from the balances at every decision: it
//! is not accumulated, so it cannot drift. Overflow: when classes wake or fall asleep, or a balance passes 2^56 (19
//! hours of CPU time; arithmetic holds to 2^60), the common zero of balances is moved to the average, which changes no
//! lag; the rounding of a move is under 1/1024 ns a class. Balances are compared only within the set of classes that a
//! worker chooses among, so the groups cannot distort each other; zeros are moved for each such set alone.
//!
//! A grant that is out counts in the balance (see `scheduler`). A class that sleeps keeps its lag: a claim, of at most a
//! slice, halves every 10 ms; a debt is worked off at the pace at which the class would earn CPU time. A class that
//! mostly waits asks for a shorter request and so has an earlier deadline; one whose tasks overrun the slice asks for
//! what they take.
//!
//! The bound is workers × (slice + longest task) on every lag. EEVDF keeps lags within one request when it knows how
//! long requests are; here it learns only afterwards. So a class that one more turn of the others could push over the
//! bound is *urgent* and goes first. A lag above the bound can only come from a class's own lack of work, and lapses.

use flyball_core::id::{ClassId, ClassSet};
use flyball_core::time::Timestamp;

use super::class::{BALANCE_LIMIT, to_units};
use super::scheduler::Scheduler;

/// The balance at which the zero is moved.
const REBASE_AT: i64 = 1 << 56;
/// Fractional bits of an average.
const AVERAGE_FRACTION: u32 = 32;

/// The average balance of a set of classes by weight, as a fixed-point number of 32 bits.
pub(crate) struct Average {
    pub(crate) by_weight: i128,
    pub(crate) pending_ns: u64,
    pub(crate) weight: u64,
}

impl Scheduler {
    /// Returns the average of the balances of `set`, with pending grants counted.
    #[inline]
    pub(crate) fn average(&self, set: ClassSet) -> Average {
        let (mut sum, mut weight, mut pending_ns) = (0i128, 0u64, 0u64);
        for class in set {
            let state = &self.classes[class.index()];
            let pending = state.pending_ns(self.now);
            sum += i128::from(state.balance - to_units(pending));
            pending_ns = pending_ns.saturating_add(pending);
            weight += state.weight;
        }
        // One division of 64 bits; the sum of weights is 2^20 for the built-in classes, which leaves 42 exact bits.
        let inverse = (1u64 << 62) / weight.max(1);
        let by_weight = (sum * i128::from(inverse)) >> (62 - AVERAGE_FRACTION);
        Average {
            by_weight,
            pending_ns,
            weight,
        }
    }

    /// Returns the balance at which a class would have a lag of zero.
    #[inline]
    pub(crate) fn entitled(&self, class: ClassId, average: &Average) -> i64 {
        ((i128::from(self.classes[class.index()].weight) * average.by_weight) >> AVERAGE_FRACTION)
            as i64
    }

    /// Returns the classes awake that a class competes with, itself included.
    pub(crate) fn rivals(&self, class: ClassId) -> ClassSet {
        let arena = self.arenas[usize::from(!self.fronts.contains(class))];
        (self.awake & arena) | ClassSet::only(class)
    }

    /// Moves the zero of the balances to their average.
    pub(crate) fn rebase(&mut self) {
        let [front, back] = self.arenas.map(|arena| arena & self.awake);
        let rest = self.awake - (front | back);
        if (front & back).is_empty() {
            self.rebase_among(front);
            self.rebase_among(back | rest);
        } else {
            self.rebase_among(self.awake);
        }
    }

    fn rebase_among(&mut self, set: ClassSet) {
        if set.is_empty() {
            return;
        }
        let average = self.average(set);
        for class in set {
            let entitled = self.entitled(class, &average);
            self.classes[class.index()].balance -= entitled;
        }
    }

    /// Places a class that woke with this lag among its rivals; the zero is at their average.
    ///
    /// A debt is worked off in sleep at the pace at which the class would have earned CPU time: as if it had stayed awake
    /// without running.
    pub(crate) fn place_woken(
        &mut self,
        class: ClassId,
        lag: i64,
        asleep_ns: u64,
        woken: ClassSet,
    ) {
        let others: u64 = (self.rivals(class) - woken)
            .iter()
            .map(|c| self.classes[c.index()].weight)
            .sum();
        let state = &mut self.classes[class.index()];
        let lag = if lag < 0 {
            let capacity = u128::from(asleep_ns) * u128::from(self.parallelism);
            let earned = capacity * u128::from(state.weight) / u128::from(others + state.weight);
            lag.saturating_add(to_units(earned.min(1 << 50) as u64))
                .min(0)
        } else {
            lag
        };
        // The newcomer moves the average by its own lag; the larger balance leaves it the lag that it had.
        let inflated = if others == 0 {
            i128::from(lag)
        } else {
            i128::from(lag) * i128::from(others + state.weight) / i128::from(others)
        };
        let limit = i128::from(BALANCE_LIMIT >> 6);
        state.balance = inflated.clamp(-limit, limit) as i64;
    }

    /// Corrects the lags of classes that woke while a grant was out that used `refund_ns` less than the wall time which
    /// it counted as: others gave that time back, those who came late only for the time that they were there.
    pub(crate) fn spare_latecomers(&mut self, started: Timestamp, elapsed_ns: u64, refund_ns: u64) {
        let late = self
            .awake
            .iter()
            .filter(|c| self.classes[c.index()].woke > started)
            .collect::<ClassSet>();
        for class in late {
            let rivals = self.average(self.rivals(class));
            let state = &mut self.classes[class.index()];
            let absent_ns = state.woke.saturating_nanos_since(started).min(elapsed_ns);
            let spared =
                u128::from(refund_ns) * u128::from(state.weight) / u128::from(rivals.weight.max(1));
            let spared = spared * u128::from(absent_ns) / u128::from(elapsed_ns.max(1));
            state.balance += to_units(spared.min(1 << 40) as u64);
        }
    }

    /// Chooses among `open`; lags are against all classes awake that the worker may run.
    pub(crate) fn pick_cfs(&mut self, open: ClassSet, allowed: ClassSet) -> ClassId {
        let average = self.average((self.awake & allowed) | open);
        let limit = self.limit(&average);
        let mut urgent: Option<(ClassId, i64)> = None;
        let mut best: Option<(ClassId, Rank)> = None;
        let mut extreme = 0;
        for class in open {
            let state = &self.classes[class.index()];
            let view = state.view(self.now);
            let lag = view - self.entitled(class, &average);
            if limit.is_urgent(lag, state.weight) && urgent.is_none_or(|(_, most)| lag > most) {
                urgent = Some((class, lag));
            }
            let rank = Rank {
                eligible: lag >= 0,
                until_deadline: to_units(state.request_ns) - view,
                weight: state.weight,
                priority: state.priority,
            };
            extreme = extreme.max(state.balance.abs());
            if best.as_ref().is_none_or(|(_, leader)| rank.beats(leader)) {
                best = Some((class, rank));
            }
        }
        let urgent = urgent.map(|(class, _)| class);
        let class = urgent
            .or(best.map(|(class, _)| class))
            .expect("a class is open");
        self.bound_lag(class, &average);
        if extreme > REBASE_AT {
            self.rebase();
        }
        class
    }

    /// Returns the bound on lags now.
    #[inline]
    pub(crate) fn limit(&self, average: &Average) -> LagLimit {
        let workers = u64::from(self.parallelism);
        let slices = to_units(workers.saturating_mul(self.max_slice_ns));
        let tasks = to_units(workers.saturating_mul(self.longest_ns));
        LagLimit {
            slices,
            tasks,
            weight: average.weight,
        }
    }

    /// Lets lag lapse that the class cannot have been denied by others; what is out now may still turn out to be theirs.
    #[inline]
    pub(crate) fn bound_lag(&mut self, class: ClassId, average: &Average) {
        let limit = self.limit(average);
        let bound = limit.slices + limit.tasks + to_units(average.pending_ns);
        let entitled = self.entitled(class, average);
        let now = self.now;
        let state = &mut self.classes[class.index()];
        let excess = state.view(now) - entitled - bound;
        if excess > 0 {
            state.balance -= excess;
        }
    }
}

/// The bound on lags, in the units of balances: workers × slice and workers × longest task.
pub(crate) struct LagLimit {
    slices: i64,
    tasks: i64,
    weight: u64,
}

impl LagLimit {
    /// Says whether a lag could pass the bound while every worker runs one task of others.
    #[inline]
    pub(crate) fn is_urgent(&self, lag: i64, weight: u64) -> bool {
        // Those others give the class its part of what they run; it is less than all of it, so most need no product.
        lag > self.slices && {
            let growth = i128::from(weight) * i128::from(self.tasks);
            let room = i128::from(self.slices + self.tasks - lag) * i128::from(self.weight);
            growth >= room
        }
    }
}

/// What decides between two classes.
pub(crate) struct Rank {
    pub(crate) eligible: bool,
    /// Weighted distance of the virtual deadline from the common zero.
    pub(crate) until_deadline: i64,
    pub(crate) weight: u64,
    pub(crate) priority: u8,
}

impl Rank {
    /// Says whether this class goes first: the eligible, then the earlier virtual deadline, then the higher priority.
    /// If nobody is eligible (the others are closed or belong to other workers) the earliest deadline alone decides.
    #[inline]
    pub(crate) fn beats(&self, other: &Self) -> bool {
        if self.eligible != other.eligible {
            return self.eligible;
        }
        // a/w < b/u as products, which are exact.
        let mine = i128::from(self.until_deadline) * i128::from(other.weight);
        let theirs = i128::from(other.until_deadline) * i128::from(self.weight);
        mine < theirs || (mine == theirs && self.priority > other.priority)
    }
}
