//! The queue that is open, or why there is none.

use crate::error::Error;
use arc_swap::ArcSwap;
use flyball_tasks::TaskQueue;
use std::sync::Arc;

/// The part of the engine that durable tasks are.
pub(crate) struct Part {
    state: ArcSwap<State>,
}

enum State {
    /// It is open.
    Open(Arc<dyn TaskQueue>),
    /// The configuration has switched it off.
    Off,
    /// Nobody has said where to keep tasks.
    Nowhere,
}

impl Part {
    /// A part without a queue.
    pub(crate) fn new(queue: Option<Arc<dyn TaskQueue>>, enabled: bool) -> Self {
        let state = match queue {
            _ if !enabled => State::Off,
            Some(queue) => State::Open(queue),
            None => State::Nowhere,
        };
        Part {
            state: ArcSwap::from_pointee(state),
        }
    }

    /// The queue.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn queue(&self) -> Result<Arc<dyn TaskQueue>, Error> {
        match &**self.state.load() {
            State::Open(queue) => Ok(queue.clone()),
            State::Off => Err(Error::Off {
                part: "the task queue",
                setting: "scheduler.enabled",
            }),
            State::Nowhere => Err(Error::Unavailable {
                part: "the task queue",
                why: "no folder was named to keep tasks in: queue.state_dir names one".to_owned(),
            }),
        }
    }
}
