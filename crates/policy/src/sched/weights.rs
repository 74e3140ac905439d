//! Shares, guarantees and ceilings of the classes that have work, turned into weights: water filling.
//!
//! Every class i gets a part φᵢ of the whole with Σφ = 1 and φᵢ = clamp(λ·sharesᵢ, floorᵢ, capᵢ) for one water level λ.
//! Classes that are at neither bound keep their shares as their weight; a class at a bound gets the weight that makes
//! its part come out, φᵢ/λ. So only classes with a guarantee or a cap ever change their weight when others come and go.
//!
//! λ is found by filling, freezing the classes that hit the bound of the more violated side, and filling again with the
//! rest (each round freezes at least one class). Where the guarantees leave less than 0.5 % to classes that have none,
//! the guarantees are scaled down to leave that much: promises are kept within the half point, and nobody starves.

use flyball_core::class::MAX_CLASSES;
use flyball_core::id::ClassSet;

/// One, as a part of the whole: parts are fixed-point numbers of 40 bits.
pub(crate) const WHOLE: u64 = 1 << 40;
/// What guarantees leave to classes that have none, if there are any: 0.5 %.
const UNGUARANTEED: u64 = WHOLE / 200;
/// Weights are shares times this, so that the weight which a guarantee or cap leads to is exact to under half a percent of
/// one share.
const SCALE_BITS: u32 = 8;
/// The largest weight: 2^44, far above the sum of all classes by shares (2^34), so that sums stay below 2^50.
const MAX_WEIGHT: u64 = 1 << 44;

/// What limits the part of a class.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Demand {
    pub(crate) shares: u64,
    /// Least and most part of the whole.
    pub(crate) floor: u64,
    pub(crate) cap: u64,
}

/// Returns the weights of the classes of `set`; other entries are unspecified.
pub(crate) fn solve(set: ClassSet, demands: &[Demand; MAX_CLASSES]) -> [u64; MAX_CLASSES] {
    let mut floors = [0u64; MAX_CLASSES];
    let (mut floor_sum, mut any_unguaranteed) = (0u64, false);
    for class in set {
        floors[class.index()] = demands[class.index()].floor;
        floor_sum += demands[class.index()].floor;
        any_unguaranteed |= demands[class.index()].floor == 0;
    }
    let most = if any_unguaranteed {
        WHOLE - UNGUARANTEED
    } else {
        WHOLE
    };
    if floor_sum > most {
        for class in set {
            let floor = &mut floors[class.index()];
            *floor = (u128::from(*floor) * u128::from(most) / u128::from(floor_sum)) as u64;
        }
    }

    let mut parts = [0u64; MAX_CLASSES];
    let mut free = set;
    let mut left = WHOLE;
    // The level as a ratio: parts of the free classes, and their shares.
    let mut level = (WHOLE, 1u64);
    while !free.is_empty() {
        let shares: u64 = free.iter().map(|class| demands[class.index()].shares).sum();
        level = (left.max(1), shares.max(1));
        let (mut low, mut high) = (ClassSet::EMPTY, ClassSet::EMPTY);
        let (mut lifted, mut cut) = (0u64, 0u64);
        for class in free {
            let demand = &demands[class.index()];
            let want = (u128::from(left) * u128::from(demand.shares) / u128::from(level.1)) as u64;
            parts[class.index()] = want;
            if want < floors[class.index()] {
                low.insert(class);
                lifted += floors[class.index()] - want;
            } else if want > demand.cap {
                high.insert(class);
                cut += want - demand.cap;
            }
        }
        let frozen = if lifted >= cut { low } else { high };
        if frozen.is_empty() {
            break;
        }
        for class in frozen {
            let bound = if lifted >= cut {
                floors[class.index()]
            } else {
                demands[class.index()].cap
            };
            parts[class.index()] = bound;
            left = left.saturating_sub(bound);
        }
        free = free - frozen;
    }

    let mut weights = [0u64; MAX_CLASSES];
    for class in set {
        weights[class.index()] = if free.contains(class) {
            demands[class.index()].shares << SCALE_BITS
        } else {
            let scaled = u128::from(parts[class.index()]) << SCALE_BITS;
            let weight = scaled * u128::from(level.1) / u128::from(level.0);
            (weight.min(u128::from(MAX_WEIGHT)) as u64).max(1)
        };
    }
    weights
}

/// Returns the weight of a class at neither bound.
pub(crate) fn of_shares(shares: u32) -> u64 {
    u64::from(shares) << SCALE_BITS
}

/// Returns a part of the whole as a fixed-point number.
pub(crate) fn part(fraction: f64) -> u64 {
    (fraction.clamp(0.0, 1.0) * WHOLE as f64) as u64
}
