//! rayon inside a class.

use crate::*;
use ::rayon::prelude::*;
use flyball_core::time::{Source, thread_cpu_nanos};
use flyball_executor::{ClassSpec, Error, Group, What, WorkerState};
use std::collections::BTreeSet;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

const MS: u64 = 1_000_000;

fn thread_name() -> String {
    std::thread::current().name().unwrap_or_default().to_owned()
}

/// Uses so much CPU time, by the clock of the thread it runs on; returns how much it really was.
fn burn(nanos: u64) -> u64 {
    let begun = thread_cpu_nanos();
    loop {
        for _ in 0..1_000 {
            std::hint::spin_loop();
        }
        let used = thread_cpu_nanos() - begun;
        if used >= nanos {
            return used;
        }
    }
}

/// Ends an executor and asserts that nothing had to be cancelled: no stand-in waits, and none is left.
fn finish(executor: Executor) {
    let report = executor.shutdown(PATIENCE).expect("not on a worker");
    assert!(report.left_running.is_empty(), "{report:?}");
    assert_eq!(report.cancelled, 0, "{report:?}");
}

fn cpu_ns(executor: &Executor, class: &str) -> u64 {
    executor.stats().class(class).unwrap().cpu_ns
}

fn add(executor: &Executor, spec: ClassSpec) -> Class {
    executor.add_class(spec).expect("a good class")
}

/// Work on all threads of a class until it is told to stop.
struct Saturation {
    stop: Arc<AtomicBool>,
    used: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl Saturation {
    /// By one call of `install`.
    fn by_rayon(class: &Class) -> Self {
        Self::start(class, |class, stop, used| {
            class
                .install(|| {
                    while !stop.load(SeqCst) {
                        (0..64).into_par_iter().for_each(|_| {
                            if !stop.load(SeqCst) {
                                used.fetch_add(burn(MS / 4), SeqCst);
                            }
                        });
                    }
                })
                .expect("installed");
        })
    }

    /// By closures of a millisecond, never fewer than two queued a worker.
    fn by_closures(class: &Class) -> Self {
        Self::start(class, |class, stop, used| {
            let (done, is_done) = channel();
            let mut open = 0;
            while !stop.load(SeqCst) {
                while open < 8 {
                    let (done, used) = (done.clone(), used.clone());
                    let work = move || {
                        used.fetch_add(burn(MS), SeqCst);
                        let _ = done.send(());
                    };
                    class.execute(work).expect("room");
                    open += 1;
                }
                receive(&is_done);
                open -= 1;
            }
            (0..open).for_each(|_| receive(&is_done));
        })
    }

    fn start(
        class: &Class,
        work: impl FnOnce(&Class, &AtomicBool, &Arc<AtomicU64>) + Send + 'static,
    ) -> Self {
        let (stop, used) = (flag(), Arc::new(AtomicU64::new(0)));
        let (class, stopped, counted) = (class.clone(), stop.clone(), used.clone());
        Saturation {
            thread: std::thread::spawn(move || work(&class, &stopped, &counted)),
            stop,
            used,
        }
    }

    fn used(&self) -> u64 {
        self.used.load(SeqCst)
    }

    fn end(self) {
        self.stop.store(true, SeqCst);
        self.thread.join().expect("the work ends");
    }
}

/// CPU-25: parallel iterators, `join` and `scope` give what they give elsewhere, and run on the class's threads alone.
#[test]
fn rayon_runs_on_the_threads_of_the_class() {
    let executor = start(Config {
        thread_name: "own".into(),
        ..small()
    });
    let batch = executor.class("batch").unwrap();
    let names = Mutex::new(BTreeSet::new());
    let note = || {
        names.lock().unwrap().insert(thread_name());
    };
    let numbers: Vec<u64> = (0..10_000).collect();
    let sum: u64 = batch
        .install(|| {
            assert_eq!(::rayon::current_num_threads(), 2);
            numbers.par_iter().inspect(|_| note()).map(|n| n * 2).sum()
        })
        .unwrap();
    assert_eq!(sum, 99_990_000);
    let both = batch.install(|| ::rayon::join(|| (note(), 1).1, || (note(), 2).1));
    assert_eq!(both.unwrap(), (1, 2));
    let count = AtomicUsize::new(0);
    let scoped = batch.install(|| {
        ::rayon::scope(|scope| {
            for _ in 0..100 {
                scope.spawn(|_| {
                    note();
                    count.fetch_add(1, SeqCst);
                });
            }
        });
        // Inside, it runs at once.
        let outer = thread_name();
        batch.install(|| assert_eq!(thread_name(), outer)).unwrap();
    });
    scoped.unwrap();
    assert_eq!(count.into_inner(), 100);
    let names = names.into_inner().unwrap();
    let expected = ["own-r0-batch", "own-r1-batch"];
    assert!(
        names.iter().all(|name| expected.contains(&name.as_str())),
        "{names:?}"
    );
    finish(executor);
}

/// CPU-25: what rayon's threads use is charged to the class, by their clocks, also in short bursts that end before anybody looks.
#[test]
fn cpu_time_of_rayon_is_charged() {
    let executor = start(small());
    let batch = executor.class("batch").unwrap();
    let used = AtomicU64::new(0);
    for burst in [400, 20, 3, 3, 3, 1] {
        let install = batch.install(|| {
            (0..4).into_par_iter().for_each(|_| {
                used.fetch_add(burn(burst * MS / 4), SeqCst);
            });
        });
        install.unwrap();
    }
    let used = used.into_inner();
    eventually("all is charged", || {
        cpu_ns(&executor, "batch") >= used - used / 50
    });
    eventually("nobody stands in any more", || {
        let idle = |worker: &flyball_executor::WorkerStatus| worker.state == WorkerState::Idle;
        executor.workers().iter().all(idle)
    });
    let stats = executor.stats();
    let batch = stats.class("batch").unwrap();
    // Above the jobs themselves: rayon's search for work, and the stand-ins' own time.
    assert!(
        (used - used / 50..used + used / 3).contains(&batch.cpu_ns),
        "used {used}, charged {}",
        batch.cpu_ns
    );
    let (_, rayon) = batch
        .kinds
        .iter()
        .find(|(kind, _)| kind == "rayon")
        .expect("its own kind");
    assert!(rayon.tasks >= 1 && rayon.polls >= rayon.tasks, "{rayon:?}");
    let others = stats.classes.iter().filter(|class| class.name != "batch");
    assert_eq!(others.map(|class| class.cpu_ns).sum::<u64>(), 0);
    finish(executor);
}

/// CPU-25: a ceiling binds rayon's threads, alone and beside others, and a new one from the moment it is set.
#[test]
fn a_ceiling_is_held() {
    let executor = start(small());
    let spec = |ceiling| ClassSpec::new("bounded").with_ceiling(ceiling);
    let bounded = add(&executor, spec(1.0));
    let clock = Source::best();
    let work = Saturation::by_rayon(&bounded);
    eventually("it runs", || work.used() > 50 * MS);
    for (ceiling, window) in [(0.25, 300), (0.1, 150)] {
        executor.set_class(spec(ceiling)).unwrap();
        let (begun, before) = (clock.now(), work.used());
        eventually("it goes on", || work.used() - before > window * MS);
        let used = (work.used() - before) as f64;
        let capacity = 2.0 * clock.now().duration_since(begun).as_nanos() as f64;
        // The bucket's depth and the jobs in progress weigh little; the breaths of paused threads a hundredth each.
        let most = ceiling * 1.15 + 0.02;
        assert!(
            used / capacity < most,
            "{:.3} of the machine, ceiling {ceiling}",
            used / capacity
        );
    }
    work.end();
    finish(executor);
}

/// CPU-25: a class that uses rayon and one that runs closures share three to one, both ways round.
#[test]
fn rayon_and_closures_share() {
    let executor = start(small());
    for (rayon, closures) in [(3u32, 1), (1, 3)] {
        let class = |name: &str, shares| {
            let spec = ClassSpec::new(format!("{name}-{rayon}")).with_shares(shares * 1024);
            add(&executor, spec)
        };
        let (one, other) = (class("rayon", rayon), class("closures", closures));
        let works = [Saturation::by_rayon(&one), Saturation::by_closures(&other)];
        let both = || [works[0].used(), works[1].used()];
        eventually("both run", || both().iter().all(|&used| used > 50 * MS));
        let before = both();
        eventually("a second and a half of CPU time", || {
            both().iter().sum::<u64>() - before.iter().sum::<u64>() > 1_500 * MS
        });
        let after = both();
        let used = [after[0] - before[0], after[1] - before[1]];
        let part = used[0] as f64 / used.iter().sum::<u64>() as f64;
        let promised = f64::from(rayon) / 4.0;
        assert!(
            (part - promised).abs() < 0.08,
            "{part:.3} instead of {promised}"
        );
        works.into_iter().for_each(Saturation::end);
    }
    finish(executor);
}

/// CPU-25: front work, closures and rayon's, is served while rayon keeps the back group busy.
#[test]
fn front_work_is_served_beside_rayon() {
    let executor = start(small());
    let batch = executor.class("batch").unwrap();
    let interactive = executor.class("interactive").unwrap();
    let work = Saturation::by_rayon(&batch);
    eventually("it runs", || work.used() > 50 * MS);
    for turn in 0..200 {
        assert_eq!(interactive.run(move || turn).join().unwrap(), turn);
        let both = interactive.install(|| ::rayon::join(|| turn, || turn + 1));
        assert_eq!(both.unwrap(), (turn, turn + 1));
    }
    assert_eq!(interactive.spec().group, Group::Front);
    work.end();
    finish(executor);
}

/// CPU-25: closures of the same class are not shut out by rayon, nor rayon by them.
#[test]
fn nobody_of_the_class_is_shut_out() {
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    let works = [
        Saturation::by_rayon(&normal),
        Saturation::by_closures(&normal),
    ];
    for work in &works {
        let before = work.used();
        eventually("each goes on", || work.used() - before > 50 * MS);
    }
    works.into_iter().for_each(Saturation::end);
    finish(executor);
}

/// CPU-25: `install` on workers holds no token and cannot lock up, though every worker waits in one.
#[test]
fn workers_may_wait_in_install() {
    let executor = start(single());
    let normal = executor.class("normal").unwrap();
    let batch = executor.class("batch").unwrap();
    let mut handles = Vec::new();
    for number in 0..20u64 {
        let (own, other) = (normal.clone(), batch.clone());
        handles.push(normal.run(move || {
            let inner = |class: &Class| {
                let sum = class.install(|| {
                    (0..=number)
                        .into_par_iter()
                        .inspect(|_| {
                            burn(MS / 10);
                        })
                        .sum::<u64>()
                });
                sum.unwrap()
            };
            inner(&own) + inner(&other) + own.install(|| inner(&other)).unwrap()
        }));
    }
    for (number, mut handle) in (0u64..).zip(handles) {
        assert_eq!(handle.join().unwrap(), 3 * number * (number + 1) / 2);
    }
    eventually("no token is out", || executor.stats().running == 0);
    finish(executor);
}

/// CPU-25: a panic in a job comes out of `install`, and the threads go on; a detached job's is an event.
#[test]
fn panics_come_out_of_install() {
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    for _ in 0..3 {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            normal.install(|| {
                (0..100)
                    .into_par_iter()
                    .for_each(|n| assert_ne!(n, 77, "seen"))
            })
        }));
        let payload = caught.expect_err("it panicked");
        let message = payload.downcast_ref::<String>().expect("a message");
        assert!(message.contains("seen"), "{message}");
    }
    normal
        .install(|| ::rayon::spawn(|| panic!("detached")))
        .unwrap();
    eventually("it is told", || {
        let events = executor.events();
        events
            .iter()
            .any(|event| event.what == What::Panicked && event.reason.contains("detached"))
    });
    assert_eq!(normal.install(|| 7).unwrap(), 7);
    finish(executor);
}

/// CPU-25: from async code without blocking; a thread of a foreign runtime is refused instead of blocked.
#[test]
fn install_from_async_code() {
    let executor = start(small());
    let batch = executor.class("batch").unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        assert!(matches!(batch.install(|| ()), Err(Error::ForeignRuntime)));
        let sum = batch.install_async(|| (0..1000u64).into_par_iter().sum::<u64>());
        assert_eq!(sum.await.unwrap(), 499_500);
        let panics = batch.clone();
        let failed =
            tokio::spawn(async move { panics.install_async(|| panic!("on its way")).await });
        assert!(failed.await.expect_err("it panicked").is_panic());
    });
    let inner = batch.clone();
    let future =
        batch.spawn(async move { inner.install_async(::rayon::current_num_threads).await });
    assert_eq!({ future }.join().unwrap().unwrap(), 2);
    finish(executor);
}

/// CPU-25: dropped before it began, what was given to `install_async` does not run.
#[test]
fn a_dropped_install_does_not_begin() {
    let executor = start(single());
    let batch = executor.class("batch").unwrap();
    let ran = flag();
    let (mark, other) = (ran.clone(), batch.clone());
    batch
        .install(move || {
            let mut late = Box::pin(other.install_async(move || mark.store(true, SeqCst)));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(late.as_mut().poll(&mut context).is_pending());
        })
        .unwrap();
    assert_eq!(batch.install(|| 1).unwrap(), 1);
    finish(executor);
    assert!(!ran.load(SeqCst));
}

/// CPU-25: a shutdown lets what is installed finish, refuses what comes later, and ends the threads.
#[test]
fn shutdown_waits_for_installs_and_ends_the_threads() {
    let executor = start(Config {
        thread_name: "last".into(),
        ..small()
    });
    let batch = executor.class("batch").unwrap();
    let normal = executor.class("normal").unwrap();
    let (inside, is_inside) = channel();
    let (go, wait) = channel::<()>();
    let installed = batch.clone();
    let (nested, outside) = (normal.clone(), normal.clone());
    let caller = std::thread::spawn(move || {
        installed.install(move || {
            inside.send(()).unwrap();
            receive(&wait);
            // What runs may go on as it began, elsewhere, too.
            nested.install(|| (0..100u64).into_par_iter().sum::<u64>())
        })
    });
    receive(&is_inside);
    let ending = std::thread::spawn(move || executor.shutdown(PATIENCE).expect("not a worker"));
    eventually("it takes nothing from outside", || {
        matches!(outside.install(|| ()), Err(Error::ShuttingDown))
    });
    go.send(()).unwrap();
    assert_eq!(caller.join().unwrap().unwrap().unwrap(), 4_950);
    let report = ending.join().unwrap();
    assert!(report.left_running.is_empty(), "{report:?}");
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    for task in tasks.flatten() {
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        assert!(!name.starts_with("last-"), "{name} is left");
    }
    assert!(matches!(batch.install(|| ()), Err(Error::ShuttingDown)));
}

/// CPU-25: a job that does not return is left behind with its thread and reported; checkpoints tell a job of the end.
#[test]
fn a_job_that_never_returns_is_left_behind() {
    let executor = start(Config {
        force_after: Duration::from_millis(50),
        ..small()
    });
    let batch = executor.class("batch").unwrap();
    let (inside, is_inside) = channel();
    let (go, wait) = channel::<()>();
    let caller = std::thread::spawn(move || {
        batch.install(move || {
            inside.send(()).unwrap();
            let _ = wait.recv();
            flyball_executor::checkpoint().is_err()
        })
    });
    receive(&is_inside);
    let report = executor.shutdown(Duration::ZERO).expect("not on a worker");
    assert!(
        report
            .left_running
            .iter()
            .any(|(class, kind, _)| class == "batch" && kind == "rayon"),
        "{report:?}"
    );
    go.send(()).unwrap();
    assert!(caller.join().unwrap().unwrap(), "told of the end");
}

/// CPU-25: many callers at once, threads that hold locks while they are paused, and an end in the middle of it all.
#[test]
fn pauses_lock_nobody_up() {
    let executor = start(small());
    let tight = add(&executor, ClassSpec::new("tight").with_ceiling(0.2));
    let normal = executor.class("normal").unwrap();
    let shared = Arc::new(Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for class in [&tight, &tight, &normal, &normal] {
            let shared = &shared;
            scope.spawn(move || {
                for _ in 0..5 {
                    let install = class.install(|| {
                        (0..40u64).into_par_iter().for_each(|number| {
                            // A lock, and the allocator, held for some of the time.
                            let mut shared = shared.lock().unwrap();
                            burn(MS / 50);
                            shared.push(vec![number; 100]);
                        });
                    });
                    install.unwrap();
                }
            });
        }
        let handles: Vec<_> = (0..100)
            .map(|_| {
                let shared = shared.clone();
                normal.run(move || shared.lock().unwrap().push(Vec::new()))
            })
            .collect();
        for mut handle in handles {
            handle.join().unwrap();
        }
    });
    assert_eq!(shared.lock().unwrap().len(), 4 * 5 * 40 + 100);
    finish(executor);
}

/// CPU-25: where the program handles the signals itself, rayon's threads are charged, not paused, and an event says so.
#[test]
fn without_the_signal_they_are_charged() {
    if !is_alone("rayon::without_the_signal_they_are_charged") {
        return;
    }
    let _runtime = tokio::runtime::Runtime::new().unwrap();
    let guard = _runtime.enter();
    let taken = [libc::SIGVTALRM, libc::SIGURG].map(|number| {
        let kind = tokio::signal::unix::SignalKind::from_raw(number);
        tokio::signal::unix::signal(kind).unwrap()
    });
    drop(guard);
    let executor = start(small());
    let bounded = add(&executor, ClassSpec::new("bounded").with_ceiling(0.1));
    let work = Saturation::by_rayon(&bounded);
    eventually("it is charged", || cpu_ns(&executor, "bounded") > 20 * MS);
    let used = work.used();
    eventually("it goes on", || work.used() > used + 100 * MS);
    work.end();
    drop(taken);
    assert!(
        executor
            .events()
            .iter()
            .any(|event| { event.what == What::Unavailable && event.reason.contains("SIGURG") })
    );
    finish(executor);
}

/// CPU-25: a paused class's rayon threads do not run; resumed, they go on where they were.
#[test]
fn a_paused_class_pauses_its_threads() {
    let executor = start(small());
    let normal = executor.class("normal").unwrap();
    let work = Saturation::by_rayon(&normal);
    eventually("it runs", || work.used() > 50 * MS);
    assert!(executor.pause_class("normal").unwrap());
    let clock = Source::best();
    eventually("it comes to rest", || {
        // A breath in each pause, a hundredth of the time, for each of two threads.
        let (begun, before) = (clock.now(), work.used());
        let other = executor.class("batch").unwrap();
        other.run(|| burn(50 * MS)).join().unwrap();
        let passed = clock.now().duration_since(begun).as_nanos() as u64;
        work.used() - before < passed / 20
    });
    assert!(executor.resume_class("normal").unwrap());
    let before = work.used();
    eventually("it goes on", || work.used() - before > 50 * MS);
    // And a shutdown lets it come to its end though it is paused.
    assert!(executor.pause_class("normal").unwrap());
    work.stop.store(true, SeqCst);
    finish(executor);
    work.end();
}

/// CPU-25: a class is not removed while rayon works in it; after that its threads end and nothing more is installed.
#[test]
fn a_class_with_rayon_work_is_not_removed() {
    let executor = start(Config {
        thread_name: "gone".into(),
        ..small()
    });
    for _ in 0..3 {
        let passing = add(&executor, ClassSpec::new("passing"));
        let (inside, is_inside) = channel();
        let (go, wait) = channel::<()>();
        let installed = passing.clone();
        let caller = std::thread::spawn(move || {
            installed.install(move || {
                inside.send(()).unwrap();
                receive(&wait);
            })
        });
        receive(&is_inside);
        let refused = executor.remove_class("passing");
        assert!(
            matches!(refused, Err(Error::ClassInUse { running: 1.., .. })),
            "{refused:?}"
        );
        go.send(()).unwrap();
        caller.join().unwrap().unwrap();
        // What the threads used may still have to be charged.
        eventually("it is removed", || executor.remove_class("passing").is_ok());
        assert!(matches!(
            passing.install(|| ()),
            Err(Error::UnknownClass { .. })
        ));
        drop(passing);
        eventually("its threads end", || {
            let tasks = std::fs::read_dir("/proc/self/task").unwrap();
            !tasks.flatten().any(|task| {
                let comm = task.path().join("comm");
                std::fs::read_to_string(comm).is_ok_and(|name| name.starts_with("gone-r"))
            })
        });
    }
    finish(executor);
}
