//! flyball: ordinary work in class `normal`, urgent work in `interactive`, all settings as they come but the parallelism.

use super::{Closures, Futures, THREADS, Tokio};
use anyhow::Result;
use flyball_core::class::{ClassSpec, Group};
use flyball_executor::{BackPriority, Class, Config, Executor};
use std::future::Future;

pub struct Pool {
    /// Owns the threads; the classes below only point to it.
    _executor: Executor,
    front: Class,
    back: Class,
}

fn two_workers() -> Config {
    Config {
        parallelism: THREADS,
        ..Config::default()
    }
}

impl Pool {
    pub fn start() -> Result<Self> {
        let executor = Executor::start(two_workers())?;
        let (front, back) = (executor.class("interactive")?, executor.class("normal")?);
        Ok(Pool {
            _executor: executor,
            front,
            back,
        })
    }

    /// Hands over closures in batches of `size`.
    pub fn execute_batches<F: FnOnce() + Send + 'static>(
        &self,
        size: usize,
        batches: usize,
        make: impl Fn() -> F,
    ) {
        for _ in 0..batches {
            self.back
                .execute_many((0..size).map(|_| make()))
                .expect("the queue has room");
        }
    }
}

/// Starts an executor with a back class for each of these shares. There can be 64 classes with the built-in ones, so the
/// last ones of many take the places of those. `normal_priority` is for machines that are shared: under the default, busy
/// neighbours leave the back group next to nothing to divide.
pub fn classes_with(shares: &[u32], normal_priority: bool) -> Result<(Executor, Vec<Class>)> {
    let built_in = ClassSpec::built_in();
    let own = shares
        .len()
        .min(flyball_core::class::MAX_CLASSES - built_in.len());
    let names: Vec<String> = (0..own)
        .map(|number| format!("c{number}"))
        .chain(built_in.iter().map(|class| class.name.clone()))
        .take(shares.len())
        .collect();
    let specs = names.iter().zip(shares);
    let mut config = two_workers();
    config.classes = specs
        .map(|(name, &shares)| {
            ClassSpec::new(name)
                .with_group(Group::Back)
                .with_shares(shares)
        })
        .collect();
    if normal_priority {
        config.back_priority = BackPriority::Normal;
    }
    let executor = Executor::start(config)?;
    let classes = names
        .iter()
        .map(|name| executor.class(name))
        .collect::<Result<_, _>>()?;
    Ok((executor, classes))
}

impl Closures for Pool {
    fn execute<F: FnOnce() + Send + 'static>(&self, f: F) {
        self.back.execute(f).expect("the queue has room");
    }

    fn execute_front<F: FnOnce() + Send + 'static>(&self, f: F) {
        self.front.execute(f).expect("the queue has room");
    }
}

impl Futures for Pool {
    fn spawn<F: Future<Output = ()> + Send + 'static>(&self, future: F) {
        self.back.spawn(future).detach();
    }

    fn spawn_front<F: Future<Output = ()> + Send + 'static>(&self, future: F) {
        self.front.spawn(future).detach();
    }

    fn yield_now() -> impl Future<Output = ()> + Send {
        flyball_executor::yield_now()
    }
}

impl Tokio for Pool {}
