//! Starting, stopping and joining worker threads.

use crate::config::Config;
use crate::error::{Error, message_of};
use crate::event::What;
use crate::os::{self, BackPriority, ThreadClock, Unavailable};
use crate::pool::{Pool, WorkerShared, command, state};
use crate::spine::{group_of, workers_of};
use crate::worker::{Mode, Worker};
use flyball_core::class::Group;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::*;

pub(crate) fn is_alive(pool: &Pool, index: usize) -> bool {
    pool.workers[index]
        .get()
        .is_some_and(|worker| worker.state.load(SeqCst) != state::STOPPED)
}

/// Starts the thread of a worker that is not running.
pub(crate) fn start(pool: &Arc<Pool>, index: usize) -> Result<(), Error> {
    let worker = pool.worker(index);
    // A thread that was told to stop and is done has left its handle behind.
    if let Some(old) = pool
        .threads
        .lock()
        .unwrap_or_else(|e| e.into_inner())
        .remove(&index)
    {
        let _ = old.join();
    }
    worker.command.store(command::RUN, SeqCst);
    worker.state.store(state::STARTING, SeqCst);
    worker.started_at.store(pool.now().as_nanos(), SeqCst);
    let position = index - workers_of(worker.group).start;
    let letter = match worker.group {
        Group::Front => 'f',
        Group::Back => 'b',
    };
    let mut builder =
        std::thread::Builder::new().name(format!("{}-{letter}{position}", pool.config.thread_name));
    if pool.config.stack_size != 0 {
        builder = builder.stack_size(pool.config.stack_size);
    }
    let (shared, owner) = (worker.clone(), pool.clone());
    match builder.spawn(move || body(owner, shared)) {
        Ok(thread) => {
            pool.threads
                .lock()
                .unwrap_or_else(|e| e.into_inner())
                .insert(index, thread);
            Ok(())
        }
        Err(source) => {
            worker.state.store(state::STOPPED, SeqCst);
            let reason = format!("cannot start a thread: {source}");
            pool.events
                .push(pool.now(), Some(index), What::Unavailable, reason);
            Err(Error::Os {
                what: "start a worker thread",
                source,
            })
        }
    }
}

fn body(pool: Arc<Pool>, shared: Arc<WorkerShared>) {
    settle_in(&pool, &shared);
    call_hook(
        &pool,
        &shared,
        "on_thread_start",
        pool.config.on_thread_start.as_deref(),
    );
    pool.events.push(
        pool.now(),
        Some(shared.index),
        What::Started,
        format!("in the {} group", shared.group),
    );
    Worker::new(pool.clone(), shared.clone(), Mode::Thread).run();
    call_hook(
        &pool,
        &shared,
        "on_thread_stop",
        pool.config.on_thread_stop.as_deref(),
    );
    *shared.clock.lock().unwrap_or_else(|e| e.into_inner()) = None;
    *shared.thread_id.lock().unwrap_or_else(|e| e.into_inner()) = None;
    shared.cpu.store(0, SeqCst);
    let reason = if pool.stop.load(SeqCst) {
        "shutdown"
    } else {
        "told to"
    };
    pool.events
        .push(pool.now(), Some(shared.index), What::Stopped, reason);
    shared.state.store(state::STOPPED, SeqCst);
    // In this order: see `Pool::replace`.
    pool.return_number(&shared);
    pool.notify_quiet();
    pool.spine.rouse_supervisor();
}

/// Calls a hook of the configuration; its panic is an event and does not end the worker.
fn call_hook(
    pool: &Pool,
    shared: &WorkerShared,
    name: &str,
    hook: Option<&(dyn Fn() + Send + Sync)>,
) {
    let Some(hook) = hook else {
        return;
    };
    if let Err(payload) = catch_unwind(AssertUnwindSafe(hook)) {
        let message = message_of(&*payload).unwrap_or_default();
        pool.events.push(
            pool.now(),
            Some(shared.index),
            What::Changed,
            format!("{name} panicked: {message}"),
        );
    }
}

/// Gives the calling thread the priority of a group; what cannot be had is told to `report`.
pub(crate) fn take_priority(config: &Config, group: Group, report: &dyn Fn(Unavailable)) {
    let report = |result: Result<(), Unavailable>| {
        if let Err(unavailable) = result {
            report(unavailable);
        }
    };
    match group {
        Group::Front => {
            report(os::set_slice(config.front_slice));
            if config.front_nice != 0 {
                report(os::set_priority(BackPriority::Nice(config.front_nice)));
            }
        }
        Group::Back => {
            if config.back_priority != BackPriority::Normal {
                report(os::set_priority(config.back_priority));
            }
        }
    }
}

/// Gives the calling thread its priority and its place on the machine; what cannot be had is an event, not an error.
fn settle_in(pool: &Pool, shared: &WorkerShared) {
    let report = |result: Result<(), Unavailable>| {
        if let Err(unavailable) = result {
            pool.events.push(
                pool.now(),
                Some(shared.index),
                What::Unavailable,
                unavailable.to_string(),
            );
        }
    };
    take_priority(&pool.config, shared.group, &|unavailable| {
        report(Err(unavailable))
    });
    {
        // Held over the call, as whoever changes the CPUs meanwhile holds it.
        let cores = shared
            .affinity_cores
            .lock()
            .unwrap_or_else(|e| e.into_inner());
        let cpus = match &cores[..] {
            [] => pool.layout_of(shared.index, os::allowed_cpus().ok().as_ref()),
            cores => Some(Ok(cores.iter().copied().collect())),
        };
        if let Some(cpus) = cpus {
            let pinned = cpus.and_then(|cpus| os::pin(&cpus).map(|()| cpus));
            if let Ok(cpus) = &pinned {
                *shared.pinned_to.lock().unwrap_or_else(|e| e.into_inner()) = cpus.iter().next();
            }
            report(pinned.map(drop));
        }
        *shared.thread_id.lock().unwrap_or_else(|e| e.into_inner()) = os::thread_id().ok();
    }
    *shared.clock.lock().unwrap_or_else(|e| e.into_inner()) = ThreadClock::of_current_thread().ok();
}

/// Tells a worker to stop at its next task boundary and wakes it.
pub(crate) fn stop(pool: &Pool, index: usize, reason: &str) {
    let Some(worker) = pool.workers[index].get() else {
        return;
    };
    worker.command.store(command::STOP, SeqCst);
    pool.events
        .push(pool.now(), Some(index), What::Draining, reason);
    pool.spine.signals.revoke(index);
    pool.spine.signals.wake_worker(group_of(index), index);
}
