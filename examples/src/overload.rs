//! What services that are to be overloaded share: work, how they are served for a load from elsewhere, and a load of their own: open-loop, over kept-alive
//! connections, with deadlines.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use flyball_core::histogram::Histogram;
use flyball_core::time::{Clock as _, OsClock, Source};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// An answer is good within this time.
pub const GOOD: Duration = Duration::from_millis(250);
/// After this time an answer is waited for no longer.
const LOST: Duration = Duration::from_secs(2);
/// Connections at most; a request that finds none free opens another up to here, and is lost beyond.
const CONNECTIONS: usize = 2_000;

/// What a request computes: so long when nothing else runs.
const WORK: Duration = Duration::from_millis(4);

/// A service that only serves.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Serve {
    /// Without flyball.
    Bare,
    /// Behind the gate.
    Gated,
}

/// Prints where a service is and lets it serve until the program is ended.
#[allow(clippy::print_stdout)]
pub fn until_ended(address: SocketAddr) -> ! {
    println!("{address}");
    loop {
        std::thread::park();
    }
}

/// Computes for a fixed number of rounds, found once.
#[must_use]
pub fn work(rounds: u64) -> u64 {
    (0..rounds).fold(0x9e37_79b9_7f4a_7c15u64, |sum, round| {
        (sum ^ round)
            .rotate_left(5)
            .wrapping_mul(0x2545_f491_4f6c_dd1d)
    })
}

/// How many rounds take 4 ms. The shortest of several trials counts, as others may run meanwhile.
#[must_use]
pub fn calibrate() -> u64 {
    let rounds = 4_000_000;
    let trials = (0..5).map(|_| {
        let began = OsClock.now();
        std::hint::black_box(work(std::hint::black_box(rounds)));
        OsClock.now().duration_since(began).as_secs_f64()
    });
    (rounds as f64 * WORK.as_secs_f64() / trials.fold(f64::INFINITY, f64::min)) as u64
}

/// What became of the requests of one kind.
#[derive(Debug, Default)]
pub struct Kind {
    /// All.
    pub sent: u64,
    /// Answered with 200 within [`GOOD`].
    pub good: u64,
    /// Refused by a status.
    pub refused: u64,
    /// Answered later than that, or not.
    pub late: u64,
    /// Of all that were answered with 200, nanoseconds from the time at which they should have been sent.
    pub latency: Histogram,
}

/// What became of all.
#[derive(Debug, Default)]
pub struct Tally {
    /// By kind.
    pub kinds: [Kind; 2],
}

/// How many requests a second a service answers that is always busy with eight.
///
/// # Errors
/// A connection that fails.
pub fn capacity(server: SocketAddr, path: &'static str, during: Duration) -> Result<f64> {
    runtime()?.block_on(async move {
        let clock = Source::best();
        let until = clock.now().saturating_add(during);
        let mut busy = JoinSet::new();
        for _ in 0..8 {
            let clock = clock.clone();
            busy.spawn(async move {
                let mut connection = TcpStream::connect(server).await?;
                let mut done = 0u64;
                while clock.now() < until {
                    request(&mut connection, path).await?;
                    done += 1;
                }
                anyhow::Ok(done)
            });
        }
        let mut done = 0;
        for each in busy.join_all().await {
            done += each?;
        }
        Ok(done as f64 / during.as_secs_f64())
    })
}

/// Sends so many requests a second, whatever becomes of them, each fifth of the first kind.
///
/// # Errors
/// A runtime that cannot be made.
pub fn load(
    server: SocketAddr,
    paths: [&'static str; 2],
    a_second: f64,
    during: Duration,
) -> Result<Tally> {
    let tally = Arc::new(Mutex::new(Tally::default()));
    runtime()?.block_on(async {
        let clock = Source::best();
        let idle: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let began = clock.now();
        let (mut requests, mut number) = (JoinSet::new(), 0u64);
        let all = (a_second * during.as_secs_f64()) as u64;
        while number < all {
            let elapsed = clock.now().duration_since(began).as_secs_f64();
            let due = ((elapsed * a_second) as u64).min(all);
            for number in number..due {
                let kind = usize::from(!number.is_multiple_of(5));
                let offset = Duration::from_secs_f64(number as f64 / a_second);
                let meant = began.saturating_add(offset);
                lock(&tally).kinds[kind].sent += 1;
                if requests.len() >= CONNECTIONS {
                    lock(&tally).kinds[kind].late += 1;
                    continue;
                }
                let (clock, idle, tally) = (clock.clone(), Arc::clone(&idle), Arc::clone(&tally));
                requests.spawn(async move {
                    let answer = tokio::time::timeout(LOST, one(server, &idle, paths[kind])).await;
                    let took = clock.now().duration_since(meant);
                    let mut tally = lock(&tally);
                    let kind = &mut tally.kinds[kind];
                    match answer {
                        Ok(Ok(200)) => {
                            kind.latency.record(took.as_nanos() as u64);
                            if took <= GOOD {
                                kind.good += 1
                            } else {
                                kind.late += 1
                            }
                        }
                        Ok(Ok(_)) => kind.refused += 1,
                        _ => kind.late += 1,
                    }
                });
            }
            number = due;
            while requests.try_join_next().is_some() {}
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        requests.join_all().await;
        anyhow::Ok(())
    })?;
    Ok(std::mem::take(&mut *lock(&tally)))
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

async fn one(server: SocketAddr, idle: &Mutex<Vec<TcpStream>>, path: &str) -> Result<u16> {
    let pooled = lock(idle).pop();
    let mut connection = match pooled {
        Some(connection) => connection,
        None => TcpStream::connect(server).await?,
    };
    let status = request(&mut connection, path).await?;
    lock(idle).push(connection);
    Ok(status)
}

/// Sends a request and reads the answer; its status.
async fn request(connection: &mut TcpStream, path: &str) -> Result<u16> {
    let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    connection.write_all(head.as_bytes()).await?;
    let mut answer = Vec::with_capacity(512);
    loop {
        anyhow::ensure!(
            connection.read_buf(&mut answer).await? > 0,
            "the connection ended"
        );
        let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
            anyhow::ensure!(answer.len() < 1 << 16, "the answer's head is too long");
            continue;
        };
        let head = std::str::from_utf8(&answer[..end])?.to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.map_or(Ok(0), |length| length.trim().parse())?;
        if answer.len() >= end + 4 + length {
            let status = head.split_ascii_whitespace().nth(1).unwrap_or_default();
            return Ok(status.parse()?);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
