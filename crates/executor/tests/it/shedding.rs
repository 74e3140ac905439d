//! Classes that refuse work which would wait for too long, on a clock that is moved by hand.

use crate::*;
use flyball_executor::testing::Testing;
use flyball_executor::{Class, Handle, KeyLimits, Rejection, Shedding, SheddingStatus, TaskError};

const TICK: Duration = Duration::from_millis(10);
const TARGET: Duration = Duration::from_millis(100);

/// The class `batch`, of which so many tasks a second start.
fn class(engine: &Testing, rate: f64) -> Class {
    let class = engine.class("batch").unwrap();
    slow(&class, rate);
    class
}

fn slow(class: &Class, rate: f64) {
    let limits = KeyLimits {
        rate: Some(rate),
        ..KeyLimits::default()
    };
    class.set_key_limits(limits).unwrap();
}

fn shedding(observe: bool) -> Option<Shedding> {
    Some(Shedding {
        target: TARGET,
        observe,
    })
}

fn figures(engine: &Testing, class: &str) -> Option<SheddingStatus> {
    engine.stats().class(class).unwrap().shedding.clone()
}

/// Submits so many tasks each 10 ms; answers handles and refusals.
fn offer(
    engine: &mut Testing,
    class: &Class,
    ticks: usize,
    each: usize,
) -> (Vec<Handle<()>>, Vec<Rejection>) {
    let (mut taken, mut refused) = (Vec::new(), Vec::new());
    for _ in 0..ticks {
        for _ in 0..each {
            match class.task().key("all").try_run(|| ()) {
                Ok(handle) => taken.push(handle),
                Err(rejected) => refused.push(rejected.reason),
            }
        }
        engine.advance(TICK);
    }
    (taken, refused)
}

/// CPU-21: of three times what can be done two thirds are refused at once, with a reason and a hint, and what is let in starts within the time.
#[test]
fn what_would_wait_too_long_is_refused() {
    let mut engine = Testing::new();
    let class = class(&engine, 1_000.0);
    class.set_shedding(shedding(false)).unwrap();
    let (_, below) = offer(&mut engine, &class, 300, 8);
    assert!(below.is_empty(), "{below:?}");
    // Until it is known how fast tasks start, more is let in than can be.
    offer(&mut engine, &class, 300, 30);
    let late = figures(&engine, "batch").unwrap().refused_late;
    let (taken, refused) = offer(&mut engine, &class, 300, 30);
    assert!(
        (1_900..2_100).contains(&(refused.len() / 3)),
        "{}",
        refused.len()
    );
    assert!((2_900..3_100).contains(&taken.len()), "{}", taken.len());
    assert!(engine.queued("batch") < 150);
    for reason in &refused {
        let Rejection::Shed { retry_after, .. } = reason else {
            panic!("{reason}");
        };
        assert!(*retry_after >= TARGET && *retry_after < Duration::from_secs(2));
        assert!(reason.to_string().contains("try again in"), "{reason}");
    }
    let status = figures(&engine, "batch").unwrap();
    assert!(
        status.limit.is_some_and(|limit| (80..120).contains(&limit)),
        "{status:?}"
    );
    assert_eq!(status.refused_late, late, "{status:?}");
    // Other classes do not mind, and lifted it is gone.
    assert!(
        engine
            .class("normal")
            .unwrap()
            .task()
            .try_run(|| ())
            .is_ok()
    );
    class.set_shedding(None).unwrap();
    let (_, refused) = offer(&mut engine, &class, 100, 30);
    assert!(refused.is_empty() && class.shedding().is_none());
    assert!(figures(&engine, "batch").is_none());
}

/// CPU-21: what was let in and comes to wait for more than twice the time is refused before it starts, where somebody hears of it; it has not run.
#[test]
fn queued_work_is_refused_late() {
    let mut engine = Testing::new();
    let class = class(&engine, 1_000.0);
    class.set_shedding(shedding(false)).unwrap();
    offer(&mut engine, &class, 300, 30);
    let (mut taken, _) = offer(&mut engine, &class, 5, 30);
    slow(&class, 20.0);
    engine.advance(Duration::from_secs(5));
    let late = taken.iter_mut().filter_map(|handle| handle.try_result());
    let late = late.filter(|result| {
        matches!(result, Err(TaskError::Rejected(Rejection::Shed { retry_after, .. })) if *retry_after >= TARGET)
    });
    let late = late.count() as u64;
    let status = figures(&engine, "batch").unwrap();
    assert!(
        late > 10 && status.refused_late >= late,
        "{late}, {status:?}"
    );
    // In a class that is not sheddable nothing is refused once it is let in, nor what nobody waits for.
    let normal = engine.class("normal").unwrap();
    slow(&normal, 1_000.0);
    normal.set_shedding(shedding(false)).unwrap();
    offer(&mut engine, &normal, 300, 30);
    slow(&normal, 20.0);
    engine.advance(Duration::from_secs(5));
    assert_eq!(figures(&engine, "normal").unwrap().refused_late, 0);
}

/// CPU-21: what was accepted elsewhere is never shed, neither when it comes nor when its turn is late.
#[test]
fn what_was_accepted_is_never_shed() {
    let mut engine = Testing::new();
    let class = class(&engine, 1_000.0);
    class.set_shedding(shedding(false)).unwrap();
    offer(&mut engine, &class, 600, 30);
    // Until it sheds.
    while class.task().key("all").try_run(|| ()).is_ok() {}
    let submit = |_| class.task().accepted().key("all").try_run(|| ()).unwrap();
    let mut accepted: Vec<_> = (0..500).map(submit).collect();
    slow(&class, 20.0);
    engine.advance(Duration::from_secs(60));
    assert!(figures(&engine, "batch").unwrap().refused_late > 0);
    for handle in &mut accepted {
        assert!(matches!(handle.try_result(), Some(Ok(()))));
    }
}

/// CPU-30: observing refuses nobody, and counts about the same.
#[test]
fn observing_refuses_nobody() {
    let mut engine = Testing::new();
    let class = class(&engine, 1_000.0);
    class.set_shedding(shedding(true)).unwrap();
    let (taken, refused) = offer(&mut engine, &class, 500, 30);
    assert_eq!((taken.len(), refused.len()), (15_000, 0));
    let status = figures(&engine, "batch").unwrap();
    assert!((9_000..10_100).contains(&status.would_refuse), "{status:?}");
    assert_eq!((status.refused, status.refused_late), (0, 0));
    assert!(status.level > Default::default());
}

/// CPU-21: a pause is no overload, the class's own queue limit stays in force, and settings out of range are refused.
#[test]
fn pauses_and_bounds() {
    let mut engine = Testing::new();
    let class = class(&engine, 1_000.0);
    for target in [Duration::ZERO, Duration::from_secs(7_200)] {
        let wrong = Shedding {
            target,
            observe: false,
        };
        assert!(class.set_shedding(Some(wrong)).is_err());
    }
    class.set_shedding(shedding(false)).unwrap();
    offer(&mut engine, &class, 300, 30);
    engine.pause_class("batch").unwrap();
    engine.advance(TICK);
    let (_, refused) = offer(&mut engine, &class, 50, 30);
    assert!(refused.is_empty(), "{refused:?}");
    engine.resume_class("batch").unwrap();
    engine.advance(Duration::from_secs(10));
    let tight = flyball_executor::ClassSpec::new("tight").with_queue_limit(5);
    let tight = engine.add_class(tight).unwrap();
    tight.set_shedding(shedding(false)).unwrap();
    let (_, refused) = offer(&mut engine, &tight, 1, 30);
    let full = |reason: &Rejection| matches!(reason, Rejection::QueueFull { limit: 5, .. });
    assert!(
        refused.len() == 25 && refused.iter().all(full),
        "{refused:?}"
    );
}

/// CPU-21: what a task of the class submits to it is a part of what was let in.
#[test]
fn parts_of_tasks_are_let_in() {
    let mut engine = Testing::new();
    let class = class(&engine, 1_000.0);
    class.set_shedding(shedding(false)).unwrap();
    offer(&mut engine, &class, 300, 30);
    let inner = class.clone();
    let mut parts = class
        .task()
        .priority(100)
        .run(move || (0..500).filter(|_| inner.execute(|| ()).is_ok()).count());
    let outer = (0..500).filter(|_| class.execute(|| ()).is_ok()).count();
    engine.advance(Duration::from_secs(1));
    if let Some(Ok(inside)) = parts.try_result() {
        assert_eq!(inside, 500);
    } else {
        panic!("the task ran");
    }
    assert!(outer < 500);
}
