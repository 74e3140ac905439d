//! What the configuration means for the parts: pure translation.

use crate::config::{BackPriority, Config};
use crate::knobs::Range;
use crate::shared::Shared;
use flyball_core::class::{ClassSpec, Group};
use flyball_executor as executor;
use flyball_policy::sched::Algorithm;
use flyball_policy::sched::place::Strategy;
use flyball_policy::sched::pool::{PoolConfig, Sizer};

/// Most threads that a group may have; one place of the front group is the I/O thread's.
fn most(group: Group) -> usize {
    match group {
        Group::Front => executor::MAX_WORKERS_PER_GROUP - 1,
        Group::Back => executor::MAX_WORKERS_PER_GROUP,
    }
}

/// The algorithm in force: without the scheduler, classes take turns.
pub(crate) fn algorithm(config: &Config) -> Algorithm {
    if config.cpu_scheduler.enabled && config.performance.enabled {
        config.cpu_scheduler.algorithm
    } else {
        Algorithm::RoundRobin
    }
}

/// The strategy in force: without the balancer, work waits for whoever is free.
pub(crate) fn strategy(config: &Config) -> Strategy {
    if config.load_balancer.enabled {
        config.load_balancer.strategy
    } else {
        Strategy::Pull
    }
}

/// The bounds of a group's size. Front threads are parked until needed, so there are never fewer of them than may run at once.
pub(crate) fn range(config: &Config, group: Group, parallelism: usize, cpus: usize) -> Range {
    let pool = &config.worker_pool;
    let max = match pool.max_workers as usize {
        0 => 2 * cpus,
        max => max,
    };
    let min = (pool.min_workers as usize).min(max);
    let (min, max) = match group {
        Group::Front => (parallelism, max.max(parallelism)),
        Group::Back => (min, max),
    };
    let max = max.clamp(1, most(group));
    let min = min.clamp(1, max);
    let value = match (group, pool.initial_workers as usize) {
        (Group::Front, _) => min,
        // Nothing will size a plain pool: one thread more than may run, for closures that give way.
        (Group::Back, _) if !config.performance.enabled => (parallelism + 1).clamp(min, max),
        (Group::Back, 0) => min,
        (Group::Back, initial) => initial.clamp(min, max),
    };
    Range { min, max, value }
}

/// The bounds of parallelism.
pub(crate) fn parallelism_range(parallelism: usize) -> Range {
    Range {
        min: 1,
        max: executor::MAX_WORKERS_PER_GROUP,
        value: parallelism,
    }
}

/// The settings of a group's controller.
pub(crate) fn pool(config: &Config, group: Group, parallelism: usize, cpus: usize) -> PoolConfig {
    let range = range(config, group, parallelism, cpus);
    let settings = &config.worker_pool;
    PoolConfig {
        min: range.min as u32,
        max: range.max as u32,
        target_load: settings.target_load,
        scale_up_delay: settings.scale_up_delay,
        scale_down_delay: settings.scale_down_delay,
        max_idle_time: settings.max_idle_time,
    }
}

/// A group's controller.
pub(crate) fn pool_controller(shared: &Shared, config: &Config, group: Group) -> Sizer {
    let parallelism = shared.executor.stats().parallelism;
    let knob = shared.knobs().of(group);
    let settings = pool(config, group, parallelism, shared.cpus);
    Sizer::new(config.worker_pool.sizing, settings, knob)
}

/// What may change of the executor while it runs; `base` has what only a program can say.
pub(crate) fn tuning(config: &Config, base: executor::Tuning) -> executor::Tuning {
    let pool = &config.worker_pool;
    executor::Tuning {
        stuck_after: pool.stuck_after,
        batch_size: pool.task_batch_size as usize,
        start_batch: pool.start_batch as usize,
        start_delay: pool.start_delay,
        force_after: pool.force_after,
        max_tasks_per_worker: pool.max_tasks_per_worker,
        rebalance_interval: (config.load_balancer.enabled && config.performance.enabled)
            .then_some(config.load_balancer.interval),
        ..base
    }
}

/// Workers that run at once at the start: what the program says, else the CPUs.
pub(crate) fn parallelism(cpus: usize, base: &executor::Config) -> usize {
    match base.parallelism {
        0 => cpus.min(executor::MAX_WORKERS_PER_GROUP),
        given => given,
    }
}

/// What the executor is started with; `base` has what only a program can say.
pub(crate) fn executor(config: &Config, cpus: usize, base: executor::Config) -> executor::Config {
    let tuning = tuning(config, executor::Tuning::from(&base));
    let parallelism = parallelism(cpus, &base);
    executor::Config {
        algorithm: algorithm(config),
        strategy: strategy(config),
        front_workers: range(config, Group::Front, parallelism, cpus).value,
        back_workers: range(config, Group::Back, parallelism, cpus).value,
        classes: classes(config),
        start_batch: tuning.start_batch,
        start_delay: tuning.start_delay,
        batch_size: tuning.batch_size,
        stuck_after: tuning.stuck_after,
        force_after: tuning.force_after,
        back_priority: match config.worker_pool.back_priority {
            BackPriority::Idle => executor::BackPriority::Idle,
            BackPriority::Nice => executor::BackPriority::Nice(config.worker_pool.back_nice),
            BackPriority::Normal => executor::BackPriority::Normal,
        },
        front_nice: config.worker_pool.front_nice,
        ..base
    }
}

/// The classes that the configuration adds or changes.
pub(crate) fn classes(config: &Config) -> Vec<ClassSpec> {
    config.classes.to_vec()
}
