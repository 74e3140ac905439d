//! Who comes in, who waits and who is refused, once as many calls are in flight as [should be](super::adaptive).
//!
//! A short queue is not optional: arrivals come in clumps, and without a place to wait a server refuses calls at four fifths of its
//! capacity. A long one is worse than none: under overload it fills whatever its length, and everybody is served when nobody waits
//! for the answer any more. So the bound is on the *time* that calls wait, and it shrinks under overload:
//!
//! - usually a call waits up to 0.3 of the time it has, first come first served;
//! - once waits have not been below half of that for as long as that, their class is *overloaded*: a call waits up to 0.05 of its time, and
//!   the last comes first, as the others have no hope;
//! - under overload those who would be refused after waiting anyway are refused at once (a threshold θ): the lowest classes first, and
//!   inside a class by cohort (tenant, user, session), the same ones for an hour, so that some users are served whole instead of all by halves; calls of no
//!   cohort by chance;
//! - nothing is refused while there is room.
//!
//! [`Degradation`] says how bad it is, so that a service can leave out what is optional.
//!
//! Invariants: waiting ≤ `queue_max`; every call that was told to wait is named exactly once more: by [`next`](Admission::next), as expired,
//! or by its own [`cancel`](Admission::cancel); memory is bounded.
//!
//! Sources: K. Nichols, V. Jacobson, "Controlling Queue Delay" (2012); B. Maurer, "Fail at Scale" (2015: adaptive LIFO with a CoDel-like bound);
//! H. Zhou et al., "Overload Control for Scaling WeChat Microservices" (2018: classes and cohorts under one threshold); Uber, "Cinnamon" (2023:
//! a threshold over the cumulated distribution of priorities).
//!
//! Leaves out how who waits is woken.

mod degradation;
mod line;
#[cfg(test)]
mod tests;
mod threshold;

use core::time::Duration;

use flyball_core::time::{Timestamp, nanos_of};

use crate::Error;
pub use degradation::Degradation;
pub(in crate::limit) use degradation::Levels;
pub use line::Ticket;
use line::{Line, Waiting};
use threshold::Threshold;

/// The most classes by importance.
pub const PRIORITIES: usize = 8;
/// How much of its time a call may wait usually.
const PATIENCE: f64 = 0.3;
/// Waits below this part of that time are short. It is half of the patience: with two or three CPUs queues stay longer than a twentieth of it
/// for seconds at four fifths of the capacity, where nobody needs to be refused.
const SHORT: f64 = 0.15;
/// How much of its time a call may wait under overload.
const PATIENCE_OVERLOADED: f64 = 0.05;
/// The part of a call's own time in what calls usually have.
const USUAL_WEIGHT: f64 = 1.0 / 32.0;
/// A deadline shorter than this part of the usual one counts as this long in what calls usually have: patience is everybody's, and one caller's short deadlines
/// shall not take it from the others. Each waits no longer than its own allows all the same.
const USUAL_LEAST: f64 = 0.2;
/// A least latency that nobody confirms for so long is not known any more: whoever it refuses cannot show that calls have become faster.
const LEAST_KEPT_NANOS: u64 = 1_000_000_000;
/// The part of a greater least latency that is believed.
const LEAST_WEIGHT: f64 = 1.0 / 16.0;
/// No refused call is asked to stay away longer than this, but for the spread.
const RETRY_AFTER_MAX_NANOS: f64 = 10e9;

/// Settings of an [`Admission`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AdmissionConfig {
    /// The time that calls have which name no deadline, 1 ms to 1 h: 250 ms unless set.
    pub deadline: Duration,
    /// A deadline further away than this is not a reason to wait longer, at least `deadline`: 3 s unless set.
    pub deadline_max: Duration,
    /// Calls that may wait, up to 1,000,000; none waits with 0. 10,000 unless set: time is what bounds the queue, this bounds its memory.
    pub queue_max: u32,
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        Self {
            deadline: Duration::from_millis(250),
            deadline_max: Duration::from_secs(3),
            queue_max: 10_000,
        }
    }
}

impl AdmissionConfig {
    /// Says whether the settings make sense.
    ///
    /// # Errors
    /// [`Error::Limit`] for one that is out of its range.
    pub fn check(&self) -> Result<(), Error> {
        let fault = |field, expected| {
            Err(Error::Limit {
                of: "admission",
                field,
                expected,
            })
        };
        if !(Duration::from_millis(1)..=Duration::from_secs(3_600)).contains(&self.deadline) {
            return fault("deadline", "1 ms to 1 h");
        }
        if self.deadline_max < self.deadline {
            return fault("deadline_max", "at least deadline");
        }
        if self.queue_max > 1_000_000 {
            return fault("queue_max", "at most 1,000,000");
        }
        Ok(())
    }
}

/// A call that wants in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Request {
    /// How important its class is, 0 to 7, higher first (greater ones count as 7).
    pub priority: u8,
    /// A hash of whom it is made for: tenant, user, session. Those with the same one are treated alike; without one each call is on its own.
    pub cohort: Option<u64>,
    /// When its answer is of no use any more.
    pub deadline: Option<Timestamp>,
}

/// Why a call is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ShedReason {
    /// Calls of its class and cohort are refused under the overload there is.
    Overload,
    /// It has waited as long as calls may.
    Waited,
    /// It could not be answered before its deadline: that is over, or nearer than the fastest call takes.
    Deadline,
    /// As many wait as may.
    QueueFull,
}

/// A refusal: an answer, not an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shed {
    /// Why.
    pub reason: ShedReason,
    /// How long whoever made the call should stay away. Spread by cohort, so that those who were refused together do not come back together.
    pub retry_after: Duration,
}

/// The answer to who wants in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admit {
    /// Begin.
    Now,
    /// Wait until [`Admission::next`] or an expiry names the ticket; at most until then, and cancel it.
    Wait(Ticket, Timestamp),
    /// Do not.
    Shed(Shed),
}

/// Figures of an admission.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct AdmissionStats {
    /// Calls that wanted in.
    pub arrived: u64,
    /// Calls that came in, at once or after waiting.
    pub admitted: u64,
    /// Calls that had to wait.
    pub queued: u64,
    /// Calls refused at once because of their class and cohort.
    pub shed_overload: u64,
    /// Calls refused after waiting.
    pub shed_waited: u64,
    /// Calls refused because of their deadline.
    pub shed_deadline: u64,
    /// Calls refused because as many waited as may.
    pub shed_full: u64,
    /// Calls that gave up waiting by themselves.
    pub cancelled: u64,
    /// Calls that wait.
    pub waiting: u32,
    /// Whether waits are short now and the last comes first.
    pub overloaded: bool,
    /// The part of the calls that find no room and are refused at once, 0 to 1.
    pub refused_at_once: f64,
}

/// Whether calls of a class wait too long.
#[derive(Clone, Copy, Debug, Default)]
struct Strain {
    overloaded: bool,
    /// Since when the wait of the oldest has not been short.
    late_since: Option<Timestamp>,
    /// When one was refused last.
    refused_at: Timestamp,
}

/// Decides who comes in, waits or is refused. See the [module](self).
#[derive(Clone, Debug)]
pub struct Admission {
    config: AdmissionConfig,
    line: Line,
    /// By class.
    strains: [Strain; PRIORITIES],
    /// The time that calls usually have, ns.
    usual_nanos: f64,
    /// How long a call takes at least, and when that was told last.
    takes: Duration,
    takes_at: Timestamp,
    /// Calls of nobody in particular.
    unnamed: u64,
    threshold: Threshold,
    levels: Levels,
    stats: AdmissionStats,
}

impl Admission {
    /// Makes one with an empty queue.
    ///
    /// # Errors
    /// [`Error::Limit`] for a setting out of its range.
    pub fn new(now: Timestamp, config: AdmissionConfig) -> Result<Self, Error> {
        config.check()?;
        Ok(Self {
            config,
            line: Line::default(),
            strains: [Strain::default(); PRIORITIES],
            usual_nanos: nanos_of(config.deadline) as f64,
            takes: Duration::ZERO,
            takes_at: now,
            unnamed: 0,
            threshold: Threshold::new(now),
            levels: Levels::new(now),
            stats: AdmissionStats::default(),
        })
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &AdmissionConfig {
        &self.config
    }

    /// Changes the settings, for calls that come from now on.
    ///
    /// # Errors
    /// [`Error::Limit`] for a setting out of its range; nothing has changed then.
    pub fn set_config(&mut self, config: AdmissionConfig) -> Result<(), Error> {
        config.check()?;
        self.config = config;
        Ok(())
    }

    /// Tells how long the fastest call of a while took: who has less time left is not begun. A smaller figure counts at once, a greater one by and by, as slow calls
    /// alone do not say that there are no fast ones. Nothing unless told, nor a second after it was told last.
    pub fn note_least_latency(&mut self, now: Timestamp, least: Duration) {
        self.takes_at = now;
        self.takes = if self.takes.is_zero() || least < self.takes {
            least
        } else {
            let more = (least - self.takes).mul_f64(LEAST_WEIGHT);
            self.takes.saturating_add(more)
        };
    }

    fn takes(&self, now: Timestamp) -> Duration {
        match now.saturating_nanos_since(self.takes_at) {
            0..LEAST_KEPT_NANOS => self.takes,
            _ => Duration::ZERO,
        }
    }

    /// A call wants in; `room` is whether one more may be in flight.
    pub fn arrive(&mut self, now: Timestamp, request: &Request, room: bool) -> Admit {
        self.tick(now);
        self.stats.arrived += 1;
        let cohort = request.cohort.unwrap_or_else(|| {
            self.unnamed = self.unnamed.wrapping_add(1);
            self.unnamed
        });
        let left = match request.deadline {
            None => self.config.deadline,
            Some(deadline) => deadline.duration_since(now).min(self.config.deadline_max),
        };
        if request.deadline.is_some() && (left.is_zero() || left < self.takes(now)) {
            // That is the caller's doing, whatever the load: it says nothing of how bad it is.
            self.stats.shed_deadline += 1;
            return Admit::Shed(Shed {
                reason: ShedReason::Deadline,
                retry_after: self.retry_after(cohort),
            });
        }
        let least = nanos_of(self.config.deadline) as f64 * USUAL_LEAST;
        self.usual_nanos += ((nanos_of(left) as f64).max(least) - self.usual_nanos) * USUAL_WEIGHT;
        let rank = rank(request.priority);
        if room && !self.line.anybody_before(rank) {
            self.stats.admitted += 1;
            self.levels.answered(1, 0);
            return Admit::Now;
        }
        if !self.threshold.passes(now, rank, cohort) {
            self.strains[rank].refused_at = now;
            return self.shed(cohort, ShedReason::Overload);
        }
        if self.line.len() >= self.config.queue_max {
            return self.shed(cohort, ShedReason::QueueFull);
        }
        let mut waiting = Waiting {
            arrived: now,
            until: Timestamp::MAX,
            left,
            cohort,
            deadline: request.deadline,
        };
        let until = self.until(rank, &waiting);
        waiting.until = until;
        self.stats.queued += 1;
        Admit::Wait(self.line.push(rank, waiting), until)
    }

    /// So many calls came in that [`arrive`](Self::arrive) was not asked about, as there was room and nobody waited.
    pub fn note_entered(&mut self, calls: u64) {
        self.stats.arrived = self.stats.arrived.saturating_add(calls);
        self.stats.admitted = self.stats.admitted.saturating_add(calls);
        self.levels.answered(calls, 0);
    }

    /// There is room for one who waits: names who comes in. Those whose time is over are told to `expired`.
    pub fn next(
        &mut self,
        now: Timestamp,
        mut expired: impl FnMut(Ticket, Shed),
    ) -> Option<Ticket> {
        self.expire(now, &mut expired);
        let mut next = None;
        while let Some(rank) = self.line.first_rank() {
            let last_first = self.strains[rank].overloaded;
            let Some((ticket, waiting)) = self.line.take(rank, last_first) else {
                break;
            };
            if let Some(reason) = self.over(now, rank, &waiting) {
                expired(ticket, self.refusal(waiting.cohort, reason));
            } else {
                next = Some(ticket);
                break;
            }
        }
        if next.is_some() {
            self.stats.admitted += 1;
            self.levels.answered(1, 0);
            self.threshold.served();
        }
        next
    }

    /// Tells to `expired` whose time is over. To be called now and then, as the bound on waits shrinks while calls wait.
    pub fn expire(&mut self, now: Timestamp, mut expired: impl FnMut(Ticket, Shed)) {
        self.tick(now);
        for rank in 0..PRIORITIES {
            self.judge(now, rank);
            while let Some(waiting) = self.line.oldest(rank) {
                let Some(reason) = self.over(now, rank, &waiting) else {
                    break;
                };
                let Some((ticket, _)) = self.line.take(rank, false) else {
                    break;
                };
                self.strains[rank].refused_at = now;
                expired(ticket, self.refusal(waiting.cohort, reason));
            }
        }
    }

    /// Gives up waiting, its time being over or for a reason of its own; `None` if it was named before.
    pub fn cancel(&mut self, now: Timestamp, ticket: Ticket) -> Option<Shed> {
        let waiting = self.line.remove(ticket)?;
        let rank = ticket.rank();
        let shed = match self.over(now, rank, &waiting) {
            Some(reason) => {
                self.strains[rank].refused_at = now;
                self.refusal(waiting.cohort, reason)
            }
            None => {
                self.stats.cancelled += 1;
                Shed {
                    reason: ShedReason::Waited,
                    retry_after: self.retry_after(waiting.cohort),
                }
            }
        };
        Some(shed)
    }

    /// The priority of the most important call that waits, 0 to 7.
    #[must_use]
    pub fn first_waiting(&self) -> Option<u8> {
        let rank = self.line.first_rank()?;
        u8::try_from(PRIORITIES - 1 - rank.min(PRIORITIES - 1)).ok()
    }

    /// How bad it is.
    #[must_use]
    pub fn level(&self) -> Degradation {
        self.levels.level()
    }

    /// Brings levels and thresholds up to now. Calls do so too; without any for a while, somebody else must.
    pub fn tick(&mut self, now: Timestamp) {
        self.threshold.tick(now);
        self.levels.tick(now);
    }

    /// Figures.
    #[must_use]
    pub fn stats(&self) -> AdmissionStats {
        AdmissionStats {
            waiting: self.line.len(),
            overloaded: self.strains.iter().any(|strain| strain.overloaded),
            refused_at_once: self.threshold.refuses(),
            ..self.stats
        }
    }

    /// Whether a class is overloaded: as CoDel does, by a delay that has not been short for an interval, not by how many wait.
    fn judge(&mut self, now: Timestamp, rank: usize) {
        let interval = PATIENCE * self.usual_nanos;
        let strain = &mut self.strains[rank];
        let Some(oldest) = self.line.oldest(rank) else {
            *strain = Strain::default();
            return;
        };
        if strain.overloaded {
            let calm = now.saturating_nanos_since(strain.refused_at) as f64;
            strain.overloaded = calm < interval;
        } else if (now.saturating_nanos_since(oldest.arrived) as f64) < SHORT * self.usual_nanos {
            strain.late_since = None;
        } else {
            let since = *strain.late_since.get_or_insert(now);
            if now.saturating_nanos_since(since) as f64 >= interval {
                *strain = Strain {
                    overloaded: true,
                    late_since: None,
                    refused_at: now,
                };
            }
        }
    }

    fn until(&self, rank: usize, waiting: &Waiting) -> Timestamp {
        let patience = if self.strains[rank].overloaded {
            PATIENCE_OVERLOADED
        } else {
            PATIENCE
        };
        let until = waiting
            .arrived
            .saturating_add(waiting.left.mul_f64(patience));
        // Nobody waits longer than was said, also when patience is greater again.
        until.min(waiting.until)
    }

    /// Why who waits should not any longer.
    fn over(&self, now: Timestamp, rank: usize, waiting: &Waiting) -> Option<ShedReason> {
        if waiting.deadline.is_some_and(|deadline| {
            now >= deadline || deadline.duration_since(now) < self.takes(now)
        }) {
            Some(ShedReason::Deadline)
        } else if now >= self.until(rank, waiting) {
            Some(ShedReason::Waited)
        } else {
            None
        }
    }

    fn shed(&mut self, cohort: u64, reason: ShedReason) -> Admit {
        Admit::Shed(self.refusal(cohort, reason))
    }

    fn refusal(&mut self, cohort: u64, reason: ShedReason) -> Shed {
        self.levels.answered(1, 1);
        match reason {
            ShedReason::Overload => self.stats.shed_overload += 1,
            ShedReason::Waited => self.stats.shed_waited += 1,
            ShedReason::Deadline => self.stats.shed_deadline += 1,
            ShedReason::QueueFull => self.stats.shed_full += 1,
        }
        Shed {
            reason,
            retry_after: self.retry_after(cohort),
        }
    }

    /// As long as calls usually have, longer the more are refused, and up to twice that by cohort.
    fn retry_after(&self, cohort: u64) -> Duration {
        let served = (1.0 - self.levels.pressure()).max(0.01);
        let nanos = (self.usual_nanos / served).clamp(0.0, RETRY_AFTER_MAX_NANOS);
        let spread = 1.0 + (threshold::mix(cohort) >> 40) as f64 / (1u64 << 24) as f64;
        Duration::from_nanos((nanos * spread) as u64)
    }
}

/// 0 is the most important.
fn rank(priority: u8) -> usize {
    PRIORITIES - 1 - usize::from(priority).min(PRIORITIES - 1)
}
