//! `flyball serve`: the daemon. Engine and API of one process, from a configuration to a clean end.
//!
//! The main thread starts everything, then waits for signals and for the watchdog's time; work and requests have threads of their
//! own. Signals are held back before the first of those starts, so that they come here only.

mod log;
mod notify;
mod options;
mod state;
mod watchdog;

pub(crate) use options::Serve;
pub(crate) use state::{Refusal, State};

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use flyball_core::time::{Clock, OsClock, Timestamp};
use flyball_engine::config::{self, Loaded, Sources};
use flyball_engine::{Engine, Error as EngineError, Options as EngineOptions};
use flyball_server::{Error as ServerError, Options, Server};

use crate::client::state_folders;
use crate::commands::config::faults;
use crate::complain;
use crate::show::inert;
use crate::signals::{self, Blocked};
use notify::Notifier;
use watchdog::Watchdog;

/// Time that requests have to end, once no more are taken.
const REQUESTS_END: Duration = Duration::from_secs(5);
/// Time in which those who follow a task hear of its end before the daemon goes.
const FAREWELL: Duration = Duration::from_millis(500);
/// Between two looks at what still runs: soon enough that nobody notices.
const LOOK: Duration = Duration::from_millis(50);
/// Most commands at once: what `scheduler.max_concurrency` can be set to. Only those that run cost anything.
const CHILDREN: usize = 10_000;
/// What the end takes beside the waits that are configured.
const END_MARGIN: Duration = Duration::from_secs(5);

/// Exit status of a process that a second signal ended.
const INTERRUPTED: i32 = 130;

/// Why the daemon does not run: what to say, and the exit status.
struct Stop(String, u8);

pub(crate) fn run(options: Serve) -> ExitCode {
    match serve(&options) {
        Ok(status) => ExitCode::from(status),
        Err(Stop(text, status)) => complain(&text, status),
    }
}

/// A daemon that runs.
struct Daemon {
    engine: Arc<Engine>,
    server: Server,
    notifier: Notifier,
    sources: Sources,
    status: String,
    // Last: the folder is let go of when nothing works in it any more.
    state: State,
}

fn serve(options: &Serve) -> Result<u8, Stop> {
    let (sources, from) = options.sources();
    let loaded = config::load(&sources).map_err(|errors| Stop(faults(&errors), 2))?;
    log::start(&loaded.config.server.log);
    let blocked = Blocked::new(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP]);
    tracing::info!(
        configuration = from,
        version = env!("CARGO_PKG_VERSION"),
        "flyball starts"
    );
    for notice in &loaded.notices {
        tracing::warn!("{notice}");
    }
    let notifier = Notifier::from_environment().unwrap_or_else(|error| {
        tracing::warn!(%error, "the service manager that NOTIFY_SOCKET names cannot be told anything");
        Notifier::default()
    });
    let daemon = Daemon::start(loaded, sources, notifier)?;
    daemon.warn_of_unused();
    daemon.announce();
    daemon.attend(&blocked);
    Ok(daemon.end(blocked))
}

impl Daemon {
    fn start(loaded: Loaded, sources: Sources, notifier: Notifier) -> Result<Daemon, Stop> {
        let folder = loaded
            .config
            .state_dir(|name| std::env::var_os(name))
            .ok_or_else(|| {
                let text = "where to keep state is not known: there is no HOME; --state-dir names a folder";
                Stop(text.to_owned(), 2)
            })?;
        let state = State::open(&folder).map_err(|refusal| match refusal {
            Refusal::Held(text) => Stop(text, 4),
            Refusal::Unfit(text) => Stop(text, 1),
        })?;
        let options = Options::of(&loaded.config.server, state.path());
        let mut commands = flyball_process::Options::default();
        commands.children_max = CHILDREN;
        let parts = EngineOptions {
            daemon_throttles: true,
            state_dir: Some(state.path().to_owned()),
            commands: Some(commands),
            ..EngineOptions::default()
        };
        let engine = Engine::start_with(loaded, parts).map_err(|error| not_started(&error))?;
        let engine = Arc::new(engine);
        let server = Server::start(options, engine.clone()).map_err(|error| not_served(&error))?;
        let addresses: Vec<String> = server
            .addresses()
            .iter()
            .map(|address| format!("http://{address}"))
            .collect();
        Ok(Daemon {
            engine,
            status: format!("serving on {}", addresses.join(", ")),
            server,
            notifier,
            sources,
            state,
        })
    }

    /// Says that it is ready: to people, to the log, to systemd.
    fn announce(&self) {
        let socket = self.server.socket();
        let socket_text = inert(&socket.to_string_lossy());
        let usual = state_folders(None, |name| std::env::var_os(name));
        let found = usual.iter().any(|folder| {
            same(folder, self.state.path()) && self.state.path().join("flyball.sock") == socket
        });
        let look = if found {
            "flyball status".to_owned()
        } else {
            format!(
                "flyball status --server {}",
                crate::quote::line([socket.as_os_str().as_encoded_bytes()])
            )
        };
        // Whoever started it may not listen; then the log has it.
        let _ = writeln!(
            std::io::stdout(),
            "flyball is {} and unix:{socket_text}; `{look}` shows how it is",
            self.status
        );
        tracing::info!(socket = socket_text, state = %self.state.path().display(), "{}", self.status);
        self.notifier.ready(&self.status);
    }

    /// Waits for the signal to end, and does meanwhile what other signals and the watchdog ask for.
    fn attend(&self, blocked: &Blocked) {
        let mut watchdog = self.notifier.watchdog().and_then(|interval| {
            let watchdog = Watchdog::new(interval, &self.engine, self.server.socket());
            watchdog
                .inspect_err(|error| tracing::warn!(%error, "the watchdog cannot be fed"))
                .ok()
        });
        loop {
            match blocked.next(watchdog.as_ref().map(Watchdog::left)) {
                Some(libc::SIGHUP) => self.reload(),
                Some(signal) => {
                    tracing::info!(signal, "asked to end");
                    return;
                }
                None => {}
            }
            match watchdog
                .as_mut()
                .and_then(|watchdog| watchdog.look(&self.engine))
            {
                Some(Ok(())) => self.notifier.alive(),
                Some(Err(why)) => tracing::error!(
                    "not well, so that the service manager's watchdog is not fed: {why}"
                ),
                None => {}
            }
        }
    }

    /// Reads the configuration anew. A wrong one is told whole, and the old one stays.
    fn reload(&self) {
        self.notifier.reloading();
        match self.engine.reload(&self.sources, "SIGHUP") {
            Ok(changes) => {
                tracing::info!(changes = changes.len(), "configuration read again");
                for notice in &self.engine.configuration().notices {
                    tracing::warn!("{notice}");
                }
                self.warn_of_unused();
            }
            Err(EngineError::Config(errors)) => {
                for fault in errors.faults() {
                    tracing::error!("{fault}");
                }
                let count = errors.faults().len() + errors.more();
                tracing::error!(faults = count, "the configuration stays as it was");
            }
            Err(error) => tracing::error!("{error}; the configuration stays as it was"),
        }
        self.notifier.ready(&self.status);
    }

    /// Says what the configuration names and nothing comes of: it may be mistyped.
    fn warn_of_unused(&self) {
        for sentence in self.engine.unused_settings() {
            tracing::warn!("{sentence}");
        }
    }

    /// Goes on answering for a while, so that who balances over several daemons sees that this one is not ready and looks elsewhere.
    fn look_away(&self, blocked: &Blocked, delay: Duration) {
        let until = OsClock.now().saturating_add(delay);
        loop {
            let left = until.duration_since(OsClock.now());
            match blocked.next(Some(left)) {
                Some(libc::SIGINT | libc::SIGTERM) => end_at_once(),
                None if until <= OsClock.now() => return,
                Some(_) | None => {}
            }
        }
    }

    /// Goes on answering while durable tasks run here, so that people see what is waited for and workers can say how theirs went. No task is started.
    fn finish_tasks(&self, blocked: &Blocked, until: Timestamp) {
        let mut told = false;
        loop {
            let running = self.engine.running_tasks().map_or(0, |tasks| tasks.len());
            let left = until.duration_since(OsClock.now());
            if running == 0 && told {
                self.look_away(blocked, FAREWELL.min(left));
                return;
            }
            if running == 0 || left.is_zero() {
                return;
            }
            if !told {
                tracing::info!(running, within = ?left, "finishing the tasks that run; others wait for the next start");
                told = true;
            }
            if let Some(libc::SIGINT | libc::SIGTERM) = blocked.next(Some(left.min(LOOK))) {
                end_at_once();
            }
        }
    }

    /// Finishes what was accepted, within the configured time, and answers the exit status.
    fn end(self, blocked: Blocked) -> u8 {
        let config = self.engine.config();
        let (pool, delay) = (&config.worker_pool, config.server.drain_delay);
        let within = delay + REQUESTS_END + pool.shutdown_timeout + pool.force_after + END_MARGIN;
        self.notifier.stopping(within);
        self.engine.drain();
        self.server.drain();
        if !delay.is_zero() {
            tracing::info!(?delay, "still answering, but not ready for new work");
            self.look_away(&blocked, delay);
        }
        let until = OsClock.now().saturating_add(pool.shutdown_timeout);
        self.finish_tasks(&blocked, until);
        end_at_second_signal(blocked);
        let cut_off = self
            .server
            .shutdown(REQUESTS_END.min(pool.shutdown_timeout));
        if cut_off > 0 {
            tracing::warn!(
                connections = cut_off,
                "cut off connections that did not end"
            );
        }
        let Some(engine) = Arc::into_inner(self.engine) else {
            tracing::error!("a request does not end; the engine is left as it is");
            return 1;
        };
        let report = match engine.shutdown_within(until.duration_since(OsClock.now())) {
            Ok(report) => report,
            Err(refused) => {
                tracing::error!("{}", refused.1);
                return 1;
            }
        };
        for (class, kind, time) in &report.left_running {
            tracing::warn!(
                class,
                kind,
                ran_ms = time.as_millis() as u64,
                "left running: it cannot be interrupted"
            );
        }
        tracing::info!(
            ended = report.ended,
            cancelled = report.cancelled,
            left_running = report.left_running.len(),
            "flyball ends"
        );
        u8::from(!report.left_running.is_empty())
    }
}

/// From now on a signal to end does so, whatever is still being finished.
fn end_at_second_signal(blocked: Blocked) {
    let wait = move || {
        loop {
            if let Some(libc::SIGINT | libc::SIGTERM) = blocked.next(None) {
                end_at_once();
            }
        }
    };
    let thread = std::thread::Builder::new().name("flyball-signals".to_owned());
    if let Err(error) = thread.spawn(wait) {
        tracing::warn!(%error, "a second signal will not be heard");
    }
}

fn end_at_once() -> ! {
    tracing::warn!("asked to end again: ending at once");
    signals::exit_now(INTERRUPTED)
}

fn not_started(error: &EngineError) -> Stop {
    match error {
        EngineError::Config(errors) => Stop(faults(errors), 2),
        other => Stop(
            inert(&format!("the engine does not start: {}", causes(other))),
            1,
        ),
    }
}

fn not_served(error: &ServerError) -> Stop {
    let status = match error {
        ServerError::NotLoopback { .. }
        | ServerError::Option { .. }
        | ServerError::SocketPath { .. } => 2,
        _ => 1,
    };
    Stop(inert(&causes(error)), status)
}

/// An error with what caused it.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some errors repeat their cause in their own words.
        if !text.contains(&cause_text) {
            text.push_str(&format!(": {cause_text}"));
        }
        source = cause.source();
    }
    text
}

fn same(a: &Path, b: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| PathBuf::from(path));
    real(a) == real(b)
}
