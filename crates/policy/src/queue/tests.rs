//! Tests of the machine.

mod hostile;
mod life;
mod model;
mod sim;
mod units;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use flyball_core::time::{Timestamp, WallTime};

use super::*;

/// A tick each so many seconds, by its number.
pub(super) struct Every;

impl Calendar for Every {
    fn check(&self, cron: &Cron) -> Result<(), String> {
        match cron.expression.parse::<u64>() {
            Ok(1..) => Ok(()),
            _ => Err("must be a number of seconds".into()),
        }
    }

    fn next(&self, cron: &Cron, after: WallTime) -> Option<WallTime> {
        let every = cron.expression.parse::<u64>().ok()? * 1_000_000_000;
        let next = (after.unix_nanos() / every + 1).checked_mul(every)?;
        Some(WallTime::from_unix_nanos(next))
    }
}

/// 2023-11-14, the time of the wall when the other clock says 0.
const EPOCH: u64 = 1_700_000_000;

pub(super) fn at(seconds: f64) -> Now {
    let nanos = (seconds * 1e9) as u64;
    Now {
        mono: Timestamp::from_nanos(nanos),
        wall: WallTime::from_unix_nanos(EPOCH * 1_000_000_000 + nanos),
    }
}

pub(super) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) fn head(kind: &str) -> Head {
    Head {
        kind: kind.into(),
        via: Via::Handler,
        class: "normal".into(),
        priority: 0,
        deadline: None,
        not_before: None,
        cron: None,
        timeout: None,
        retry: RetryPolicy {
            max_attempts: 3,
            base: secs(1),
            cap: secs(60),
        },
        after: Vec::new(),
        on_parent_failure: OnParentFailure::Skip,
        needs: Needs::default(),
        affinity_key: None,
        key: None,
        unique: None,
        group: None,
        after_group: None,
    }
}

/// A queue whose clock the test moves, and that is checked after each command.
pub(super) struct Bench {
    pub(super) queue: Queue,
    pub(super) now: Now,
    pub(super) effects: Effects,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with(Settings::default())
    }

    pub(super) fn with(settings: Settings) -> Self {
        let mut queue = Queue::new(settings, Box::new(Every));
        let mut effects = Effects::default();
        queue.opened(at(0.0), Opening::Clean { epoch: 1 }, &mut effects);
        effects.clear();
        Self {
            queue,
            now: at(0.0),
            effects,
        }
    }

    pub(super) fn at(&mut self, seconds: f64) -> &mut Self {
        self.now = at(seconds);
        self
    }

    pub(super) fn try_apply(&mut self, command: Command<'_>) -> Result<Reply, Refused> {
        self.effects.clear();
        let reply = self.queue.apply(self.now, command, &mut self.effects);
        self.queue.check();
        if reply.is_err() {
            assert_eq!(self.effects, Effects::default(), "a refusal has no effects");
        }
        reply
    }

    pub(super) fn apply(&mut self, command: Command<'_>) -> Reply {
        self.try_apply(command).expect("accepted")
    }

    pub(super) fn try_add(&mut self, heads: &[Head]) -> Result<Vec<Taken>, Refused> {
        let tasks: Vec<Entering<'_>> = heads
            .iter()
            .map(|head| Entering { head, parents: &[] })
            .collect();
        match self.try_apply(Command::Enqueue {
            tasks: &tasks,
            idempotency: None,
        })? {
            Reply::Accepted(taken) => Ok(taken),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn add(&mut self, head: Head) -> TaskId {
        self.try_add(&[head]).expect("accepted")[0].id
    }

    pub(super) fn lease_with(&mut self, max: u32, room: Option<&Room>) -> Vec<Granted> {
        let ask = Ask {
            worker: "w",
            handlers: &Kinds::All,
            commands: &Kinds::All,
            http: &Kinds::All,
            max,
            lease: secs(30),
            wait: Duration::ZERO,
            room,
            above: None,
        };
        match self.apply(Command::Lease(ask)) {
            Reply::Leased(granted) => granted,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn lease(&mut self, max: u32) -> Vec<Granted> {
        self.lease_with(max, None)
    }

    /// Leases one task, which there must be.
    pub(super) fn one(&mut self) -> Granted {
        let granted = self.lease(1);
        assert_eq!(granted.len(), 1, "a task to lease");
        granted[0]
    }

    pub(super) fn ids(&mut self, max: u32) -> Vec<u64> {
        self.lease(max).iter().map(|granted| granted.id.0).collect()
    }

    pub(super) fn finish(&mut self, granted: Granted, outcome: Option<Outcome>) -> State {
        match self.apply(Command::Finish {
            id: granted.id,
            token: granted.token,
            outcome,
        }) {
            Reply::State(state) => state,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn tick(&mut self) -> bool {
        match self.apply(Command::Tick) {
            Reply::Done(done) => done,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn state(&self, id: TaskId) -> State {
        self.queue.state(id).expect("a task")
    }

    pub(super) fn record(&self, id: TaskId) -> Record {
        self.queue.record(id).expect("a task")
    }
}

pub(super) const FAILED: Option<Outcome> = Some(Outcome::Failed {
    reason: Reason::Error,
    retryable: true,
    after: None,
});
pub(super) const DONE: Option<Outcome> = Some(Outcome::Done);
