//! Dependencies that fail: left alone, tried again, checked first, replaced.

use crate::Test;
use crate::stage::{Stage, call, handled, quiet};
use flyball_policy::limit::{BreakerConfig, BreakerState, Forced};
use flyball_tasks::run::{Happened, HealthCheck, RunSettings, TaskError};
use flyball_tasks::{Outcome, State, TaskQueue, Waiting};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(crate) const TESTS: &[Test] = &[
    (
        "breakers::a_failing_kind_waits_and_comes_back",
        a_failing_kind_waits_and_comes_back,
    ),
    (
        "breakers::who_was_taken_with_a_try_goes_back_at_once",
        who_was_taken_with_a_try_goes_back_at_once,
    ),
    ("breakers::a_fallback_takes_over", a_fallback_takes_over),
    (
        "breakers::calls_of_a_failing_host_go_back",
        calls_of_a_failing_host_go_back,
    ),
    ("breakers::a_check_goes_first", a_check_goes_first),
    (
        "breakers::observing_turns_nobody_away",
        observing_turns_nobody_away,
    ),
];

fn settings(open: Duration) -> RunSettings {
    let mut settings = quiet();
    settings.breaker = BreakerConfig {
        min_calls: 5,
        open_min: open,
        open_max: open,
        ..BreakerConfig::default()
    };
    settings
}

/// Fails while it is told to.
fn shaky(stage: &Stage) -> Arc<AtomicBool> {
    let broken = Arc::new(AtomicBool::new(true));
    let its = Arc::clone(&broken);
    stage
        .handlers
        .register("shaky", move |_, (): ()| {
            let broken = its.load(Ordering::SeqCst);
            async move {
                if broken {
                    return Err(TaskError::retry("down"));
                }
                Ok(())
            }
        })
        .unwrap();
    broken
}

fn fail_until_open(stage: &Stage) {
    while stage
        .runners
        .breakers()
        .first()
        .is_none_or(|known| known.breaker.state == BreakerState::Closed)
    {
        let id = stage.queue.add(handled("shaky", "null"));
        stage.queue.wait_end(id, 1);
        // Its breaker hears of the end after the queue.
        while !stage.runners.running().is_empty() {
            std::thread::yield_now();
        }
    }
}

/// TASK-8, TASK-16: a kind that fails is not taken while its breaker is open, why says so, and people may close it.
fn a_failing_kind_waits_and_comes_back() {
    let stage = Stage::new(settings(Duration::from_secs(3600)));
    let broken = shaky(&stage);
    stage
        .handlers
        .register("well", |_, (): ()| async { Ok(()) })
        .unwrap();
    fail_until_open(&stage);
    let events = stage.runners.events_after(0);
    assert!(
        events.iter().any(
            |event| matches!(&event.what, Happened::BreakerOpened { key, observed: false } if &**key == "shaky")
        )
    );
    let (waits, well) = (
        stage.queue.add(handled("shaky", "null")),
        stage.queue.add(handled("well", "null")),
    );
    stage.queue.wait_state(well, State::Completed);
    // A request that was out may have had it taken; it goes back and does not wait for a time then.
    stage.queue.wait_state(waits, State::Pending);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let task = runtime.block_on(stage.queue.task(waits)).unwrap();
    let why = stage.runners.why(&task);
    assert!(
        matches!(&why[..], [Waiting::Breaker { key, until: Some(_) }] if &**key == "shaky"),
        "{why:?}"
    );
    broken.store(false, Ordering::SeqCst);
    stage.runners.reset_breaker("shaky").unwrap();
    stage.queue.wait_state(waits, State::Completed);
    stage
        .runners
        .force_breaker("shaky", Some(Forced::Open))
        .unwrap();
    let waits = stage.queue.add(handled("shaky", "null"));
    let well = stage.queue.add(handled("well", "null"));
    stage.queue.wait_state(well, State::Completed);
    // A request that was out may have had it taken; it goes back and does not wait for a time then.
    stage.queue.wait_state(waits, State::Pending);
    // TASK-8: switched off, nothing is refused.
    let mut off = settings(Duration::from_secs(3600));
    off.circuit_breaker = false;
    stage.runners.set(off).unwrap();
    stage.queue.wait_state(waits, State::Completed);
}

/// TASK-8: tasks of a kind that were taken together, more than may try it again, go back without a time to wait for, and go on as the tries go well.
fn who_was_taken_with_a_try_goes_back_at_once() {
    let mut config = settings(Duration::from_millis(1));
    let stage = Stage::new(config.clone());
    let broken = shaky(&stage);
    fail_until_open(&stage);
    config.enabled = false;
    stage.runners.set(config.clone()).unwrap();
    broken.store(false, Ordering::SeqCst);
    let ids: Vec<_> = (0..20)
        .map(|_| stage.queue.add(handled("shaky", "null")))
        .collect();
    config.enabled = true;
    stage.runners.set(config).unwrap();
    for id in ids {
        stage.queue.wait_state(id, State::Completed);
    }
}

/// TASK-8: where a kind has a fallback, that runs while the breaker is open.
fn a_fallback_takes_over() {
    let stage = Stage::new(settings(Duration::from_secs(3600)));
    shaky(&stage);
    stage
        .handlers
        .register_fallback("shaky", |_, (): ()| async { Ok("instead") })
        .unwrap();
    fail_until_open(&stage);
    let id = stage.queue.add(handled("shaky", "null"));
    let end = stage.queue.wait_end(id, 1);
    assert_eq!(end.result.as_deref(), Some(&br#""instead""#[..]));
}

/// TASK-8: calls of a host that fails go back for as long as its breaker is open, at no cost; calls of others are made.
fn calls_of_a_failing_host_go_back() {
    // Nobody listens there any more.
    let gone = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let stage = Stage::new(settings(Duration::from_secs(3600)));
    let returned = loop {
        let id = stage.queue.add(call(&format!("http://{gone}/x")));
        let end = stage.queue.wait_end(id, 1);
        match end.outcome {
            Some(Outcome::Failed {
                retryable: true, ..
            }) => {}
            Some(Outcome::Returned { after }) => break after,
            other => panic!("{other:?}"),
        }
    };
    assert!(returned > Duration::from_secs(3000), "{returned:?}");
    assert_eq!(stage.runners.breakers()[0].key, gone.to_string().into());
    let other = crate::http::server(|_| crate::http::answer(200, &[], "fine"));
    let id = stage.queue.add(call(&other.url("/")));
    assert_eq!(stage.queue.wait_end(id, 1).outcome, Some(Outcome::Done));
    stage.wait_idle();
}

/// TASK-9: where a dependency has a check, it is tried again only after the check succeeds.
fn a_check_goes_first() {
    let well = Arc::new(AtomicBool::new(false));
    let its = Arc::clone(&well);
    let asked = Arc::new(tokio::sync::watch::Sender::new(0_u32));
    let its_asked = Arc::clone(&asked);
    let server = crate::http::server(move |_| {
        its_asked.send_modify(|asked| *asked += 1);
        let status = if its.load(Ordering::SeqCst) { 200 } else { 500 };
        crate::http::answer(status, &[], "")
    });
    let mut checked = settings(Duration::from_millis(1));
    checked.checks = [("shaky".into(), HealthCheck::Url(server.url("/health")))].into();
    let stage = Stage::new(checked.clone());
    let broken = shaky(&stage);
    fail_until_open(&stage);
    broken.store(false, Ordering::SeqCst);
    let id = stage.queue.add(handled("shaky", "null"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let mut first = asked.subscribe();
    runtime
        .block_on(first.wait_for(|asked| *asked > 0))
        .unwrap();
    // It may have been taken before its kind was left out, and gone back.
    assert!(!stage.queue.inner().tasks[&id.0].state.is_terminal());
    let known = &stage.runners.breakers()[0];
    assert!(known.has_check && known.breaker.state != BreakerState::Closed);
    well.store(true, Ordering::SeqCst);
    runtime
        .block_on(first.wait_for(|asked| *asked > 1))
        .unwrap();
    stage.queue.wake_returned();
    stage.queue.wait_state(id, State::Completed);
    assert!(*asked.borrow() >= 2);
}

/// CPU-30: breakers that observe open on the same failures, count and tell whom they would have turned away, and turn nobody away.
fn observing_turns_nobody_away() {
    let mut settings = settings(Duration::from_secs(3600));
    settings.breaker.observe = true;
    let stage = Stage::new(settings);
    shaky(&stage);
    for _ in 0..20 {
        let id = stage.queue.add(handled("shaky", "null"));
        let end = stage.queue.wait_end(id, 1);
        assert!(
            matches!(end.outcome, Some(Outcome::Failed { .. })),
            "{end:?}"
        );
    }
    let known = stage.runners.breakers();
    assert_eq!(known[0].breaker.state, BreakerState::Open);
    assert!(known[0].config.observe);
    let refused = known[0].breaker.refused;
    assert!((1..20).contains(&refused), "{refused}");
    let opened = stage.runners.events_after(0).into_iter().any(
        |event| matches!(&event.what, Happened::BreakerOpened { key, observed: true } if &**key == "shaky"),
    );
    assert!(opened);
}
