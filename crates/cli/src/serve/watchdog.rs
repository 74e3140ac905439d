//! Whether the daemon still does what it is there for.
//!
//! A watchdog that is fed by a timer proves that a timer runs. This one is fed only if, since the last time, the control loop has gone
//! round and the API has answered on the local socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flyball_core::time::{Clock, OsClock, Timestamp};
use flyball_engine::Engine;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

/// How long the API may take to say that it lives.
const ANSWER: Duration = Duration::from_secs(5);
const REQUEST: &[u8] = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
const EXPECTED: &[u8] = b"HTTP/1.1 200 ";

/// Looks at a fixed interval.
#[derive(Debug)]
pub(crate) struct Watchdog {
    interval: Duration,
    due: Timestamp,
    ticks: u64,
    socket: PathBuf,
    runtime: Runtime,
}

impl Watchdog {
    /// Looks first when an interval has passed.
    pub(crate) fn new(interval: Duration, engine: &Engine, socket: &Path) -> io::Result<Watchdog> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let ticks = engine.control_ticks();
        engine.nudge_control();
        Ok(Watchdog {
            interval,
            due: OsClock.now().saturating_add(interval),
            ticks,
            socket: socket.to_owned(),
            runtime,
        })
    }

    /// How long to wait until the next look.
    pub(crate) fn left(&self) -> Duration {
        self.due.duration_since(OsClock.now())
    }

    /// Looks, if the time has come: `None` if not, else whether all is well, or what is not.
    pub(crate) fn look(&mut self, engine: &Engine) -> Option<Result<(), String>> {
        if !self.left().is_zero() {
            return None;
        }
        self.due = OsClock.now().saturating_add(self.interval);
        let before = std::mem::replace(&mut self.ticks, engine.control_ticks());
        let turned = self.ticks != before;
        // So that it goes round by the next look, even where it has nothing to do.
        engine.nudge_control();
        Some(match self.answers() {
            _ if !turned => Err("the control loop stands still".to_owned()),
            Err(error) => Err(format!("the API does not answer: {error}")),
            Ok(()) => Ok(()),
        })
    }

    fn answers(&self) -> io::Result<()> {
        let asked = async {
            let mut stream = UnixStream::connect(&self.socket).await?;
            stream.write_all(REQUEST).await?;
            let mut start = [0; EXPECTED.len()];
            stream.read_exact(&mut start).await?;
            if start == EXPECTED {
                return Ok(());
            }
            Err(io::Error::other("it does not say that it lives"))
        };
        let limit = ANSWER.min(self.interval);
        self.runtime
            .block_on(async { tokio::time::timeout(limit, asked).await })
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}
