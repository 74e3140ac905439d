//! A service with two handlers that hold its tokio workers up, and the reports that say which and where.
//!
//! `cargo run --release -p flyball-examples --bin blocked`
#![allow(clippy::print_stdout)]

use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::routing::get;
use flyball::watch::{Options, Report, Watch};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;

/// Waits for another service, it seems.
#[inline(never)]
fn ask_the_warehouse() -> u32 {
    // The mistake on show: a thread asleep where a task should wait.
    #[allow(clippy::disallowed_methods)]
    std::thread::sleep(Duration::from_millis(400));
    42
}

/// The longest chain of Collatz numbers below a bound: seconds of computing without an `.await`.
#[inline(never)]
fn longest_chain(below: u64) -> u64 {
    let length = |start: u64| {
        let (mut number, mut length) = (start, 1u64);
        while number != 1 {
            number = if number % 2 == 0 {
                number / 2
            } else {
                3 * number + 1
            };
            length += 1;
        }
        length
    };
    (1..below).max_by_key(|&start| length(start)).unwrap_or(1)
}

async fn stock() -> String {
    format!("{} left\n", ask_the_warehouse())
}

async fn statistics() -> String {
    format!("{}\n", longest_chain(2_000_000))
}

fn service() -> Router {
    Router::new()
        .route("/stock", get(stock))
        .route("/statistics", get(statistics))
}

/// Watches the runtime that this is called in; the reports come out of the channel.
fn watch() -> Result<(Watch, mpsc::Receiver<Report>)> {
    let (sender, reports) = mpsc::channel();
    let watch = Options::new()
        .on_report(move |report| {
            // Nobody may be listening any more.
            let _ = sender.send(report.clone());
        })
        .watch(&Handle::current())?;
    Ok((watch, reports))
}

async fn fetch(server: SocketAddr, path: &str) -> Result<String> {
    let mut connection = TcpStream::connect(server).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    let (_, body) = answer.split_once("\r\n\r\n").context("an answer")?;
    Ok(body.trim().to_owned())
}

#[tokio::main]
async fn main() -> Result<()> {
    let (watch, reports) = watch()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let server = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, service()).await });
    for path in ["/stock", "/statistics"] {
        println!("GET {path}: {}", fetch(server, path).await?);
        for report in reports.try_iter() {
            println!("{report}");
        }
        println!();
    }
    let figures = watch.figures();
    println!(
        "{} samples, {} stacks copied, {:.1?} of CPU for the watch",
        figures.samples, figures.captures, figures.cpu
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CPU-28: the report of a handler that sleeps names the function, not tokio's.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_report_names_the_function() {
        let (_watch, reports) = watch().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, service()).await });
        let blocked = loop {
            // On a crowded machine one sleep may be over before it is looked at.
            fetch(server, "/stock").await.unwrap();
            if let Some(Report::Blocked(blocked)) = reports
                .try_iter()
                .find(|report| matches!(report, Report::Blocked(_)))
            {
                break blocked;
            }
        };
        let stack = blocked.stack.unwrap();
        let culprit = stack.culprit().and_then(|frame| frame.function());
        assert!(culprit.unwrap().contains("ask_the_warehouse"), "{stack:#}");
    }
}
