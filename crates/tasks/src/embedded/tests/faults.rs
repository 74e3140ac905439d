//! The writer against a disk that fails: crashes before and after commits, power cuts, lost answers, repeated requests, full disks, damaged rows, and
//! clocks that jump. All from a seed.
//!
//! What is checked at each step is what people are promised: nothing accepted is lost, nothing acknowledged comes back, a task is leased to one at
//! a time, a request that is repeated is one.

use super::disk::{Disk, Plan};
use super::fixture::START;
use crate::conformance::testing::{done, failed, request, task};
use crate::embedded::core::Core;
use crate::embedded::message::{Asker, Handed, Incoming, Message, Reply};
use crate::embedded::options::Limits;
use crate::embedded::shared::Shared;
use crate::{Accepted, Beat, Brief, Clocks, CronCalendar, Error, Idempotency, ManualClocks};
use flyball_core::rng::Rng;
use flyball_core::time::Timestamp;
use flyball_policy::queue::{Settings, State, TaskId, Token};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long leases last here.
const LEASE: Duration = Duration::from_secs(30);

/// What is known of a task from the answers alone.
#[derive(Debug, Default)]
struct Known {
    /// Its end was acknowledged.
    done: bool,
    /// Its end was asked for, and the answer lost.
    maybe_done: bool,
    /// The newest token, and until when it is good for certain.
    lease: Option<(Token, Timestamp)>,
    /// The greatest token there was.
    newest: Option<Token>,
    /// Its row was reported as damaged.
    damaged: bool,
}

/// A request of tasks.
#[derive(Debug)]
struct Request {
    key: Box<str>,
    count: usize,
    /// The tasks it was answered with.
    answered: Option<Vec<TaskId>>,
}

struct World {
    seed: u64,
    step: u64,
    rng: Rng,
    disk: Disk,
    clocks: ManualClocks,
    core: Core,
    shared: Arc<Shared>,
    tasks: BTreeMap<TaskId, Known>,
    requests: Vec<Request>,
}

fn open(disk: &Disk, clocks: &ManualClocks, seed: u64) -> (Core, Arc<Shared>) {
    let shared = Arc::new(Shared::new(1024, 100));
    let core = Core::open(
        Box::new(disk.clone()),
        Settings {
            seed,
            ..Settings::default()
        },
        Limits {
            max_bytes: None,
            cache_bytes: 2_000,
            max_waiting: 4,
        },
        Arc::new(CronCalendar),
        Arc::new(clocks.clone()),
        shared.clone(),
    )
    .unwrap();
    (core, shared)
}

/// How a request went.
enum Answer<T> {
    Got(T),
    Refused(Error),
    /// Nobody knows what became of it.
    Lost,
}

impl World {
    fn new(seed: u64) -> World {
        let disk = Disk::new();
        let clocks = ManualClocks::starting_at(START);
        let (core, shared) = open(&disk, &clocks, seed);
        World {
            seed,
            step: 0,
            rng: Rng::seeded(seed),
            disk,
            clocks,
            core,
            shared,
            tasks: BTreeMap::new(),
            requests: Vec::new(),
        }
    }

    fn chance(&mut self, of: u64) -> bool {
        self.rng.below(of) == 0
    }

    fn fail(&self, what: &str) -> ! {
        panic!("{what} (seed {}, step {})", self.seed, self.step);
    }

    /// Asks, with faults; opens anew if the process died.
    fn ask<T>(&mut self, message: impl FnOnce(Reply<T>) -> Message) -> Answer<T> {
        let (reply, mut answer) = oneshot::channel();
        let mut plan = match self.rng.below(60) {
            0 => Plan::DieBefore,
            1 => Plan::DieAfter,
            2 => Plan::NoSpace,
            _ => Plan::Work,
        };
        if self.chance(2_000)
            && let Some(id) = self.some_task()
        {
            plan = Plan::Damage(id);
        }
        self.disk.plan(plan);
        let lost = self.chance(30);
        let mut messages = vec![message(reply)];
        if lost {
            drop(answer);
            answer = oneshot::channel().1;
        }
        self.run(&mut messages);
        self.disk.plan(Plan::Work);
        let answer = match answer.try_recv() {
            Ok(Ok(value)) => Answer::Got(value),
            Ok(Err(Error::Stopped { .. })) | Err(_) => Answer::Lost,
            Ok(Err(error)) => Answer::Refused(error),
        };
        if let Plan::Damage(id) = plan
            && self.shared.damaged().tasks.contains_key(&id)
        {
            self.tasks.entry(id).or_default().damaged = true;
        }
        if self.shared.stopped().is_some() {
            self.crash();
        }
        answer
    }

    fn run(&mut self, messages: &mut Vec<Message>) {
        let mut returns = Vec::new();
        self.shared.take_returns(&mut returns);
        self.core.run(messages, &mut returns);
    }

    fn some_task(&mut self) -> Option<TaskId> {
        let last = self.tasks.last_key_value()?.0.0;
        let from = TaskId(1 + self.rng.below(last));
        self.tasks.range(from..).next().map(|(id, _)| *id)
    }

    fn crash(&mut self) {
        let mut rng = self.rng.fork();
        self.disk.cut(&mut rng);
        (self.core, self.shared) = open(&self.disk, &self.clocks, self.seed);
        for known in self.tasks.values_mut() {
            known.lease = None;
            // What was noticed in memory alone is noticed again when it is met.
            known.damaged = false;
        }
        self.check_all();
    }

    fn restart(&mut self) {
        let (reply, mut answer) = oneshot::channel();
        self.run(&mut vec![Message::Close { reply }]);
        assert!(matches!(answer.try_recv(), Ok(Ok(()))));
        (self.core, self.shared) = open(&self.disk, &self.clocks, self.seed);
        let until = self.clocks.now().mono.saturating_add(LEASE);
        for known in self.tasks.values_mut() {
            known.damaged = false;
            if let Some((_, good)) = &mut known.lease {
                // Honoured, each for its whole length again; if it had not run out before.
                *good = until.min(*good);
            }
        }
        self.check_all();
    }

    /// TASK-1: all that was accepted is there, and what was acknowledged has ended.
    fn check_all(&mut self) {
        for (id, known) in &self.tasks {
            let state = self.core.state(*id);
            if known.damaged {
                continue;
            }
            match state {
                None => self.fail(&format!("task {id} was accepted, and is lost")),
                Some(State::Completed) if !known.done && !known.maybe_done => {
                    self.fail(&format!("task {id} has ended, and nobody ended it"))
                }
                Some(State::Completed) => {}
                Some(_) if known.done => self.fail(&format!(
                    "the end of task {id} was acknowledged, and is lost"
                )),
                Some(_) => {}
            }
        }
    }

    fn enqueue(&mut self) {
        let again = self.chance(3) && !self.requests.is_empty();
        let place = if again {
            self.rng.below(self.requests.len() as u64) as usize
        } else {
            self.requests.push(Request {
                key: format!("request {}", self.requests.len()).into(),
                count: 1 + self.rng.below(3) as usize,
                answered: None,
            });
            self.requests.len() - 1
        };
        let Request { key, count, .. } = &self.requests[place];
        let idempotency = Some(Idempotency {
            key: key.clone(),
            fingerprint: [7; 32],
        });
        let tasks = (0..*count)
            .map(|_| {
                let mut new = task("work");
                new.head.retry.max_attempts = 1_000;
                new.head.retry.base = Duration::ZERO;
                Incoming::new(new, Vec::new())
            })
            .collect();
        let answer = self.ask(|reply| Message::Enqueue {
            tasks,
            idempotency,
            reply,
        });
        let Answer::Got(accepted) = answer else {
            return;
        };
        let ids: Vec<TaskId> = accepted.iter().map(|Accepted { id, .. }| *id).collect();
        if let Some(before) = &self.requests[place].answered
            && *before != ids
        {
            self.fail(&format!("a repeated request made {ids:?} of {before:?}"));
        }
        for id in &ids {
            self.tasks.entry(*id).or_default();
        }
        self.requests[place].answered = Some(ids);
    }

    fn lease(&mut self) {
        let mut wanted = request(1 + self.rng.below(3) as u32);
        wanted.lease = LEASE;
        let until = self.clocks.now().mono;
        let answer = self.ask(|reply: Reply<Vec<Handed>>| {
            Message::Lease(Asker {
                request: wanted,
                until,
                reply,
            })
        });
        let now = self.clocks.now().mono;
        let Answer::Got(handed) = answer else {
            return;
        };
        for one in handed {
            let (id, token) = (one.granted.id, one.granted.token);
            let known = self.tasks.entry(id).or_default();
            if known.done {
                self.fail(&format!("task {id} was done, and is leased"));
            }
            if let Some((other, good)) = known.lease
                && good > now
            {
                self.fail(&format!("task {id} is leased by {other} and {token}"));
            }
            if known.newest.is_some_and(|newest| newest >= token) {
                self.fail(&format!("token {token} of task {id} is not the greatest"));
            }
            known.newest = Some(token);
            known.lease = Some((token, now.saturating_add(LEASE)));
        }
    }

    fn leased(&mut self) -> Option<(TaskId, Token)> {
        let id = self.some_task()?;
        let (token, _) = self.tasks[&id].lease?;
        Some((id, token))
    }

    fn finish(&mut self) {
        let Some((id, token)) = self.leased() else {
            return;
        };
        let good = self.chance(4);
        let end = if good {
            done(id, token)
        } else {
            let mut end = failed(id, token, true);
            if self.chance(2) {
                end.outcome = None;
            }
            end
        };
        let known = self.tasks.get_mut(&id).unwrap();
        let before = known.maybe_done;
        known.maybe_done |= good;
        let answer = self.ask(|reply| Message::Finish {
            ends: vec![end],
            reply,
        });
        let now = self.clocks.now().mono;
        let known = self.tasks.get_mut(&id).unwrap();
        if !matches!(answer, Answer::Lost) {
            known.maybe_done = before;
        }
        match answer {
            Answer::Got(answers) => match &answers[0] {
                Ok(Brief { .. }) => {
                    known.lease = None;
                    if good {
                        if known.done {
                            self.fail(&format!("two ends of task {id} were acknowledged"));
                        }
                        known.done = true;
                    }
                }
                Err(Error::StaleToken { .. }) => {
                    if let Some((_, until)) = known.lease
                        && until > now
                        && !known.maybe_done
                        && !known.damaged
                    {
                        self.fail(&format!("a good lease of task {id} was refused"));
                    }
                    known.lease = None;
                }
                Err(Error::Damaged { .. } | Error::UnknownTask { .. }) if known.damaged => {}
                Err(other) => self.fail(&format!("ending task {id}: {other}")),
            },
            Answer::Refused(Error::NoSpace { .. } | Error::Full { .. }) => {}
            Answer::Refused(other) => self.fail(&format!("ending task {id}: {other}")),
            Answer::Lost => {
                // It may have ended, or be waiting again: either way nobody should count on the lease.
                known.lease = None;
            }
        }
    }

    fn heartbeat(&mut self) {
        let Some((id, token)) = self.leased() else {
            return;
        };
        let answer = self.ask(|reply| Message::Heartbeat {
            id,
            token,
            beat: Beat {
                progress: Some(1.0),
                ..Beat::default()
            },
            reply,
        });
        let now = self.clocks.now().mono;
        let known = self.tasks.get_mut(&id).unwrap();
        match (answer, &mut known.lease) {
            (Answer::Got(_), Some((_, until))) => *until = now.saturating_add(LEASE),
            (Answer::Refused(Error::StaleToken { .. }), Some((_, until))) => {
                if *until > now && !known.maybe_done && !known.damaged {
                    self.fail(&format!("a good lease of task {id} was refused"));
                }
                known.lease = None;
            }
            _ => {}
        }
    }

    fn step(&mut self) {
        self.step += 1;
        match self.rng.below(100) {
            0..20 => self.enqueue(),
            20..50 => self.lease(),
            50..75 => self.finish(),
            75..85 => self.heartbeat(),
            85..95 => {
                let millis = self.rng.below(20_000);
                self.clocks.advance(Duration::from_millis(millis));
            }
            95..97 => {
                // A day either way.
                let day = Duration::from_secs(24 * 60 * 60);
                let wall = self.clocks.now().wall;
                let to = if self.chance(2) {
                    wall.saturating_add(day)
                } else {
                    wall.saturating_sub(day)
                };
                self.clocks.set_wall(
                    to.max(START.saturating_sub(day))
                        .min(START.saturating_add(day)),
                );
            }
            97 if self.chance(4) => self.restart(),
            98 if self.chance(4) => self.crash(),
            _ => self.check_some(),
        }
    }

    fn check_some(&mut self) {
        if let Some(id) = self.some_task()
            && self.tasks[&id].done
            && !self.tasks[&id].damaged
            && self.core.state(id) != Some(State::Completed)
        {
            self.fail(&format!(
                "the end of task {id} was acknowledged, and is lost"
            ));
        }
    }

    /// When the faults stop, all that was accepted ends, once.
    fn drain(&mut self) {
        self.restart();
        for _ in 0..10_000 {
            let (reply, mut answer) = oneshot::channel();
            let mut wanted = request(1_000);
            wanted.lease = LEASE;
            let until = self.clocks.now().mono;
            self.run(&mut vec![Message::Lease(Asker {
                request: wanted,
                until,
                reply,
            })]);
            let handed = answer.try_recv().unwrap().unwrap();
            if handed.is_empty() {
                self.clocks.advance(Duration::from_secs(61));
                self.run(&mut Vec::new());
                if self.core.is_idle() {
                    break;
                }
            }
            let ends: Vec<_> = handed
                .iter()
                .map(|one| done(one.granted.id, one.granted.token))
                .collect();
            for one in &handed {
                self.tasks.entry(one.granted.id).or_default().maybe_done = true;
            }
            let (reply, mut answer) = oneshot::channel();
            self.run(&mut vec![Message::Finish { ends, reply }]);
            for end in answer.try_recv().unwrap().unwrap() {
                assert_eq!(end.unwrap().state, State::Completed);
            }
        }
        for id in self.tasks.keys() {
            if self.core.state(*id) != Some(State::Completed) {
                self.fail(&format!("task {id} did not end"));
            }
        }
    }
}

/// TASK-1, TASK-4: under crashes before and after commits, power cuts, lost answers, repeated requests, full disks and jumping clocks nothing accepted
/// is lost, nothing acknowledged comes back, and no task has two lessees. `FLYBALL_QUEUE_STEPS` says how many steps, `FLYBALL_QUEUE_SEED`
/// with which seed to begin.
#[test]
fn nothing_accepted_is_lost_whatever_fails() {
    let number = |name: &str, default: u64| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    let mut left = number("FLYBALL_QUEUE_STEPS", 40_000);
    let mut seed = number("FLYBALL_QUEUE_SEED", 1);
    while left > 0 {
        let mut world = World::new(seed);
        for _ in 0..left.min(2_000) {
            world.step();
        }
        world.drain();
        left = left.saturating_sub(2_000);
        seed += 1;
    }
}

/// TASK-1: what must survive a power cut is synced before it is answered; leases and heartbeats are not synced.
#[test]
fn only_what_must_survive_is_synced() {
    let disk = Disk::new();
    let clocks = ManualClocks::starting_at(START);
    let (mut core, _shared) = open(&disk, &clocks, 1);
    let run = |core: &mut Core, message: Message| {
        let before = disk.syncs();
        core.run(&mut vec![message], &mut Vec::new());
        disk.syncs() - before
    };
    let (reply, _answer) = oneshot::channel();
    let tasks = vec![Incoming::new(task("a"), Vec::new())];
    let enqueue = Message::Enqueue {
        tasks,
        idempotency: None,
        reply,
    };
    assert_eq!(run(&mut core, enqueue), 1);
    let (reply, mut answer) = oneshot::channel();
    let lease = Message::Lease(Asker {
        request: request(1),
        until: Timestamp::ZERO,
        reply,
    });
    assert_eq!(run(&mut core, lease), 0);
    let granted = answer.try_recv().unwrap().unwrap()[0].granted;
    let (reply, _answer) = oneshot::channel();
    let heartbeat = Message::Heartbeat {
        id: granted.id,
        token: granted.token,
        beat: Beat::default(),
        reply,
    };
    assert_eq!(run(&mut core, heartbeat), 0);
    let (reply, _answer) = oneshot::channel();
    let finish = Message::Finish {
        ends: vec![done(granted.id, granted.token)],
        reply,
    };
    assert_eq!(run(&mut core, finish), 1);
}

/// TASK-1: after a sync that failed nothing more is acknowledged, and the reason is told.
#[test]
fn a_failed_sync_stops_for_good() {
    let disk = Disk::new();
    let clocks = ManualClocks::starting_at(START);
    let (mut core, shared) = open(&disk, &clocks, 1);
    for plan in [Plan::DieBefore, Plan::Work, Plan::Work] {
        disk.plan(plan);
        let (reply, mut answer) = oneshot::channel();
        let tasks = vec![Incoming::new(task("a"), Vec::new())];
        let enqueue = Message::Enqueue {
            tasks,
            idempotency: None,
            reply,
        };
        core.run(&mut vec![enqueue], &mut Vec::new());
        let refused = answer.try_recv().unwrap();
        assert!(matches!(refused, Err(Error::Stopped { .. })), "{refused:?}");
    }
    assert_eq!(shared.stopped().as_deref(), Some("died"));
    let (reply, mut answer) = oneshot::channel();
    core.run(&mut vec![Message::Stats { reply }], &mut Vec::new());
    let stats = answer.try_recv().unwrap().unwrap();
    assert_eq!(stats.stopped.as_deref(), Some("died"));
}

/// TASK-1: on a full disk the group is refused and nothing of it is left; the next one is taken.
#[test]
fn a_full_disk_refuses_and_goes_on() {
    let disk = Disk::new();
    let clocks = ManualClocks::starting_at(START);
    let (mut core, shared) = open(&disk, &clocks, 1);
    let mut put = |plan: Plan| {
        disk.plan(plan);
        let (reply, mut answer) = oneshot::channel();
        let tasks = vec![Incoming::new(task("a"), Vec::new())];
        let enqueue = Message::Enqueue {
            tasks,
            idempotency: None,
            reply,
        };
        core.run(&mut vec![enqueue], &mut Vec::new());
        answer.try_recv().unwrap()
    };
    let first = put(Plan::Work).unwrap();
    // However long the disk is full.
    for _ in 0..2_000 {
        let refused = put(Plan::NoSpace);
        assert!(matches!(refused, Err(Error::NoSpace { .. })), "{refused:?}");
    }
    let second = put(Plan::Work).unwrap();
    assert_eq!(second[0].id.0, first[0].id.0 + 1);
    assert_eq!(shared.stopped(), None);
    assert_eq!(shared.ring.changes(0, 100).events.len(), 2);
}

/// TASK-4: a lease whose group could not be written was nobody's: who waits for tasks is served at once, and its token is a greater one. Leases that
/// are out stay good.
#[test]
fn a_lease_that_was_taken_back_goes_to_who_waits() {
    let disk = Disk::new();
    let clocks = ManualClocks::starting_at(START);
    let (mut core, _shared) = open(&disk, &clocks, 1);
    let (reply, _accepted) = oneshot::channel();
    let tasks = vec![
        Incoming::new(task("a"), Vec::new()),
        Incoming::new(task("a"), Vec::new()),
    ];
    let enqueue = Message::Enqueue {
        tasks,
        idempotency: None,
        reply,
    };
    core.run(&mut vec![enqueue], &mut Vec::new());
    let ask = || {
        let (reply, answer) = oneshot::channel();
        let asker = Asker {
            request: request(1),
            until: clocks.now().mono.saturating_add(LEASE),
            reply,
        };
        (Message::Lease(asker), answer)
    };
    let (lease, mut answer) = ask();
    core.run(&mut vec![lease], &mut Vec::new());
    let out = answer.try_recv().unwrap().unwrap()[0].granted;
    let (first, mut refused) = ask();
    let (second, mut waits) = ask();
    disk.plan(Plan::NoSpace);
    core.run(&mut vec![first, second], &mut Vec::new());
    assert!(matches!(
        refused.try_recv().unwrap(),
        Err(Error::NoSpace { .. })
    ));
    assert!(waits.try_recv().is_err(), "it waits");
    assert_eq!(core.wait(), Some(Duration::ZERO));
    core.run(&mut Vec::new(), &mut Vec::new());
    let granted = waits.try_recv().unwrap().unwrap()[0].granted;
    assert!(granted.token > out.token);
    assert_eq!(granted.token.epoch, out.token.epoch);
    assert_ne!(core.wait(), Some(Duration::ZERO), "and nobody else does");
    let (reply, mut answer) = oneshot::channel();
    let ends = vec![done(out.id, out.token), done(granted.id, granted.token)];
    core.run(&mut vec![Message::Finish { ends, reply }], &mut Vec::new());
    for end in answer.try_recv().unwrap().unwrap() {
        assert_eq!(end.unwrap().state, State::Completed);
    }
}
