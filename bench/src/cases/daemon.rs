//! What the daemon costs while it has nothing to do, and how soon it is there.
//!
//! The subject is the program, as its users start it, with a state folder of its own and any free port. It is asked over its Unix
//! socket, where no port must be known beforehand, and read in /proc by this process.
//!
//! Idle, CPU time is the sum of its threads' scheduler statistics, which count nanoseconds; the clock ticks of stat(5), 10 ms
//! each, are kept beside. `ready` counts from just before the process is started to the first 200 of `/readyz`; between two
//! attempts the client sleeps a fifth of a millisecond. Each start has an empty state folder, so that token and socket are made
//! anew.

use super::Sample;
use crate::machine::{Company, Window};
use crate::process::{Folder, Memory, Program, Use};
use crate::{http, stats, sys};
use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const RETRY_NS: u64 = 200_000;
/// A daemon that is not ready by then does not become so.
const READY_LIMIT_NS: u64 = 20_000_000_000;
const END_LIMIT_NS: u64 = 20_000_000_000;
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// A daemon that runs, with what it writes and keeps.
pub struct Daemon {
    pub program: Program,
    pub folder: Folder,
    /// Where it listens, as its users say it.
    pub address: String,
    started_ns: u64,
}

/// One request on a connection of its own; the status of its answer.
fn status_of(socket: &Path, path: &str) -> Result<u16> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.write_all(&http::get("localhost", path))?;
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer)? {
            0 => bail!("the connection ended within an answer"),
            length => bytes.extend_from_slice(&buffer[..length]),
        }
        if let Some((status, _)) = http::answer(&bytes)? {
            return Ok(status);
        }
    }
}

impl Daemon {
    /// On any free port.
    fn start(program: &Path, number: usize) -> Result<Self> {
        Daemon::start_in(program, Folder::new(number)?, "127.0.0.1:0", &[])
    }

    /// Over the state that the folder holds; `settings` are variables of its environment.
    pub fn start_in(
        program: &Path,
        folder: Folder,
        address: &str,
        settings: &[(&str, &str)],
    ) -> Result<Self> {
        let log = File::create(folder.path().join("log"))?;
        let mut command = Command::new(program);
        command
            .args(["serve", "--listen", address, "--state-dir"])
            .arg(folder.path().join("state"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // A configuration that the user of this machine has is none of the benchmark's.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("FLYBALL_") {
                command.env_remove(name);
            }
        }
        command.envs(settings.iter().copied());
        let started_ns = sys::now_ns();
        let program = Program::start(&mut command)?;
        Ok(Daemon {
            program,
            folder,
            address: address.to_owned(),
            started_ns,
        })
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("state/flyball.sock")
    }

    /// What allows changes over TCP.
    pub fn token(&self) -> Result<String> {
        let file = self.folder.path().join("state/admin.token");
        let token = std::fs::read_to_string(&file)
            .with_context(|| format!("reading {}", file.display()))?;
        Ok(token.trim().to_owned())
    }

    /// Waits until it is ready; nanoseconds since it was started.
    pub fn wait_ready(&mut self) -> Result<u64> {
        let socket = self.socket();
        loop {
            let outcome = status_of(&socket, "/readyz");
            let passed = sys::now_ns() - self.started_ns;
            match outcome {
                Ok(200) => return Ok(passed),
                Ok(503) | Err(_) if passed < READY_LIMIT_NS => {}
                Ok(status) => bail!("/readyz answers {status}; {}", self.log()),
                Err(error) => return Err(error.context(format!("not ready; {}", self.log()))),
            }
            if let Err(error) = self.program.check() {
                return Err(error.context(self.log()));
            }
            sys::sleep_until_ns(sys::now_ns() + RETRY_NS);
        }
    }

    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        format!("it wrote: {}", log.trim())
    }

    /// Asks it to end; nanoseconds until it had.
    pub fn end(&mut self) -> Result<u64> {
        let begun = sys::now_ns();
        let status = self.program.end(END_LIMIT_NS).with_context(|| self.log())?;
        ensure!(
            status.success(),
            "asked to end, it ended with {status}; {}",
            self.log()
        );
        Ok(sys::now_ns() - begun)
    }
}

/// CPU, memory, threads and context switches of an idle daemon over `seconds`, after `warm_up` seconds.
pub fn idle(program: &Path, warm_up: f64, seconds: f64) -> Result<Sample> {
    let mut daemon = Daemon::start(program, 0)?;
    daemon.wait_ready()?;
    sys::sleep_until_ns(sys::now_ns() + (warm_up * 1e9) as u64);
    let pid = daemon.program.id();
    let alone = Company::none();
    let window = Window::open(&alone);
    let before = Use::of(pid)?;
    let begun = sys::now_ns();
    sys::sleep_until_ns(begun + (seconds * 1e9) as u64);
    daemon.program.check()?;
    let after = Use::of(pid)?;
    let passed_ns = (sys::now_ns() - begun) as f64;
    let foreign = window.close().others_share;
    let used = after.since(&before);
    let memory = Memory::of(pid)?;
    daemon.end()?;
    Ok(Sample::default()
        .with("cpu_percent", 100.0 * used.cpu_ns as f64 / passed_ns)
        .with("idle_ticks", used.ticks as f64)
        .with("switches_per_s", used.switches as f64 * 1e9 / passed_ns)
        .with("threads", after.threads.len() as f64)
        .with("resident_mb", memory.resident as f64 / 1e6)
        .with("proportional_mb", memory.proportional as f64 / 1e6)
        .foreign(foreign))
}

/// From start to ready, and from the wish that it ends to its end, over so many starts one after the other.
pub fn ready(program: &Path, starts: usize) -> Result<Sample> {
    let (mut ready, mut ended) = (Vec::new(), Vec::new());
    for number in 0..starts {
        let mut daemon = Daemon::start(program, number)?;
        ready.push(daemon.wait_ready()? as f64 / 1e6);
        ended.push(daemon.end()? as f64 / 1e6);
    }
    let largest = |values: &[f64]| values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let smallest = |values: &[f64]| values.iter().copied().fold(f64::INFINITY, f64::min);
    Ok(Sample::default()
        .with("ready_ms", stats::median(&ready))
        .with("ready_min_ms", smallest(&ready))
        .with("ready_max_ms", largest(&ready))
        .with("end_ms", stats::median(&ended))
        .with("end_max_ms", largest(&ended)))
}
