//! The rule of the Kubernetes Horizontal Pod Autoscaler, for comparison.
//!
//! From its documentation and the defaults of `kube-controller-manager`: `ceil(workers × utilisation / target)`, nothing within 10%, a look each
//! 15 s; up at most to twice or by four in 15 s and without waiting; down to the greatest recommendation of the last 300 s, or of as many as are set. Workers that are
//! not ready yet count as idle while it scales up, which keeps it from counting the same overload twice.

use std::collections::VecDeque;

/// Seconds from look to look.
pub const PERIOD: u32 = 15;
/// Seconds over which recommendations are kept before it scales down, as it comes.
pub const DOWN_WINDOW: u32 = 300;
/// The part within which nothing changes.
pub const TOLERANCE: f64 = 0.1;

/// The rule and what it remembers.
#[derive(Debug, Clone)]
pub struct Hpa {
    target: f64,
    down_window: u32,
    min: u32,
    max: u32,
    /// Second and recommendation.
    recommended: VecDeque<(u32, u32)>,
}

impl Hpa {
    /// Makes the rule for a target of utilisation, above 0 to 1, a down window in seconds, and bounds.
    pub fn new(target: f64, down_window: u32, min: u32, max: u32) -> Self {
        Self {
            target,
            down_window,
            min,
            max,
            recommended: VecDeque::new(),
        }
    }

    /// Takes in that on the mean `busy` of `ready` workers were busy since the last look, of `workers` that it asked for; answers with how many
    /// there should be.
    pub fn step(&mut self, second: u32, workers: u32, ready: u32, busy: f64) -> u32 {
        let ratio = |of: u32| busy / f64::from(of.max(1)) / self.target;
        let alike = |ratio: f64| (ratio - 1.0).abs() <= TOLERANCE;
        let first = ratio(ready);
        let wanted = if alike(first) {
            workers
        } else if first > 1.0 && ready < workers {
            let again = ratio(workers);
            if again <= 1.0 || alike(again) {
                workers
            } else {
                (again * f64::from(workers)).ceil() as u32
            }
        } else {
            (first * f64::from(ready)).ceil() as u32
        };
        while self
            .recommended
            .front()
            .is_some_and(|(at, _)| second.saturating_sub(*at) > self.down_window)
        {
            self.recommended.pop_front();
        }
        self.recommended.push_back((second, wanted));
        let stable = self.recommended.iter().map(|(_, wanted)| *wanted).max();
        let step = (workers * 2).max(workers + 4);
        stable.unwrap_or(wanted).min(step).clamp(self.min, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rule by the examples of its documentation, and the window before it goes down.
    #[test]
    fn by_the_rule() {
        let mut hpa = Hpa::new(0.5, DOWN_WINDOW, 1, 100);
        assert_eq!(
            hpa.step(0, 10, 10, 10.0),
            20,
            "twice the target: twice the workers"
        );
        assert_eq!(hpa.step(15, 20, 20, 10.5), 20, "within a tenth");
        assert_eq!(hpa.step(30, 20, 20, 5.0), 20, "down only after the window");
        let later: Vec<u32> = (3..30)
            .map(|look| hpa.step(look * 15, 20, 20, 5.0))
            .collect();
        assert_eq!(later[0], 20);
        assert_eq!(later.last(), Some(&10));
        assert_eq!(
            hpa.step(1_000, 20, 10, 10.0),
            20,
            "workers that start count as idle"
        );
    }
}
