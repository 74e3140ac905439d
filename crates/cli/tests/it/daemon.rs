//! A daemon for one test: free port, state folder of its own, gone when the test is.

use std::io::{BufRead, BufReader, Lines};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use crate::{Folder, Ran, finish, flyball};

/// More than anything here takes on a busy machine: a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// `flyball` that sees nothing of the user's own daemons and settings.
pub(crate) fn isolated(folder: &Folder) -> Command {
    let mut command = flyball();
    for name in [
        "STATE_DIRECTORY",
        "XDG_STATE_HOME",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
    ] {
        command.env_remove(name);
    }
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FLYBALL_") {
            command.env_remove(name);
        }
    }
    command.env("HOME", folder.path("home"));
    command
}

/// A daemon that runs.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) folder: Folder,
    /// What it said when it was ready.
    pub(crate) ready: String,
    log: Lines<BufReader<ChildStderr>>,
}

impl Daemon {
    pub(crate) fn start(name: &str) -> Daemon {
        Daemon::start_with(name, |command, _| {
            command.args(["--listen", "127.0.0.1:0"]);
        })
    }

    /// As `flyball serve --state-dir DIR`, with what `more` adds.
    pub(crate) fn start_with(name: &str, more: impl FnOnce(&mut Command, &Folder)) -> Daemon {
        let folder = Folder::new(name);
        let mut command = isolated(&folder);
        command
            .arg("serve")
            .arg("--state-dir")
            .arg(folder.path("state"));
        more(&mut command, &folder);
        Daemon::run(command, folder)
    }

    pub(crate) fn run(mut command: Command, folder: Folder) -> Daemon {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("flyball starts");
        let mut ready = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("it has an output"));
        out.read_line(&mut ready).expect("the output is text");
        let log = BufReader::new(child.stderr.take().expect("it has a log")).lines();
        let mut daemon = Daemon {
            child,
            folder,
            ready,
            log,
        };
        if daemon.ready.is_empty() {
            let log: Vec<String> = daemon.log.by_ref().map_while(Result::ok).collect();
            panic!("the daemon does not start: {}", log.join("\n"));
        }
        daemon
    }

    pub(crate) fn id(&self) -> i32 {
        self.child.id() as i32
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path("state/flyball.sock")
    }

    /// `127.0.0.1:PORT`, as it said.
    pub(crate) fn address(&self) -> String {
        let rest = self
            .ready
            .split("http://")
            .nth(1)
            .expect("it says its address");
        rest.split_whitespace()
            .next()
            .expect("it says its address")
            .to_owned()
    }

    /// `flyball ARGUMENTS`, for this daemon.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = isolated(&self.folder);
        command
            .args(arguments)
            .arg("--state-dir")
            .arg(self.folder.path("state"));
        command
    }

    pub(crate) fn ask(&self, arguments: &[&str]) -> Ran {
        finish(&mut self.command(arguments))
    }

    /// The same, which must succeed; answers what it printed.
    pub(crate) fn tell(&self, arguments: &[&str]) -> String {
        let ran = self.ask(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.err);
        ran.text().to_owned()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args(["-s", signal, &self.id().to_string()])
            .status();
        assert!(status.expect("kill runs").success());
    }

    /// Reads the log up to the line that says this.
    pub(crate) fn log_until(&mut self, words: &str) -> Vec<String> {
        let mut lines = Vec::new();
        for line in self.log.by_ref().map_while(Result::ok) {
            lines.push(line);
            if lines.last().is_some_and(|line| line.contains(words)) {
                return lines;
            }
        }
        panic!("the log never says {words:?}:\n{}", lines.join("\n"));
    }

    /// Asks it to end and waits; answers exit status and its folder, for another one to go on with.
    pub(crate) fn stop(mut self) -> (Option<i32>, Folder) {
        self.signal("TERM");
        self.log.by_ref().map_while(Result::ok).for_each(drop);
        let status = self.child.wait().expect("it ends");
        let folder = std::mem::replace(&mut self.folder, Folder(PathBuf::new()));
        (status.code(), folder)
    }

    /// Waits for its end; answers exit status and the rest of the log.
    pub(crate) fn end(mut self) -> (Option<i32>, Vec<String>) {
        let log = self.log.by_ref().map_while(Result::ok).collect();
        let status = self.child.wait().expect("it ends");
        (status.code(), log)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What systemd would be told.
pub(crate) struct Manager {
    socket: UnixDatagram,
    pub(crate) name: String,
}

impl Manager {
    pub(crate) fn new(name: &str) -> Manager {
        let name = format!("flyball-{name}-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("the name is short");
        let socket = UnixDatagram::bind_addr(&address).expect("the name is free");
        socket
            .set_read_timeout(Some(PATIENCE))
            .expect("a timeout can be set");
        Manager {
            socket,
            name: format!("@{name}"),
        }
    }

    /// The next message.
    pub(crate) fn hear(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self
            .socket
            .recv(&mut buffer)
            .expect("the daemon tells something");
        String::from_utf8(buffer[..length].to_vec()).expect("it is text")
    }

    /// The next message with this line; those before it are passed over.
    pub(crate) fn hear_of(&self, line: &str) -> String {
        loop {
            let message = self.hear();
            if message.lines().any(|heard| heard == line) {
                return message;
            }
        }
    }
}
