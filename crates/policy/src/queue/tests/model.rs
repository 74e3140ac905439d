//! The order of leases, against a model that is too plain to be wrong: a list of tasks, looked through from end to end for each start.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const KINDS: [&str; 3] = ["a", "b", "c"];
const KEYS: [Option<&str>; 4] = [None, Some("k"), Some("l"), Some("m")];

#[derive(Clone, Debug)]
enum Step {
    Add {
        kind: usize,
        key: usize,
        priority: i32,
        gpus: u32,
        delay: u64,
        deadline: Option<u64>,
    },
    Lease {
        max: u32,
        only: Option<usize>,
        gpus: Option<u32>,
    },
    /// Ends the lease at this place: done, failed for good, or returned.
    Finish(usize, u8),
    Cancel(usize),
    Pause(usize),
    Resume(usize),
    /// Both clocks go on, and the wall jumps by so many seconds.
    Pass(u64, i64),
}

fn steps() -> impl Strategy<Value = Step> {
    let add = (
        0..3usize,
        0..4usize,
        -1..2i32,
        0..3u32,
        0..3u64,
        proptest::option::weighted(0.2, 1..8u64),
    );
    let lease = (
        1..5u32,
        proptest::option::of(0..3usize),
        proptest::option::of(0..4u32),
    );
    prop_oneof![
        5 => add.prop_map(|(kind, key, priority, gpus, delay, deadline)| Step::Add {
            kind, key, priority, gpus, delay, deadline
        }),
        4 => lease.prop_map(|(max, only, gpus)| Step::Lease { max, only, gpus }),
        4 => (any::<usize>(), 0..3u8).prop_map(|(place, how)| Step::Finish(place, how)),
        1 => any::<usize>().prop_map(Step::Cancel),
        1 => (0..3usize).prop_map(Step::Pause),
        2 => (0..3usize).prop_map(Step::Resume),
        1 => (0..2u64, -3..4i64).prop_map(|(seconds, jump)| Step::Pass(seconds, jump)),
    ]
}

struct Plain {
    id: TaskId,
    kind: usize,
    key: usize,
    priority: i32,
    gpus: u32,
    not_before: u64,
    deadline: Option<u64>,
    state: State,
    order: i64,
}

#[derive(Default)]
struct Model {
    tasks: Vec<Plain>,
    paused: [bool; 3],
    running: [u32; 4],
    turns: u64,
    turn: [u64; 4],
    back: i64,
    front: i64,
}

impl Model {
    /// Has a task stand in line; its key gets a turn if it had nobody there.
    fn ready(&mut self, place: usize, front: bool) {
        let key = self.tasks[place].key;
        let alone = !self
            .tasks
            .iter()
            .any(|task| task.key == key && task.state == State::Pending);
        if alone {
            self.turns += 1;
            self.turn[key] = self.turn[key].max(self.turns);
        }
        let task = &mut self.tasks[place];
        task.state = State::Pending;
        if front {
            self.front -= 1;
            task.order = self.front;
        } else {
            self.back += 1;
            task.order = self.back;
        }
    }

    /// What time does, in the order in which the machine does it.
    fn pass(&mut self, wall: u64) {
        for task in &mut self.tasks {
            let waits = matches!(task.state, State::Pending | State::Scheduled);
            if waits && task.deadline.is_some_and(|deadline| deadline <= wall) {
                task.state = State::Failed;
            }
        }
        let mut due: Vec<(u64, usize)> = self
            .tasks
            .iter()
            .enumerate()
            .filter(|(_, task)| task.state == State::Scheduled && task.not_before <= wall)
            .map(|(place, task)| (task.not_before, place))
            .collect();
        due.sort_unstable();
        for (_, place) in due {
            self.ready(place, false);
        }
    }

    fn next(&self, only: Option<usize>, gpus: Option<u32>, limit: u32) -> Option<usize> {
        let open = self.tasks.iter().enumerate().filter(|(_, task)| {
            task.state == State::Pending
                && only.is_none_or(|kind| kind == task.kind)
                && !self.paused[task.kind]
                && gpus.is_none_or(|free| task.gpus <= free)
                && (task.key == 0 || self.running[task.key] < limit)
        });
        open.min_by_key(|(_, task)| (-task.priority, self.turn[task.key], task.order))
            .map(|(place, _)| place)
    }
}

fn run(steps: Vec<Step>, key_limit: u32, class_limit: u32) {
    let mut bench = Bench::new();
    bench.queue.set_classes(&[ClassRule {
        name: "normal".into(),
        priority: 4,
        shares: 100,
        concurrency: Some(class_limit),
        key_concurrency: Some(key_limit),
        key_observe: false,
        queue_limit: 1_000,
    }]);
    let mut model = Model::default();
    let mut held: Vec<Granted> = Vec::new();
    for step in steps {
        let wall = bench.now.wall.unix_nanos();
        match step {
            Step::Add {
                kind,
                key,
                priority,
                gpus,
                delay,
                deadline,
            } => {
                let not_before = wall + delay * 1_000_000_000;
                let deadline = deadline.map(|after| not_before + after * 1_000_000_000);
                let mut head = head(KINDS[kind]);
                head.key = KEYS[key].map(Into::into);
                head.priority = priority;
                head.not_before = (delay > 0).then(|| WallTime::from_unix_nanos(not_before));
                head.deadline = deadline.map(WallTime::from_unix_nanos);
                if gpus > 0 {
                    head.needs.resources = [("gpu".into(), gpus)].into();
                }
                let id = bench.add(head);
                model.tasks.push(Plain {
                    id,
                    kind,
                    key,
                    priority,
                    gpus,
                    not_before,
                    deadline,
                    state: State::Scheduled,
                    order: 0,
                });
                if delay == 0 {
                    model.ready(model.tasks.len() - 1, false);
                }
            }
            Step::Lease { max, only, gpus } => {
                model.pass(wall);
                let mut free = gpus;
                let mut expected = Vec::new();
                while expected.len() < max as usize
                    && model.running.iter().sum::<u32>() < class_limit
                {
                    let Some(place) = model.next(only, free, key_limit) else {
                        break;
                    };
                    model.turns += 1;
                    let task = &mut model.tasks[place];
                    task.state = State::Running;
                    free = free.map(|free| free - task.gpus);
                    model.running[task.key] += 1;
                    model.turn[task.key] = model.turns;
                    expected.push(task.id);
                }
                let kinds =
                    only.map_or(Kinds::All, |kind| Kinds::Only([KINDS[kind].into()].into()));
                let room = gpus.map(|free| Room {
                    resources: [("gpu".into(), free)].into(),
                    ..Room::default()
                });
                let ask = Ask {
                    worker: "w",
                    handlers: &kinds,
                    commands: &Kinds::None,
                    http: &Kinds::None,
                    max,
                    // No lease ends here, and nobody waits long enough for precedence.
                    lease: secs(3_600),
                    wait: Duration::ZERO,
                    room: room.as_ref(),
                    above: None,
                };
                let Reply::Leased(granted) = bench.apply(Command::Lease(ask)) else {
                    panic!("leases")
                };
                let ids: Vec<TaskId> = granted.iter().map(|granted| granted.id).collect();
                assert_eq!(ids, expected);
                held.extend(granted);
            }
            Step::Finish(place, how) => {
                if held.is_empty() {
                    continue;
                }
                let granted = held.remove(place % held.len());
                let found = model.tasks.iter().position(|task| task.id == granted.id);
                let place = found.expect("a task");
                model.running[model.tasks[place].key] -= 1;
                let outcome = match how {
                    0 => DONE,
                    1 => Some(Outcome::Failed {
                        reason: Reason::Error,
                        retryable: false,
                        after: None,
                    }),
                    _ => None,
                };
                match how {
                    0 => model.tasks[place].state = State::Completed,
                    1 => model.tasks[place].state = State::Failed,
                    _ => model.ready(place, true),
                }
                assert_eq!(bench.finish(granted, outcome), model.tasks[place].state);
            }
            Step::Cancel(place) => {
                let waits =
                    |task: &&mut Plain| matches!(task.state, State::Pending | State::Scheduled);
                let waiting: Vec<&mut Plain> = model.tasks.iter_mut().filter(waits).collect();
                let count = waiting.len();
                if count == 0 {
                    continue;
                }
                let task = waiting.into_iter().nth(place % count).expect("a task");
                task.state = State::Cancelled;
                bench.apply(Command::Cancel {
                    ids: &[task.id],
                    strict: true,
                });
            }
            Step::Pause(kind) | Step::Resume(kind) => {
                let scope = Scope::Kind(KINDS[kind].into());
                let pause = matches!(step, Step::Pause(_));
                let was = core::mem::replace(&mut model.paused[kind], pause);
                let reply = bench.apply(if pause {
                    Command::Pause {
                        scope: &scope,
                        by: "me",
                    }
                } else {
                    Command::Resume { scope: &scope }
                });
                assert_eq!(reply, Reply::Done(was != pause));
            }
            Step::Pass(seconds, jump) => {
                let nanos = seconds * 100_000_000;
                bench.now.mono = bench.now.mono.saturating_add_nanos(nanos);
                let wall = wall
                    .saturating_add(nanos)
                    .saturating_add_signed(jump * 1_000_000_000);
                bench.now.wall = WallTime::from_unix_nanos(wall);
            }
        }
        for task in &model.tasks {
            if task.state.is_terminal() {
                assert_eq!(bench.state(task.id), task.state);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// TASK-3, TASK-6, TASK-17: whatever comes in which order, whoever asks is given what a look through all tasks would find.
    #[test]
    fn leases_are_those_of_a_list(
        steps in vec(steps(), 1..80),
        key_limit in 1..4u32,
        class_limit in 1..8u32,
    ) {
        run(steps, key_limit, class_limit);
    }
}
