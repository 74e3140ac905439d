//! A tonic service under three times the load that it can bear, with flyball's gate before it and classes for what it computes.
//!
//! `cargo run --release -p flyball-examples --bin overload_tonic [--seconds 5] [--times 3.0]`; with `--serve bare` or `--serve gated` it only serves.
//!
//! The gate is one layer of the server. Calls carry `grpc-timeout`; what is refused is refused as `UNAVAILABLE` with `grpc-retry-pushback-ms`, what is past its deadline as
//! `DEADLINE_EXCEEDED`. Calls with the metadata `x-kind: import` are of class `batch`, at the gate and where they compute. (Messages are plain text here, so that the example needs
//! no protocol compiler; services that tonic generates are layered alike.)
#![allow(clippy::print_stdout)]

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Result;
use bytes::{Buf as _, BufMut as _};
use clap::Parser;
use flyball::tower::{Gate, GateConfig, Offload, OverloadLayer, layer};
use flyball::{Class, Config, Flyball};
use flyball_core::time::{Clock as _, OsClock};
use flyball_examples::overload::{Serve, calibrate, until_ended, work};
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{NamedService, UnaryService};
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status};

/// Messages that are text.
#[derive(Clone, Copy, Default)]
struct Text;

impl Codec for Text {
    type Encode = String;
    type Decode = String;
    type Encoder = Text;
    type Decoder = Text;

    fn encoder(&mut self) -> Text {
        Text
    }

    fn decoder(&mut self) -> Text {
        Text
    }
}

impl Encoder for Text {
    type Item = String;
    type Error = Status;

    fn encode(&mut self, text: String, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(text.as_bytes());
        Ok(())
    }
}

impl Decoder for Text {
    type Item = String;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<String>, Status> {
        let bytes = from.copy_to_bytes(from.remaining());
        let text = String::from_utf8(bytes.to_vec());
        text.map(Some)
            .map_err(|error| Status::invalid_argument(error.to_string()))
    }
}

/// A service with one call, which computes: in the class of the call, or without flyball on the runtime's own threads.
#[derive(Clone)]
struct Reports {
    rounds: u64,
    classes: Option<Classes>,
}

#[derive(Clone)]
struct Classes {
    interactive: Class,
    batch: Class,
}

impl Classes {
    fn of(&self, request: &Request<String>) -> Class {
        match request.metadata().get("x-kind") {
            Some(kind) if kind == "import" => self.batch.clone(),
            _ => self.interactive.clone(),
        }
    }
}

type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl UnaryService<String> for Reports {
    type Response = String;
    type Future = Answer<Result<Response<String>, Status>>;

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let rounds = self.rounds;
        let compute = move || work(std::hint::black_box(rounds));
        let class = self.classes.as_ref().map(|classes| classes.of(&request));
        let offload = request.extensions().get::<Offload>().cloned();
        let offload = offload.unwrap_or_default();
        Box::pin(async move {
            let sum = match class {
                Some(class) => {
                    let done = class.run(offload.wrap(compute)).await;
                    done.map_err(|error| Status::internal(error.to_string()))?
                }
                None => compute(),
            };
            Ok(Response::new(format!("{}: {sum}", request.into_inner())))
        })
    }
}

impl NamedService for Reports {
    const NAME: &'static str = "examples.Reports";
}

impl tower_service::Service<http::Request<Body>> for Reports {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer<Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let reports = self.clone();
        Box::pin(async move { Ok(tonic::server::Grpc::new(Text).unary(reports, request).await) })
    }
}

/// The gate before all services of the server.
fn overload(gate: &Gate) -> Result<OverloadLayer> {
    let batch = gate.class("batch")?;
    Ok(
        layer(gate)
            .classify(move |head| (head.header("x-kind") == Some("import")).then_some(batch)),
    )
}

fn serve(layer: Option<OverloadLayer>, reports: Reports) -> Result<SocketAddr> {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let incoming = tonic::transport::server::TcpIncoming::bind("127.0.0.1:0".parse()?)?;
            sender.send(incoming.local_addr()?)?;
            let mut server = Server::builder();
            match layer {
                Some(layer) => {
                    let gated = server.layer(layer).add_service(reports);
                    gated.serve_with_incoming(incoming).await?;
                }
                None => {
                    let bare = server.add_service(reports);
                    bare.serve_with_incoming(incoming).await?;
                }
            }
            Ok(())
        })
    });
    Ok(receiver.recv()?)
}

async fn call(channel: Channel, import: bool) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel);
    let ready = client.ready().await;
    ready.map_err(|error| Status::unavailable(error.to_string()))?;
    let mut request = Request::new("a report".to_owned());
    request.set_timeout(Duration::from_millis(250));
    if import {
        let import = tonic::metadata::MetadataValue::from_static("import");
        request.metadata_mut().insert("x-kind", import);
    }
    let path = http::uri::PathAndQuery::from_static("/examples.Reports/Make");
    let answer: Response<String> = client.unary(request, path, Text).await?;
    drop(answer);
    Ok(())
}

#[derive(Debug, Default)]
struct Tally {
    good: u64,
    refused: u64,
    late: u64,
    other: u64,
}

#[derive(Parser)]
struct Args {
    /// How long the load lasts.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// The load, in multiples of what the service can do.
    #[arg(long, default_value_t = 3.0)]
    times: f64,
    /// Only serves, for a load from elsewhere, and prints where.
    #[arg(long)]
    serve: Option<Serve>,
}

async fn load(server: SocketAddr, args: &Args) -> Result<[Tally; 2]> {
    let address = format!("http://{server}");
    let mut channels = Vec::new();
    for _ in 0..16 {
        channels.push(Channel::from_shared(address.clone())?.connect().await?);
    }
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let a_second = 250.0 * cpus as f64 * args.times.clamp(0.1, 20.0);
    println!(
        "the service can do some {} calls a second; it gets {a_second:.0}",
        250 * cpus
    );
    let all = (a_second * args.seconds.clamp(0.5, 600.0)) as u64;
    let (began, mut calls, mut number) = (OsClock.now(), JoinSet::new(), 0);
    while number < all {
        let elapsed = OsClock.now().duration_since(began).as_secs_f64();
        let due = ((elapsed * a_second) as u64).min(all);
        for number in number..due {
            let channel = channels[number as usize % channels.len()].clone();
            let import = !number.is_multiple_of(5);
            calls.spawn(async move { (import, call(channel, import).await) });
        }
        number = due;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut tallies = [Tally::default(), Tally::default()];
    for (import, answer) in calls.join_all().await {
        let tally = &mut tallies[usize::from(import)];
        match answer.map_err(|status| status.code()) {
            Ok(()) => tally.good += 1,
            Err(Code::Unavailable) => tally.refused += 1,
            Err(Code::DeadlineExceeded | Code::Cancelled) => tally.late += 1,
            Err(_) => tally.other += 1,
        }
    }
    Ok(tallies)
}

fn main() -> Result<()> {
    let args = Args::parse();
    let fly = Flyball::start(Config::default())?;
    let gate = Gate::new(GateConfig::default())?;
    let rounds = calibrate();
    let server = if args.serve == Some(Serve::Bare) {
        let classes = None;
        serve(None, Reports { rounds, classes })?
    } else {
        let classes = Some(Classes {
            interactive: fly.class("interactive")?,
            batch: fly.class("batch")?,
        });
        serve(Some(overload(&gate)?), Reports { rounds, classes })?
    };
    if args.serve.is_some() {
        until_ended(server);
    }
    gate.on_level(|level| {
        println!("level {level}: a service would leave out what is optional now")
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let tallies = runtime.block_on(load(server, &args))?;
    for (name, tally) in ["interactive", "import"].iter().zip(tallies) {
        println!(
            "{name:<12} {:>6} in time   {:>6} refused   {:>6} too late   {:>4} otherwise",
            tally.good, tally.refused, tally.late, tally.other
        );
    }
    let status = gate.status();
    println!(
        "limit {} by {}, level {}",
        status.limit, status.algorithm, status.level
    );
    Ok(())
}
