//! Classes and settings.

use crate::*;
use flyball_executor::{ClassSpec, Error, Group, Rejection};

/// CPU-2: five classes are built in; handles are cheap, and know what they are of.
#[test]
fn built_in_classes() {
    let executor = start(small());
    let names: Vec<String> = executor
        .classes()
        .iter()
        .map(|class| class.name().to_owned())
        .collect();
    assert_eq!(
        names,
        ["critical", "interactive", "normal", "batch", "idle"]
    );
    for class in executor.classes() {
        let same = class.clone();
        assert_eq!(same.run(|| 1).join().unwrap(), 1);
        assert_eq!(class.spawn(async { 2 }).join().unwrap(), 2);
        class.spec().validate().unwrap();
        assert!(format!("{class:?}").contains(class.name()));
    }
    let thread_of = |name: &str| {
        executor
            .class(name)
            .unwrap()
            .run(|| std::thread::current().name().unwrap().to_owned())
            .join()
            .unwrap()
    };
    assert!(thread_of("critical").starts_with("flyball-f"));
    assert!(thread_of("interactive").starts_with("flyball-f"));
    assert!(thread_of("normal").starts_with("flyball-b"));
    assert!(thread_of("idle").starts_with("flyball-b"));
    end(executor);
}

/// CPU-2: an unknown class is an error that lists those there are.
#[test]
fn an_unknown_class() {
    let executor = start(small());
    let error = executor.class("urgent").unwrap_err();
    assert!(
        matches!(&error, Error::UnknownClass { name, known } if name == "urgent" && known.len() == 5)
    );
    let text = error.to_string();
    assert!(
        text.contains("\"urgent\"") && text.contains("interactive"),
        "{text}"
    );
    end(executor);
}

/// CPU-2: users add classes, at the start and later; a taken name, a value out of range and a 65th class are refused, and change
/// nothing.
#[test]
fn classes_of_the_users() {
    let mut config = small();
    config.classes = vec![
        ClassSpec {
            group: Group::Front,
            ..ClassSpec::new("realtime")
        },
        ClassSpec {
            shares: 7,
            ..ClassSpec::new("batch")
        },
    ];
    let executor = start(config);
    assert_eq!(executor.classes().len(), 6);
    assert_eq!(
        executor.class("batch").unwrap().spec().shares,
        7,
        "replaces the one built in"
    );
    let realtime = executor.class("realtime").unwrap();
    assert_eq!(realtime.run(|| 1).join().unwrap(), 1);

    let late = executor.add_class(ClassSpec::new("late")).unwrap();
    assert_eq!(late.run(|| 2).join().unwrap(), 2);
    assert!(matches!(
        executor.add_class(ClassSpec::new("late")),
        Err(Error::DuplicateClass { name }) if name == "late"
    ));
    for wrong in [
        ClassSpec {
            shares: 0,
            ..ClassSpec::new("wrong")
        },
        ClassSpec {
            priority: 8,
            ..ClassSpec::new("wrong")
        },
        ClassSpec {
            ceiling: 0.0,
            ..ClassSpec::new("wrong")
        },
        ClassSpec::new("Wrong name"),
        ClassSpec::new(""),
    ] {
        assert!(matches!(
            executor.add_class(wrong),
            Err(Error::Class { .. })
        ));
    }
    assert!(executor.class("wrong").is_err());
    for n in executor.classes().len()..64 {
        let class = executor
            .add_class(ClassSpec::new(format!("class-{n}")))
            .unwrap();
        assert_eq!(class.run(move || n).join().unwrap(), n);
    }
    assert!(matches!(
        executor.add_class(ClassSpec::new("one-too-many")),
        Err(Error::TooManyClasses)
    ));
    assert_eq!(executor.classes().len(), 64);
    end(executor);
}

/// CPU-2: guarantees that pass 100% are refused, at the start, for a new class and for a change.
#[test]
fn guarantees_over_the_whole() {
    let with = |name: &str, guarantee| ClassSpec {
        guarantee,
        ..ClassSpec::new(name)
    };
    let mut config = small();
    config.classes = vec![with("one", 0.7), with("two", 0.7)];
    assert!(matches!(
        Executor::start(config.clone()),
        Err(Error::Schedule { name, .. }) if name == "two"
    ));
    config.classes[1].guarantee = 0.3;
    let executor = start(config);
    let error = executor.add_class(with("three", 0.1)).unwrap_err();
    assert!(matches!(error, Error::Schedule { .. }), "{error}");
    assert!(executor.class("three").is_err(), "nothing has changed");
    let error = executor.set_class(with("two", 0.4)).unwrap_err();
    assert!(matches!(error, Error::Schedule { .. }), "{error}");
    assert_eq!(executor.class("two").unwrap().spec().guarantee, 0.3);
    executor.set_class(with("two", 0.1)).unwrap();
    let three = executor.add_class(with("three", 0.1)).unwrap();
    assert_eq!(three.run(|| 1).join().unwrap(), 1);
    end(executor);
}

/// CPU-2: classes change while they run; an unknown one and another group are refused.
#[test]
fn classes_change() {
    let executor = start(single());
    let normal = executor.class("normal").unwrap();
    let gate = hold(&normal);
    let accepted: Vec<_> = (0..10).map(|_| normal.run(|| ())).collect();
    executor
        .set_class(ClassSpec {
            queue_limit: 10,
            ..normal.spec()
        })
        .unwrap();
    assert_eq!(normal.spec().queue_limit, 10, "handles see it");
    let refused = normal.task().try_run(|| ()).unwrap_err();
    assert!(
        matches!(refused.reason, Rejection::QueueFull { limit: 10, .. }),
        "a lowered limit holds at once: {:?}",
        refused.reason
    );
    gate.open();
    for mut handle in accepted {
        handle.join().unwrap();
    }
    assert!(matches!(
        executor.set_class(ClassSpec::new("nobody")),
        Err(Error::UnknownClass { .. })
    ));
    assert!(matches!(
        executor.set_class(ClassSpec {
            group: Group::Front,
            ..normal.spec()
        }),
        Err(Error::Config { key: "group", .. })
    ));
    end(executor);
}

/// CPU-2, CPU-19: settings out of range are refused before anything runs, with key, value and what may be given.
#[test]
fn absurd_settings() {
    let refused = |config: Config, key: &str| match Executor::start(config) {
        Err(error @ Error::Config { .. }) => {
            let text = error.to_string();
            assert!(text.starts_with(key) && text.contains("expected"), "{text}");
        }
        other => panic!("{key}: {other:?}"),
    };
    for workers in [129, 1_000_000, usize::MAX] {
        refused(
            Config {
                parallelism: workers,
                ..small()
            },
            "parallelism",
        );
        refused(
            Config {
                front_workers: workers,
                ..small()
            },
            "front_workers",
        );
        refused(
            Config {
                back_workers: workers,
                ..small()
            },
            "back_workers",
        );
    }
    refused(
        Config {
            stack_size: 1,
            ..small()
        },
        "stack_size",
    );
    refused(
        Config {
            start_batch: 0,
            ..small()
        },
        "start_batch",
    );
    refused(
        Config {
            batch_size: 0,
            ..small()
        },
        "batch_size",
    );
    refused(
        Config {
            max_kinds: 0,
            ..small()
        },
        "max_kinds",
    );
    refused(
        Config {
            max_kinds: 1_000,
            ..small()
        },
        "max_kinds",
    );
    refused(
        Config {
            front_slice: Duration::from_secs(1),
            ..small()
        },
        "front_slice",
    );
    refused(
        Config {
            back_priority: BackPriority::Nice(20),
            ..small()
        },
        "back_priority",
    );
    // A stack that the machine cannot give is an error as well, and leaves no threads behind.
    assert!(matches!(
        Executor::start(Config {
            stack_size: 1 << 60,
            ..small()
        }),
        Err(Error::Os { .. })
    ));
}

/// CPU-1: name, stack and hooks of the threads are settings.
#[test]
fn threads_are_made_as_told() {
    fn use_stack(left: usize) -> usize {
        let frame = std::hint::black_box([1u8; 16 * 1024]);
        if left == 0 {
            return 0;
        }
        use_stack(left - 1) + usize::from(frame[left])
    }
    let (started, stopped) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let count = |counter: &Arc<AtomicUsize>| -> Arc<dyn Fn() + Send + Sync> {
        let counter = counter.clone();
        Arc::new(move || {
            let name = std::thread::current().name().unwrap().to_owned();
            assert!(name.starts_with("mine-"), "{name}");
            counter.fetch_add(1, SeqCst);
        })
    };
    let executor = start(Config {
        thread_name: "mine".into(),
        stack_size: 16 << 20,
        on_thread_start: Some(count(&started)),
        on_thread_stop: Some(count(&stopped)),
        ..small()
    });
    let normal = executor.class("normal").unwrap();
    // More than 3 MiB would not fit the usual 2 MiB.
    assert_eq!(normal.run(|| use_stack(200)).join().unwrap(), 200);
    eventually("all five have started", || started.load(SeqCst) == 5);
    assert_eq!(stopped.load(SeqCst), 0);
    end(executor);
    assert_eq!(stopped.load(SeqCst), 5);
}

/// CPU-2: memory that a former executor has used keeps nothing of it: limits hold from the first task on.
#[test]
fn a_new_executor_starts_afresh() {
    for _ in 0..3 {
        let executor = start(single());
        let normal = executor.class("normal").unwrap();
        let front = executor.class("critical").unwrap();
        normal.execute_many((0..5_000).map(|_| || ())).unwrap();
        front.execute_many((0..5_000).map(|_| || ())).unwrap();
        end(executor);
        let mut config = single();
        config.classes = ClassSpec::built_in()
            .into_iter()
            .map(|spec| ClassSpec {
                queue_limit: 2,
                ..spec
            })
            .collect();
        let executor = start(config);
        let normal = executor.class("normal").unwrap();
        assert_eq!(executor.stats().class("normal").unwrap().counts.tasks, 0);
        let gate = hold(&normal);
        assert!(normal.execute(|| ()).is_ok());
        assert!(normal.execute(|| ()).is_ok());
        assert!(normal.execute(|| ()).is_err());
        gate.open();
        end(executor);
    }
}

/// CPU-3, CPU-2: however many producers there are, the limit is passed by no more than one task each.
#[test]
fn the_limit_holds_under_many_producers() {
    const LIMIT: usize = 64;
    const PRODUCERS: usize = 8;
    let mut config = single();
    config.classes = vec![ClassSpec {
        queue_limit: LIMIT,
        ..ClassSpec::new("tight")
    }];
    let executor = start(config);
    let tight = executor.class("tight").unwrap();
    let gate = hold(&tight);
    let ran = Arc::new(AtomicUsize::new(0));
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|_| {
            let (tight, ran) = (tight.clone(), ran.clone());
            std::thread::spawn(move || {
                (0..1_000)
                    .filter(|_| {
                        let ran = ran.clone();
                        let work = move || {
                            ran.fetch_add(1, SeqCst);
                        };
                        tight.execute(work).is_ok()
                    })
                    .count()
            })
        })
        .collect();
    let accepted: usize = producers
        .into_iter()
        .map(|producer| producer.join().unwrap())
        .sum();
    assert!(
        (LIMIT..LIMIT + PRODUCERS).contains(&accepted),
        "{accepted} accepted"
    );
    assert_eq!(tight.queued(), accepted);
    let refused = executor.stats().class("tight").unwrap().refused;
    assert_eq!(refused as usize, PRODUCERS * 1_000 - accepted);
    gate.open();
    end(executor);
    assert_eq!(ran.load(SeqCst), accepted, "what was accepted ran");
}

/// CPU-2: the limit counts whatever waits: tasks with a priority or a tag as well.
#[test]
fn the_limit_counts_tasks_with_an_order_of_their_own() {
    let mut config = single();
    config.classes = vec![ClassSpec {
        queue_limit: 10,
        ..ClassSpec::new("tight")
    }];
    let executor = start(config);
    let tight = executor.class("tight").unwrap();
    let gate = hold(&tight);
    let accepted: Vec<_> = (0..20)
        .filter_map(|n| tight.task().priority(1 + n % 5).try_run(|| ()).ok())
        .collect();
    assert_eq!(accepted.len(), 10);
    assert!(tight.execute(|| ()).is_err());
    gate.open();
    for mut handle in accepted {
        handle.join().unwrap();
    }
    end(executor);
}
