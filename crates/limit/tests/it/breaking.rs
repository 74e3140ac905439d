//! Breakers.

use std::cell::Cell;
use std::future::pending;
use std::time::Duration;

use flyball_limit::{
    Breaker, BreakerConfig, BreakerState, Breakers, CallError, Error, Forced, Refusal, Verdict,
};

use crate::{advance, clock, settle};

const MINUTE: Duration = Duration::from_secs(60);

async fn fail(breaker: &Breaker, times: u32) {
    for _ in 0..times {
        let _ = breaker.call(async || Err::<(), _>("down")).await;
    }
}

/// TASK-8: calls fail, the breaker opens, callers are told until when and nothing is sent; it probes and closes.
#[tokio::test(start_paused = true)]
async fn a_dependency_is_spared_and_tried_again() {
    let (clock, source) = clock();
    let breaker = Breaker::with_clock(BreakerConfig::default(), source, 1).unwrap();
    fail(&breaker, 20).await;
    assert_eq!(breaker.status().state, BreakerState::Open);
    let made = Cell::new(false);
    let refused = breaker
        .call(|| {
            made.set(true);
            async { Ok::<_, &str>(()) }
        })
        .await;
    let Err(CallError::Refused(refused)) = refused else {
        panic!("{refused:?}")
    };
    assert!(!made.get());
    assert!(matches!(refused.reason, Refusal::Open(_)));
    let after = refused.retry_after.unwrap();
    assert!(after >= Duration::from_millis(999) && after <= Duration::from_secs(3));
    advance(&clock, after).await;
    for _ in 0..15 {
        breaker.call(async || Ok::<_, &str>(())).await.unwrap();
    }
    assert_eq!(breaker.status().state, BreakerState::Closed);
}

/// TASK-8: the fallback answers where the call was refused, and where it failed.
#[tokio::test(start_paused = true)]
async fn a_fallback_answers_instead() {
    let (_clock, source) = clock();
    let breaker = Breaker::with_clock(BreakerConfig::default(), source, 1).unwrap();
    for turn in 0..40 {
        let fallback = async |error| match error {
            CallError::Refused(_) => Ok::<_, ()>("refused"),
            CallError::Failed("down") => Ok("failed"),
            other => panic!("{other:?}"),
        };
        let answer = breaker
            .call_or(async || Err::<&str, _>("down"), fallback)
            .await;
        assert_eq!(answer, Ok(if turn < 20 { "failed" } else { "refused" }));
    }
}

/// TASK-8: the caller says which errors are the dependency's.
#[tokio::test(start_paused = true)]
async fn errors_are_classified() {
    let (_clock, source) = clock();
    let breaker = Breaker::with_clock(BreakerConfig::default(), source, 1).unwrap();
    for _ in 0..100 {
        let answer = breaker
            .call_judged(
                async || Err::<(), _>("not found"),
                |result| match result {
                    Ok(()) | Err("not found") => Verdict::Success,
                    Err(_) => Verdict::Failure,
                },
            )
            .await;
        assert_eq!(answer, Err(CallError::Failed("not found")));
    }
    let status = breaker.status();
    assert_eq!(
        (status.state, status.calls, status.failures),
        (BreakerState::Closed, 100, 0)
    );
}

/// TASK-8: slow calls open it: those that succeed late, those that the breaker's own timeout ended, and those that somebody gave up.
#[tokio::test(start_paused = true)]
async fn slow_calls_open_it() {
    let config = BreakerConfig {
        slow_call: Some(Duration::from_millis(100)),
        ..BreakerConfig::default()
    };
    let (clock, source) = clock();
    let late = Breaker::with_clock(config, source.clone(), 1).unwrap();
    let given_up = Breaker::with_clock(config, source.clone(), 1).unwrap();
    let timed_out = Breaker::with_clock(BreakerConfig::default(), source, 1).unwrap();
    for _ in 0..20 {
        let pass = late.enter().unwrap();
        let dropped = given_up.enter().unwrap();
        let hanging = timed_out.call_within(Duration::from_millis(50), pending::<Result<(), ()>>);
        assert!(matches!(hanging.await, Err(CallError::TimedOut(_))));
        advance(&clock, Duration::from_millis(150)).await;
        pass.end(Verdict::Success);
        drop(dropped);
    }
    for breaker in [&late, &given_up, &timed_out] {
        assert_eq!(breaker.status().state, BreakerState::Open);
    }
    assert_eq!(given_up.status().opened, 1);
}

/// TASK-8: a probe whose future is dropped is given back, so that another one may try.
#[tokio::test(start_paused = true)]
async fn a_dropped_probe_comes_back() {
    let (clock, source) = clock();
    let breaker = Breaker::with_clock(BreakerConfig::default(), source, 1).unwrap();
    fail(&breaker, 20).await;
    advance(&clock, MINUTE).await;
    for _ in 0..5 {
        let probe = tokio::spawn({
            let breaker = breaker.clone();
            async move { breaker.call(pending::<Result<(), ()>>).await }
        });
        settle().await;
        assert_eq!(breaker.refusal().unwrap().reason, Refusal::Probing);
        probe.abort();
        assert!(probe.await.unwrap_err().is_cancelled());
        assert_eq!(breaker.refusal(), None);
    }
    breaker.call(async || Ok::<_, ()>(())).await.unwrap();
    assert_eq!(breaker.status().probes, Some(2));
}

/// TASK-8: a call that panics has failed.
#[test]
fn a_panic_is_a_failure() {
    let breaker = Breaker::new(BreakerConfig::default()).unwrap();
    for _ in 0..20 {
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            breaker.call_blocking(|| -> Result<(), ()> { std::panic::resume_unwind(Box::new("")) })
        }));
        panicked.unwrap_err();
    }
    assert_eq!(breaker.status().state, BreakerState::Open);
    let refused = breaker.call_blocking(|| Ok::<_, String>(())).unwrap_err();
    assert!(refused.to_string().starts_with("the breaker is open"));
}

/// TASK-8: forced by people, set back, and changed while calls are out.
#[tokio::test(start_paused = true)]
async fn it_is_adjusted_while_it_works() {
    let (_clock, source) = clock();
    let breaker = Breaker::with_clock(BreakerConfig::default(), source, 1).unwrap();
    let out = breaker.enter().unwrap();
    breaker.force(Some(Forced::Open));
    assert_eq!(breaker.enter().unwrap_err().reason, Refusal::Forced);
    breaker.force(None);
    let strict = BreakerConfig {
        min_calls: 5,
        ..breaker.config()
    };
    breaker.set_config(strict).unwrap();
    fail(&breaker, 5).await;
    assert_eq!(breaker.status().state, BreakerState::Open);
    breaker.reset();
    assert_eq!(breaker.status().state, BreakerState::Closed);
    out.end(Verdict::Failure);
    assert_eq!(breaker.status().failures, 0, "of an earlier time");
    let bad = BreakerConfig {
        min_calls: 0,
        ..strict
    };
    assert!(matches!(breaker.set_config(bad), Err(Error::Setting(_))));
    assert_eq!(breaker.config(), strict);
}

/// TASK-8: many threads: what was counted adds up.
#[test]
fn many_threads_share_a_breaker() {
    let (_clock, source) = clock();
    let breaker = Breaker::with_clock(BreakerConfig::default(), source, 1).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let breaker = &breaker;
            scope.spawn(move || {
                for call in 0..1_000 {
                    let result = if (call + thread) % 4 == 0 {
                        Err(())
                    } else {
                        Ok(())
                    };
                    let _ = breaker.call_blocking(|| result);
                }
            });
        }
    });
    let status = breaker.status();
    assert_eq!(
        (status.calls, status.failures, status.in_flight),
        (4_000, 1_000, 0)
    );
}

/// TASK-8: one breaker a dependency; those that know nothing make room, those that are open, forced or held do not.
#[tokio::test(start_paused = true)]
async fn breakers_are_kept_by_key_and_bounded() {
    let (clock, source) = clock();
    let breakers = Breakers::with_clock(BreakerConfig::default(), 4, source).unwrap();
    fail(&breakers.get("down").unwrap(), 20).await;
    breakers.get("forced").unwrap().force(Some(Forced::Closed));
    let held = breakers.get("held").unwrap();
    breakers
        .get("used")
        .unwrap()
        .call_blocking(|| Ok::<_, ()>(()))
        .unwrap();
    let error = breakers.get("new").unwrap_err();
    assert!(matches!(error, Error::TooManyBreakers { most: 4, .. }));
    advance(&clock, MINUTE).await;
    breakers.get("new").unwrap();
    assert!(matches!(
        breakers.find("used"),
        Err(Error::UnknownBreaker { .. })
    ));
    let names: Vec<_> = breakers.list().into_iter().map(|(key, _)| key).collect();
    assert_eq!(names, ["down", "forced", "held", "new"].map(Box::from));
    drop(held);
    let config = BreakerConfig {
        min_calls: 7,
        ..BreakerConfig::default()
    };
    breakers.set_config(config).unwrap();
    assert_eq!(breakers.find("new").unwrap().config().min_calls, 7);
    assert_eq!(breakers.get("newer").unwrap().config().min_calls, 7);
}

/// CPU-30: a breaker that observes opens and says whom it would refuse, and makes every call.
#[tokio::test(start_paused = true)]
async fn observing_makes_every_call() {
    let (_clock, source) = clock();
    let config = BreakerConfig {
        observe: true,
        ..BreakerConfig::default()
    };
    let breaker = Breaker::with_clock(config, source, 1).unwrap();
    for _ in 0..30 {
        let answer = breaker.call(|| async { Err::<(), _>("down") }).await;
        assert_eq!(answer, Err(CallError::Failed("down")));
    }
    let status = breaker.status();
    assert_eq!((status.state, status.refused), (BreakerState::Open, 10));
    assert!(breaker.refusal().is_none());
    let verdict = breaker.verdict().unwrap();
    assert!(matches!(verdict.reason, Refusal::Open(_)) && verdict.retry_after.is_some());
    // It can be told to act.
    breaker.set_config(BreakerConfig::default()).unwrap();
    assert!(breaker.enter().is_err());
}
