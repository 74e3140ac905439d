//! When each simulated CPU has its next event: a winner tree.
//!
//! Each CPU has at most one event pending (the end of what it runs), which preemption moves. A heap would have to carry
//! stale entries; here an inner node names the earlier one of its two subtrees, so setting a time is one walk from leaf to
//! root (10 comparisons for 1,000 CPUs) and the earliest is at the root. Equal times go to the lower number, so that a run
//! can be repeated.

/// Times of a fixed number of CPUs; `u64::MAX` stands for "none".
pub(crate) struct Timers {
    /// Power of two, at least 2.
    leaves: usize,
    times: Vec<u64>,
    /// `winner[1]` is the root, the children of `winner[n]` are `winner[2n]` and `winner[2n+1]`; leaves are implied.
    winner: Vec<u32>,
}

impl Timers {
    pub(crate) fn new(cpus: usize) -> Self {
        let leaves = cpus.next_power_of_two().max(2);
        let mut timers = Self {
            leaves,
            times: vec![u64::MAX; leaves],
            winner: vec![0; leaves],
        };
        for node in (1..leaves).rev() {
            timers.winner[node] = timers.contestant(2 * node);
        }
        timers
    }

    /// The earliest time and its CPU.
    #[inline]
    pub(crate) fn first(&self) -> (u64, usize) {
        let cpu = self.winner[1] as usize;
        (self.times[cpu], cpu)
    }

    #[inline]
    pub(crate) fn get(&self, cpu: usize) -> u64 {
        self.times[cpu]
    }

    #[inline]
    pub(crate) fn set(&mut self, cpu: usize, at: u64) {
        self.times[cpu] = at;
        let mut node = (self.leaves + cpu) / 2;
        while node >= 1 {
            let left = self.contestant(2 * node);
            let right = self.contestant(2 * node + 1);
            let (l, r) = (self.times[left as usize], self.times[right as usize]);
            // Left subtrees hold the lower numbers.
            self.winner[node] = if l <= r { left } else { right };
            node /= 2;
        }
    }

    pub(crate) fn clear(&mut self, cpu: usize) {
        self.set(cpu, u64::MAX);
    }

    #[inline]
    fn contestant(&self, node: usize) -> u32 {
        if node >= self.leaves {
            (node - self.leaves) as u32
        } else {
            self.winner[node]
        }
    }
}

#[cfg(test)]
mod tests {
    use flyball_core::rng::Rng;

    use super::*;

    #[test]
    fn the_first_is_the_minimum_of_all() {
        for cpus in [1, 2, 3, 7, 64, 100] {
            let mut timers = Timers::new(cpus);
            let mut model = vec![u64::MAX; cpus];
            let mut rng = Rng::seeded(cpus as u64);
            for _ in 0..2_000 {
                let cpu = rng.below(cpus as u64) as usize;
                let at = if rng.chance(0.3) {
                    u64::MAX
                } else {
                    rng.below(50)
                };
                timers.set(cpu, at);
                model[cpu] = at;
                let (first_at, first) = timers.first();
                assert_eq!(Some(&first_at), model.iter().min());
                if first_at < u64::MAX {
                    assert_eq!(Some(first), model.iter().position(|&at| at == first_at));
                }
                assert_eq!(timers.get(cpu), at);
            }
        }
    }
}
