//! The thread that looks after the workers: starts them in stages, notices stuck ones, rescues deferred tasks, measures CPU use.
//!
//! It ticks every 10 ms while there is work and for 50 ms after; then it sleeps until a worker starts a slice. An idle pool
//! is silent.

use crate::event::What;
use crate::os;
use crate::pool::{Pool, TaskWhat, WorkerShared, state, token};
use crate::resting::Resting;
use crate::spine::IO_WORKER;
use crate::threads;
use crate::throttling::Ceilings;
use crate::topology::{self, Topology};
use flyball_core::class::Group;
use flyball_core::id::ClassSet;
use flyball_core::time::nanos_of;
use flyball_policy::sched::{heat, place};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::*;
use std::time::Duration;

/// Time between ticks while there is work.
pub(crate) const TICK: Duration = Duration::from_millis(10);
/// How long it goes on ticking without work.
const LINGER_NS: u64 = 50_000_000;
/// A worker that is at work and shows no sign of life for this long has missed a heartbeat.
const HEARTBEAT_NS: u64 = 1_000_000_000;
/// How often CPU use, parallelism and balance are looked at.
const SECOND_NS: u64 = 1_000_000_000;

/// The least time it sleeps when buckets of keys refill one after the other, ns: about what a timer of the kernel may be late.
const REFILL_NS: u64 = 50_000;

struct Seen {
    task_since: u64,
    /// The last sign of life, and for how long there has been no other while the worker was at work, ns.
    sign: u64,
    silent: u64,
    looked: u64,
    /// It is stuck and was not replaced, and that was told.
    refused: bool,
    /// The I/O thread had something in its ring and ran no task.
    held: bool,
    cpu: u64,
    at: u64,
}

pub(crate) fn run(pool: &Arc<Pool>) {
    let mut busy_until = 0u64;
    let mut last_batch = None::<u64>;
    let mut next_second = 0u64;
    let mut last_rebalance = 0u64;
    let mut seen: HashMap<usize, Seen> = HashMap::new();
    let mut resting = Resting::default();
    let mut ceilings = Ceilings::default();
    let mut no_heat = false;
    loop {
        let now = pool.now().as_nanos();
        if pool.stop.load(SeqCst) {
            return;
        }
        // By the delay of now, which may have been shortened since.
        let delay = nanos_of(pool.tuning.start_delay());
        let is_due = last_batch.is_none_or(|last| now >= last.saturating_add(delay));
        if is_due && start_missing(pool) {
            last_batch = Some(now);
        }
        let busy = is_busy(pool);
        if busy {
            busy_until = now + LINGER_NS;
        }
        rescue(pool, &mut seen, now);
        resting.look(pool, now);
        ceilings.look(pool);
        pool.look_at_backlogs();
        #[cfg(feature = "rayon")]
        pool.guests.tick(pool);
        if now >= next_second {
            next_second = now + SECOND_NS;
            measure(pool, &mut seen, now);
            pool.judge_workers(now);
            follow_heat(pool, &mut no_heat);
            follow_parallelism(pool);
        }
        if let Some(every) = pool.tuning.rebalance_interval_ns()
            && now >= last_rebalance.saturating_add(every)
        {
            last_rebalance = now;
            rebalance_if_uneven(pool);
        }
        if missing(pool) {
            let delay = pool.tuning.start_delay();
            sleep(pool, Some(delay.min(TICK.max(Duration::from_millis(1)))));
        } else if now < busy_until {
            sleep(pool, Some(TICK));
        } else {
            pool.spine.supervisor_asleep.store(true, SeqCst);
            // Whoever ends after this look sees the flag above, and rouses.
            if !is_busy(pool) && !missing(pool) && !pool.stop.load(SeqCst) {
                sleep(pool, None);
            }
            pool.spine.supervisor_asleep.store(false, SeqCst);
        }
    }
}

/// Sleeps for at most that long, else until roused. Keys whose buckets refill meanwhile get their turns when they do.
fn sleep(pool: &Pool, at_most: Option<Duration>) {
    let spine = pool.spine;
    let begun = pool.now();
    let end = at_most.map_or(u64::MAX, |time| begun.saturating_add(time).as_nanos());
    loop {
        spine.refill_keys(pool.now().as_nanos());
        let refill = spine.key_refill.load(SeqCst);
        let until = refill.min(end);
        if until == u64::MAX {
            std::thread::park();
        } else {
            let left = until.saturating_sub(pool.now().as_nanos());
            std::thread::park_timeout(Duration::from_nanos(left.max(REFILL_NS)));
        }
        let now = pool.now().as_nanos();
        let roused = at_most.is_none() && !spine.supervisor_asleep.load(SeqCst);
        // Woken early, and not because a bucket will refill sooner than was known.
        let called = now < until && spine.key_refill.load(SeqCst) >= refill;
        if now >= end || roused || called || pool.stop.load(SeqCst) {
            return;
        }
    }
}

fn is_busy(pool: &Pool) -> bool {
    #[cfg(feature = "rayon")]
    if pool.guests.is_active() {
        return true;
    }
    pool.known_workers().any(|worker| {
        worker.state.load(SeqCst) == state::BUSY
            || worker.index == IO_WORKER && !worker.ring.is_empty()
    })
}

fn missing(pool: &Pool) -> bool {
    [Group::Front, Group::Back].into_iter().any(|group| {
        pool.roster
            .indexes(group)
            .any(|index| !threads::is_alive(pool, index))
    })
}

/// Starts the next batch of workers that are wanted and not there; true when it started any.
fn start_missing(pool: &Arc<Pool>) -> bool {
    let mut left = pool.tuning.start_batch.load(Relaxed);
    let mut any = false;
    for group in [Group::Front, Group::Back] {
        for index in pool.roster.indexes(group) {
            if left == 0 {
                return any;
            }
            if !threads::is_alive(pool, index) {
                left -= 1;
                any |= threads::start(pool, index).is_ok();
                if !pool.roster.has(index) {
                    // Taken out of service since the list was read, by somebody who found no thread to stop.
                    threads::stop(pool, index, "scaled down");
                }
            }
        }
    }
    any
}

/// Wakes somebody for a task that has waited behind one poll from one tick to the next, and reports stuck workers.
fn rescue(pool: &Pool, seen: &mut HashMap<usize, Seen>, now: u64) {
    for worker in pool.known_workers() {
        let since = worker.task_since.load(Relaxed);
        let before = seen.entry(worker.index).or_insert(Seen {
            task_since: 0,
            sign: 0,
            silent: 0,
            looked: now,
            refused: false,
            held: false,
            cpu: 0,
            at: 0,
        });
        listen(pool, worker, before, now);
        let same = since != 0 && before.task_since == since;
        before.task_since = since;
        // A task of tokio's own that blocks the thread of its driver is no task of a class.
        let held = worker.index == IO_WORKER && since == 0 && worker.held() != 0;
        let overdue = same || held && std::mem::replace(&mut before.held, held);
        before.held = held;
        worker.overdue.store(overdue, Relaxed);
        if same {
            revoke_for_higher(pool, worker.index, worker.group);
        }
        if overdue && worker.held() != 0 {
            pool.pass_on(worker.group);
        }
        let stuck = same && now.saturating_sub(since) > pool.tuning.stuck_after_ns();
        if stuck != worker.stuck.swap(stuck, SeqCst) {
            let what = TaskWhat(worker.task_what.load(Relaxed));
            let kind = pool
                .kind_names()
                .get(what.kind())
                .cloned()
                .unwrap_or_default();
            let class = pool.class_names().swap_remove(what.class());
            let at = pool.now();
            if stuck {
                let reason = format!(
                    "runs one task of class {class}, kind {kind:?}, for {:?}",
                    Duration::from_nanos(now.saturating_sub(since))
                );
                pool.events
                    .push(at, Some(worker.index), What::Stuck, reason);
            } else {
                let reason = match worker.replaced_by() {
                    Some(_) => "its task ended; its place is taken, so it ends",
                    None => "its task ended",
                };
                pool.events
                    .push(at, Some(worker.index), What::Recovered, reason);
            }
        }
        before.refused = stuck && !pool.replace(worker, before.refused);
    }
}

/// Counts the seconds in which a worker that is at work passed no task boundary. A task that blocks and has said so shows no sign of
/// life by right.
fn listen(pool: &Pool, worker: &WorkerShared, seen: &mut Seen, now: u64) {
    let since = worker.task_since.load(Relaxed);
    let sign = if since != 0 {
        since
    } else {
        worker.heartbeat.load(Relaxed)
    };
    let at_work = worker.state.load(SeqCst) == state::BUSY;
    let elapsed = now.saturating_sub(std::mem::replace(&mut seen.looked, now));
    let before = seen.silent / HEARTBEAT_NS;
    if !at_work || sign != seen.sign {
        seen.silent = 0;
        seen.sign = sign;
    } else if worker.token.load(SeqCst) != token::LENT {
        seen.silent = seen.silent.saturating_add(elapsed);
    }
    let missed = seen.silent / HEARTBEAT_NS;
    if missed > before {
        worker.missed_heartbeats.fetch_add(missed - before, Relaxed);
        if before == 0 {
            let silent = Duration::from_nanos(seen.silent);
            let reason = format!("at work, and no task boundary for {silent:?}");
            pool.events.push(
                pool.now(),
                Some(worker.index),
                What::MissedHeartbeat,
                reason,
            );
        }
    }
    worker
        .missed_now
        .store(u32::try_from(missed).unwrap_or(u32::MAX), Relaxed);
}

/// Takes back the slice of a long task while a higher rank waits: whoever queued that may have found its class marked ready
/// already, from before the slice began, and told nobody.
fn revoke_for_higher(pool: &Pool, worker: usize, group: Group) {
    let signals = &pool.spine.signals;
    let highest = ClassSet::from_bits(signals.ready() & pool.mask(group))
        .iter()
        .map(|class| &pool.spine.classes[class.index()])
        .filter(|slot| slot.is_runnable())
        .map(|slot| slot.rank.load(Relaxed))
        .max();
    if let Some(rank) = highest {
        signals.revoke_below(worker..worker + 1, rank);
    }
}

/// CPU use of each worker since the last look.
fn measure(pool: &Pool, seen: &mut HashMap<usize, Seen>, now: u64) {
    for worker in pool.known_workers() {
        let clock = *worker.clock.lock().unwrap_or_else(|e| e.into_inner());
        let Some(cpu) = clock.and_then(|clock| clock.read()) else {
            worker.cpu.store(0, Relaxed);
            continue;
        };
        if let Some(before) = seen.get_mut(&worker.index) {
            let wall = now.saturating_sub(before.at);
            if before.at != 0 && wall > 0 {
                let part = cpu.saturating_sub(before.cpu) as f64 / wall as f64;
                worker
                    .cpu
                    .store((part.clamp(0.0, 1.0) * 10_000.0) as u32, Relaxed);
            }
            before.cpu = cpu;
            before.at = now;
        }
    }
}

/// Gives workers that are pinned to hot or slowed-down CPUs less weight.
///
/// Where the machine tells no temperatures and no frequency limits, that is an event, once, and every weight stays 1.
fn follow_heat(pool: &Pool, known_unavailable: &mut bool) {
    if pool.config.pin.is_none() || *known_unavailable {
        return;
    }
    let readings = Topology::read(Path::new("/"), None)
        .and_then(|topology| topology::heat::read(Path::new("/"), &topology));
    let readings = match readings {
        Ok(readings) => readings,
        Err(unavailable) => {
            *known_unavailable = true;
            pool.events
                .push(pool.now(), None, What::Unavailable, unavailable.to_string());
            return;
        }
    };
    for worker in pool.known_workers() {
        let pinned_to = *worker.pinned_to.lock().unwrap_or_else(|e| e.into_inner());
        let Some(reading) = readings
            .iter()
            .find(|reading| Some(reading.cpu) == pinned_to)
        else {
            continue;
        };
        let celsius = |millicelsius: i64| millicelsius as f64 / 1000.0;
        let weight = heat::weight(&heat::Heat {
            temperature_c: reading.temperature.map(|t| celsius(t.millicelsius)),
            critical_c: reading
                .temperature
                .and_then(|t| t.limit_millicelsius)
                .map(celsius),
            frequency_limit: reading
                .allowed_khz
                .zip(reading.hardware_khz)
                .map(|(allowed, hardware)| (allowed as f64, hardware as f64)),
        });
        worker
            .weight_by_heat
            .store((weight * 10_000.0) as u32, Relaxed);
        worker.publish_weight();
    }
}

/// Affinity masks and quotas may change while the program runs.
fn follow_parallelism(pool: &Pool) {
    let follows = pool.follow_machine();
    if !*follows {
        return;
    }
    let allowed = os::available_parallelism().clamp(1, crate::spine::MAX_WORKERS_PER_GROUP) as u32;
    let present = pool.spine.signals.parallelism();
    if allowed != present {
        pool.set_parallelism(
            allowed,
            "the CPUs that affinity mask and quota allow changed",
        );
    }
}

/// Moves tagged work when the lengths of the workers' lists differ too much.
fn rebalance_if_uneven(pool: &Pool) {
    if pool.pulls() {
        return;
    }
    for group in [Group::Front, Group::Back] {
        let (lengths, accepting) = pool.lengths(group);
        if place::needs_rebalance(&lengths, &accepting, place::REBALANCE_VARIANCE) {
            pool.rebalance_group(group, "the variance of queued tasks passed its threshold");
        }
    }
}
