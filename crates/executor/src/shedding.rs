//! Refusing work in memory that would wait for too long.
//!
//! A class may say how long its work should wait at most. As many tasks may then wait as start within that time (`policy::limit::Backlog`); more are refused
//! where they are submitted, which costs nothing there, as it is the bound on the class's queue that moves. The supervisor looks at each tick; an idle pool is
//! silent, and a burst after that meets the bound that was known last.
//!
//! A queue that was well within the time may come not to be, when other classes take the CPU or tasks get longer. So queued tasks of classes that are
//! `sheddable` are refused when their turn comes after twice the time, if they have a handle that hears of it: nothing is dropped in silence.
//!
//! A lower class gets less of the CPU while there is much to do, so its work waits longer, and is refused first.
//!
//! Leaves out what a task of the class itself submits to it, which is a part of what was let in, and what a durable queue accepted before.

use crate::error::Error;
use crate::pool::{ClassInfo, Pool};
use crate::spine::{ClassSlot, mode};
use flyball_core::outcome::Rejection;
use flyball_core::time::{Timestamp, nanos_of};
use flyball_policy::limit::admission::Degradation;
use flyball_policy::limit::{Backlog, BacklogLook};
use std::sync::atomic::Ordering::*;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

/// When work in memory is refused because of how long it would wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shedding {
    /// How long work should wait at most, 1 ms to 1 h.
    pub target: Duration,
    /// The same is measured and counted, and nothing refused.
    pub observe: bool,
}

/// What shedding does in a class.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SheddingStatus {
    /// The settings.
    pub settings: Shedding,
    /// How many tasks may wait now; None until it is known how fast they start, and while the class is paused.
    pub limit: Option<usize>,
    /// Tasks that started a second when some waited, polls of futures that were woken included; None until it is known.
    pub rate: Option<f64>,
    /// Tasks that were refused when they were submitted.
    pub refused: u64,
    /// Queued tasks that were refused when their turn came.
    pub refused_late: u64,
    /// About how many would have been refused while it only observed.
    pub would_refuse: u64,
    /// What a service should do without.
    pub level: Degradation,
}

/// The state of a class that sheds.
pub(crate) struct Shedder {
    class: Arc<str>,
    settings: Shedding,
    backlog: Backlog,
    limit: Option<u64>,
    would: u64,
    /// The counters of the slot at the last look.
    seen: Seen,
}

#[derive(Clone, Copy, Default)]
struct Seen {
    submitted: u64,
    entered: u64,
    waiting: u64,
    refused: u64,
    late: u64,
}

impl Seen {
    fn of(slot: &ClassSlot) -> Seen {
        Seen {
            submitted: slot.submitted_elsewhere(),
            // Those that were queued anew as well: they wait, and leave, like others.
            entered: (slot.queue.pushed() as u64).wrapping_add(slot.special.load(SeqCst)),
            waiting: slot.waiting() as u64,
            refused: slot.shed.load(Relaxed),
            late: slot.shed_late.load(Relaxed),
        }
    }

    fn since(self, before: Seen) -> BacklogLook {
        let refused = self.refused.wrapping_sub(before.refused);
        let late = self.late.wrapping_sub(before.late);
        let entered = self.entered.wrapping_sub(before.entered);
        let left = (before.waiting.saturating_add(entered)).saturating_sub(self.waiting);
        BacklogLook {
            arrived: self.submitted.saturating_sub(before.submitted) + refused,
            refused: refused + late,
            // What is refused when its turn comes says nothing of how fast work starts.
            left: left.saturating_sub(late),
            waiting: self.waiting,
        }
    }
}

impl Shedder {
    fn refusal(&self, spread: u64) -> Rejection {
        let rate = self.backlog.rate().unwrap_or(0.0);
        let target = self.settings.target;
        let reason = match self.limit {
            Some(limit) => format!(
                "{limit} tasks may wait, as about {rate:.0} start a second and none should wait for longer than {target:?}"
            ),
            None => format!("none should wait for longer than {target:?}"),
        };
        Rejection::Shed {
            class: self.class.clone(),
            reason: reason.into(),
            retry_after: self.backlog.retry_after(spread),
        }
    }
}

impl ClassSlot {
    /// What sheds here. Whoever changes how many may wait holds it, so that those who do so for other causes are not overtaken. Taken before the lock of the class's settings.
    pub(crate) fn shedder(&self) -> MutexGuard<'_, Option<Shedder>> {
        self.shedding.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Why a task is refused that finds as many waiting as may; None where there is no such bound any more.
    #[cold]
    pub(crate) fn refusal(&self) -> Option<Rejection> {
        let spread = self.shed.load(Relaxed);
        self.shedder()
            .as_ref()
            .map(|shedder| shedder.refusal(spread))
    }

    /// Why a queued task is refused whose turn comes too late.
    #[cold]
    pub(crate) fn refuse_late(&self) -> Option<Rejection> {
        let refusal = self.refusal()?;
        self.shed_late.fetch_add(1, Relaxed);
        Some(refusal)
    }

    /// Sets how many may wait, beside what the class itself says. For who holds the [shedder](Self::shedder).
    fn set_soft_limit(&self, soft: usize) {
        let before = self.soft.swap(soft, SeqCst);
        if before == soft {
            return;
        }
        let hard = self.hard.load(SeqCst);
        // While the class is being removed the bound is 0, and stays so.
        let changed = self
            .limit
            .compare_exchange(hard.min(before), hard.min(soft), SeqCst, SeqCst);
        if changed.is_ok() && soft < before {
            self.queue.forget_room();
        }
    }

    /// Lets as many wait again as may, after none might.
    pub(crate) fn restore_limit(&self) {
        let _shedder = self.shedder();
        let limit = self.hard.load(SeqCst).min(self.soft.load(SeqCst));
        self.limit.store(limit, SeqCst);
    }

    fn stop_shedding(&self) {
        self.late_after.store(u64::MAX, SeqCst);
        self.set_soft_limit(usize::MAX);
    }
}

impl Pool {
    /// Sets or lifts shedding of a class.
    pub(crate) fn set_shedding(
        &self,
        info: &ClassInfo,
        settings: Option<Shedding>,
    ) -> Result<(), Error> {
        let slot = info.slot;
        let fault = |_| Error::Config {
            key: "shedding.target",
            found: format!(
                "{:?}",
                settings.map_or(Duration::ZERO, |settings| settings.target)
            ),
            expected: "1 ms to 1 h",
        };
        let now = self.now();
        let mut present = slot.shedder();
        match (settings, &mut *present) {
            (None, present) => *present = None,
            (Some(settings), Some(shedder)) => {
                shedder.backlog.set_target(settings.target).map_err(fault)?;
                shedder.settings = settings;
            }
            (Some(settings), present) => {
                *present = Some(Shedder {
                    class: info.name.clone(),
                    settings,
                    backlog: Backlog::new(now, settings.target).map_err(fault)?,
                    limit: None,
                    would: 0,
                    seen: Seen::of(slot),
                });
            }
        }
        let bit = 1 << slot.index;
        if settings.is_some_and(|settings| !settings.observe) {
            self.publish_late(info, settings);
        } else {
            slot.stop_shedding();
        }
        if settings.is_some() {
            self.spine.shedding.fetch_or(bit, SeqCst);
        } else {
            self.spine.shedding.fetch_and(!bit, SeqCst);
        }
        Ok(())
    }

    fn publish_late(&self, info: &ClassInfo, settings: Option<Shedding>) {
        let sheddable = info
            .spec
            .read()
            .unwrap_or_else(|e| e.into_inner())
            .sheddable;
        let late = settings
            .filter(|settings| sheddable && !settings.observe)
            .map_or(u64::MAX, |settings| {
                nanos_of(settings.target).saturating_mul(2)
            });
        info.slot.late_after.store(late, SeqCst);
    }

    /// Looks at all classes that shed, and moves their bounds.
    pub(crate) fn look_at_backlogs(&self) {
        if self.spine.shedding.load(Relaxed) == 0 {
            return;
        }
        let now = self.now();
        let classes = self.classes.read().unwrap_or_else(|e| e.into_inner());
        for info in classes.iter() {
            if self.spine.shedding.load(Relaxed) & (1 << info.slot.index) != 0 {
                self.look_at_backlog(info, now);
            }
        }
    }

    fn look_at_backlog(&self, info: &ClassInfo, now: Timestamp) {
        let slot = info.slot;
        let mut present = slot.shedder();
        let Some(shedder) = &mut *present else {
            return;
        };
        let seen = Seen::of(slot);
        let look = seen.since(std::mem::replace(&mut shedder.seen, seen));
        // What was accepted runs to its end when the pool closes.
        let stands = slot.mode.load(SeqCst) != mode::OPEN || self.spine.closing.load(SeqCst);
        if stands {
            shedder.backlog.skip(now);
            shedder.limit = None;
            slot.stop_shedding();
            return;
        }
        // A worker each should find its next task.
        let least = u64::from(self.spine.signals.parallelism()).max(1);
        if shedder.settings.observe {
            let would = shedder.backlog.observe(now, &look, least);
            shedder.would = shedder.would.saturating_add(would);
            shedder.limit = shedder.backlog.limit(least);
            return;
        }
        shedder.backlog.look(now, &look);
        shedder.limit = shedder.backlog.limit(least);
        let soft = shedder.limit.map_or(usize::MAX, |limit| {
            usize::try_from(limit).unwrap_or(usize::MAX)
        });
        slot.set_soft_limit(soft);
        self.publish_late(info, Some(shedder.settings));
    }

    pub(crate) fn shedding(&self, slot: &ClassSlot) -> Option<Shedding> {
        slot.shedder().as_ref().map(|shedder| shedder.settings)
    }

    pub(crate) fn shedding_status(&self, slot: &ClassSlot) -> Option<SheddingStatus> {
        let now = self.now();
        slot.shedder().as_mut().map(|shedder| {
            if slot.waiting() == 0 {
                // Nobody looks while the pool is idle, and a level should end.
                shedder.backlog.skip(now);
            }
            shedder.status(slot)
        })
    }
}

impl Shedder {
    fn status(&self, slot: &ClassSlot) -> SheddingStatus {
        SheddingStatus {
            settings: self.settings,
            limit: self
                .limit
                .map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            rate: self.backlog.rate(),
            refused: slot.shed.load(Relaxed),
            refused_late: slot.shed_late.load(Relaxed),
            would_refuse: self.would,
            level: self.backlog.level(),
        }
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use crate::config::Config;
    use flyball_core::time::{Clock, OsClock, Source};

    /// CPU-21: who publishes a class's settings holds what else moves its bound, from before it reads them.
    #[test]
    fn settings_are_published_under_the_shedder() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let handle = runtime.handle().clone();
        let pool = Pool::new(Config::default(), Source::best(), handle).unwrap();
        let info = pool.find_class("batch").unwrap();
        let mut spec = info.spec.write().unwrap();
        spec.queue_limit = 7;
        std::thread::scope(|scope| {
            scope.spawn(|| pool.publish_class(&info));
            let patience = OsClock.now().saturating_add(Duration::from_secs(60));
            while info.slot.shedding.try_lock().is_ok() {
                assert!(OsClock.now() < patience, "nobody holds it");
                std::thread::yield_now();
            }
            // It waits for these.
            drop(spec);
        });
        assert_eq!(info.slot.limit.load(SeqCst), 7);
    }
}
