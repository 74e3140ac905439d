//! Evening out queued work, and the figures that say how even it is.

use alloc::vec::Vec;

/// Tasks that move from the queue of one worker to that of another; workers by their position in the list given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Move {
    /// The worker that gives.
    pub from: usize,
    /// The worker that gets.
    pub to: usize,
    /// How many tasks.
    pub count: u32,
}

/// The variance of queue lengths over the square of their mean beyond which work is moved: 0.25, a standard deviation
/// of half the mean.
pub const REBALANCE_VARIANCE: f64 = 0.25;

/// Returns the moves after which the queues of the accepting workers differ by at most one task and the others have none.
///
/// As few tasks as possible move: a worker with more than its part keeps its part, and the longest queues keep the
/// remainder. At most as many moves as there are workers. Nothing moves if no worker accepts work. A worker missing from
/// `accepting` does not accept.
pub fn rebalance(lengths: &[u32], accepting: &[bool]) -> Vec<Move> {
    let accepts = |i: usize| accepting.get(i).copied().unwrap_or(false);
    let mut takers: Vec<usize> = (0..lengths.len()).filter(|i| accepts(*i)).collect();
    if takers.is_empty() {
        return Vec::new();
    }
    let total: u64 = lengths.iter().map(|length| u64::from(*length)).sum();
    let (part, extra) = (
        total / takers.len() as u64,
        (total % takers.len() as u64) as usize,
    );
    takers.sort_by_key(|i| core::cmp::Reverse((lengths[*i], core::cmp::Reverse(*i))));
    let mut targets = alloc::vec![0u64; lengths.len()];
    for (rank, i) in takers.iter().enumerate() {
        targets[*i] = part + u64::from(rank < extra);
    }
    let mut moves = Vec::new();
    let surplus = |i: &usize| u64::from(lengths[*i]).saturating_sub(targets[*i]);
    let lack = |i: &usize| targets[*i].saturating_sub(u64::from(lengths[*i]));
    let mut needy = (0..lengths.len())
        .map(|i| (i, lack(&i)))
        .filter(|(_, n)| *n > 0);
    let mut taker = needy.next();
    for from in 0..lengths.len() {
        let mut left = surplus(&from);
        while left > 0 {
            // Surplus and lack add up to the same number, so there is somebody as long as something is left.
            let Some((to, missing)) = taker else { break };
            let mut count = left.min(missing);
            left -= count;
            taker = if missing > count {
                Some((to, missing - count))
            } else {
                needy.next()
            };
            while count > 0 {
                // A part may exceed 32 bits when many queues are poured into one.
                let step = count.min(u64::from(u32::MAX));
                moves.push(Move {
                    from,
                    to,
                    count: step as u32,
                });
                count -= step;
            }
        }
    }
    moves
}

/// Returns the variance of the values (of the whole population); 0 for none.
pub fn variance(values: &[f64]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    values
        .iter()
        .map(|value| (value - mean) * (value - mean))
        .sum::<f64>()
        / count
}

/// Returns the variance over the square of the mean, which does not depend on the unit; 0 if the mean is 0.
pub fn normalized_variance(values: &[f64]) -> f64 {
    let sum = values.iter().sum::<f64>();
    if sum == 0.0 {
        return 0.0;
    }
    let mean = sum / values.len() as f64;
    variance(values) / (mean * mean)
}

/// Returns Jain's fairness index: 1 if all values are equal, 1/n if one has everything; 1 for none or all zero.
pub fn jain(values: &[f64]) -> f64 {
    let sum = values.iter().sum::<f64>();
    let squares = values.iter().map(|value| value * value).sum::<f64>();
    if squares == 0.0 {
        1.0
    } else {
        sum * sum / (values.len() as f64 * squares)
    }
}

/// Says whether queued work should be moved: some queues differ by more than one and the normalized variance is above
/// `threshold` ([`REBALANCE_VARIANCE`] unless set), or work waits at a worker that accepts none.
pub fn needs_rebalance(lengths: &[u32], accepting: &[bool], threshold: f64) -> bool {
    let accepts = |i: usize| accepting.get(i).copied().unwrap_or(false);
    let open: Vec<u32> = (0..lengths.len())
        .filter(|i| accepts(*i))
        .map(|i| lengths[i])
        .collect();
    let (Some(least), Some(most)) = (open.iter().min(), open.iter().max()) else {
        return false;
    };
    let stranded = (0..lengths.len()).any(|i| !accepts(i) && lengths[i] > 0);
    let values: Vec<f64> = open.iter().map(|length| f64::from(*length)).collect();
    stranded || (most - least > 1 && normalized_variance(&values) > threshold)
}
