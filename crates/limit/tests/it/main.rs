//! The shells: what is decided is tested with the policies; here it is that every decision is acted on, whatever is dropped when.

mod breaking;
mod bulkheads;
mod gates;
mod hedging;
mod retrying;

use flyball_core::time::{ManualClock, Source};
use std::time::Duration;

/// A clock and the source that shows it. Tests move it together with tokio's paused time.
fn clock() -> (ManualClock, Source) {
    let clock = ManualClock::new();
    (clock.clone(), Source::Manual(clock))
}

async fn advance(clock: &ManualClock, by: Duration) {
    clock.advance(by);
    tokio::time::advance(by).await;
}

/// Lets every task that can go on do so.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}
