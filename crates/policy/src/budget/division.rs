//! Slots of one machine among the runs that want some, by shares.
//!
//! Water is poured by weight until each is full or the pool is empty (weighted max-min fairness), in whole slots: the next slot
//! goes to whoever has least of it for its shares. So what one does not want goes to the others, and nobody who wants more has less
//! than its shares say.

use alloc::vec;
use alloc::vec::Vec;

/// What one participant wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wish {
    /// Its weight against the others, at least 1.
    pub shares: u32,
    /// The slots that it can use now.
    pub slots: u32,
}

/// Divides `slots` among `wishes`; answers the part of each, in their order.
///
/// Each that wants any gets at least one, also when that is more than there are: a participant that got none would never end.
/// Beyond that the parts add up to at most `slots`, and to `slots` if that many are wanted. Ties go to the earlier.
#[must_use]
pub fn divide(slots: u32, wishes: &[Wish]) -> Vec<u32> {
    let mut parts: Vec<u32> = vec![0; wishes.len()];
    let mut left = slots;
    for (part, wish) in parts.iter_mut().zip(wishes) {
        *part = wish.slots.min(1);
        left = left.saturating_sub(*part);
    }
    while left > 0 {
        // Least of parts / shares, compared without a division: a/b < c/d as a·d < c·b.
        let next = (0..wishes.len())
            .filter(|index| parts[*index] < wishes[*index].slots)
            .min_by(|a, b| {
                let level = |of: usize, to: usize| {
                    u64::from(parts[of]) * u64::from(wishes[to].shares.max(1))
                };
                level(*a, *b).cmp(&level(*b, *a))
            });
        let Some(next) = next else { break };
        parts[next] += 1;
        left -= 1;
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wish(shares: u32, slots: u32) -> Wish {
        Wish { shares, slots }
    }

    /// TASK-21: by shares, what one leaves goes to the others, and each gets one.
    #[test]
    fn slots_follow_shares() {
        assert_eq!(divide(8, &[wish(100, 8), wish(100, 8)]), [4, 4]);
        assert_eq!(divide(8, &[wish(300, 8), wish(100, 8)]), [6, 2]);
        assert_eq!(divide(8, &[wish(100, 1), wish(100, 8)]), [1, 7]);
        assert_eq!(divide(8, &[wish(100, 0), wish(100, 8)]), [0, 8]);
        assert_eq!(divide(2, &[wish(1000, 2), wish(1, 2)]), [1, 1]);
        assert_eq!(divide(2, &[wish(1, 2), wish(1, 2), wish(1, 2)]), [1, 1, 1]);
        assert_eq!(divide(0, &[]), []);
    }

    proptest! {
        /// TASK-21: nobody gets more than it wants or nothing; nothing is wasted or given twice; who has less than it wants
        /// has at most one slot less, for its shares, than anybody else.
        #[test]
        fn division_is_fair(slots in 0_u32..64, wishes in prop::collection::vec((1_u32..1000, 0_u32..40), 0..20)) {
            let wishes: Vec<Wish> = wishes.into_iter().map(|(shares, slots)| wish(shares, slots)).collect();
            let parts = divide(slots, &wishes);
            let wanting = wishes.iter().filter(|wish| wish.slots > 0).count() as u32;
            let wanted: u32 = wishes.iter().map(|wish| wish.slots).sum();
            prop_assert_eq!(parts.iter().sum::<u32>(), wanted.min(slots.max(wanting)));
            for (part, wish) in parts.iter().zip(&wishes) {
                prop_assert!(*part <= wish.slots && (*part > 0) == (wish.slots > 0));
            }
            for (part, wish) in parts.iter().zip(&wishes).filter(|(part, wish)| **part < wish.slots) {
                let level = f64::from(*part) / f64::from(wish.shares);
                for (other, of) in parts.iter().zip(&wishes).filter(|(other, _)| **other > 1) {
                    prop_assert!(f64::from(*other - 1) / f64::from(of.shares) <= level + 1e-9);
                }
            }
        }
    }
}
