//! What a task costs: submit, run, count, for closures and futures, from outside, from inside, and as a tree.

use super::{Origin, Sample, What};
use crate::machine::{Company, Window};
use crate::subjects::{Closures, Futures, OnClosures, OnFutures, Subject, on_closures, on_futures};
use crate::sys;
use crate::work::{churn, finished, total_finished, wait_for};
use anyhow::Result;

const LIMIT_NS: u64 = 60_000_000_000;

struct Job {
    iterations: u64,
    origin: Origin,
    tasks: usize,
}

#[inline]
fn body(iterations: u64) {
    if iterations > 0 {
        churn(iterations);
    }
}

fn closure<P: Closures>(pool: &P, iterations: u64) {
    pool.execute(move || {
        body(iterations);
        finished();
    });
}

fn future<P: Futures>(pool: &P, iterations: u64) {
    pool.spawn(async move {
        body(iterations);
        finished();
    });
}

/// Sizes of the two subtrees under a root of a tree of `tasks` tasks.
fn halves(tasks: usize) -> [usize; 2] {
    [(tasks - 1) / 2, tasks - 1 - (tasks - 1) / 2]
}

fn closure_tree<P: Closures>(pool: &'static P, tasks: usize, iterations: u64) {
    if tasks > 0 {
        pool.execute(move || {
            body(iterations);
            halves(tasks)
                .into_iter()
                .for_each(|half| closure_tree(pool, half, iterations));
            finished();
        });
    }
}

fn future_tree<P: Futures>(pool: &'static P, tasks: usize, iterations: u64) {
    if tasks > 0 {
        pool.spawn(async move {
            body(iterations);
            halves(tasks)
                .into_iter()
                .for_each(|half| future_tree(pool, half, iterations));
            finished();
        });
    }
}

/// Warms the pool, then times `submit` until its `tasks` tasks are done.
fn time(tasks: usize, warm: impl Fn(), submit: impl FnOnce()) -> Result<Sample> {
    let warm_tasks = 10_000.min(tasks);
    (0..warm_tasks).for_each(|_| warm());
    wait_for(warm_tasks as u64, LIMIT_NS)?;
    sys::sleep_until_ns(sys::now_ns() + 20_000_000);

    let alone = Company::none();
    let window = Window::open(&alone);
    let before = total_finished();
    let (begun, cpu) = (sys::now_ns(), sys::process_cpu_ns());
    submit();
    wait_for(before + tasks as u64, LIMIT_NS)?;
    let elapsed = (sys::now_ns() - begun) as f64;
    let cpu = (sys::process_cpu_ns() - cpu) as f64;
    Ok(Sample::default()
        .with("ns_per_task", elapsed / tasks as f64)
        .with("cpu_ns_per_task", cpu / tasks as f64)
        .foreign(window.close().others_share))
}

impl OnClosures for Job {
    type Out = Sample;

    fn run<P: Closures>(self, pool: &'static P) -> Result<Sample> {
        let Job {
            iterations,
            origin,
            tasks,
        } = self;
        time(
            tasks,
            || closure(pool, 0),
            || match origin {
                Origin::Outside => (0..tasks).for_each(|_| closure(pool, iterations)),
                Origin::Inside => {
                    pool.execute(move || (0..tasks).for_each(|_| closure(pool, iterations)))
                }
                Origin::Tree => closure_tree(pool, tasks, iterations),
            },
        )
    }
}

impl OnFutures for Job {
    type Out = Sample;

    fn run<P: Futures>(self, pool: &'static P) -> Result<Sample> {
        let Job {
            iterations,
            origin,
            tasks,
        } = self;
        time(
            tasks,
            || future(pool, 0),
            || match origin {
                Origin::Outside => (0..tasks).for_each(|_| future(pool, iterations)),
                Origin::Inside => {
                    pool.spawn(async move { (0..tasks).for_each(|_| future(pool, iterations)) })
                }
                Origin::Tree => future_tree(pool, tasks, iterations),
            },
        )
    }
}

/// Nanoseconds a task; less is better.
pub fn run(
    subject: Subject,
    what: What,
    iterations: u64,
    origin: Origin,
    tasks: usize,
) -> Result<Sample> {
    let job = Job {
        iterations,
        origin,
        tasks,
    };
    match what {
        What::Closure => on_closures(subject, job),
        What::Future => on_futures(subject, job),
    }
}

/// Cost of handing over in batches against handing over singly, both in this process, in turns. The time ends when the
/// last task is done, as in the other cases.
#[cfg(feature = "flyball")]
pub fn batch(subject: Subject, size: usize, tasks: usize) -> Result<Sample> {
    use crate::stats::median;
    use crate::subjects::flyball::Pool;
    anyhow::ensure!(
        subject == Subject::Flyball,
        "only flyball hands over batches"
    );
    let pool: &'static Pool = Box::leak(Box::new(Pool::start()?));
    let alone = Company::none();
    let window = Window::open(&alone);
    let timed = |submit: &dyn Fn()| -> Result<f64> {
        let before = total_finished();
        let begun = sys::now_ns();
        submit();
        wait_for(before + tasks as u64, LIMIT_NS)?;
        Ok((sys::now_ns() - begun) as f64 / tasks as f64)
    };
    let single = || (0..tasks).for_each(|_| closure(pool, 0));
    let batched = || pool.execute_batches(size, tasks / size, || finished);
    timed(&single)?;
    let mut singles = Vec::new();
    let mut batches = Vec::new();
    for _ in 0..5 {
        singles.push(timed(&single)?);
        batches.push(timed(&batched)?);
    }
    let ratios: Vec<f64> = batches
        .iter()
        .zip(&singles)
        .map(|(batch, single)| batch / single)
        .collect();
    Ok(Sample::default()
        .with("ns_per_task", median(&batches))
        .with("ns_per_task_single", median(&singles))
        .with("ratio_to_single", median(&ratios))
        .foreign(window.close().others_share))
}

/// See the variant with flyball.
#[cfg(not(feature = "flyball"))]
pub fn batch(_: Subject, _: usize, _: usize) -> Result<Sample> {
    anyhow::bail!("this build lacks flyball")
}
