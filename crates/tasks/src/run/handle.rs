//! Runs a handler in the executor's class of its task.

use crate::run::context::{Live, Stop, TaskContext};
use crate::run::ended::Ended;
use crate::run::handlers::Work;
use bytes::Bytes;
use flyball_executor::{Class, Handle};
use flyball_policy::queue::Reason;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

/// How long a task waits for which the class had no room.
const ROOM_WAIT: Duration = Duration::from_secs(1);

/// Runs it to its end, or until it obeys being told to end.
pub(crate) async fn run(
    work: Work,
    class: Class,
    live: Arc<Live>,
    payload: Bytes,
    affinity: Option<Box<str>>,
) -> Ended {
    let context = TaskContext::new(Arc::clone(&live));
    let began = Arc::clone(&live);
    // Its queue accepted it: a class that sheds work in memory does not shed it.
    let mut task = class.task().accepted().kind(&live.kind);
    if let Some(key) = affinity {
        let mut hash = DefaultHasher::new();
        key.hash(&mut hash);
        task = task.affinity_key(hash.finish());
    }
    let mut handle: Handle<_> = match work {
        Work::Future(start) => task.spawn(async move {
            began.start();
            start(context, payload).await
        }),
        Work::Closure(call) => task.run(move || {
            began.start();
            call(context, &payload)
        }),
    };
    let outcome = tokio::select! {
        outcome = &mut handle => outcome,
        _ = live.wait_stopped() => {
            handle.cancel();
            handle.await
        }
    };
    use flyball_executor::TaskError as Failed;
    match outcome {
        Ok(Ok(json)) => Ended::done(Some(json.into())),
        Ok(Err(error)) => {
            Ended::failed(Reason::Error, error.is_retryable(), error.message()).after(error.wait())
        }
        Err(Failed::Panicked(panic)) => Ended::failed(
            Reason::Panicked,
            false,
            format!("the handler panicked: {panic}"),
        ),
        Err(Failed::Rejected(_)) => Ended::returned(Some(ROOM_WAIT)),
        // By its runner, who knows the cause, or by an executor that ends.
        Err(_) => match live.stopped() {
            Some(Stop::TimedOut) => {
                Ended::failed(Reason::TimedOut, true, "the handler ran past its timeout")
            }
            _ => Ended::returned(None),
        },
    }
}
