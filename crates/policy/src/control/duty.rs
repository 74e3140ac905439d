//! A part of a whole by turns: which of several programs run now, when all together may run for a part of the time only.
//!
//! Of so many programs the whole part runs always, one by a duty cycle, the rest not; places move on once in a while, so that
//! each has the same. So few orders are given whatever the number of programs, and use hardly swings. Pure: told the time.

use core::time::Duration;

use flyball_core::time::{Timestamp, nanos_of};

/// The cycle of the one that runs in part: long against the 100 µs that stopping a program takes, short against what people notice.
pub const CYCLE: Duration = Duration::from_millis(100);
/// Cycles until places move on.
pub const TURN_CYCLES: u64 = 10;
/// A shorter part of a cycle than this is none, as the order would take as long; but where nobody would run, somebody runs for this long, so that
/// what is held back all the way ends one day.
const LEAST_NS: u64 = 2_000_000;

/// Who runs when.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Duty {
    since: Timestamp,
    part: f64,
}

impl Duty {
    /// Everything runs.
    pub fn all(since: Timestamp) -> Self {
        Self { since, part: 1.0 }
    }

    /// Sets the part of the time, 0 to 1, for which programs run; what is no number counts as 1.
    pub fn set_part(&mut self, part: f64) {
        self.part = if part.is_nan() {
            1.0
        } else {
            part.clamp(0.0, 1.0)
        };
    }

    /// The part of the time for which programs run, 0 to 1.
    pub fn part(&self) -> f64 {
        self.part
    }

    /// How many run always, and for how much of the cycle one more does, ns.
    fn split(&self, count: usize) -> (usize, u64) {
        let cycle = nanos_of(CYCLE);
        let quota = self.part * count as f64;
        let whole = quota as usize;
        let rest = ((quota - whole as f64) * cycle as f64) as u64;
        match rest {
            ..LEAST_NS if whole == 0 => (0, LEAST_NS),
            ..LEAST_NS => (whole, 0),
            _ if rest > cycle - LEAST_NS => (whole + 1, 0),
            _ => (whole, rest),
        }
    }

    /// Whether the program at `index` of `count` runs at `now`.
    pub fn runs(&self, now: Timestamp, index: usize, count: usize) -> bool {
        let (whole, rest) = self.split(count);
        if whole >= count {
            return true;
        }
        let passed = now.saturating_nanos_since(self.since);
        let (cycles, phase) = (passed / nanos_of(CYCLE), passed % nanos_of(CYCLE));
        // Who ran in part has run before: the next turn is the next one's.
        let turn = (cycles / TURN_CYCLES % count as u64) as usize;
        let place = (index % count + turn) % count;
        place < whole || place == whole && phase < rest
    }

    /// When something changes next; `None` while all run always.
    pub fn next(&self, now: Timestamp, count: usize) -> Option<Timestamp> {
        let (whole, rest) = self.split(count);
        if whole >= count {
            return None;
        }
        let cycle = nanos_of(CYCLE);
        let phase = now.saturating_nanos_since(self.since) % cycle;
        let left = if phase < rest {
            rest - phase
        } else {
            cycle - phase
        };
        Some(now.saturating_add_nanos(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    proptest! {
        /// CPU-20: over a whole number of turns each program runs for its part of the time, to 2 % of a cycle, and it is looked at no
        /// oftener than twice a cycle; nobody stands still for ever.
        #[test]
        fn each_runs_for_its_part(count in 1usize..20, part in 0.0f64..=1.0, begin in 0u64..1 << 40) {
            let since = Timestamp::from_nanos(begin);
            let mut duty = Duty::all(since);
            duty.set_part(part);
            let end = since.saturating_add(CYCLE * TURN_CYCLES as u32 * count as u32);
            let (mut now, mut ran, mut looks) = (since, vec![0u64; count], 0);
            while now < end {
                let next = duty.next(now, count).unwrap_or(end).min(end);
                prop_assert!(next > now);
                for (index, ran) in ran.iter_mut().enumerate() {
                    if duty.runs(now, index, count) {
                        *ran += next.saturating_nanos_since(now);
                    }
                }
                (now, looks) = (next, looks + 1);
            }
            prop_assert!(looks <= 2 * TURN_CYCLES * count as u64);
            let all = end.saturating_nanos_since(since) as f64;
            for ran in ran {
                prop_assert!(ran > 0);
                prop_assert!((ran as f64 / all - part).abs() <= 0.021 / count as f64 + 1e-9);
            }
        }

        /// CPU-20: any figures are borne.
        #[test]
        fn odd_figures_are_borne(now: u64, since: u64, part: f64, index: usize, count in 0usize..100) {
            let mut duty = Duty::all(Timestamp::from_nanos(since));
            duty.set_part(part);
            let now = Timestamp::from_nanos(now);
            duty.runs(now, index, count);
            prop_assert!(duty.next(now, count).is_none_or(|next| next > now || now == Timestamp::MAX));
        }
    }
}
