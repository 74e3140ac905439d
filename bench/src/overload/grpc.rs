//! The load over gRPC: calls at times fixed beforehand, whether or not earlier ones are answered, over a few connections of HTTP/2.
//!
//! One thread at real-time priority keeps the schedule and looks at it once a tick; another one has a task a call, on tonic's channels. Latency counts from the
//! intended time to the trailers. The lag is how late a call's task begins. A call carries its deadline, which the channel keeps too: nobody waits longer.
//! Such a client costs many times what [`Generator`](super::generator::Generator) does.

use super::generator::{Fate, Fates, Meant};
use super::{GOOD_NS, Kind};
use crate::sys;
use anyhow::{Context, Result, ensure};
use axum::body::Bytes;
use axum::http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use std::net::SocketAddrV4;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::{Service as _, ServiceExt as _};

/// A connection bears 200 calls at once unless the server says otherwise; that is as many as come within a deadline at most.
const CONNECTIONS: usize = 16;
const TICK_NS: u64 = 500_000;
/// A message: not compressed, four bytes long.
const MESSAGE: &[u8] = b"\0\0\0\0\x04text";
/// Status codes of gRPC.
const OK: &str = "0";
const UNAVAILABLE: &str = "14";

fn runtime() -> Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime)
}

async fn connect(server: SocketAddrV4) -> Result<Vec<Channel>> {
    let mut channels = Vec::new();
    for _ in 0..CONNECTIONS {
        let endpoint = Channel::from_shared(format!("http://{server}"))?;
        channels.push(endpoint.connect().await?);
    }
    Ok(channels)
}

/// One call; its status, if it came to one.
async fn call(mut channel: Channel, kind: u8, deadline_ns: u64) -> Option<String> {
    let request = Request::post("/examples.Reports/Make")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", format!("{}u", deadline_ns / 1000));
    let request = match kind == Kind::Page as u8 {
        true => request,
        false => request.header("x-kind", "import"),
    };
    let body = Body::new(Full::new(Bytes::from_static(MESSAGE)));
    let answer = channel.ready().await.ok()?.call(request.body(body).ok()?);
    let (head, body) = answer.await.ok()?.into_parts();
    let status = |headers: &HeaderMap| Some(headers.get("grpc-status")?.to_str().ok()?.to_owned());
    // An answer that is only a status has it at its head.
    match status(&head.headers) {
        Some(code) => Some(code),
        None => body.collect().await.ok()?.trailers().and_then(status),
    }
}

/// Calls a second that a service answers to sixteen clients who never rest.
pub fn capacity(server: SocketAddrV4) -> Result<f64> {
    runtime()?.block_on(async {
        let begun = sys::now_ns();
        let mut clients = JoinSet::new();
        for channel in connect(server).await? {
            clients.spawn(async move {
                let mut done = 0;
                loop {
                    let code = call(channel.clone(), Kind::Report as u8, 10_000_000_000).await;
                    ensure!(code.as_deref() == Some(OK), "the service answers {code:?}");
                    let passed = sys::now_ns() - begun;
                    if passed > 3_000_000_000 {
                        return Ok(done);
                    }
                    done += u64::from(passed > 500_000_000);
                }
            });
        }
        let done: Result<Vec<u64>> = clients.join_all().await.into_iter().collect();
        Ok(done?.into_iter().sum::<u64>() as f64 / 2.5)
    })
}

/// Makes the calls at their times and waits for what becomes of them.
pub fn run(server: SocketAddrV4, meant: &[Meant]) -> Result<Fates> {
    let runtime = runtime()?;
    let channels = runtime.block_on(connect(server))?;
    let (cpu, begun) = (sys::process_cpu_ns(), sys::now_ns());
    let first = begun + 5_000_000;
    let (sender, mut due) = tokio::sync::mpsc::unbounded_channel();
    let schedule: Vec<u64> = meant.iter().map(|meant| first + meant.at).collect();
    let clock = std::thread::spawn(move || {
        sys::become_instrument();
        let mut looked = first;
        for (number, at) in schedule.into_iter().enumerate() {
            if at > looked {
                looked = at.max(looked + TICK_NS);
                sys::sleep_until_ns(looked);
            }
            if sender.send(number).is_err() {
                return;
            }
        }
    });
    let mut calls = JoinSet::new();
    let mut fates = Fates {
        fates: vec![Fate::Lost; meant.len()],
        lags: Vec::with_capacity(meant.len()),
        connections: CONNECTIONS,
        ..Fates::default()
    };
    let ended = runtime.block_on(async {
        while let Some(number) = due.recv().await {
            let channel = channels[number % CONNECTIONS].clone();
            let Meant { at, kind } = meant[number];
            calls.spawn(async move {
                let lag = sys::now_ns().saturating_sub(first + at);
                let code = call(channel, kind, GOOD_NS).await;
                (number, lag, code, sys::now_ns() - (first + at))
            });
        }
        calls.join_all().await
    });
    clock.join().ok().context("the clock does not panic")?;
    for (number, lag, code, took) in ended {
        fates.lags.push(lag);
        fates.fates[number] = match code.as_deref() {
            Some(OK) => Fate::Served(took),
            Some(UNAVAILABLE) => Fate::Refused(took),
            // That it was or would be too late is said by either side.
            _ => Fate::Lost,
        };
    }
    fates.lags.sort_unstable();
    fates.cpu_ns = sys::process_cpu_ns() - cpu;
    fates.wall_ns = sys::now_ns() - begun;
    Ok(fates)
}
