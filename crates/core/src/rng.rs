//! Seeded randomness: the same seed gives the same numbers on every machine, so that a failure can be replayed.
//!
//! The generator is PCG XSH-RR 64/32 (M. E. O'Neill, "PCG: A Family of Simple Fast Space-Efficient Statistically Good
//! Algorithms for Random Number Generation", 2014), two steps for 64 bits, its state and stream set up by SplitMix64
//! (Steele, Lea, Flood, 2014). Not for secrets.

/// A small fast generator of pseudo-random numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rng {
    state: u64,
    /// Odd; chooses one of 2^63 sequences.
    stream: u64,
}

/// The multiplier of the linear congruential step, from the paper.
const MULTIPLIER: u64 = 6_364_136_223_846_793_005;

impl Rng {
    /// Makes a generator whose numbers depend on nothing but `seed`.
    pub fn seeded(seed: u64) -> Self {
        let mut mix = seed;
        let state = splitmix(&mut mix);
        let stream = splitmix(&mut mix) | 1;
        let mut rng = Self { state, stream };
        rng.next_u32();
        rng
    }

    /// Makes a generator that is independent of this one, for a part that must not disturb the numbers of another.
    pub fn fork(&mut self) -> Self {
        Self::seeded(self.next_u64())
    }

    /// Returns 32 random bits.
    #[inline]
    pub fn next_u32(&mut self) -> u32 {
        let old = self.state;
        self.state = old.wrapping_mul(MULTIPLIER).wrapping_add(self.stream);
        let folded = (((old >> 18) ^ old) >> 27) as u32;
        folded.rotate_right((old >> 59) as u32)
    }

    /// Returns 64 random bits.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        u64::from(self.next_u32()) << 32 | u64::from(self.next_u32())
    }

    /// Returns a number below `bound`, each equally likely; 0 if `bound` is 0.
    #[inline]
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            return 0;
        }
        // The high word of a product of random bits and the bound; products whose low word falls into the incomplete
        // last stretch are drawn again (Lemire, "Fast Random Integer Generation in an Interval", 2019).
        let incomplete = bound.wrapping_neg() % bound;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(bound);
            if product as u64 >= incomplete {
                return (product >> 64) as u64;
            }
        }
    }

    /// Returns a number from `low` up to and including `high`; `low` if the range is empty.
    #[inline]
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        match high.saturating_sub(low).checked_add(1) {
            Some(width) => low + self.below(width),
            None => self.next_u64(),
        }
    }

    /// Returns a number in [0, 1), on a grid of 2^-53.
    #[inline]
    pub fn f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Says yes with probability `p` (0 to 1).
    #[inline]
    pub fn chance(&mut self, p: f64) -> bool {
        self.f64() < p
    }

    /// Returns a number of the exponential distribution with this mean.
    #[inline]
    pub fn exp(&mut self, mean: f64) -> f64 {
        // 1 − u lies in (0, 1], so the logarithm is finite.
        -mean * ln(1.0 - self.f64())
    }

    /// Puts the items into a random order, each order equally likely.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last as u64 + 1) as usize;
            items.swap(last, other);
        }
    }
}

fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The natural logarithm of a number in (0, 1]; `core` has none, and one result everywhere is what a seed promises.
///
/// The argument is m·2^e with m in [√½, √2); ln m = 2·artanh((m − 1)/(m + 1)), summed to below one part in 10^15.
fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) & 0x7ff) as i32 - 1023;
    let mut mantissa = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    if mantissa > core::f64::consts::SQRT_2 {
        mantissa /= 2.0;
        exponent += 1;
    }
    let t = (mantissa - 1.0) / (mantissa + 1.0);
    let square = t * t;
    let mut term = t;
    let mut sum = 0.0;
    let mut odd = 1.0;
    // |t| ≤ 0.1716, so each term is at most 3 % of the one before: 12 terms reach 10^-19.
    for _ in 0..12 {
        sum += term / odd;
        term *= square;
        odd += 2.0;
    }
    2.0 * sum + f64::from(exponent) * core::f64::consts::LN_2
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn numbers_stay_in_their_range(seed: u64, bound in 1u64.., low: u64, high: u64) {
            let mut rng = Rng::seeded(seed);
            for _ in 0..50 {
                prop_assert!(rng.below(bound) < bound);
                let between = rng.between(low, high);
                prop_assert!(between == low || (low..=high).contains(&between));
                prop_assert!((0.0..1.0).contains(&rng.f64()));
                prop_assert!(rng.exp(3.0) >= 0.0);
            }
        }

        #[test]
        fn the_logarithm_is_exact(x in 1e-300f64..=1.0) {
            let (ours, std) = (ln(x), x.ln());
            prop_assert!((ours - std).abs() <= 1e-14 * std.abs().max(1e-2), "{ours} {std}");
        }

        #[test]
        fn a_shuffle_keeps_the_items(seed: u64, len in 0usize..50) {
            let mut items: Vec<usize> = (0..len).collect();
            Rng::seeded(seed).shuffle(&mut items);
            items.sort_unstable();
            prop_assert_eq!(items, (0..len).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_seed_repeats_and_seeds_differ() {
        let draw = |seed| {
            let mut rng = Rng::seeded(seed);
            (0..8).map(|_| rng.next_u64()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let mut parent = Rng::seeded(1);
        assert_ne!(parent.fork(), parent.fork());
    }

    #[test]
    fn means_and_frequencies_are_right() {
        let mut rng = Rng::seeded(7);
        let n = 200_000;
        let mut buckets = [0u32; 10];
        let (mut uniform, mut exponential) = (0.0, 0.0);
        for _ in 0..n {
            buckets[rng.below(10) as usize] += 1;
            uniform += rng.f64();
            exponential += rng.exp(5.0);
        }
        // Six standard deviations of each estimator.
        assert!(
            buckets.iter().all(|count| count.abs_diff(n / 10) < 810),
            "{buckets:?}"
        );
        assert!((uniform / f64::from(n) - 0.5).abs() < 0.004);
        assert!((exponential / f64::from(n) - 5.0).abs() < 0.07);
    }
}
