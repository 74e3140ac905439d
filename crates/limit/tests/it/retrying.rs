//! Retries.

use std::cell::Cell;
use std::time::Duration;

use flyball_limit::{Again, Backoff, Retry, RetryBudget, RetryBudgetConfig};
use tokio::time::Instant;

use crate::clock;

fn backoff(max_attempts: u32) -> Backoff {
    Backoff {
        max_attempts,
        base: Duration::from_millis(100),
        ..Backoff::default()
    }
}

fn budget(ratio: f64, floor_per_second: f64) -> RetryBudget {
    let (_clock, source) = clock();
    let config = RetryBudgetConfig {
        ratio,
        floor_per_second,
        ..RetryBudgetConfig::default()
    };
    RetryBudget::with_clock(config, source).unwrap()
}

/// TASK-7: tried until it goes well, at most as often as allowed; what is not worth it is not tried again.
#[tokio::test(start_paused = true)]
async fn attempts_are_counted_and_judged() {
    let retry = Retry::new(backoff(3)).unwrap().with_seed(1);
    let yes = |_: &&str| Again::Yes;
    let good = retry.call(
        |attempt| async move {
            if attempt == 3 {
                Ok(attempt)
            } else {
                Err("down")
            }
        },
        yes,
    );
    assert_eq!(good.await, Ok(3));
    let made = Cell::new(0);
    let count = |_| {
        made.set(made.get() + 1);
        async { Err::<(), _>("down") }
    };
    assert_eq!(retry.call(count, yes).await, Err("down"));
    assert_eq!(made.replace(0), 3);
    assert_eq!(retry.call(count, |_| Again::No).await, Err("down"));
    assert_eq!(made.get(), 1);
}

/// TASK-7: a dependency that says when is asked then.
#[tokio::test(start_paused = true)]
async fn retry_after_is_respected() {
    let retry = Retry::new(backoff(2)).unwrap().with_seed(1);
    let began = Instant::now();
    let asked = Duration::from_secs(20);
    let _ = retry
        .call(async |_| Err::<(), _>(asked), |after| Again::After(*after))
        .await;
    let took = began.elapsed();
    assert!(took >= asked && took <= asked + Duration::from_millis(200));
}

/// TASK-7: when everything fails, all calls together make a fifth more attempts.
#[tokio::test(start_paused = true)]
async fn an_outage_adds_a_fifth() {
    let budget = budget(0.2, 0.0);
    let retry = Retry::new(backoff(3)).unwrap().with_budget(budget.clone());
    let made = Cell::new(0);
    for _ in 0..500 {
        let count = |_| {
            made.set(made.get() + 1);
            async { Err::<(), _>(()) }
        };
        let _ = retry.call(count, |()| Again::Yes).await;
    }
    assert_eq!(made.get(), 600);
    assert_eq!(budget.stats().refused, 500);
}

/// TASK-7: a call that is dropped while it waits for its retry gives the retry back; one that is dropped in the retry does not.
#[tokio::test(start_paused = true)]
async fn a_dropped_wait_gives_its_retry_back() {
    let budget = budget(0.0, 1.0);
    let retry = Retry::new(Backoff {
        base: Duration::from_secs(3_600),
        cap: Duration::from_secs(3_600),
        ..Backoff::default()
    })
    .unwrap()
    .with_budget(budget.clone())
    .with_seed(1);
    for _ in 0..10 {
        let call = retry.call(async |_| Err::<(), _>(()), |()| Again::Yes);
        let dropped = tokio::time::timeout(Duration::from_secs(1), call).await;
        assert!(dropped.is_err());
        assert_eq!(budget.stats().available, 1);
    }
    let hangs = retry.call(
        |attempt| async move {
            if attempt == 2 {
                std::future::pending::<()>().await;
            }
            Err::<(), _>(())
        },
        |()| Again::Yes,
    );
    let dropped = tokio::time::timeout(Duration::from_secs(7_200), hangs).await;
    assert!(dropped.is_err());
    assert_eq!(budget.stats().available, 0);
}

/// TASK-7: on a plain thread.
#[test]
fn a_thread_retries_too() {
    let retry = Retry::new(Backoff {
        base: Duration::from_millis(1),
        ..Backoff::default()
    })
    .unwrap()
    .with_budget(RetryBudget::default());
    let answer = retry.call_blocking(
        |attempt| if attempt == 3 { Ok(attempt) } else { Err(()) },
        |()| Again::Yes,
    );
    assert_eq!(answer, Ok(3));
}
