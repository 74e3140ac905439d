//! flyball's engine and its server in one process, and load on the pool: what the API is measured on.
//!
//! Everything has the settings it comes with; the port is any free one. The back group's workers are never without closures of
//! 1 ms: a fixed number is outstanding, and each hands over its successor. Front load, where there is any, is half a core's worth of
//! closures of 200 µs on a schedule that does not wait for them.

use crate::cases::{Arrivals, PoolLoad};
use crate::sys;
use crate::work::{Work, churn};
use anyhow::{Context, Result};
use flyball_engine::Engine;
use flyball_engine::config::{Sources, load};
use flyball_executor::Class;
use flyball_server::{Options, Server};
use std::path::Path;
use std::sync::Arc;

/// Back closures outstanding: several for each worker there may be.
const DEPTH_PER_CPU: usize = 32;
const BACK_US: f64 = 1000.0;
const FRONT_US: f64 = 200.0;
const FRONT_CORES: f64 = 0.5;

fn refill(class: Class, iterations: u64) {
    let next = class.clone();
    let body = move || {
        churn(iterations);
        refill(next, iterations);
    };
    class.execute(body).expect("the queue has room");
}

fn send_front(class: &Class, iterations: u64) {
    sys::become_instrument();
    let times = Arrivals::Jittered.times(FRONT_US * 1e3 / FRONT_CORES, 1.0);
    loop {
        let first_ns = sys::now_ns();
        for time in &times {
            sys::sleep_until_ns(first_ns + time);
            class
                .execute(move || churn(iterations))
                .expect("the queue has room");
        }
    }
}

/// Starts engine, server and load, prints the address, and stays.
pub fn run(pool: PoolLoad, work: Work, state_dir: &Path) -> Result<()> {
    let loaded = load(&Sources::new()).context("the configuration as it comes")?;
    let engine = Arc::new(Engine::start(loaded)?);
    let mut options = Options::new(state_dir);
    options.listen = vec![([127, 0, 0, 1], 0).into()];
    let server = Server::start(options, engine.clone())?;
    if pool != PoolLoad::None {
        let back = engine.class("normal")?;
        let iterations = work.iterations(BACK_US);
        (0..DEPTH_PER_CPU * sys::cpus()).for_each(|_| refill(back.clone(), iterations));
    }
    if pool == PoolLoad::BackAndFront {
        let front = engine.class("interactive")?;
        let iterations = work.iterations(FRONT_US);
        std::thread::spawn(move || send_front(&front, iterations));
    }
    let address = server.addresses().first().context("it listens on TCP")?;
    println!("{address}");
    loop {
        std::thread::park();
    }
}
