//! How many calls are looked at closely, and the CPU time of windows.

use std::sync::atomic::Ordering;
use std::time::Duration;

use flyball_core::time::Timestamp;
use flyball_policy::limit::adaptive::CpuTime;

use super::follow::Sums;
use super::slots::{ENDS_MODULUS, View};
use super::threads::Reader;

/// How often the part that is sampled is thought over: the shortest window of a limit.
const INTERVAL: Duration = Duration::from_millis(20);
/// Samples that an interval should have: the error of a mean of latencies that scatter as much as an exponential distribution is 6 % then. Limits
/// smooth over several windows.
const SAMPLES: u64 = 256;
/// At most one in so many calls is sampled less.
const MASK_MAX: u32 = 1023;
/// When nothing was sampled for so long while samples are spaced for a hundred times the rate, the rate has fallen.
const SILENCE: Duration = Duration::from_millis(4);

/// Decides which calls are sampled, and knows how many came in unasked.
#[derive(Debug)]
pub(super) struct Sampling {
    /// When the last sample began, or the part was thought over.
    last: Timestamp,
    since: Timestamp,
    /// Ends at `since`.
    ends: u32,
    /// Starts that were told.
    starts: u32,
    /// Starts since then that the policy was asked about.
    asked: u32,
}

impl Sampling {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            last: now,
            since: now,
            ends: 0,
            starts: 0,
            asked: 0,
        }
    }

    /// A sample begins; answers the mask from now on.
    pub(super) fn began(&mut self, now: Timestamp, mask: u32) -> u32 {
        let silence = now.duration_since(self.last);
        self.last = now;
        if silence > SILENCE { 0 } else { mask }
    }

    /// A sample has ended; answers the mask from now on.
    pub(super) fn ended(&mut self, now: Timestamp, view: View, mask: u32) -> u32 {
        let took = now.duration_since(self.since);
        if took < INTERVAL {
            return mask;
        }
        let ends = difference(view.ends(), self.ends);
        self.ends = view.ends();
        self.since = now;
        let an_interval =
            u128::from(ends) * INTERVAL.as_nanos() / took.as_nanos().max(1) / u128::from(SAMPLES);
        let one_in = u32::try_from(an_interval).unwrap_or(u32::MAX).max(1);
        // The greatest power of two that leaves so many.
        let power = 1u32 << one_in.ilog2();
        (power - 1).min(MASK_MAX)
    }

    /// A call came in that the policy was asked about.
    pub(super) fn entered_asked(&mut self) {
        self.asked = self.asked.wrapping_add(1);
    }

    /// How many came in since the last time without that.
    pub(super) fn entered_free(&mut self, view: View) -> u64 {
        let starts = view.next_start();
        let all = difference(starts, self.starts);
        let free = all.saturating_sub(self.asked);
        self.starts = starts;
        self.asked = 0;
        u64::from(free)
    }
}

fn difference(later: u32, earlier: u32) -> u32 {
    later.wrapping_sub(earlier) & (ENDS_MODULUS - 1)
}

/// The CPU time of the calls of a gate.
#[derive(Debug, Default)]
pub(super) struct Cpu {
    threads: Reader,
    polled: u64,
    waited: u64,
    time: CpuTime,
}

impl Cpu {
    /// What calls have used and waited for since the gate was made; `None` if nothing is known of it.
    ///
    /// Futures that are followed are what counts where there are any: their polls are drawn out by as much as their threads waited for a CPU, and before
    /// each they waited in their runtime's queue. Calls that are no futures are taken to be what the threads that make them do.
    pub(super) fn read(&mut self, now: Timestamp, sums: &Sums) -> Option<CpuTime> {
        let threads = self.threads.step(now);
        let polled = sums.polled.load(Ordering::Relaxed);
        let waited = sums.waited(now);
        let step = polled.saturating_sub(self.polled);
        let queued = waited.saturating_sub(self.waited);
        (self.polled, self.waited) = (polled, waited);
        let (ran, waits) = if polled > 0 || waited > 0 {
            let share = threads.and_then(|threads| threads.share()).unwrap_or(0.0);
            let drawn_out = (step as f64 * share) as u64;
            (
                step.saturating_sub(drawn_out),
                queued.saturating_add(drawn_out),
            )
        } else {
            let threads = threads?;
            (threads.ran, threads.waited)
        };
        self.time.ran = self.time.ran.saturating_add(Duration::from_nanos(ran));
        self.time.waited = self.time.waited.saturating_add(Duration::from_nanos(waits));
        Some(self.time)
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::super::slots::Slots;
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn as_many_are_sampled_as_a_mean_needs() {
        let slots = Slots::new(1);
        let mut sampling = Sampling::new(at(0));
        let mut mask = 0;
        for (interval, (calls, expected)) in [(100, 0), (511, 0), (512, 1), (10_000, 31), (3, 0)]
            .into_iter()
            .enumerate()
        {
            for _ in 0..calls {
                slots.enter().unwrap();
                slots.leave();
            }
            mask = sampling.ended(at(20 * (interval as u64 + 1)), slots.view(), mask);
            assert_eq!(mask, expected, "{calls} calls in 20 ms");
        }
        assert_eq!(sampling.began(at(100), 31), 0, "silence since the start");
        assert_eq!(sampling.began(at(103), 31), 31);
        assert_eq!(sampling.began(at(108), 31), 0);
    }

    #[test]
    fn who_came_in_unasked_is_told_once() {
        let slots = Slots::new(10);
        let mut sampling = Sampling::new(at(0));
        for _ in 0..5 {
            slots.enter().unwrap();
        }
        slots.leave();
        slots.raise();
        slots.enter_asked().unwrap();
        sampling.entered_asked();
        assert_eq!(sampling.entered_free(slots.view()), 5);
        assert_eq!(sampling.entered_free(slots.view()), 0);
    }

    #[test]
    fn polls_are_drawn_out_and_queues_count() {
        let sums = Sums::default();
        let mut cpu = Cpu::default();
        sums.polled.store(1_000, Ordering::Relaxed);
        sums.waited.store(300, Ordering::Relaxed);
        let first = cpu.read(at(0), &sums).unwrap();
        sums.waited.store(500, Ordering::Relaxed);
        let second = cpu.read(at(20), &sums).unwrap();
        assert_eq!(second.waited - first.waited, Duration::from_nanos(200));
        assert_eq!(second.ran, first.ran);
    }
}
