//! The slots of a gate: how many calls are in, how many may be, and whether a newcomer must ask first, in one atomic word.
//!
//! A call that meets a free slot enters with one compare-and-swap and leaves with one addition. Everything that needs a decision (waiting, shedding, a
//! new limit) happens under the gate's lock; the word is all that both sides share, so the order of its changes is the order of events, and no fence
//! is needed:
//!
//! - whoever is to wait first raises `ask`, and learns from the same operation whether a slot was free at that moment;
//! - whoever leaves learns from the same operation whether `ask` was raised, and then hands the slot on under the lock.
//!
//! Either the leaving comes first, then the waiter sees the free slot; or the raising does, then the leaver sees the waiter. No wake-up is lost.
//!
//! # Invariants
//! - A call enters only while fewer are in than the limit of that moment, but for [those](Slots::enter_beyond) that do not wait for lesser ones. A limit that falls below what is in leaves that over, and nobody enters until enough
//!   have left.
//! - While `ask` is raised, only [`enter_asked`](Slots::enter_asked) and [`enter_beyond`](Slots::enter_beyond) let anybody in, and only the holder of the gate's lock calls those.
//! - The sum of ends and calls in is the number of calls that ever entered, so that the numbers handed out by entering are those of an order of starts.
//!
//! `tests/loom.rs` explores it.

use super::sync::atomic::{AtomicU64, Ordering};

/// Calls that are in, and the limit: 20 bits each.
const COUNT_BITS: u32 = 20;
/// The most calls that can be in at once.
pub(crate) const MAX_SLOTS: u32 = (1 << COUNT_BITS) - 1;
const LIMIT_SHIFT: u32 = COUNT_BITS;
const ASK: u64 = 1 << (2 * COUNT_BITS);
/// Ends are counted in the highest bits, where their overflow meets nobody.
const END_SHIFT: u32 = 2 * COUNT_BITS + 1;
const END: u64 = 1 << END_SHIFT;
/// Ends, and numbers of starts, are known up to multiples of this.
pub(crate) const ENDS_MODULUS: u32 = 1 << (u64::BITS - END_SHIFT);

/// What the word said at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct View(u64);

impl View {
    /// Calls that are in.
    #[inline]
    pub(crate) fn in_flight(self) -> u32 {
        self.0 as u32 & MAX_SLOTS
    }

    /// Calls that may be in.
    #[inline]
    pub(crate) fn limit(self) -> u32 {
        (self.0 >> LIMIT_SHIFT) as u32 & MAX_SLOTS
    }

    /// Whether a newcomer must ask.
    #[inline]
    pub(crate) fn ask(self) -> bool {
        self.0 & ASK != 0
    }

    /// Calls that have left, up to a multiple of [`ENDS_MODULUS`].
    #[inline]
    pub(crate) fn ends(self) -> u32 {
        (self.0 >> END_SHIFT) as u32
    }

    #[inline]
    pub(crate) fn is_free(self) -> bool {
        self.in_flight() < self.limit()
    }

    /// The number of the call that enters next, up to a multiple of [`ENDS_MODULUS`].
    #[inline]
    pub(crate) fn next_start(self) -> u32 {
        self.ends().wrapping_add(self.in_flight()) & (ENDS_MODULUS - 1)
    }
}

#[derive(Debug)]
pub(crate) struct Slots(AtomicU64);

impl Slots {
    /// All free.
    pub(crate) fn new(limit: u32) -> Self {
        Self(AtomicU64::new(
            u64::from(limit.min(MAX_SLOTS)) << LIMIT_SHIFT,
        ))
    }

    #[inline]
    pub(crate) fn view(&self) -> View {
        View(self.0.load(Ordering::Relaxed))
    }

    /// Enters if a slot is free and nobody need be asked; answers the number of the call in the order of starts.
    #[inline]
    pub(crate) fn enter(&self) -> Option<u32> {
        self.enter_if(|view| !view.ask())
    }

    /// Enters if a slot is free. Only for who holds the gate's lock.
    pub(crate) fn enter_asked(&self) -> Option<u32> {
        self.enter_if(|_| true)
    }

    /// Enters though no slot may be free, as long as fewer than `most` are in. Only for who holds the gate's lock.
    pub(crate) fn enter_beyond(&self, most: u32) -> Option<u32> {
        let most = most.min(MAX_SLOTS);
        self.enter_when(|view| view.in_flight() < most)
    }

    #[inline]
    fn enter_if(&self, may: impl Fn(View) -> bool) -> Option<u32> {
        self.enter_when(|view| may(view) && view.is_free())
    }

    #[inline]
    fn enter_when(&self, may: impl Fn(View) -> bool) -> Option<u32> {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let view = View(word);
            if !may(view) {
                return None;
            }
            // A count below the limit, or the most there can be, leaves room in its bits. Acquire: what the one who left here did is seen.
            match self
                .0
                .compare_exchange_weak(word, word + 1, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return Some(view.next_start()),
                Err(other) => word = other,
            }
        }
    }

    /// Leaves, and answers what the word is since. Each call that entered does so once.
    #[inline]
    pub(crate) fn leave(&self) -> View {
        let step = END - 1;
        let before = self.0.fetch_add(step, Ordering::Release);
        debug_assert!(View(before).in_flight() > 0, "nobody was in");
        View(before.wrapping_add(step))
    }

    /// Has newcomers ask; answers what the word is since. Only for who holds the gate's lock, as are the rest.
    pub(crate) fn raise(&self) -> View {
        View(self.0.fetch_or(ASK, Ordering::Relaxed) | ASK)
    }

    /// Lets newcomers in without asking.
    pub(crate) fn lower(&self) {
        self.0.fetch_and(!ASK, Ordering::Relaxed);
    }

    /// Changes how many may be in, at most [`MAX_SLOTS`].
    pub(crate) fn set_limit(&self, limit: u32) {
        let limit = u64::from(limit.min(MAX_SLOTS)) << LIMIT_SHIFT;
        let mask = u64::from(MAX_SLOTS) << LIMIT_SHIFT;
        // The closure always answers, so the update cannot fail.
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
                Some(word & !mask | limit)
            });
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use proptest::prelude::{ProptestConfig, prop, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn counts_wrap_without_touching_their_neighbours() {
        let slots = Slots::new(u32::MAX);
        assert_eq!(slots.view().limit(), MAX_SLOTS);
        slots.set_limit(3);
        slots.raise();
        for number in 0..ENDS_MODULUS + 5 {
            assert_eq!(slots.enter_asked(), Some(number % ENDS_MODULUS));
            slots.leave();
        }
        let view = slots.view();
        assert_eq!(
            (view.in_flight(), view.limit(), view.ask(), view.ends()),
            (0, 3, true, 5)
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// CPU-22: the word is four plain numbers.
        #[test]
        fn it_is_the_model(steps in prop::collection::vec((0u8..6, 0u32..6), 1..200)) {
            let slots = Slots::new(2);
            let (mut inside, mut limit, mut ask, mut starts) = (0u32, 2u32, false, 0u32);
            for (what, number) in steps {
                match what {
                    0 | 1 => {
                        let entered = if what == 0 { slots.enter() } else { slots.enter_asked() };
                        let may = inside < limit && (what == 1 || !ask);
                        prop_assert_eq!(entered, may.then_some(starts));
                        inside += u32::from(may);
                        starts += u32::from(may);
                    }
                    2 if inside > 0 => {
                        inside -= 1;
                        prop_assert_eq!(slots.leave().ask(), ask);
                    }
                    3 => { prop_assert_eq!(slots.raise().is_free(), inside < limit); ask = true; }
                    4 => { slots.lower(); ask = false; }
                    5 => { slots.set_limit(number); limit = number; }
                    _ => {}
                }
                let view = slots.view();
                prop_assert_eq!((view.in_flight(), view.limit(), view.ask()), (inside, limit, ask));
                prop_assert_eq!(view.ends(), starts - inside);
            }
        }
    }
}
