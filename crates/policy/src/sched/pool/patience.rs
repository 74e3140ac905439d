//! How much longer a pool waits before it shrinks, as reductions turned out to be wrong.
//!
//! An increase soon after a reduction, whoever made it, says that the reduction was wrong: the next one waits twice as long, up to a bound. A reduction that
//! stands halves that again. So a pool whose load comes in bursts does not shrink and grow with each, and one whose load has become steady forgets it.

use core::time::Duration;

use flyball_core::time::Timestamp;

/// What counts as wrong, as right, and the bound; of a controller's settings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doubt {
    /// An increase within this of a reduction undoes it.
    pub(super) undone_within: Duration,
    /// A reduction that stands for this long halves the patience.
    pub(super) fades_after: Duration,
    /// How many times longer at most.
    pub(super) most: u32,
}

/// How many times longer than usual a reduction has to wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    times: u32,
    /// When the last reduction was, if nothing has undone or refused it.
    reduced: Option<Timestamp>,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self {
            times: 1,
            reduced: None,
        }
    }

    /// Returns the figure as of the last change of size; 1 is usual.
    pub(super) fn times(&self) -> u32 {
        self.times
    }

    /// Returns the figure as of `now`: half of it for each time that the last reduction could have been undone and was not.
    pub(super) fn left(&self, now: Timestamp, doubt: &Doubt) -> u32 {
        let stood = self.reduced.map_or(0, |at| {
            now.duration_since(at).as_nanos() / doubt.fades_after.as_nanos().max(1)
        });
        (self.times >> stood.min(31)).max(1)
    }

    /// Takes notice of a reduction.
    pub(super) fn reduced(&mut self, now: Timestamp, doubt: &Doubt) {
        self.times = self.left(now, doubt);
        self.reduced = Some(now);
    }

    /// Takes notice of an increase: soon after a reduction it undoes that.
    pub(super) fn increased(&mut self, now: Timestamp, doubt: &Doubt) {
        if let Some(at) = self.reduced
            && now.duration_since(at) < doubt.undone_within
        {
            self.times = (self.left(now, doubt).saturating_mul(2)).min(doubt.most);
            self.reduced = None;
        }
    }

    /// Forgets the last reduction: it did not come about, or says nothing any more.
    pub(super) fn forget(&mut self) {
        self.reduced = None;
    }

    /// Begins at the usual figure: earlier reductions were judged by other settings.
    pub(super) fn reset(&mut self) {
        self.times = 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::pool::testing::at;

    const DOUBT: Doubt = Doubt {
        undone_within: Duration::from_secs(10),
        fades_after: Duration::from_secs(100),
        most: 4,
    };

    /// CPU-17: each reduction that is undone doubles the patience up to the bound; one that stands halves it; a refused one and a late increase say nothing.
    #[test]
    fn doubles_while_reductions_are_undone_and_halves_while_they_stand() {
        let mut patience = Patience::new();
        for (seconds, times) in [(0.0, 2), (20.0, 4), (40.0, 4)] {
            patience.reduced(at(seconds), &DOUBT);
            patience.increased(at(seconds + 9.0), &DOUBT);
            assert_eq!(patience.times(), times);
        }
        patience.reduced(at(60.0), &DOUBT);
        patience.increased(at(70.0), &DOUBT);
        assert_eq!(patience.left(at(159.0), &DOUBT), 4);
        assert_eq!(patience.left(at(160.0), &DOUBT), 2);
        assert_eq!(patience.left(at(1e6), &DOUBT), 1);
        patience.reduced(at(260.0), &DOUBT);
        assert_eq!(patience.times(), 1);
        patience.forget();
        patience.increased(at(261.0), &DOUBT);
        assert_eq!(patience.times(), 1);
    }
}
