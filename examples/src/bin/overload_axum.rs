//! An axum service under three times the load that it can bear: without flyball, and with a gate before it and classes for what it computes.
//!
//! `cargo run --release -p flyball-examples --bin overload_axum [--seconds 5] [--times 3.0]`; with `--serve bare` or `--serve gated` it only serves.
//!
//! A handler computes for a few milliseconds. At first the example asks how many requests a second the service can do, one after the other on all connections; then requests
//! come at a multiple of that, whether or not earlier ones were answered, four of five of class `batch`. An answer counts as good within 250 ms. Without flyball nearly all are
//! served, and nearly all too late; with it the service does what it can in time, the important first, and tells the others when to try again. Client and
//! service share the machine.
#![allow(clippy::print_stdout)]

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Extension, Router};
use clap::Parser;
use flyball::tower::{Gate, GateConfig, Head, Offload, layer};
use flyball::{Class, Config, Flyball};
use flyball_examples::overload::{self, Serve, Tally, calibrate, work};

fn compute(rounds: u64) -> String {
    work(std::hint::black_box(rounds)).to_string()
}

/// Without flyball. What computes holds a thread of the runtime, whoever waits for it.
fn bare(rounds: u64) -> Router {
    let handler = move || async move { compute(rounds) };
    Router::new()
        .route("/report", get(handler))
        .route("/page", get(handler))
}

/// With it: requests come in through the gate, and have a class compute.
fn gated(rounds: u64, fly: &Flyball, gate: &Gate) -> Result<Router> {
    let computing_in = |class: Class| {
        get(move |Extension(offload): Extension<Offload>| async move {
            let answer = class.run(offload.wrap(move || compute(rounds))).await;
            answer.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
        })
    };
    let batch = gate.class("batch")?;
    let classes = move |head: &Head<'_>| (head.path() == "/report").then_some(batch);
    Ok(Router::new()
        .route("/report", computing_in(fly.class("batch")?))
        .route("/page", computing_in(fly.class("interactive")?))
        .layer(layer(gate).classify(classes)))
}

/// Serves on a runtime of its own, until the program ends.
fn serve(app: Router) -> Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            Ok(axum::serve(listener, app).await?)
        })
    });
    Ok(address)
}

fn print(name: &str, tally: &Tally, seconds: f64) {
    for (path, kind) in ["/page", "/report"].iter().zip(&tally.kinds) {
        println!(
            "{name:<9} {path:<8} {:>6} sent   {:>5.0} good/s   p99 of answers {:>6.0} ms   {:>6} refused   {:>6} too late or lost",
            kind.sent,
            kind.good as f64 / seconds,
            kind.latency.quantile(0.99).unwrap_or_default() as f64 / 1e6,
            kind.refused,
            kind.late,
        );
    }
}

#[derive(Parser)]
struct Args {
    /// How long each part lasts.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// The load, in multiples of what the service can do.
    #[arg(long, default_value_t = 3.0)]
    times: f64,
    /// Only serves, for a load from elsewhere, and prints where.
    #[arg(long)]
    serve: Option<Serve>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let rounds = calibrate();
    let lasts = Duration::from_secs_f64(args.seconds.clamp(0.5, 600.0));
    let fly = Flyball::start(Config::default())?;
    let gate = Gate::new(GateConfig::default())?;
    match args.serve {
        Some(Serve::Bare) => overload::until_ended(serve(bare(rounds))?),
        Some(Serve::Gated) => overload::until_ended(serve(gated(rounds, &fly, &gate)?)?),
        None => {}
    }
    let alone = serve(bare(rounds))?;
    let capacity = overload::capacity(alone, "/page", lasts.min(Duration::from_secs(2)))?;
    println!(
        "the service can do {capacity:.0} requests a second; it gets {:.0}",
        capacity * args.times
    );
    let load = |server| overload::load(server, ["/page", "/report"], capacity * args.times, lasts);

    print("bare", &load(alone)?, lasts.as_secs_f64());

    gate.on_level(|level| {
        println!("          (level {level}: a service would leave out what is optional now)")
    });
    let guarded = serve(gated(rounds, &fly, &gate)?)?;
    print("with gate", &load(guarded)?, lasts.as_secs_f64());
    let status = gate.status();
    println!(
        "          limit {} by {}, {} changes",
        status.limit, status.algorithm, status.adaptive.changes
    );
    for class in status
        .classes
        .iter()
        .filter(|class| class.entered + class.shed() > 0)
    {
        println!(
            "          class {:<12} {:>6} came in, {:>6} shed at once, {:>5} after waiting",
            class.name,
            class.entered,
            class.shed_overload,
            class.shed_waited + class.shed_deadline,
        );
    }
    Ok(())
}
