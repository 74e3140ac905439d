//! One run from its start to the queue's word that its end is written: signs of life, timeout, being told to end, the report.
//!
//! Invariants
//! - The queue hears of a run after a third of its lease at the latest, and once a second at the most, but for checkpoints that somebody waits for and
//!   changes between running and paused.
//! - A run whose lease is over is ended, and reports nothing: another may have the task.
//! - What a run holds is given back when its work has really ended, also where the report went out before: a closure that does not end keeps its
//!   slot and its instances.

use crate::error::Error;
use crate::run::context::{Live, Phase, Stop};
use crate::run::ended::Ended;
use crate::run::figures::Happened;
use crate::run::gates;
use crate::run::hub::Hub;
use crate::task::{Beaten, Completion};
use flyball_core::time::{Clock, OsClock, Timestamp};
use flyball_limit::Permit;
use flyball_policy::limit::Verdict;
use flyball_policy::queue::{Outcome, Reason};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// What runs, until its end.
pub(crate) type Body = Pin<Box<dyn Future<Output = Ended> + Send>>;

/// The least time between two signs of life that nobody waits for.
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// How long something that was told to end may take before its task is reported without it.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Between two tries to report an end that the queue could not take.
const REPORT_AGAIN: Duration = Duration::from_secs(1);

/// What is to be run.
pub(crate) struct Drive {
    pub(crate) live: Arc<Live>,
    pub(crate) body: Body,
    /// How long it may run once it has begun; `None` where the body sees to that itself.
    pub(crate) timeout: Option<Duration>,
    /// Whether the body surely ends soon after it was told to.
    pub(crate) obeys: bool,
    pub(crate) lease: Duration,
    /// The slot of its class.
    pub(crate) permit: Option<Permit>,
}

type Beating = Pin<Box<dyn Future<Output = Result<Beaten, Error>> + Send>>;

struct Beats {
    lease: Duration,
    /// When the next one is due at the latest.
    due: Timestamp,
    /// When the last one went out.
    last: Timestamp,
    /// When the lease is over.
    ends: Timestamp,
    out: Option<(Beating, crate::task::Beat, Vec<oneshot::Sender<bool>>)>,
}

impl Beats {
    fn new(lease: Duration) -> Beats {
        let now = OsClock.now();
        Beats {
            lease,
            due: now.saturating_add(lease / 3),
            last: Timestamp::ZERO,
            // The queue counts from before we heard of it.
            ends: now.saturating_add(lease - lease / 10),
            out: None,
        }
    }

    fn send(&mut self, hub: &Hub, live: &Live) {
        let (beat, tell) = live.take_beat();
        let (queue, id, token, sent) = (Arc::clone(&hub.queue), live.id, live.token, beat.clone());
        self.last = OsClock.now();
        self.due = self.last.saturating_add(self.lease / 3);
        let beating = Box::pin(async move { queue.heartbeat(id, token, sent).await });
        self.out = Some((beating, beat, tell));
    }

    /// Answers that one has come back with, and what it means.
    fn answered(&mut self, hub: &Hub, live: &Live, answer: Result<Beaten, Error>) {
        let Some((_, beat, tell)) = self.out.take() else {
            return;
        };
        let taken = answer.is_ok();
        match answer {
            Ok(beaten) => {
                self.ends = self.last.saturating_add(self.lease - self.lease / 10);
                if beaten.cancelled {
                    live.stop(Stop::Cancelled);
                }
            }
            Err(
                Error::StaleToken { .. } | Error::UnknownTask { .. } | Error::WrongState { .. },
            ) => hub.lose(live),
            Err(error) => {
                live.put_back(beat);
                self.due = self.last.saturating_add(BEAT_EVERY);
                hub.queue_failed(&error);
            }
        }
        for tell in tell {
            let _ = tell.send(taken);
        }
    }
}

fn until(now: Timestamp, then: Timestamp) -> Duration {
    then.duration_since(now)
}

/// Runs it; answers when all that it held has been given back.
pub(crate) async fn drive(hub: Arc<Hub>, drive: Drive) -> Verdict {
    let Drive {
        live,
        mut body,
        timeout,
        obeys,
        lease,
        mut permit,
    } = drive;
    let mut beats = Beats::new(lease);
    let mut told: Option<Timestamp> = None;
    let mut wants_beat = false;
    let ended = loop {
        let now = OsClock.now();
        if now >= beats.ends {
            hub.lose(&live);
        }
        let lost = live.stopped() == Some(Stop::Lost);
        if beats.out.is_none() && !lost {
            let soon = wants_beat && (live.is_urgent() || until(beats.last, now) >= BEAT_EVERY);
            if soon || now >= beats.due {
                wants_beat = false;
                beats.send(&hub, &live);
            }
        }
        let given_up = told
            .filter(|_| !obeys)
            .map(|told| told.saturating_add(STOP_GRACE));
        if given_up.is_some_and(|given_up| now >= given_up) {
            break None;
        }
        let over = timeout
            .zip(live.running_since())
            .map(|(timeout, since)| since.saturating_add(timeout));
        if over.is_some_and(|over| now >= over) {
            live.stop(Stop::TimedOut);
        }
        let idle = beats.out.is_none();
        let next = [
            (!lost).then_some(beats.ends),
            (!lost && idle).then_some(beats.due),
            (!lost && idle && wants_beat).then(|| beats.last.saturating_add(BEAT_EVERY)),
            over.filter(|_| live.stopped().is_none()),
            given_up,
        ];
        let next = next.into_iter().flatten().min();
        // Rounded up: the timer's millisecond must not end before the time.
        let wait = next.map_or(lease, |next| until(now, next)) + Duration::from_millis(1);
        tokio::select! {
            biased;
            ended = &mut body => break Some(ended),
            _ = live.wait_stopped(), if told.is_none() => told = Some(OsClock.now()),
            answer = async {
                match &mut beats.out {
                    Some((beating, ..)) => beating.await,
                    None => std::future::pending().await,
                }
            } => beats.answered(&hub, &live, answer),
            () = live.beat.notified() => wants_beat = true,
            () = live.wait_started(), if timeout.is_some() && over.is_none() => {}
            () = tokio::time::sleep(wait) => {}
        }
    };
    live.set_phase(Phase::Reporting);
    if let Some((_, beat, _)) = beats.out.take() {
        // Nobody knows whether it arrived.
        live.put_back(beat);
    }
    let stuck = ended.is_none();
    let ended = judge(&live, ended);
    if stuck {
        hub.happened(Happened::Stuck {
            id: live.id,
            kind: live.kind.clone(),
        });
    }
    let leave = |permit: &mut Option<Permit>| {
        if let Some(permit) = permit.take() {
            // Only time tells of load on this machine.
            permit.end(gates::outcome(ended.verdict, ended.is_timed_out()));
        }
    };
    // Before the queue hears of it: who comes then has the slot.
    if !stuck {
        leave(&mut permit);
    }
    report(&hub, &live, &ended, lease).await;
    if stuck {
        live.abandon();
        hub.poke.notify_one();
        body.await;
        leave(&mut permit);
    }
    ended.verdict
}

/// What the queue is told, given how the work ended and what it was told before.
fn judge(live: &Live, ended: Option<Ended>) -> Ended {
    match (live.stopped(), ended) {
        // It was faster.
        (_, Some(ended)) if ended.is_done() => ended,
        (None, Some(ended)) => ended,
        (Some(Stop::TimedOut), Some(ended)) if ended.outcome.is_some() => ended,
        (Some(Stop::TimedOut), ended) => Ended {
            usage: ended.map(|ended| ended.usage).unwrap_or_default(),
            ..Ended::failed(Reason::TimedOut, true, "it ran past its timeout")
        },
        (_, ended) => Ended {
            usage: ended.map(|ended| ended.usage).unwrap_or_default(),
            ..Ended::returned(None)
        },
    }
}

async fn report(hub: &Hub, live: &Live, ended: &Ended, lease: Duration) {
    hub.count_end(live, ended);
    if live.stopped() == Some(Stop::Lost) {
        return;
    }
    // What the next attempt is to find must be there before this one is over.
    if live.has_reports() && !ended.is_done() {
        let (beat, tell) = live.take_beat();
        let answer = hub.queue.heartbeat(live.id, live.token, beat).await;
        for tell in tell {
            let _ = tell.send(answer.is_ok());
        }
    }
    let ends = OsClock.now().saturating_add(lease);
    loop {
        let completion = Completion {
            id: live.id,
            token: live.token,
            outcome: ended.outcome,
            result: ended
                .result
                .clone()
                .filter(|_| ended.outcome == Some(Outcome::Done)),
            error: ended.error.clone(),
            usage: ended.usage.clone(),
        };
        let answer = hub.queue.finish(vec![completion]).await;
        match answer.map(|mut answers| answers.pop()) {
            Ok(Some(Ok(_))) => return,
            Ok(Some(Err(
                error @ (Error::StaleToken { .. }
                | Error::UnknownTask { .. }
                | Error::WrongState { .. }),
            )))
            | Err(
                error @ (Error::StaleToken { .. }
                | Error::UnknownTask { .. }
                | Error::WrongState { .. }),
            ) => {
                hub.queue_failed(&error);
                return;
            }
            // A disk that is full may get room again, as long as the task is ours and there is time.
            Ok(Some(Err(error))) | Err(error) => {
                hub.queue_failed(&error);
                let for_good = matches!(error, Error::Stopped { .. } | Error::Closing);
                let now = OsClock.now();
                let leaving = hub.state().drain.is_some_and(|drain| now >= drain);
                if for_good || leaving || now >= ends {
                    return;
                }
            }
            Ok(None) => return,
        }
        tokio::time::sleep(REPORT_AGAIN).await;
        let _ = hub
            .queue
            .heartbeat(live.id, live.token, crate::task::Beat::default())
            .await;
    }
}
