//! Gates.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use flyball_core::time::Timestamp;
use flyball_limit::{
    AdaptiveConfig, AdmissionConfig, Algorithm, Ask, Degradation, Error, Gate, GateConfig, Mode,
    Outcome, Reason, ShedReason,
};
use proptest::prelude::{ProptestConfig, prop, prop_assert, prop_assert_eq, proptest};

use crate::{advance, clock, settle};

/// What calls may wait with the default deadline of 250 ms.
const WAIT: Duration = Duration::from_millis(75);

fn fixed(limit: u32) -> GateConfig {
    GateConfig::fixed(limit)
}

fn is_pending<F: Future>(future: std::pin::Pin<&mut F>) -> bool {
    future
        .poll(&mut Context::from_waker(Waker::noop()))
        .is_pending()
}

/// CPU-21, CPU-22: calls come in up to the limit, wait a short time in order of arrival, and are handed the slots of those who leave.
#[tokio::test(start_paused = true)]
async fn slots_are_handed_on_in_order() {
    let (_clock, source) = clock();
    let gate = Gate::with_clock(fixed(1), source).unwrap();
    let first = gate.enter(Ask::default()).await.unwrap();
    let (sender, mut order) = tokio::sync::mpsc::unbounded_channel();
    for name in ["second", "third"] {
        let (gate, sender) = (gate.clone(), sender.clone());
        tokio::spawn(async move {
            let _permit = gate.enter(Ask::default()).await.unwrap();
            sender.send(name).unwrap();
        });
        settle().await;
    }
    assert_eq!(gate.status().waiting, 2);
    assert!(gate.try_enter(&Ask::default()).is_err());
    drop(first);
    assert_eq!(order.recv().await, Some("second"));
    assert_eq!(order.recv().await, Some("third"));
    settle().await;
    let status = gate.status();
    assert_eq!((status.in_flight, status.waiting), (0, 0));
    let class = status
        .classes
        .iter()
        .find(|class| class.name == "interactive")
        .unwrap();
    assert_eq!((class.entered, class.waited, class.cancelled), (3, 3, 1));
    assert!(gate.try_enter(&Ask::default()).is_ok());
}

/// CPU-21: who waited as long as calls may is refused, with a reason and a hint.
#[tokio::test(start_paused = true)]
async fn waiting_ends() {
    let (clock, source) = clock();
    let gate = Gate::with_clock(fixed(1), source).unwrap();
    let permit = gate.enter(Ask::default()).await.unwrap();
    let waiter = tokio::spawn({
        let gate = gate.clone();
        async move { gate.enter(Ask::default()).await.map(drop) }
    });
    settle().await;
    advance(&clock, WAIT + Duration::from_millis(1)).await;
    let shed = waiter.await.unwrap().unwrap_err();
    assert_eq!(shed.reason, ShedReason::Waited);
    assert!(shed.retry_after > Duration::ZERO);
    let status = gate.status();
    assert_eq!((status.waiting, status.classes[1].shed_waited), (0, 1));
    drop(permit);
    assert_eq!(gate.in_flight(), 0);
}

/// CPU-21: a call whose deadline has passed is refused although there is room.
#[test]
fn what_comes_too_late_is_refused() {
    let (clock, source) = clock();
    let gate = Gate::with_clock(fixed(4), source).unwrap();
    clock.advance(Duration::from_secs(1));
    let ask = |nanos| Ask {
        deadline: Some(Timestamp::from_nanos(nanos)),
        ..Ask::default()
    };
    assert_eq!(
        gate.try_enter(&ask(1_000_000_000)).unwrap_err().reason,
        ShedReason::Deadline
    );
    assert!(gate.try_enter(&ask(1_000_000_001)).is_ok());
    let status = gate.status();
    assert_eq!((status.in_flight, status.classes[1].shed_deadline), (0, 1));
}

/// CPU-21, CPU-23: where the limit is of this process's own work, a call does not wait for lesser ones: of each class and those that matter more
/// as many come in as the limit says, and never more than the greatest limit at all.
#[tokio::test(start_paused = true)]
async fn nobody_waits_for_who_matters_less() {
    let (_clock, source) = clock();
    let mut config = GateConfig::with_limit(
        AdaptiveConfig::new(Algorithm::RunDelay { cpus: 2 })
            .with_bounds(2, 5)
            .with_initial(2),
    );
    config.admission.queue_max = 8;
    let gate = Gate::with_clock(config, source).unwrap();
    let ask = |name| Ask {
        class: Some(gate.class(name).unwrap()),
        ..Ask::default()
    };
    let enter = |name| gate.try_enter(&ask(name));
    let batch: Vec<_> = (0..2).map(|_| enter("batch").unwrap()).collect();
    assert!(enter("batch").is_err(), "the limit is reached");
    let one = enter("interactive").unwrap();
    let other = enter("interactive").unwrap();
    assert_eq!((gate.limit(), gate.in_flight()), (2, 4));
    assert!(enter("interactive").is_err(), "as many as the limit says");
    assert!(enter("normal").is_err(), "two that matter more are in");
    let critical = enter("critical").unwrap();
    assert!(enter("critical").is_err(), "the greatest limit is reached");
    drop(critical);
    // Who waits is not passed by, and is named as soon as one of its own leaves.
    let mut waits = pin!(gate.enter(ask("interactive")));
    assert!(is_pending(waits.as_mut()));
    drop(batch);
    assert!(is_pending(waits.as_mut()), "two of its class are in");
    drop(one);
    let third = waits.await.unwrap();
    drop((other, third));
    let status = gate.status();
    let batch = status.classes.iter().find(|class| class.name == "batch");
    assert_eq!((status.in_flight, batch.unwrap().in_flight), (0, 0));
    assert!(gate.try_enter(&ask("batch")).is_ok());
}

/// CPU-22: a fixed limit is never exceeded, whoever asks.
#[test]
fn a_fixed_limit_is_for_all() {
    let (_clock, source) = clock();
    let gate = Gate::with_clock(fixed(1), source).unwrap();
    let ask = |name| Ask {
        class: Some(gate.class(name).unwrap()),
        ..Ask::default()
    };
    let _batch = gate.try_enter(&ask("batch")).unwrap();
    assert!(gate.try_enter(&ask("critical")).is_err());
}

/// CPU-22: work that calls hand to a pool counts as theirs: the time until a thread takes it is run delay.
#[test]
fn what_a_pool_does_for_calls_is_told() {
    let (clock, source) = clock();
    let config = AdaptiveConfig::new(Algorithm::RunDelay { cpus: 2 }).with_bounds(1, 100);
    let gate = Gate::with_clock(GateConfig::with_limit(config), source).unwrap();
    let millis = Duration::from_millis;
    for _ in 0..64 {
        let permit = gate.try_enter(&Ask::default()).unwrap();
        let inner = clock.clone();
        let work = permit.offload().wrap(move || inner.advance(millis(3)));
        clock.advance(millis(6)); // in the pool's queue
        work();
        clock.advance(millis(1)); // waits for something else
        permit.end(Outcome::Succeeded);
    }
    let last = gate.status().adaptive.last.unwrap();
    let (waited, ran) = (last.run_delay_share.unwrap(), last.run_share.unwrap());
    assert!((waited + ran - 0.9).abs() < 1e-6, "{last:?}");
    assert!(waited >= 0.6, "{last:?}");
}

/// CPU-20, CPU-22: work that a pool holds back for long, as under a throttle, counts as waiting while it does. It does not pass for calls that wait for something
/// else, of which any number may be in, and so neither raises the limit nor fills the gate for those who are not held.
#[test]
fn what_a_pool_holds_back_does_not_fill_the_gate() {
    let (clock, source) = clock();
    let config = AdaptiveConfig::new(Algorithm::RunDelay { cpus: 2 }).with_bounds(1, 100);
    let gate = Gate::with_clock(GateConfig::with_limit(config), source).unwrap();
    let first = gate.limit();
    let ask = |name| Ask {
        class: Some(gate.class(name).unwrap()),
        ..Ask::default()
    };
    let mut held = Vec::new();
    for _ in 0..1_000 {
        while let Ok(permit) = gate.try_enter(&ask("batch")) {
            let work = permit.offload().wrap(|| ());
            held.push((permit, work));
        }
        let permit = gate.try_enter(&ask("interactive")).unwrap();
        let inner = clock.clone();
        let work = permit
            .offload()
            .wrap(move || inner.advance(Duration::from_millis(5)));
        work();
        permit.end(Outcome::Succeeded);
    }
    assert!(gate.limit() <= first, "{first} {}", gate.limit());
    assert!(held.len() <= first as usize);
    let status = gate.status();
    assert!(status.adaptive.windows > 100, "{status:?}");
    // Some never begins.
    held.truncate(1);
    held.into_iter().for_each(|(_, work)| work());
    assert_eq!(gate.in_flight(), 0);
}

/// CPU-21: the more important class has the next slot.
#[tokio::test(start_paused = true)]
async fn more_important_classes_go_first() {
    let (_clock, source) = clock();
    let gate = Gate::with_clock(fixed(1), source).unwrap();
    let ask = |name| Ask {
        class: Some(gate.class(name).unwrap()),
        ..Ask::default()
    };
    let permit = gate.try_enter(&ask("batch")).unwrap();
    let mut batch = pin!(gate.enter(ask("batch")));
    let mut critical = pin!(gate.enter(ask("critical")));
    assert!(is_pending(batch.as_mut()) && is_pending(critical.as_mut()));
    drop(permit);
    assert!(is_pending(batch.as_mut()));
    let permit = critical.await.unwrap();
    drop(permit);
    drop(batch.await.unwrap());
    assert_eq!(gate.in_flight(), 0);
}

/// CPU-22: a waiter that is dropped leaves the line, also when its slot is on its way to it: then the next has it.
#[tokio::test(start_paused = true)]
async fn a_dropped_waiter_loses_no_slot() {
    let (_clock, source) = clock();
    let gate = Gate::with_clock(fixed(1), source).unwrap();
    let permit = gate.try_enter(&Ask::default()).unwrap();
    let mut waiters: Vec<_> = (0..3)
        .map(|_| Box::pin(gate.enter(Ask::default())))
        .collect();
    for waiter in &mut waiters {
        assert!(is_pending(waiter.as_mut()));
    }
    drop(waiters.remove(1));
    assert_eq!(gate.status().waiting, 2);
    drop(permit);
    assert_eq!(gate.in_flight(), 1, "named, not yet noticed");
    drop(waiters.remove(0));
    let last = waiters.remove(0).await.unwrap();
    assert_eq!(gate.in_flight(), 1);
    drop(last);
    assert_eq!((gate.in_flight(), gate.status().waiting), (0, 0));
}

/// CPU-22: settings change while calls are in and wait; who is in stays in, more slots are filled at once.
#[tokio::test(start_paused = true)]
async fn settings_change_while_it_works() {
    let (_clock, source) = clock();
    let gate = Gate::with_clock(fixed(1), source).unwrap();
    let mut permits = vec![gate.try_enter(&Ask::default()).unwrap()];
    let waiters: Vec<_> = (0..3)
        .map(|_| {
            let gate = gate.clone();
            tokio::spawn(async move { gate.enter(Ask::default()).await.unwrap() })
        })
        .collect();
    settle().await;
    gate.set_config(&fixed(4)).unwrap();
    for waiter in waiters {
        permits.push(waiter.await.unwrap());
    }
    gate.set_config(&fixed(1)).unwrap();
    for left in (1..4).rev() {
        permits.pop();
        assert_eq!(gate.in_flight(), left);
        assert!(gate.try_enter(&Ask::default()).is_err());
    }
    permits.pop();
    assert!(gate.try_enter(&Ask::default()).is_ok());
    let faulty = GateConfig {
        classes: Vec::new(),
        ..fixed(1)
    };
    assert!(matches!(gate.set_config(&faulty), Err(Error::Classes(_))));
    assert!(gate.set_config(&fixed(0)).is_err());
    assert_eq!(gate.config(), fixed(1));
}

/// CPU-30: nobody is refused or waits, and the counts are those of what would have been: a call that would have waited holds a slot from when it would have had it.
#[test]
fn observing_refuses_nobody_and_counts_the_same() {
    let (clock, source) = clock();
    let gate = Gate::with_clock(fixed(1).with_mode(Mode::Observe), source).unwrap();
    let first = gate.try_enter(&Ask::default()).unwrap();
    let second = gate.try_enter(&Ask::default()).unwrap();
    let third = gate.try_enter(&Ask::default()).unwrap();
    assert_eq!((gate.in_flight(), gate.status().waiting), (1, 2));
    drop(first);
    assert_eq!(
        (gate.in_flight(), gate.status().waiting),
        (1, 1),
        "the second would be in"
    );
    clock.advance(WAIT * 2);
    let fourth = gate.try_enter(&Ask::default()).unwrap();
    drop((second, third));
    drop(fourth);
    let status = gate.status();
    assert_eq!((status.in_flight, status.waiting), (0, 0));
    let class = &status.classes[1];
    assert_eq!((class.entered, class.waited, class.shed_waited), (3, 3, 1));
    assert_eq!(class.shed_share(), Some(0.25));
    assert!(gate.observes());
}

/// CPU-22, CPU-30: where the line is elsewhere, who finds no slot is neither in the gate's line nor shed. While the gate observes all come in and are counted,
/// those with a slot are measured, and the limit follows them.
#[test]
fn the_line_may_be_elsewhere() {
    let (clock, source) = clock();
    let limit = AdaptiveConfig::new(Algorithm::aimd()).with_bounds(1, 4);
    let config = GateConfig::with_limit(limit.with_initial(2));
    let gate = Gate::with_clock(config.clone(), source).unwrap();
    let normal = gate.class("normal").ok();
    let slots = [(); 2].map(|()| gate.try_slot(normal).unwrap());
    assert!(gate.try_slot(normal).is_none());
    let status = gate.status();
    assert_eq!((status.in_flight, status.waiting), (2, 0));
    assert_eq!(status.adaptive.blocked, 1);
    gate.set_config(&config.with_mode(Mode::Observe)).unwrap();
    let beside = [(); 3].map(|()| gate.try_slot(normal).unwrap());
    let inside = || {
        let mut classes = gate.status().classes.into_iter();
        let class = classes.find(|class| class.name == "normal").unwrap();
        (gate.in_flight(), class.entered, class.in_flight)
    };
    assert_eq!(inside(), (2, 5, 5));
    drop(slots);
    assert_eq!(inside(), (0, 5, 3));
    drop(beside);
    assert_eq!(inside(), (0, 5, 0));
    for _ in 0..1_000 {
        let calls = [(); 8].map(|()| gate.try_slot(normal).unwrap());
        assert!(gate.in_flight() <= gate.limit());
        clock.advance(Duration::from_millis(10));
        for call in calls {
            call.end(Outcome::Succeeded);
        }
    }
    assert_eq!((gate.limit(), inside()), (4, (0, 8_005, 0)));
    let status = gate.status();
    assert!(status.classes.iter().all(|class| class.shed() == 0));
    assert_eq!(status.level, Degradation::Normal);
}

/// CPU-24: when calls are refused for a while the level rises and hooks hear of it; it falls when they are not.
#[test]
fn hooks_hear_of_levels() {
    let (clock, source) = clock();
    let config = fixed(1).with_admission(AdmissionConfig {
        queue_max: 0,
        ..AdmissionConfig::default()
    });
    let gate = Gate::with_clock(config, source).unwrap();
    let heard: Arc<Mutex<Vec<Degradation>>> = Arc::default();
    gate.on_level({
        let heard = Arc::clone(&heard);
        move |level| heard.lock().unwrap().push(level)
    });
    let permit = gate.try_enter(&Ask::default()).unwrap();
    for _ in 0..300 {
        clock.advance(Duration::from_millis(10));
        assert!(gate.try_enter(&Ask::default()).is_err());
    }
    assert_eq!(gate.level(), Degradation::Survive);
    assert_eq!(*heard.lock().unwrap(), [Degradation::Survive]);
    drop(permit);
    for _ in 0..3_000 {
        clock.advance(Duration::from_millis(10));
        assert!(gate.try_enter(&Ask::default()).is_ok());
    }
    assert_eq!(gate.level(), Degradation::Normal);
    let heard = heard.lock().unwrap();
    assert_eq!(
        heard.last(),
        Some(&Degradation::Normal),
        "the fall is heard, too"
    );
    let fell = heard.windows(2).all(|two| two[0] > two[1]);
    assert!(fell, "each level once: {heard:?}");
}

/// CPU-24: a hook that panics ends neither the thread that noticed nor the hooks after it.
#[test]
fn a_hook_that_panics_stays_alone() {
    let (clock, source) = clock();
    let mut config = fixed(1);
    config.admission.queue_max = 0;
    let gate = Gate::with_clock(config, source).unwrap();
    let heard = Arc::new(AtomicU32::new(0));
    gate.on_level(|_| panic!("on purpose"));
    gate.on_level({
        let heard = Arc::clone(&heard);
        move |_| {
            heard.fetch_add(1, Ordering::SeqCst);
        }
    });
    let _permit = gate.try_enter(&Ask::default()).unwrap();
    for _ in 0..300 {
        clock.advance(Duration::from_millis(10));
        assert!(gate.try_enter(&Ask::default()).is_err());
    }
    assert_eq!(heard.load(Ordering::SeqCst), 1);
    clock.advance(Duration::from_secs(1));
    assert_eq!(gate.status().level, Degradation::Survive);
    clock.advance(Duration::from_secs(11));
    assert_eq!(gate.status().level, Degradation::Normal);
    assert_eq!(heard.load(Ordering::SeqCst), 2);
}

/// CPU-24, CPU-30: an observing gate tells nobody to leave work out, and says what it would have told.
#[test]
fn observing_asks_nobody_to_do_less() {
    let (clock, source) = clock();
    let mut config = fixed(1);
    config.admission.queue_max = 0;
    let observing = config.clone().with_mode(Mode::Observe);
    let gate = Gate::with_clock(observing.clone(), source).unwrap();
    let heard = Arc::new(AtomicU32::new(0));
    gate.on_level({
        let heard = Arc::clone(&heard);
        move |_| {
            heard.fetch_add(1, Ordering::SeqCst);
        }
    });
    let _permit = gate.try_enter(&Ask::default()).unwrap();
    for _ in 0..300 {
        clock.advance(Duration::from_millis(10));
        assert!(gate.try_enter(&Ask::default()).is_ok());
    }
    assert_eq!(gate.status().level, Degradation::Survive);
    assert_eq!(gate.level(), Degradation::Normal);
    assert_eq!(heard.load(Ordering::SeqCst), 0);
    gate.set_config(&config).unwrap();
    assert_eq!(gate.level(), Degradation::Survive);
    gate.set_config(&observing).unwrap();
    assert_eq!(gate.level(), Degradation::Normal);
    assert_eq!(heard.load(Ordering::SeqCst), 2);
}

/// CPU-30: when a gate begins to observe, all who wait come in, threads and tasks.
#[tokio::test(start_paused = true)]
async fn who_waits_comes_in_when_observing_begins() {
    let (clock, source) = clock();
    let gate = Gate::with_clock(fixed(1), source).unwrap();
    let permit = gate.try_enter(&Ask::default()).unwrap();
    let waiter = tokio::spawn({
        let gate = gate.clone();
        async move { gate.enter(Ask::default()).await.unwrap() }
    });
    let late = tokio::spawn({
        let gate = gate.clone();
        async move { gate.enter(Ask::default()).await.unwrap() }
    });
    let thread = std::thread::spawn({
        let gate = gate.clone();
        move || gate.enter_blocking(&Ask::default()).unwrap()
    });
    settle().await;
    while gate.status().waiting < 3 {
        std::thread::yield_now();
    }
    gate.set_config(&fixed(1).with_mode(Mode::Observe)).unwrap();
    let inside = (waiter.await.unwrap(), thread.join().unwrap());
    assert_eq!((gate.in_flight(), gate.status().waiting), (1, 3));
    advance(&clock, WAIT * 2).await;
    let late = late.await.unwrap();
    drop(permit);
    drop((inside, late));
    let status = gate.status();
    assert_eq!((status.in_flight, status.waiting), (0, 0));
}

/// CPU-22: where those before it are over their time, a call of a lesser class does not come in beyond the limit in their place.
#[tokio::test(start_paused = true)]
async fn nobody_comes_in_for_who_is_too_late() {
    let (clock, source) = clock();
    let limit = AdaptiveConfig::new(Algorithm::RunDelay { cpus: 2 });
    let config = GateConfig::with_limit(limit.with_bounds(2, 5).with_initial(2));
    let gate = Gate::with_clock(config, source).unwrap();
    let ask = |name| Ask {
        class: Some(gate.class(name).unwrap()),
        ..Ask::default()
    };
    let enter = |name| gate.try_enter(&ask(name)).unwrap();
    let batch = (enter("batch"), enter("batch"));
    let (one, other) = (enter("interactive"), enter("interactive"));
    let mut soon = pin!(gate.enter(ask("interactive")));
    let mut later = pin!(gate.enter(Ask {
        deadline: Some(Timestamp::from_nanos(3_000_000_000)),
        ..ask("batch")
    }));
    assert!(is_pending(soon.as_mut()) && is_pending(later.as_mut()));
    clock.advance(WAIT * 2);
    drop(one);
    assert!(is_pending(later.as_mut()));
    assert_eq!(gate.in_flight(), 3);
    assert_eq!(soon.await.unwrap_err().reason, ShedReason::Waited);
    drop((batch, other));
    drop(later.await.unwrap());
    assert_eq!(gate.in_flight(), 0);
}

/// CPU-22: a limit on failures shrinks as sampled calls fail, and the change is told with its reason.
#[test]
fn the_limit_follows_what_calls_tell() {
    let (clock, source) = clock();
    let config = AdaptiveConfig::new(Algorithm::aimd()).with_initial(100);
    let gate = Gate::with_clock(GateConfig::with_limit(config), source).unwrap();
    for _ in 0..200 {
        let permit = gate.try_enter(&Ask::default()).unwrap();
        clock.advance(Duration::from_millis(1));
        permit.end(Outcome::Failed);
    }
    assert!(gate.limit() < 100);
    let status = gate.status();
    assert_eq!(status.changes.last().unwrap().change.to, gate.limit());
    assert!(status.adaptive.failed == 200 && status.sampled_one_in == 1);
}

/// CPU-22: the slower queues of a runtime are run delay: a future that waits for its polls lowers the limit.
#[test]
fn futures_that_wait_for_their_polls_lower_the_limit() {
    let (clock, source) = clock();
    let config = AdaptiveConfig::new(Algorithm::RunDelay { cpus: 2 }).with_initial(100);
    let gate = Gate::with_clock(GateConfig::with_limit(config), source).unwrap();
    let mut inside = std::collections::VecDeque::new();
    for _ in 0..4_000 {
        // There are always more, and all who are in are ready; one CPU polls one after the other.
        while let Ok(mut permit) = gate.try_enter(&Ask::default()) {
            let mut context = Context::from_waker(Waker::noop());
            let _ = permit.poll(&mut context, |context| {
                context.waker().wake_by_ref();
                Poll::<()>::Pending
            });
            inside.push_back(permit);
        }
        if let Some(mut permit) = inside.pop_front() {
            let mut context = Context::from_waker(Waker::noop());
            let _ = permit.poll(&mut context, |_| {
                clock.advance(Duration::from_millis(1));
                Poll::Ready(())
            });
            permit.end(Outcome::Succeeded);
        }
    }
    let changes = gate.status().changes;
    assert_eq!(changes[0].change.reason, Reason::RunDelay, "{changes:?}");
    // One CPU, and what keeps it busy.
    assert!((2..=6).contains(&gate.limit()), "{changes:?}");
}

/// CPU-22: threads and tasks share the slots; never more than the limit are in, and nothing is left over, whatever is cancelled when.
#[test]
fn threads_and_tasks_share_the_slots() {
    let patient = AdmissionConfig {
        deadline: Duration::from_secs(3_000),
        deadline_max: Duration::from_secs(3_000),
        ..AdmissionConfig::default()
    };
    let gate = Gate::new(fixed(3).with_admission(patient)).unwrap();
    let inside = Arc::new(AtomicU32::new(0));
    let ended = Arc::new(AtomicU64::new(0));
    let work = {
        let (inside, ended) = (Arc::clone(&inside), Arc::clone(&ended));
        move || {
            assert!(inside.fetch_add(1, Ordering::SeqCst) < 3);
            std::thread::yield_now();
            inside.fetch_sub(1, Ordering::SeqCst);
            ended.fetch_add(1, Ordering::SeqCst);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    let _permit = gate.enter_blocking(&Ask::default()).unwrap();
                    work();
                }
            });
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let tasks: Vec<_> = (0..8)
                .map(|task| {
                    let (gate, work) = (gate.clone(), work.clone());
                    tokio::spawn(async move {
                        for turn in 0..100 {
                            let mut enter = pin!(gate.enter(Ask::default()));
                            if (turn + task) % 3 == 0 {
                                // Gives up after one look.
                                let _ = std::future::poll_fn(|context| {
                                    Poll::Ready(enter.as_mut().poll(context).is_ready())
                                })
                                .await;
                                continue;
                            }
                            let permit = enter.await.unwrap();
                            work();
                            tokio::task::yield_now().await;
                            permit.end(Outcome::Succeeded);
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        });
    });
    let status = gate.status();
    assert_eq!((status.in_flight, status.waiting), (0, 0));
    assert!(ended.load(Ordering::SeqCst) >= 800 + 8 * 66);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// CPU-22: whatever is entered, dropped, cancelled and changed when: in flight is what permits say, above the limit only by what a lowered limit left over; nobody
    /// waits beside a free slot; and figures add up.
    #[test]
    fn it_keeps_its_books(
        limit in 1u32..4, observe in prop::bool::ANY,
        steps in prop::collection::vec((0u8..8, 0u64..60, 0usize..5), 1..150),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let _inside = runtime.enter();
        let (clock, source) = clock();
        let mode = if observe { Mode::Observe } else { Mode::Enforce };
        let gate = Gate::with_clock(fixed(limit).with_mode(mode), source).unwrap();
        let classes = ["critical", "interactive", "normal", "batch", "idle"].map(|name| gate.class(name).unwrap());
        let (mut permits, mut waiters, mut above) = (Vec::new(), Vec::new(), 0);
        let mut asked = 0u64;
        for (what, millis, which) in steps {
            clock.advance(Duration::from_millis(millis));
            let ask = Ask { class: Some(classes[which]), cohort: Some(which as u64), ..Ask::default() };
            match what {
                0..=2 => {
                    asked += 1;
                    let mut waiter = Box::pin(gate.enter(ask));
                    match waiter.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                        Poll::Ready(Ok(permit)) => permits.push(permit),
                        Poll::Ready(Err(_)) => prop_assert!(!observe),
                        Poll::Pending => { prop_assert!(!observe); waiters.push(waiter); }
                    }
                }
                3 | 4 if which < permits.len() => permits.swap_remove(which).end(Outcome::Succeeded),
                5 if which < waiters.len() => drop(waiters.swap_remove(which)),
                6 => {
                    gate.set_config(&fixed(which as u32 + 1).with_mode(mode)).unwrap();
                    above = gate.in_flight();
                }
                _ => {
                    let mut still = Vec::new();
                    for mut waiter in waiters.drain(..) {
                        match waiter.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                            Poll::Ready(Ok(permit)) => permits.push(permit),
                            Poll::Ready(Err(_)) => {}
                            Poll::Pending => still.push(waiter),
                        }
                    }
                    waiters = still;
                }
            }
            let status = gate.status();
            above = above.min(status.in_flight);
            prop_assert!(status.in_flight <= status.limit.max(above));
            prop_assert!(status.waiting == 0 || status.in_flight >= status.limit, "{:?}", status);
            prop_assert!(status.waiting as usize <= waiters.len() + permits.len());
            if !observe {
                prop_assert!(permits.len() <= status.in_flight as usize);
                prop_assert!(status.in_flight as usize <= permits.len() + waiters.len());
            }
        }
        drop((permits, waiters));
        let status = gate.status();
        prop_assert_eq!((status.in_flight, status.waiting), (0, 0));
        let counted: u64 = status.classes.iter().map(|class| class.entered + class.shed() + class.cancelled).sum();
        prop_assert_eq!(counted, asked);
        prop_assert_eq!(status.admission.arrived, asked);
    }
}
