//! A small HTTP client for measuring, on a thread and a tokio runtime of its own.
//!
//! It is open-loop: requests leave at their times whether or not earlier ones were answered, so a slow answer does not keep
//! later requests from being slow too. Latency counts from the moment a request leaves to the moment its body is complete.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use flyball_core::histogram::Histogram;
use flyball_core::time::Source;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// The longest answer that is read, bytes.
const ANSWER_MAX: usize = 1 << 20;

/// What was measured.
#[derive(Debug, Default)]
pub struct Measured {
    /// Latencies, nanoseconds.
    pub latency: Histogram,
    /// Requests that failed.
    pub failed: u64,
}

/// Sends `GET path` to `server` each `every`, for the time `during`, from a thread of its own.
pub fn measure(
    server: SocketAddr,
    path: &'static str,
    every: Duration,
    during: Duration,
) -> JoinHandle<Result<Measured>> {
    std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(send_all(server, path, every, during))
    })
}

async fn send_all(
    server: SocketAddr,
    path: &'static str,
    every: Duration,
    during: Duration,
) -> Result<Measured> {
    let clock = Source::best();
    let idle: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
    let mut timer = tokio::time::interval(every);
    let mut requests = JoinSet::new();
    for _ in 0..during.as_nanos() / every.as_nanos().max(1) {
        timer.tick().await;
        let (clock, idle) = (clock.clone(), Arc::clone(&idle));
        requests.spawn(async move {
            let pooled = lock(&idle).pop();
            let mut connection = match pooled {
                Some(connection) => connection,
                None => TcpStream::connect(server).await?,
            };
            let sent = clock.now();
            request(&mut connection, "GET", path).await?;
            let nanos = clock.now().saturating_nanos_since(sent);
            lock(&idle).push(connection);
            anyhow::Ok(nanos)
        });
    }
    let mut measured = Measured::default();
    for answer in requests.join_all().await {
        match answer {
            Ok(nanos) => measured.latency.record(nanos),
            Err(_) => measured.failed += 1,
        }
    }
    Ok(measured)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Sends a request without a body and reads the answer's body.
///
/// # Errors
/// A connection that ends early, an answer without `content-length` or longer than 1 MiB, or a status other than 200.
pub async fn request(connection: &mut TcpStream, method: &str, path: &str) -> Result<Vec<u8>> {
    let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n");
    connection.write_all(head.as_bytes()).await?;
    let mut answer = Vec::with_capacity(1_024);
    let body_at = loop {
        if let Some(end) = find(&answer, b"\r\n\r\n") {
            break end + 4;
        }
        ensure!(answer.len() <= ANSWER_MAX, "the answer's head is too long");
        ensure!(
            connection.read_buf(&mut answer).await? > 0,
            "the connection ended"
        );
    };
    let head = std::str::from_utf8(&answer[..body_at])?.to_ascii_lowercase();
    let length: usize = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .context("the answer has no content-length")?
        .trim()
        .parse()?;
    ensure!(length <= ANSWER_MAX, "the answer is too long");
    while answer.len() < body_at + length {
        ensure!(
            connection.read_buf(&mut answer).await? > 0,
            "the connection ended"
        );
    }
    if !head.starts_with("http/1.1 200") {
        bail!("{}", head.lines().next().unwrap_or_default());
    }
    Ok(answer.split_off(body_at))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
