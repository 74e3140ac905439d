//! The lives of tasks, against a model that is too plain to be wrong: leases and their ends, attempts, parents, unique keys, found by looking
//! through a list until nothing changes. Who is given out of those that may start is another test's; here it must be one of them.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const UNIQUES: [&str; 2] = ["u", "v"];
const CLASSES: [(&str, u32); 3] = [("one", 100), ("two", 200), ("four", 400)];

#[derive(Clone, Debug)]
enum Step {
    Add {
        attempts: u32,
        /// A task before it, and how it must end.
        parent: Option<(usize, When)>,
        fails: bool,
        unique: Option<(usize, UniqueConflict)>,
    },
    Lease {
        max: u32,
        seconds: u64,
    },
    /// Extends a lease, that of now or an old one.
    Beat(usize, u64),
    /// Ends a lease, that of now or an old one.
    Finish(usize, u8),
    Cancel(usize),
    Retry(usize),
    Pass(u64),
    /// A crash, or a clean end.
    Restart(bool),
}

fn steps() -> impl Strategy<Value = Step> {
    let when = prop_oneof![Just(When::Success), Just(When::Failure), Just(When::Any)];
    let conflict = prop_oneof![
        Just(UniqueConflict::Keep),
        Just(UniqueConflict::Replace),
        Just(UniqueConflict::Extend)
    ];
    let add = (
        1..4u32,
        proptest::option::weighted(0.4, (any::<usize>(), when)),
        any::<bool>(),
        proptest::option::weighted(0.4, (0..2usize, conflict)),
    );
    prop_oneof![
        6 => add.prop_map(|(attempts, parent, fails, unique)| Step::Add {
            attempts, parent, fails, unique
        }),
        5 => (1..4u32, 1..20u64).prop_map(|(max, seconds)| Step::Lease { max, seconds }),
        2 => (any::<usize>(), 0..20u64).prop_map(|(place, seconds)| Step::Beat(place, seconds)),
        6 => (any::<usize>(), 0..5u8).prop_map(|(place, how)| Step::Finish(place, how)),
        1 => any::<usize>().prop_map(Step::Cancel),
        2 => any::<usize>().prop_map(Step::Retry),
        2 => (0..12u64).prop_map(Step::Pass),
        1 => any::<bool>().prop_map(Step::Restart),
    ]
}

#[derive(Debug)]
struct Plain {
    state: State,
    max: u32,
    counted: u32,
    /// The parent that it waits for.
    parent: Option<(usize, When)>,
    waits: bool,
    fails: bool,
    unique: Option<usize>,
    /// Has started, and has not ended.
    holds: bool,
    /// Its next start is a retry, which must be affordable.
    again: bool,
    cancel: bool,
    lease: Option<(Token, Timestamp, u64)>,
    /// When it goes on after a crash, and how long that is.
    wait: Option<(Timestamp, Duration)>,
}

#[derive(Default)]
struct Model {
    tasks: Vec<Plain>,
}

impl Model {
    fn end(&mut self, place: usize, state: State) {
        let task = &mut self.tasks[place];
        (task.state, task.holds, task.lease) = (state, false, None);
        self.tell();
    }

    /// Who waits for somebody that has ended goes on.
    fn tell(&mut self) {
        while let Some(place) = (0..self.tasks.len()).find(|place| {
            let task = &self.tasks[*place];
            let ended = |parent: usize| self.tasks[parent].state.is_terminal();
            task.state == State::Blocked
                && (!task.waits || task.parent.is_some_and(|(parent, _)| ended(parent)))
        }) {
            let goes = self.tasks[place].parent.is_none_or(|(parent, when)| {
                let done = self.tasks[parent].state == State::Completed;
                match when {
                    When::Success => done,
                    When::Failure => !done,
                    When::Any => true,
                }
            });
            let task = &mut self.tasks[place];
            let waited = core::mem::take(&mut task.waits);
            task.state = match (goes || !waited, task.fails) {
                (true, _) => State::Pending,
                (false, true) => State::Failed,
                (false, false) => State::Skipped,
            };
        }
    }

    /// An attempt of which nothing was heard any more.
    fn lost(&mut self, place: usize) {
        let task = &mut self.tasks[place];
        task.lease = None;
        if task.cancel {
            self.end(place, State::Cancelled);
            return;
        }
        task.counted += 1;
        if task.counted >= task.max {
            self.end(place, State::Dead);
        } else {
            task.state = State::Pending;
        }
    }

    /// Those that ran when the process died: who is to be cancelled is; the others lose an attempt and start a second apart, half a minute in all at
    /// most, from the first to the last or the other way round.
    fn crash(&mut self, now: Timestamp) {
        let ran = |task: &Plain| task.lease.is_some() && !task.cancel;
        let ran: Vec<usize> = (0..self.tasks.len())
            .filter(|place| ran(&self.tasks[*place]))
            .collect();
        let apart = Duration::from_secs(1).min(Duration::from_secs(30) / ran.len().max(1) as u32);
        for place in 0..self.tasks.len() {
            if self.tasks[place].lease.is_none() {
                continue;
            }
            let even = self.tasks[place].counted.is_multiple_of(2);
            self.lost(place);
            let Some(order) = ran.iter().position(|other| *other == place) else {
                continue;
            };
            let order = if even { order } else { ran.len() - 1 - order };
            let wait = apart * order as u32;
            let task = &mut self.tasks[place];
            if task.state == State::Pending && !wait.is_zero() {
                task.state = State::Scheduled;
                task.wait = Some((now.saturating_add(wait), wait));
            }
        }
    }

    /// What waits after a crash waits anew (the wall clock stands still here).
    fn wait_anew(&mut self, now: Timestamp) {
        for task in &mut self.tasks {
            if let Some((at, wait)) = &mut task.wait {
                *at = now.saturating_add(*wait);
            }
        }
    }

    fn pass(&mut self, now: Timestamp) {
        for task in &mut self.tasks {
            if task.state != State::Scheduled {
                task.wait = None;
            } else if task.wait.is_some_and(|(at, _)| at <= now) {
                (task.state, task.wait) = (State::Pending, None);
            }
        }
        for place in 0..self.tasks.len() {
            if self.tasks[place]
                .lease
                .is_some_and(|(_, until, _)| until <= now)
            {
                self.lost(place);
            }
        }
    }

    fn waiting(&self, unique: usize) -> Option<usize> {
        self.tasks.iter().position(|task| {
            task.unique == Some(unique) && !task.holds && !task.state.is_terminal()
        })
    }

    fn may_start(&self, place: usize) -> bool {
        let task = &self.tasks[place];
        let others = self.tasks.iter().enumerate();
        let mut others = others.filter(|(other, _)| *other != place);
        task.state == State::Pending
            && task.unique.is_none_or(|unique| {
                !others.any(|(_, other)| other.holds && other.unique == Some(unique))
            })
    }
}

fn id(place: usize) -> TaskId {
    TaskId(place as u64 + 1)
}

/// Writes all there is, and reads it.
fn restart(bench: &mut Bench, count: usize, epoch: u32, clean: bool) {
    let mut queue = Queue::new(Settings::default(), Box::new(Every));
    for place in 0..count {
        let (head, record) = (
            bench.queue.head(id(place)).unwrap(),
            bench.record(id(place)),
        );
        queue.restore(id(place), &head, &record);
    }
    let opening = if clean {
        Opening::Clean { epoch }
    } else {
        Opening::Crashed { epoch }
    };
    bench.effects.clear();
    queue.opened(bench.now, opening, &mut bench.effects);
    queue.check();
    bench.queue = queue;
}

fn run(steps: Vec<Step>) {
    let mut bench = Bench::new();
    let mut model = Model::default();
    let mut tokens: Vec<(usize, Token)> = Vec::new();
    let mut epoch = 1;
    for step in steps {
        let now = bench.now.mono;
        match step {
            Step::Add {
                attempts,
                parent,
                fails,
                unique,
            } => {
                let count = model.tasks.len();
                // Who may take the place of another has no parents.
                let keeps = unique.is_none_or(|(_, conflict)| conflict == UniqueConflict::Keep);
                let parent = parent
                    .filter(|_| count > 0 && keeps)
                    .map(|(place, when)| (place % count, when));
                let mut new = head("a");
                new.retry = RetryPolicy {
                    max_attempts: attempts,
                    base: Duration::ZERO,
                    cap: Duration::ZERO,
                };
                new.after.extend(parent.map(|(place, when)| Dependency {
                    parent: id(place),
                    when,
                }));
                if fails {
                    new.on_parent_failure = OnParentFailure::Fail;
                }
                new.unique = unique.map(|(key, on_conflict)| {
                    Box::new(Unique {
                        key: UNIQUES[key].into(),
                        on_conflict,
                    })
                });
                let taken = bench.try_add(&[new]).expect("accepted")[0];
                let meets = unique.and_then(|(key, _)| model.waiting(key));
                if let Some(place) = meets {
                    assert_eq!((taken.id, taken.existing), (id(place), true));
                    if !keeps {
                        model.tasks[place].max = attempts;
                    }
                } else {
                    assert_eq!((taken.id, taken.existing), (id(count), false));
                    model.tasks.push(Plain {
                        state: State::Blocked,
                        max: attempts,
                        counted: 0,
                        parent,
                        waits: parent.is_some(),
                        fails,
                        unique: unique.map(|(key, _)| key),
                        holds: false,
                        again: false,
                        cancel: false,
                        lease: None,
                        wait: None,
                    });
                    model.tell();
                }
            }
            Step::Lease { max, seconds } => {
                model.pass(now);
                let may: Vec<usize> = (0..model.tasks.len())
                    .filter(|place| model.may_start(*place))
                    .collect();
                // Of each unique key one, and what no budget holds back.
                let mut keys = alloc::collections::BTreeSet::new();
                let sure = may.iter().filter(|place| {
                    let task = &model.tasks[**place];
                    !task.again && task.unique.is_none_or(|key| keys.insert(key))
                });
                let least = sure.count().min(max as usize);
                let ask = Ask {
                    worker: "w",
                    handlers: &Kinds::All,
                    commands: &Kinds::None,
                    http: &Kinds::None,
                    max,
                    lease: secs(seconds),
                    wait: Duration::ZERO,
                    room: None,
                    above: None,
                };
                let Reply::Leased(granted) = bench.apply(Command::Lease(ask)) else {
                    panic!("leases")
                };
                assert!((least..=max as usize).contains(&granted.len()));
                for granted in granted {
                    let place = granted.id.0 as usize - 1;
                    assert!(may.contains(&place) && model.may_start(place), "{place}");
                    assert!(tokens.iter().all(|(_, token)| *token < granted.token));
                    tokens.push((place, granted.token));
                    let task = &mut model.tasks[place];
                    (task.state, task.holds, task.again) = (State::Running, true, false);
                    let until = now.saturating_add(secs(seconds));
                    task.lease = Some((granted.token, until, seconds));
                }
            }
            Step::Beat(place, seconds) => {
                if tokens.is_empty() {
                    continue;
                }
                let (place, token) = tokens[place % tokens.len()];
                let reply = bench.try_apply(Command::Heartbeat {
                    id: id(place),
                    token,
                    lease: secs(seconds),
                    paused: None,
                    stood: Duration::ZERO,
                });
                let task = &mut model.tasks[place];
                match &mut task.lease {
                    Some((newest, until, length)) if *newest == token => {
                        if seconds > 0 {
                            *length = seconds;
                        }
                        *until = now.saturating_add(secs(*length));
                        let Ok(Reply::Beaten { cancelled, .. }) = reply else {
                            panic!("{reply:?}")
                        };
                        assert_eq!(cancelled, task.cancel);
                    }
                    _ => assert!(
                        matches!(reply, Err(Refused::StaleToken { .. })),
                        "{reply:?}"
                    ),
                }
            }
            Step::Finish(place, how) => {
                if tokens.is_empty() {
                    continue;
                }
                let (place, token) = tokens[place % tokens.len()];
                let outcome = match how {
                    0 | 1 => DONE,
                    2 => FAILED,
                    3 => Some(Outcome::Failed {
                        reason: Reason::Panicked,
                        retryable: false,
                        after: None,
                    }),
                    _ => None,
                };
                let reply = bench.try_apply(Command::Finish {
                    id: id(place),
                    token,
                    outcome,
                });
                let task = &mut model.tasks[place];
                if task.lease.is_none_or(|(newest, _, _)| newest != token) {
                    assert!(
                        matches!(reply, Err(Refused::StaleToken { .. })),
                        "{reply:?}"
                    );
                    continue;
                }
                reply.expect("it is whose lease it is");
                task.lease = None;
                match how {
                    0 | 1 => model.end(place, State::Completed),
                    _ if task.cancel => model.end(place, State::Cancelled),
                    2 => {
                        task.counted += 1;
                        task.again = true;
                        task.state = State::Pending;
                        if task.counted >= task.max {
                            model.end(place, State::Dead);
                        }
                    }
                    3 => {
                        task.counted += 1;
                        model.end(place, State::Failed);
                    }
                    _ => task.state = State::Pending,
                }
            }
            Step::Cancel(place) => {
                if model.tasks.is_empty() {
                    continue;
                }
                let place = place % model.tasks.len();
                let ids = &[id(place)];
                let reply = bench.try_apply(Command::Cancel { ids, strict: true });
                let task = &mut model.tasks[place];
                assert_eq!(reply.is_err(), task.state.is_terminal(), "{reply:?}");
                if task.lease.is_some() {
                    task.cancel = true;
                } else if !task.state.is_terminal() {
                    model.end(place, State::Cancelled);
                }
            }
            Step::Retry(place) => {
                if model.tasks.is_empty() {
                    continue;
                }
                let place = place % model.tasks.len();
                let ids = &[id(place)];
                let reply = bench.try_apply(Command::Retry { ids, strict: true });
                let state = model.tasks[place].state;
                let taken = model.tasks[place]
                    .unique
                    .is_some_and(|key| model.waiting(key).is_some());
                let may = state.is_terminal() && state != State::Completed && !taken;
                assert_eq!(reply.is_ok(), may, "{reply:?}");
                if may {
                    let parent = model.tasks[place].parent;
                    let lives =
                        |(parent, _): (usize, When)| !model.tasks[parent].state.is_terminal();
                    let waits = parent.is_some_and(lives);
                    let task = &mut model.tasks[place];
                    (task.counted, task.cancel, task.again) = (0, false, false);
                    (task.state, task.waits) = (State::Blocked, waits);
                    model.tell();
                }
            }
            Step::Pass(seconds) => {
                bench.now.mono = now.saturating_add(secs(seconds));
                bench.apply(Command::Tick);
                model.pass(bench.now.mono);
            }
            Step::Restart(clean) => {
                epoch += 1;
                restart(&mut bench, model.tasks.len(), epoch, clean);
                model.wait_anew(now);
                if clean {
                    for (_, until, length) in model
                        .tasks
                        .iter_mut()
                        .filter_map(|task| task.lease.as_mut())
                    {
                        *until = now.saturating_add(secs(*length));
                    }
                } else {
                    model.crash(now);
                }
            }
        }
        for (place, task) in model.tasks.iter().enumerate() {
            let record = bench.record(id(place));
            assert_eq!(record.state, task.state, "{place}: {task:?}");
            assert_eq!(record.attempts.counted, task.counted, "{place}");
            let token = record.lease.map(|lease| lease.token);
            assert_eq!(token, task.lease.map(|(token, _, _)| token));
            if !task.state.is_terminal() {
                assert_eq!(record.holds_unique, task.holds && task.unique.is_some());
            }
        }
    }
}

/// Classes that always have tasks, of lengths that differ, one of them late: what each ran is near its shares.
fn shares(lengths: [u64; 3], absent: u32, slots: usize) {
    let mut bench = Bench::new();
    let rules = CLASSES.map(|(name, shares)| ClassRule {
        name: name.into(),
        priority: 4,
        shares,
        concurrency: None,
        key_concurrency: None,
        key_observe: false,
        queue_limit: 1_000_000,
    });
    bench.queue.set_classes(&rules);
    let scope = Scope::Class("one".into());
    bench.apply(Command::Pause {
        scope: &scope,
        by: "me",
    });
    let mut waiting = [0usize; 3];
    let mut ran = [0u64; 3];
    let mut running: Vec<(u64, usize, Granted)> = Vec::new();
    let mut clock = 0u64;
    let begin = u64::from(absent) * 1_000;
    let end = begin + 400_000;
    let mut open = false;
    while clock < end {
        if clock >= begin && !core::mem::replace(&mut open, true) {
            bench.apply(Command::Resume { scope: &scope });
        }
        for (class, (name, _)) in CLASSES.iter().enumerate() {
            while waiting[class] < slots {
                let task = Head {
                    class: (*name).into(),
                    ..head("a")
                };
                bench.add(task);
                waiting[class] += 1;
            }
        }
        bench.now.mono = Timestamp::from_nanos(clock * 1_000_000);
        let free = slots - running.len();
        if free > 0 {
            for granted in bench.lease(free as u32) {
                let name = bench.queue.names(granted.id).unwrap().1;
                let class = CLASSES
                    .iter()
                    .position(|(class, _)| *class == name)
                    .unwrap();
                waiting[class] -= 1;
                running.push((clock + lengths[class], class, granted));
            }
        }
        let next = (0..running.len())
            .min_by_key(|place| running[*place].0)
            .unwrap();
        let (at, class, granted) = running.swap_remove(next);
        bench.now.mono = Timestamp::from_nanos(at * 1_000_000);
        // Time in which all classes could start.
        let counted = (at - begin.max(at - lengths[class]).min(at)).min(lengths[class]);
        ran[class] += counted;
        assert_eq!(bench.finish(granted, DONE), State::Completed);
        clock = clock.max(at);
    }
    let all: u64 = ran.iter().sum();
    for (class, (name, shares)) in CLASSES.iter().enumerate() {
        let part = ran[class] as f64 / all as f64;
        let its = f64::from(*shares) / 700.0;
        // A minute that may be saved, and what runs at once, of 400 seconds in each slot.
        assert!((part - its).abs() < 0.2, "{name}: {part} of {its}, {ran:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// TASK-4, TASK-5, TASK-7, TASK-10, TASK-14: whatever comes in which order, with restarts in between, each task is what a look through all
    /// tasks would make of it.
    #[test]
    fn lives_are_those_of_a_list(steps in vec(steps(), 1..80)) {
        run(steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// TASK-3: classes are given their shares of the time, however long their tasks are, and though one was paused for long.
    #[test]
    fn time_is_shared_by_weight(
        lengths in [100..5_000u64, 100..5_000u64, 100..5_000u64],
        absent in 0..600u32,
        slots in 1..4usize,
    ) {
        shares(lengths, absent, slots);
    }
}
