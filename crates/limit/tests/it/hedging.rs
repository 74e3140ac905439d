//! Hedged calls.

use std::cell::Cell;
use std::future::pending;
use std::rc::Rc;
use std::time::Duration;

use flyball_limit::{Hedge, HedgeConfig, HedgeDelay};

use crate::clock;

const DELAY: Duration = Duration::from_millis(50);

fn hedge(ratio: f64) -> Hedge {
    let (_clock, source) = clock();
    let config = HedgeConfig {
        delay: HedgeDelay::Fixed(DELAY),
        ratio,
        ..HedgeConfig::default()
    };
    Hedge::with_clock(config, source).unwrap()
}

/// TASK-9: a call that hangs is made a second time, and that one's answer counts.
#[tokio::test(start_paused = true)]
async fn the_second_call_answers() {
    let hedge = hedge(1.0);
    let calls = Cell::new(0);
    let answer = hedge
        .call(|| {
            calls.set(calls.get() + 1);
            let call = calls.get();
            async move {
                if call == 1 {
                    pending::<()>().await;
                }
                Ok::<_, ()>(call)
            }
        })
        .await;
    assert_eq!(answer, Ok(2));
    let stats = hedge.stats();
    assert_eq!((stats.calls, stats.hedged, stats.won), (1, 1, 1));
}

/// TASK-9: an error of one does not spoil the other's answer; both failing is a failure.
#[tokio::test(start_paused = true)]
async fn the_first_good_answer_counts() {
    let hedge = hedge(1.0);
    for first_is_good in [true, false, false] {
        let calls = Cell::new(0);
        let answer = hedge
            .call(|| {
                calls.set(calls.get() + 1);
                let first = calls.get() == 1;
                async move {
                    tokio::time::sleep(if first { DELAY * 3 } else { DELAY }).await;
                    if first == first_is_good {
                        Ok(first)
                    } else {
                        Err(())
                    }
                }
            })
            .await;
        assert_eq!(answer, Ok(first_is_good));
    }
    let both = hedge.call(|| async {
        tokio::time::sleep(DELAY * 2).await;
        Err::<(), _>("down")
    });
    assert_eq!(both.await, Err("down"));
    // One that fails early is not repeated.
    assert_eq!(
        hedge.call(async || Err::<(), _>("early")).await,
        Err("early")
    );
    assert_eq!(hedge.stats().hedged, 4);
}

/// TASK-9: without budget the call is waited for; it is opt-in and bounded.
#[tokio::test(start_paused = true)]
async fn the_budget_bounds_it() {
    let hedge = hedge(0.1);
    for _ in 0..100 {
        let slow = hedge.call(|| async {
            tokio::time::sleep(DELAY * 10).await;
            Ok::<_, ()>(())
        });
        slow.await.unwrap();
    }
    let stats = hedge.stats();
    assert_eq!((stats.calls, stats.hedged, stats.refused), (100, 10, 90));
}

/// TASK-9: the loser is dropped, and dropping the whole drops both.
#[tokio::test(start_paused = true)]
async fn nothing_is_left_running() {
    struct Alive(Rc<Cell<i32>>);
    impl Drop for Alive {
        fn drop(&mut self) {
            self.0.set(self.0.get() - 1);
        }
    }
    let hedge = hedge(1.0);
    let alive = Rc::new(Cell::new(0));
    let made = Cell::new(0);
    let call = |second_answers: bool| {
        let (alive, made) = (Rc::clone(&alive), &made);
        move || {
            made.set(made.get() + 1);
            alive.set(alive.get() + 1);
            let held = Alive(Rc::clone(&alive));
            let answers = second_answers && made.get() == 2;
            async move {
                let _held = held;
                if !answers {
                    pending::<()>().await;
                }
                Ok::<_, ()>(())
            }
        }
    };
    hedge.call(call(true)).await.unwrap();
    assert_eq!((made.get(), alive.get()), (2, 0));
    made.set(0);
    let dropped = tokio::time::timeout(DELAY * 2, hedge.call(call(false))).await;
    assert!(dropped.is_err());
    assert_eq!((made.get(), alive.get()), (2, 0));
}
