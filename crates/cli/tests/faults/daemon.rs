//! A daemon that can die: its folder outlives it.

use crate::client::Client;
use crate::wait_until;
use serde_json::Value;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

/// A file system in memory.
pub(crate) const MEMORY: &str = "/dev/shm";
/// Free bytes there with which a test gets along.
const ENOUGH: u64 = 1 << 30;

/// Free bytes in memory.
fn memory_bytes() -> Option<u64> {
    let about = Command::new("df")
        .args(["-B1", "--output=avail", MEMORY])
        .output()
        .ok()?;
    let text = String::from_utf8(about.stdout).ok()?;
    text.lines().nth(1)?.trim().parse().ok()
}

/// A name that nothing else has; numbers of processes come again in other namespaces.
pub(crate) fn unique() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/uuid").expect("Linux gives names");
    text.trim()[..13].to_owned()
}

/// A folder for one test, removed at its end.
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// In memory where there is room for it, for the disk would only make it slower: what survives here survives a process.
    pub(crate) fn new(name: &str) -> Folder {
        let base = if memory_bytes().is_some_and(|bytes| bytes >= ENOUGH) {
            PathBuf::from(MEMORY)
        } else {
            std::env::temp_dir()
        };
        let path = base.join(format!("flyball-faults-{name}-{}", unique()));
        fs::create_dir_all(&path).expect("a folder can be made");
        Folder(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// How daemons of a test are started.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) state: PathBuf,
    /// Where all of them write their log.
    pub(crate) log: PathBuf,
    pub(crate) environment: Vec<(String, OsString)>,
}

impl Setup {
    pub(crate) fn new(folder: &Folder) -> Setup {
        Setup {
            state: folder.path("state"),
            log: folder.path("log"),
            environment: Vec::new(),
        }
    }

    pub(crate) fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.environment.push((name.to_owned(), value.into()));
    }

    /// What was logged last.
    pub(crate) fn log_text(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Starts one, and waits for nothing.
    pub(crate) fn spawn(&self) -> Daemon {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("the log can be written");
        // It dies with the test, also when that is killed.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_flyball")])
            .args(["serve", "--listen", "127.0.0.1:0", "--log-level", "warn"])
            .arg("--state-dir")
            .arg(&self.state)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .env("HOME", self.state.join("home"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("FLYBALL_") {
                command.env_remove(name);
            }
        }
        for name in ["STATE_DIRECTORY", "NOTIFY_SOCKET", "XDG_STATE_HOME"] {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().cloned());
        let mut child = command
            .spawn()
            .expect("flyball starts, by setpriv of util-linux");
        let out = child.stdout.take().expect("it has an output");
        Daemon {
            child,
            out: BufReader::new(out),
            setup: self.clone(),
        }
    }

    /// Starts one that must come up.
    pub(crate) fn start(&self) -> Daemon {
        match self.spawn().ready() {
            Ok(daemon) => daemon,
            Err(log) => panic!("the daemon does not start:\n{log}"),
        }
    }
}

pub(crate) struct Daemon {
    child: Child,
    out: BufReader<ChildStdout>,
    setup: Setup,
}

impl Daemon {
    /// Waits until it serves; the log if it does not come to that.
    pub(crate) fn ready(mut self) -> Result<Daemon, String> {
        let mut line = String::new();
        self.out.read_line(&mut line).expect("the output is text");
        if line.is_empty() {
            let _ = self.child.wait();
            return Err(self.setup.log_text());
        }
        Ok(self)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.setup.state.join("flyball.sock")
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.socket()).expect("the daemon listens")
    }

    /// Asks something that must be answered so.
    pub(crate) fn expect(&self, method: &str, path: &str, body: &str, status: u16) -> Value {
        let answer = self.client().send(method, path, None, body);
        let (found, body) = answer.unwrap_or_else(|error| {
            panic!(
                "{method} {path}: no answer: {error}\n{}",
                self.setup.log_text()
            )
        });
        assert_eq!(found, status, "{method} {path}: {body}");
        body
    }

    /// `kill -9`, at once.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args(["-s", signal, &self.child.id().to_string()])
            .status();
        assert!(status.expect("kill runs").success());
    }

    /// Asks it to end, and waits for that; its exit status.
    pub(crate) fn end(mut self) -> Option<i32> {
        self.signal("TERM");
        self.child.wait().expect("it ends").code()
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait(&mut self) {
        self.child.wait().expect("it can be waited for");
    }

    /// Whether it stands still: none of its threads is in the kernel any more.
    pub(crate) fn is_stopped(&self) -> bool {
        let tasks = format!("/proc/{}/task", self.child.id());
        let Ok(threads) = fs::read_dir(tasks) else {
            return false;
        };
        threads.flatten().all(|thread| {
            let about = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            let state = about.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]);
            // A thread that has gone meanwhile does nothing either.
            matches!(state, Some(b'T') | None)
        })
    }

    /// Stops it, and waits until it stands still.
    pub(crate) fn stop(&self) {
        self.signal("STOP");
        wait_until("the daemon stands still", || self.is_stopped());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Processes with this in their environment.
pub(crate) fn marked(mark: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").expect("/proc is there").flatten() {
        let Some(id) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let Ok(mut file) = File::open(process.path().join("environ")) else {
            continue;
        };
        let mut environment = Vec::new();
        if std::io::Read::read_to_end(&mut file, &mut environment).is_ok()
            && environment
                .windows(mark.len())
                .any(|window| window == mark.as_bytes())
        {
            found.push(id);
        }
    }
    found
}
