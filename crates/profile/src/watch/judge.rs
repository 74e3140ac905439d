//! Which workers are blocked, judged from what their figures say: pure, and told the time.
//!
//! A tokio worker counts each park and each unpark, so an odd count means parked and an even one running. While it is busy it renews its busy
//! time only every so many polls. So a worker is *silent* while its count is even and neither figure moves; and as a healthy worker may be silent
//! for as long as those polls take together, the caller adds what it sees of the worker's loop ([`Reading::progressed`]), which breaks the silence as
//! well. A silence of half the threshold makes a worker *suspect*: time to look at its loop. A silence of the whole threshold makes a report due, and
//! again at each doubling, [`REPORTS_MAX`] times at most.
//!
//! Invariants: a report is due only after a silence of the threshold; a recovery follows only a report that was made; a gap between two
//! samples counts as no more than [`GAP_INTERVALS`] intervals, so that a process that was stopped, or a watcher that got no CPU, does not accuse.

use flyball_core::time::{Timestamp, nanos_of};
use std::time::Duration;

/// Most reports of one episode. At the default threshold the last one comes after 51 s.
pub(super) const REPORTS_MAX: u32 = 10;

/// How many sampling intervals a gap between two samples counts at most. One is regular, a second allows for a late wake-up.
const GAP_INTERVALS: u64 = 2;

/// What a worker's figures say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    /// `worker_park_unpark_count`: even while running.
    pub(super) turns: u64,
    /// `worker_total_busy_duration` in nanoseconds.
    pub(super) busy_ns: u64,
    /// Whether the worker's loop was seen to go on since the last sample.
    pub(super) progressed: bool,
}

/// What follows from a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A report is due; the caller answers with [`Judge::reported`] or [`Judge::postponed`], or lets it pass until the next doubling.
    Due {
        worker: usize,
        since: Timestamp,
        silent: Duration,
    },
    /// A worker about which there was a report goes on.
    Recovered {
        worker: usize,
        episode: u64,
        blocked: Duration,
    },
}

#[derive(Clone, Debug, Default)]
struct Worker {
    turns: u64,
    busy_ns: u64,
    since: Timestamp,
    silent_ns: u64,
    /// Reports that were due.
    due: u32,
    /// Reports that were made.
    reports: u32,
    episode: Option<u64>,
}

/// The judgement over one runtime's workers.
#[derive(Clone, Debug)]
pub(super) struct Judge {
    threshold_ns: u64,
    gap_max_ns: u64,
    last: Option<Timestamp>,
    workers: Vec<Worker>,
    episodes: u64,
}

impl Judge {
    pub(super) fn new(threshold: Duration, interval: Duration, workers: usize) -> Self {
        Judge {
            threshold_ns: nanos_of(threshold).max(1),
            gap_max_ns: nanos_of(interval).saturating_mul(GAP_INTERVALS),
            last: None,
            workers: vec![Worker::default(); workers],
            episodes: 0,
        }
    }

    /// Takes a sample of all workers, in their order. The first one only sets the start.
    pub(super) fn observe(&mut self, now: Timestamp, readings: &[Reading]) -> Vec<Event> {
        assert_eq!(readings.len(), self.workers.len(), "a reading a worker");
        let first = self.last.is_none();
        let gap = now
            .saturating_nanos_since(self.last.unwrap_or(now))
            .min(self.gap_max_ns);
        self.last = Some(now);
        let mut events = Vec::new();
        for (number, (worker, reading)) in self.workers.iter_mut().zip(readings).enumerate() {
            let parked = reading.turns % 2 == 1;
            let moved = reading.turns != worker.turns || reading.busy_ns != worker.busy_ns;
            worker.turns = reading.turns;
            worker.busy_ns = reading.busy_ns;
            if first || parked || moved || reading.progressed {
                if let Some(episode) = worker.episode.take() {
                    events.push(Event::Recovered {
                        worker: number,
                        episode,
                        blocked: Duration::from_nanos(worker.silent_ns),
                    });
                }
                worker.since = now;
                worker.silent_ns = 0;
                worker.due = 0;
                worker.reports = 0;
                continue;
            }
            worker.silent_ns = worker.silent_ns.saturating_add(gap);
            if worker.due < REPORTS_MAX && worker.silent_ns >= self.threshold_ns << worker.due {
                // One report a sample, however late it is: the next is due at the first doubling not yet passed.
                while worker.due < REPORTS_MAX
                    && worker.silent_ns >= self.threshold_ns << worker.due
                {
                    worker.due += 1;
                }
                events.push(Event::Due {
                    worker: number,
                    since: worker.since,
                    silent: Duration::from_nanos(worker.silent_ns),
                });
            }
        }
        events
    }

    /// Whether the worker has been silent for half the threshold.
    pub(super) fn is_suspect(&self, worker: usize) -> bool {
        self.workers[worker].silent_ns >= self.threshold_ns / 2
            && self.workers[worker].silent_ns > 0
    }

    /// The report that was due has been made; returns the episode's number and the report's in it, both from 1.
    pub(super) fn reported(&mut self, worker: usize) -> (u64, u32) {
        let worker = &mut self.workers[worker];
        worker.reports += 1;
        let episode = *worker.episode.get_or_insert_with(|| {
            self.episodes += 1;
            self.episodes
        });
        (episode, worker.reports)
    }

    /// The report that was due could not be made yet: it is due again at the next sample.
    pub(super) fn postponed(&mut self, worker: usize) {
        let due = &mut self.workers[worker].due;
        *due = due.saturating_sub(1);
    }

    /// Whether there is an open report about the worker.
    #[cfg(test)]
    fn is_reported(&self, worker: usize) -> bool {
        self.workers[worker].episode.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;
    const THRESHOLD: Duration = Duration::from_millis(100);
    const INTERVAL: Duration = Duration::from_millis(25);

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_nanos(ms * MS)
    }

    fn still() -> Reading {
        Reading {
            turns: 4,
            busy_ns: 7,
            progressed: false,
        }
    }

    /// Samples each 25 ms and lists when reports are due and recoveries seen.
    fn run(readings: impl IntoIterator<Item = Reading>) -> Vec<(u64, Event)> {
        let mut judge = Judge::new(THRESHOLD, INTERVAL, 1);
        let mut seen = Vec::new();
        for (step, reading) in readings.into_iter().enumerate() {
            let now = step as u64 * 25;
            for event in judge.observe(at(now), &[reading]) {
                if matches!(event, Event::Due { .. }) {
                    judge.reported(0);
                }
                seen.push((now, event));
            }
        }
        seen
    }

    /// CPU-28: one report at the threshold, then at doubling times, then the recovery.
    #[test]
    fn reports_come_at_the_threshold_and_at_doublings() {
        let moved = Reading {
            turns: 5,
            ..still()
        };
        let seen = run(std::iter::repeat_n(still(), 40).chain([moved]));
        let due: Vec<u64> = seen
            .iter()
            .filter(|(_, event)| matches!(event, Event::Due { .. }))
            .map(|&(now, _)| now)
            .collect();
        assert_eq!(due, [100, 200, 400, 800]);
        let blocked = Duration::from_millis(975);
        let recovered = Event::Recovered {
            worker: 0,
            episode: 1,
            blocked,
        };
        assert_eq!(seen.last(), Some(&(1000, recovered)));
    }

    /// CPU-28: a parked worker and one whose figures move are left alone, however long.
    #[test]
    fn parked_and_moving_workers_are_left_alone() {
        let parked = Reading {
            turns: 5,
            ..still()
        };
        assert_eq!(run(std::iter::repeat_n(parked, 1000)), []);
        let busy = (0..1000).map(|step| Reading {
            busy_ns: step / 4,
            ..still()
        });
        assert_eq!(run(busy), []);
        let progressing = (0..1000).map(|step| Reading {
            progressed: step % 4 == 0,
            ..still()
        });
        assert_eq!(run(progressing), []);
    }

    /// CPU-28: a process that was stopped for an hour accuses nobody of it.
    #[test]
    fn a_gap_counts_for_little() {
        let mut judge = Judge::new(THRESHOLD, INTERVAL, 1);
        judge.observe(at(0), &[still()]);
        assert_eq!(judge.observe(at(3_600_000), &[still()]), []);
        assert!(judge.is_suspect(0));
        assert_eq!(judge.observe(at(3_600_025), &[still()]), []);
    }

    /// CPU-28: the reports of an episode are bounded.
    #[test]
    fn reports_of_an_episode_are_bounded() {
        let seen = run(std::iter::repeat_n(still(), 100_000));
        assert_eq!(seen.len(), REPORTS_MAX as usize);
    }

    #[derive(Clone, Debug)]
    struct Step {
        gap_ms: u64,
        turn: bool,
        busy: bool,
        progressed: bool,
        report: bool,
    }

    fn step() -> impl Strategy<Value = Step> {
        let rare = || proptest::bool::weighted(0.05);
        (0u64..80, rare(), rare(), rare(), any::<bool>()).prop_map(
            |(gap_ms, turn, busy, progressed, report)| Step {
                gap_ms,
                turn,
                busy,
                progressed,
                report,
            },
        )
    }

    proptest! {
        /// CPU-28: agrees with a model that sums the silence anew from the whole history at each step.
        #[test]
        fn agrees_with_a_naive_model(steps in proptest::collection::vec(step(), 1..300)) {
            let mut judge = Judge::new(THRESHOLD, INTERVAL, 1);
            let (mut now, mut reading) = (0, Reading::default());
            let mut gaps: Vec<u64> = Vec::new();
            let mut open = false;
            let mut last_silence = 0;
            for (number, step) in steps.iter().enumerate() {
                now += step.gap_ms;
                reading.turns += u64::from(step.turn);
                reading.busy_ns += u64::from(step.busy);
                reading.progressed = step.progressed;
                let quiet = number > 0 && reading.turns % 2 == 0
                    && !(step.turn || step.busy || step.progressed);
                if quiet { gaps.push(step.gap_ms.min(50)) } else { gaps.clear() }
                let silence: u64 = gaps.iter().sum();
                let due = (0..REPORTS_MAX).any(|doubling| {
                    let limit = 100u64 << doubling;
                    quiet && last_silence < limit && silence >= limit
                });
                let events = judge.observe(at(now), &[reading]);
                let is_due = events.iter().any(|e| matches!(e, Event::Due { .. }));
                let recovered = events.iter().any(|e| matches!(e, Event::Recovered { .. }));
                prop_assert_eq!(is_due, due);
                prop_assert_eq!(recovered, open && !quiet);
                prop_assert_eq!(judge.is_suspect(0), silence >= 50);
                open &= quiet;
                if is_due && step.report {
                    judge.reported(0);
                    open = true;
                }
                prop_assert_eq!(judge.is_reported(0), open);
                last_silence = silence;
            }
        }
    }
}
