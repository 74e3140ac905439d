//! How soon the API answers while the pool is saturated.
//!
//! The subject is a process of its own that embeds engine and server (`subjects::server`). This process is the load generator: one
//! thread, at real-time priority where it may have it, over connections that stay open, without pipelining. Requests are open
//! loop: each has an intended time, fixed beforehand, and its latency counts from that time to the last byte of its answer, also
//! where it had to wait for a free connection (no coordinated omission). How late the generator itself looked at its schedule is
//! its lag; over 1 ms at p99 it voids the sample.

use super::{ApiLoad, Arrivals, PoolLoad, Sample};
use crate::machine::{Company, Window};
use crate::process::{Folder, Program, Use};
use crate::stats::quantile;
use crate::work::Work;
use crate::{http, sys};
use anyhow::{Context, Result, bail, ensure};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

/// Asked for in turn.
const PATHS: [&str; 5] = [
    "/v1/cpu/profile",
    "/v1/status",
    "/v1/workers",
    "/v1/classes",
    "/v1/decisions",
];
/// The generator's own lag at p99 above which a sample does not count.
const LAG_MAX_NS: u64 = 1_000_000;
/// Share of the machine that the subject and others must use together for a pool to count as saturated: all of it but for the
/// generator.
const SATURATED_SHARE: f64 = 0.8;
/// Until the subject has looked at the machine a few times and knows its load.
const WARM_UP_NS: u64 = 3_000_000_000;
/// Requests before those that count.
const REHEARSAL_SECONDS: f64 = 0.5;
/// Answers later than this after the last request is intended count as having taken so long.
const PATIENCE_NS: u64 = 2_000_000_000;

struct Connection {
    stream: TcpStream,
    /// What has arrived of an answer.
    received: Vec<u8>,
    /// The request that is being answered.
    waiting: Option<usize>,
}

/// What became of requests; nanoseconds.
#[derive(Default)]
struct Outcome {
    latencies: Vec<u64>,
    lags: Vec<u64>,
    unanswered: usize,
}

struct Generator {
    connections: Vec<Connection>,
    /// Those that wait for nothing, the longest idle first.
    free: VecDeque<usize>,
    requests: Vec<Vec<u8>>,
}

impl Generator {
    fn connect(address: SocketAddr, connections: usize) -> Result<Self> {
        let connect = |_| {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            Ok(Connection {
                stream,
                received: Vec::with_capacity(64 << 10),
                waiting: None,
            })
        };
        let host = address.to_string();
        Ok(Generator {
            connections: (0..connections).map(connect).collect::<Result<_>>()?,
            free: (0..connections).collect(),
            requests: PATHS.iter().map(|path| http::get(&host, path)).collect(),
        })
    }

    /// Sends a request at each of the times after now and gathers the answers.
    fn run(&mut self, times: &[u64]) -> Result<Outcome> {
        let first_ns = sys::now_ns() + 5_000_000;
        let give_up_ns = first_ns + times.last().copied().unwrap_or(0) + PATIENCE_NS;
        let mut outcome = Outcome::default();
        // Due, and without a connection so far.
        let mut due = VecDeque::new();
        let mut noticed = 0;
        while outcome.latencies.len() < times.len() {
            let now = sys::now_ns();
            while let Some(time) = times.get(noticed).filter(|&time| first_ns + time <= now) {
                outcome.lags.push(now - (first_ns + time));
                due.push_back(noticed);
                noticed += 1;
            }
            while let Some((request, connection)) =
                due.front().copied().zip(self.free.front().copied())
            {
                self.send(connection, request)?;
                due.pop_front();
                self.free.pop_front();
            }
            if now >= give_up_ns {
                break;
            }
            let next_ns = times
                .get(noticed)
                .map_or(give_up_ns, |time| first_ns + time);
            let files: Vec<_> = self
                .connections
                .iter()
                .map(|connection| connection.stream.as_fd())
                .collect();
            let wait_ns = next_ns.saturating_sub(sys::now_ns());
            let readable = sys::wait_readable(&files, wait_ns)?;
            for (number, _) in readable.iter().enumerate().filter(|(_, ready)| **ready) {
                if let Some(request) = self.receive(number)? {
                    let latency = sys::now_ns() - (first_ns + times[request]);
                    outcome.latencies.push(latency);
                    self.free.push_back(number);
                }
            }
        }
        outcome.unanswered = times.len() - outcome.latencies.len();
        outcome.latencies.resize(times.len(), PATIENCE_NS);
        outcome.latencies.sort_unstable();
        outcome.lags.sort_unstable();
        Ok(outcome)
    }

    fn send(&mut self, number: usize, request: usize) -> Result<()> {
        let connection = &mut self.connections[number];
        let bytes = &self.requests[request % self.requests.len()];
        // A request is a fraction of what a socket buffers, and this connection has none under way.
        let sent = connection
            .stream
            .write(bytes)
            .context("sending a request")?;
        ensure!(sent == bytes.len(), "a request was taken in part only");
        connection.waiting = Some(request);
        Ok(())
    }

    /// Reads what has arrived; the request whose answer is complete.
    fn receive(&mut self, number: usize) -> Result<Option<usize>> {
        let connection = &mut self.connections[number];
        let mut buffer = [0; 16 << 10];
        loop {
            match connection.stream.read(&mut buffer) {
                Ok(0) => bail!("the server closed a connection"),
                Ok(length) => connection.received.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("receiving an answer"),
            }
        }
        let Some((status, length)) = http::answer(&connection.received)? else {
            return Ok(None);
        };
        let request = connection.waiting.take().context("an answer to nothing")?;
        ensure!(
            status == 200 && length == connection.received.len(),
            "{} was answered by {}",
            PATHS[request % PATHS.len()],
            String::from_utf8_lossy(&connection.received)
        );
        connection.received.clear();
        Ok(Some(request))
    }
}

/// Starts the subject; it tells its address when it serves.
fn start(load: &ApiLoad, work: Work, folder: &Folder) -> Result<(Program, SocketAddr)> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["subject", "--pool", &serde_json::to_string(&load.pool)?])
        .args(["--per-us", &work.per_us().to_string(), "--state-dir"])
        .arg(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut program = Program::start(&mut command)?;
    let output = program
        .child()
        .stdout
        .take()
        .context("its output is piped")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    let address = line
        .trim()
        .parse()
        .with_context(|| format!("its address {line:?}"))?;
    Ok((program, address))
}

/// Latencies of read calls.
pub fn run(load: &ApiLoad, work: Work) -> Result<Sample> {
    let folder = Folder::new(0)?;
    let (mut subject, address) = start(load, work, &folder)?;
    sys::sleep_until_ns(sys::now_ns() + WARM_UP_NS);
    subject.check()?;
    let pid = subject.id();
    let mean_gap_ns = 1e9 / load.requests_per_s;
    let times = |seconds| Arrivals::Jittered.times(mean_gap_ns, seconds);
    let connections = load.connections;
    let (rehearsed, measured) = (times(REHEARSAL_SECONDS), times(load.seconds));
    // A thread of its own, so that what this process starts later would not inherit its priority.
    let generator = std::thread::spawn(move || -> Result<_> {
        sys::become_instrument();
        let mut generator = Generator::connect(address, connections)?;
        generator.run(&rehearsed)?;
        let alone = Company::none();
        let window = Window::open(&alone);
        let before = Use::of(pid)?;
        let outcome = generator.run(&measured)?;
        let used = Use::of(pid)?.since(&before);
        Ok((outcome, used, window.close()))
    });
    let (outcome, used, seen) = generator.join().expect("the generator does not panic")?;
    subject.check()?;
    let us = |sorted: &[u64], q| quantile(sorted, q) as f64 / 1e3;
    let machine_ns = seen.wall_ns * sys::cpus() as f64;
    let foreign = (seen.others_ns - used.cpu_ns as f64) / machine_ns;
    let mut sample = Sample::default()
        .with("p50_us", us(&outcome.latencies, 0.5))
        .with("p99_us", us(&outcome.latencies, 0.99))
        .with("p999_us", us(&outcome.latencies, 0.999))
        .with("max_us", us(&outcome.latencies, 1.0))
        .with("unanswered", outcome.unanswered as f64)
        .with("generator_lag_p99_us", us(&outcome.lags, 0.99))
        .with("received_cores", used.cpu_ns as f64 / seen.wall_ns)
        .foreign(foreign.max(0.0));
    if quantile(&outcome.lags, 0.99) > LAG_MAX_NS {
        sample.void = Some(format!(
            "the generator itself was {:.0} us late at p99",
            us(&outcome.lags, 0.99)
        ));
    } else if load.pool != PoolLoad::None && seen.others_ns < SATURATED_SHARE * machine_ns {
        sample.void = Some(format!(
            "the pool was not saturated: its process used {:.2} CPUs",
            used.cpu_ns as f64 / seen.wall_ns
        ));
    }
    Ok(sample)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A server of one connection that leaves `silent` requests without an answer and answers all others by 200.
    fn serve(silent: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 4096];
            let mut seen = 0;
            while let Ok(1..) = stream.read(&mut buffer) {
                seen += 1;
                if seen > silent {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
                }
            }
        });
        address
    }

    #[test]
    fn every_request_is_answered_and_counted() {
        let mut generator = Generator::connect(serve(0), 1).unwrap();
        let outcome = generator.run(&[0, 1000, 2000, 500_000]).unwrap();
        assert_eq!((outcome.latencies.len(), outcome.lags.len()), (4, 4));
        assert_eq!(outcome.unanswered, 0);
    }

    #[test]
    fn who_waits_for_a_connection_waits_since_the_intended_time() {
        let mut generator = Generator::connect(serve(usize::MAX), 1).unwrap();
        let outcome = generator.run(&[0, 1000, 2000]).unwrap();
        assert_eq!(outcome.unanswered, 3);
        assert_eq!(outcome.latencies, [PATIENCE_NS; 3]);
    }
}
