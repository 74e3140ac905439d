//! Fairness over keys on the manual clock.

use crate::*;
use flyball_executor::testing::Testing;
use flyball_executor::{
    ClassSpec, Error, Handle, HeldBy, KeyLimits, TaskError, checkpoint, yield_now,
};
use proptest::prelude::*;
use std::sync::Mutex;

const MS: Duration = Duration::from_millis(1);

fn counter() -> (Arc<AtomicUsize>, impl Fn() -> Box<dyn FnOnce() + Send>) {
    let count = Arc::new(AtomicUsize::new(0));
    let inner = count.clone();
    (count, move || {
        let inner = inner.clone();
        Box::new(move || {
            inner.fetch_add(1, SeqCst);
        })
    })
}

/// CPU-29: a rate by key: a burst at once, then a task an interval, whatever waits of other keys.
#[test]
fn a_rate_by_key() {
    let mut engine = Testing::new();
    let normal = engine.class("normal").unwrap();
    let limits = KeyLimits {
        rate: Some(100.0),
        burst: 3,
        ..KeyLimits::default()
    };
    normal.set_key_limits(limits).unwrap();
    assert_eq!(normal.key_limits(), limits);
    let (ran, work) = counter();
    for _ in 0..20 {
        normal.task().key("slow").run(work()).detach();
    }
    engine.drain();
    assert_eq!(ran.load(SeqCst), 3);
    let slow = &normal.keys()[0];
    assert_eq!(
        (slow.name.as_str(), slow.queued, slow.started),
        ("slow", 17, 3)
    );
    assert_eq!(slow.held_by, Some(HeldBy::Rate(10 * MS)));
    let mut other = normal.task().key("other").run(|| 1);
    engine.drain();
    assert_eq!(other.try_result().unwrap().unwrap(), 1);
    engine.advance(45 * MS);
    assert_eq!(ran.load(SeqCst), 7);
    normal
        .set_key_limit("slow", Some(KeyLimits::default()))
        .unwrap();
    engine.drain();
    assert_eq!(ran.load(SeqCst), 20);
    engine.assert_idle();
    let slow = &normal.keys()[0];
    assert!(slow.own_limits && slow.held_by.is_none());
    normal.set_key_limit("slow", None).unwrap();
    engine.advance(1000 * MS);
    let _again = normal.task().key("other").run(|| 1);
    assert_eq!(
        normal.keys().len(),
        1,
        "what is left of no key is forgotten"
    );
    engine.drain();
}

/// CPU-30: limits of keys that observe hold nobody and refuse nobody; the class counts what went beyond them.
#[test]
fn observing_limits_of_keys_hold_nobody() {
    let mut engine = Testing::new();
    let normal = engine.class("normal").unwrap();
    let limits = KeyLimits {
        rate: Some(1.0),
        concurrency: Some(2),
        queued: Some(4),
        observe: true,
        ..KeyLimits::default()
    };
    normal.set_key_limits(limits).unwrap();
    let (ran, work) = counter();
    let handles: Vec<Handle<()>> = (0..6)
        .map(|_| {
            let work = work();
            normal.task().key("k").spawn(async move {
                tokio::time::sleep(10 * MS).await;
                work();
            })
        })
        .collect();
    engine.drain();
    let key = &normal.keys()[0];
    assert_eq!((key.running, key.queued, key.held_by), (6, 0, None));
    engine.advance(12 * MS);
    assert_eq!(ran.load(SeqCst), 6);
    let beyond = normal.key_excess();
    assert_eq!((beyond.rate, beyond.concurrency, beyond.queued), (5, 4, 2));
    drop(handles);
    engine.assert_idle();
}

/// CPU-29: concurrency counts from a future's first poll to its end, also while it waits.
#[test]
fn concurrency_by_key_counts_waiting_futures() {
    let mut engine = Testing::new();
    let normal = engine.class("normal").unwrap();
    let limits = KeyLimits {
        concurrency: Some(2),
        ..KeyLimits::default()
    };
    normal.set_key_limits(limits).unwrap();
    let (ran, work) = counter();
    let handles: Vec<Handle<()>> = (0..6)
        .map(|_| {
            let work = work();
            normal.task().key("k").spawn(async move {
                tokio::time::sleep(10 * MS).await;
                work();
            })
        })
        .collect();
    engine.drain();
    assert_eq!((normal.keys()[0].running, normal.queued()), (2, 4));
    assert_eq!(normal.keys()[0].held_by, Some(HeldBy::Concurrency));
    for done in [2, 4, 6] {
        engine.advance(12 * MS);
        assert_eq!(ran.load(SeqCst), done);
    }
    drop(handles);
    assert!(normal.keys().is_empty());
    engine.assert_idle();
}

/// CPU-29: cancelled tasks cost their key neither place nor turn nor token, though the key is at its limit.
#[test]
fn cancelled_tasks_leave_the_queue_of_a_key_that_is_held() {
    let mut engine = Testing::new();
    let normal = engine.class("normal").unwrap();
    let limits = KeyLimits {
        concurrency: Some(1),
        queued: Some(200),
        ..KeyLimits::default()
    };
    normal.set_key_limits(limits).unwrap();
    let first = normal.task().key("k").spawn(std::future::pending::<()>());
    engine.drain();
    for _ in 0..50 {
        let waiting: Vec<_> = (0..100)
            .map(|_| normal.task().key("k").run(|| ()))
            .collect();
        for handle in waiting {
            assert!(!handle.is_finished(), "room for all");
            handle.cancel();
        }
        engine.drain();
    }
    assert!(normal.queued() <= 200);
    let mut last = normal.task().key("k").run(|| 7);
    engine.drain();
    assert!(last.try_result().is_none());
    first.cancel();
    engine.drain();
    assert_eq!(last.try_result().unwrap().unwrap(), 7);
    assert_eq!(normal.queued(), 0);
    let counts = engine.stats().class("normal").unwrap().counts.clone();
    assert_eq!((counts.cancelled, counts.tasks), (5001, 5002));
}

/// CPU-29: cancelled tasks leave the queue of a key that is at its limit however few they are, and when they fill it or the
/// class's: nothing is refused for the sake of tasks that nobody wants.
#[test]
fn a_queue_full_of_cancelled_tasks_is_empty() {
    let mut engine = Testing::new();
    let few = ClassSpec::new("few").with_queue_limit(10);
    let few = engine.add_class(few).unwrap();
    let normal = engine.class("normal").unwrap();
    for (class, queued) in [(&few, None), (&normal, Some(10))] {
        let limits = KeyLimits {
            concurrency: Some(1),
            queued,
            ..KeyLimits::default()
        };
        class.set_key_limits(limits).unwrap();
        let held = class.task().key("k").spawn(std::future::pending::<()>());
        engine.drain();
        for round in 0..20 {
            let waiting: Vec<_> = (0..10).map(|_| class.task().key("k").run(|| ())).collect();
            assert!(class.task().key("k").try_run(|| ()).is_err(), "it is full");
            for (n, handle) in waiting.iter().enumerate() {
                assert!(
                    !handle.is_finished(),
                    "round {round}, task {n}: room for all"
                );
                handle.cancel();
            }
            engine.drain();
            assert_eq!(class.queued(), 0);
        }
        held.cancel();
        engine.drain();
        assert!(class.keys().is_empty());
    }
    engine.assert_idle();
}

/// CPU-29: a task whose deadline passes while its key is held takes no token from those that could still start.
#[test]
fn missed_deadlines_take_no_token() {
    let mut engine = Testing::new();
    let normal = engine.class("normal").unwrap();
    let limits = KeyLimits {
        rate: Some(100.0),
        ..KeyLimits::default()
    };
    normal.set_key_limits(limits).unwrap();
    let submit = |n: u64| {
        let task = normal.task().key("k").deadline(Duration::from_millis(15));
        task.run(move || n)
    };
    let mut first = submit(0);
    let mut late: Vec<_> = (1..10).map(submit).collect();
    engine.drain();
    first.try_result().unwrap().unwrap();
    engine.stall(25 * MS);
    let mut fresh = submit(10);
    engine.drain();
    for handle in &mut late {
        let answer = handle.try_result().unwrap();
        assert!(
            matches!(answer, Err(TaskError::DeadlineMissed)),
            "{answer:?}"
        );
    }
    assert_eq!(fresh.try_result().unwrap().unwrap(), 10);
}

/// CPU-29: priorities order the tasks of one key, never those of different keys.
#[test]
fn priorities_count_inside_a_key() {
    let mut engine = Testing::new();
    let normal = engine.class("normal").unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    for (key, priority, name) in [
        ("a", 0, "a2"),
        ("a", 0, "a3"),
        ("a", 90, "a1"),
        ("b", 0, "b1"),
        ("b", -5, "b2"),
    ] {
        let order = order.clone();
        let work = move || order.lock().unwrap().push(name);
        normal.task().key(key).priority(priority).run(work).detach();
    }
    engine.drain();
    assert_eq!(*order.lock().unwrap(), ["a1", "b1", "a2", "b2", "a3"]);
}

/// CPU-29: keys of any length are told apart; names are cut for display, at whole characters.
#[test]
fn long_keys() {
    let engine = Testing::new();
    let normal = engine.class("normal").unwrap();
    let long = "é".repeat(200);
    let tasks = [
        normal.task().key(&long).run(|| ()),
        normal.task().key(format!("{long}é")).run(|| ()),
        normal.task().key(format!("x{long}")).run(|| ()),
        normal.task().key("").run(|| ()),
    ];
    let keys = normal.keys();
    let mut lengths: Vec<_> = keys.iter().map(|key| key.name.len()).collect();
    lengths.sort_unstable();
    assert_eq!(lengths, [0, 255, 256, 256]);
    drop(tasks);
}

/// CPU-29: limits out of range change nothing.
#[test]
fn limits_are_checked() {
    let engine = Testing::new();
    let normal = engine.class("normal").unwrap();
    let bad = KeyLimits {
        burst: 0,
        ..KeyLimits::default()
    };
    let refused = normal.set_key_limits(bad).unwrap_err();
    assert!(matches!(refused, Error::Keys { .. }));
    assert!(refused.to_string().contains("burst"), "{refused}");
    assert!(normal.set_key_limit("k", Some(bad)).is_err());
    assert_eq!(normal.key_limits(), KeyLimits::default());
    assert!(normal.keys().is_empty());
    for (max_keys, fits) in [(1, false), (2, true), (65_536, true), (65_537, false)] {
        let config = Config {
            max_keys,
            ..Config::default()
        };
        assert_eq!(Testing::with_config(config).is_ok(), fits, "{max_keys}");
    }
}

#[derive(Clone, Copy, Debug)]
enum Body {
    Closure,
    Panics,
    Checks,
    Yields(u8),
    Sleeps(u8),
    YieldsAndPanics,
    Hangs,
}

#[derive(Clone, Debug)]
struct Task {
    key: u8,
    body: Body,
    priority: i8,
    deadline: Option<u8>,
    timeout: Option<u8>,
}

#[derive(Clone, Debug)]
enum Op {
    Submit(Task),
    Cancel(usize),
    Drop(usize),
    Detach(usize),
    Drain,
    Advance(u8),
    Limits(Option<u32>, Option<u32>),
}

fn ops() -> impl proptest::strategy::Strategy<Value = Vec<Op>> {
    let body = prop_oneof![
        Just(Body::Closure),
        Just(Body::Panics),
        Just(Body::Checks),
        (0u8..4).prop_map(Body::Yields),
        (0u8..20).prop_map(Body::Sleeps),
        Just(Body::YieldsAndPanics),
        Just(Body::Hangs),
    ];
    let small = || proptest::option::weighted(0.2, 1u8..20);
    let task = (0u8..4, body, -3i8..3, small(), small()).prop_map(
        |(key, body, priority, deadline, timeout)| Task {
            key,
            body,
            priority,
            deadline,
            timeout,
        },
    );
    let op = prop_oneof![
        8 => task.prop_map(Op::Submit),
        2 => any::<usize>().prop_map(Op::Cancel),
        2 => any::<usize>().prop_map(Op::Drop),
        1 => any::<usize>().prop_map(Op::Detach),
        3 => Just(Op::Drain),
        2 => (1u8..30).prop_map(Op::Advance),
        1 => (proptest::option::of(50u32..500), proptest::option::of(1u32..4))
            .prop_map(|(rate, concurrency)| Op::Limits(rate, concurrency)),
    ];
    proptest::collection::vec(op, 1..80)
}

struct Inside(Arc<[AtomicUsize; 4]>, usize);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0[self.1].fetch_sub(1, SeqCst);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// CPU-29: whatever happens to tasks and in which state they are cancelled, dropped, time out or panic: a key's running tasks
    /// are those that began and have not ended, and when all have ended no key is known, no permit held, nothing queued.
    #[test]
    fn permits_are_conserved(ops in ops()) {
        let mut engine = Testing::new();
        let normal = engine.class("normal").unwrap();
        let inside: Arc<[AtomicUsize; 4]> = Arc::default();
        let mut handles: Vec<Handle<()>> = Vec::new();
        for op in ops {
            match op {
                Op::Submit(Task { key, body, priority, deadline, timeout }) => {
                    let all = inside.clone();
                    let key = usize::from(key);
                    let enter = move || {
                        all[key].fetch_add(1, SeqCst);
                        Inside(all.clone(), key)
                    };
                    let mut task = normal.task().key(format!("key {key}")).priority(priority);
                    if let Some(deadline) = deadline {
                        task = task.deadline(MS * u32::from(deadline));
                    }
                    if let Some(timeout) = timeout {
                        task = task.timeout(MS * u32::from(timeout));
                    }
                    handles.push(match body {
                        Body::Closure => task.run(move || drop(enter())),
                        Body::Panics => task.run(move || {
                            let _inside = enter();
                            panic!("part of the test");
                        }),
                        Body::Checks => task.run(move || {
                            let _inside = enter();
                            let _ = checkpoint();
                        }),
                        Body::Yields(times) => task.spawn(async move {
                            let _inside = enter();
                            for _ in 0..times {
                                yield_now().await;
                            }
                        }),
                        Body::Sleeps(time) => task.spawn(async move {
                            let _inside = enter();
                            tokio::time::sleep(MS * u32::from(time)).await;
                        }),
                        Body::YieldsAndPanics => task.spawn(async move {
                            let _inside = enter();
                            yield_now().await;
                            panic!("part of the test");
                        }),
                        Body::Hangs => task.spawn(async move {
                            let _inside = enter();
                            std::future::pending::<()>().await;
                        }),
                    });
                }
                Op::Cancel(which) if !handles.is_empty() => {
                    handles[which % handles.len()].cancel();
                }
                Op::Drop(which) if !handles.is_empty() => {
                    drop(handles.swap_remove(which % handles.len()));
                }
                Op::Detach(which) if !handles.is_empty() => {
                    // Those that hang are cancelled in the end by the kit.
                    handles.swap_remove(which % handles.len()).detach();
                }
                Op::Drain => {
                    engine.drain();
                }
                Op::Advance(time) => {
                    engine.advance(MS * u32::from(time));
                }
                Op::Limits(rate, concurrency) => {
                    let limits = KeyLimits {
                        rate: rate.map(f64::from),
                        concurrency,
                        ..KeyLimits::default()
                    };
                    normal.set_key_limits(limits).unwrap();
                }
                _ => {}
            }
            for status in normal.keys() {
                let key = usize::from(status.name.as_bytes()[4] - b'0');
                prop_assert_eq!(status.running as usize, inside[key].load(SeqCst), "{:?}", status);
            }
            let shown: usize = normal.keys().iter().map(|key| key.running as usize).sum();
            prop_assert_eq!(shown, inside.iter().map(|count| count.load(SeqCst)).sum::<usize>());
            let queued: usize = normal.keys().iter().map(|key| key.queued).sum();
            prop_assert!(queued <= normal.queued());
        }
        drop(handles);
        normal.set_key_limits(KeyLimits::default()).unwrap();
        engine.drain();
        prop_assert_eq!(normal.queued(), 0);
        let hanging: usize = inside.iter().map(|count| count.load(SeqCst)).sum();
        let running: usize = normal.keys().iter().map(|key| key.running as usize).sum();
        prop_assert_eq!(running, hanging, "detached futures that wait");
        drop(engine);
        prop_assert_eq!(inside.iter().map(|count| count.load(SeqCst)).sum::<usize>(), 0);
    }
}
