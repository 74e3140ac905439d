//! The examples for axum and tonic under overload, each a process of its own, without flyball and with its layer.
//!
//! One request of five is a page, the others are reports, which the layer takes for class `batch`; all compute 4 ms.

use super::{Kind, Served, Service, TICK_NS, WARM_UP_S};
use super::{arrivals, capacity, grpc, offer, over_http, serving};
use crate::cases::Sample;
use crate::machine::Company;
use crate::stats::Random;
use crate::subjects::Subject;
use crate::sys;
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the requests are; what they cost the examples know.
const REQUESTS: Service = Service {
    costs: [(0.0, 0.0); 3],
    mix: [0.2, 0.8, 0.0],
};

/// How an example is asked.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Protocol {
    Http,
    Grpc,
}

/// An example and what it can do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Example {
    pub program: PathBuf,
    pub protocol: Protocol,
    /// Requests a second that it can answer.
    pub capacity: f64,
}

impl Example {
    /// Starts the program and measures its capacity.
    pub fn measure(program: &Path, protocol: Protocol) -> Result<Self> {
        let served = start(program, "bare")?;
        let capacity = match protocol {
            Protocol::Http => capacity(REQUESTS, served.address)?,
            Protocol::Grpc => grpc::capacity(served.address)?,
        };
        let program = program.to_owned();
        eprintln!(
            "{} can answer {capacity:.0} requests a second",
            program.display()
        );
        Ok(Example {
            program,
            protocol,
            capacity,
        })
    }

    pub fn name(&self) -> &'static str {
        match self.protocol {
            Protocol::Http => "axum",
            Protocol::Grpc => "tonic",
        }
    }
}

/// What is offered to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExampleLoad {
    pub example: Example,
    /// In multiples of capacity.
    pub times: f64,
    pub seconds: f64,
}

fn start(program: &Path, serve: &str) -> Result<Served> {
    serving(Command::new(program).args(["--serve", serve]))
}

/// Goodput under a load, of all and of pages.
pub fn run(load: &ExampleLoad, subject: Subject) -> Result<Sample> {
    sys::allow_files()?;
    let Example {
        program,
        protocol,
        capacity,
    } = &load.example;
    let served = match subject {
        Subject::Flyball => start(program, "gated")?,
        Subject::Nothing => start(program, "bare")?,
        other => bail!("the example knows no {}", other.name()),
    };
    let mut random = Random::seeded(sys::now_ns());
    let steps = [(load.times, WARM_UP_S + load.seconds)];
    let meant = arrivals(&REQUESTS, &steps, *capacity, &mut random);
    let company = Company::none();
    let seen = match protocol {
        Protocol::Http => offer(served, meant, &company, over_http(TICK_NS))?,
        Protocol::Grpc => offer(served, meant, &company, grpc::run)?,
    };
    let pages = seen.between(WARM_UP_S, WARM_UP_S + load.seconds, |kind| {
        kind == Kind::Page as u8
    });
    let sample = seen.goodput(load.times >= 1.0, load.seconds);
    let goodput = sample.metrics["goodput_per_s"];
    Ok(sample
        .with("goodput_of_capacity", goodput / capacity)
        .with("urgent_goodput_per_s", pages.good as f64 / load.seconds))
}
