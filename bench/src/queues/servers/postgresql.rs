//! PostgreSQL as a queue: a table, inserts, and `FOR UPDATE SKIP LOCKED`.
//!
//! Every statement is a transaction of its own and waits for the disk (`synchronous_commit = on`, as PostgreSQL comes). A lease is an update of the
//! lowest free rows, an acknowledgement deletes them. Statements are prepared once a connection.

use super::{Op, PAYLOAD, Server, find_program, free_address};
use crate::process::{Folder, Program};
use crate::queues::load::{Client, Session, Socket, Taken};
use crate::sys;
use anyhow::{Context, Result, bail, ensure};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Who runs it where the benchmark is root, which PostgreSQL refuses to be: nobody.
const NOBODY: u32 = 65_534;
const START_LIMIT_NS: u64 = 20_000_000_000;

const LEASE: &str = "WITH next AS (SELECT id FROM tasks WHERE leased_until IS NULL ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED) \
    UPDATE tasks SET leased_until = now() + interval '30 s', attempts = attempts + 1 FROM next WHERE tasks.id = next.id \
    RETURNING tasks.id, tasks.payload";
const ACKNOWLEDGE: &str = "DELETE FROM tasks WHERE id = ANY($1::bigint[])";
const SCHEMA: &str = "CREATE TABLE tasks (id bigserial PRIMARY KEY, kind text NOT NULL, payload text NOT NULL, attempts int NOT NULL DEFAULT 0, \
    leased_until timestamptz); CREATE INDEX free ON tasks (id) WHERE leased_until IS NULL";

/// Where the server's programs are: on the path, or where Debian puts them.
pub fn programs() -> Option<PathBuf> {
    let beside = |folder: &Path| {
        let whole = |name| folder.join(name).is_file();
        (whole("initdb") && whole("postgres")).then(|| folder.to_owned())
    };
    let on_path = find_program("initdb").and_then(|program| beside(program.parent()?));
    on_path.or_else(|| {
        let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
            .collect();
        versions.sort();
        versions.iter().rev().find_map(|folder| beside(folder))
    })
}

pub struct Postgresql {
    program: Program,
    folder: Folder,
    address: String,
}

fn as_nobody(program: &Path) -> Command {
    let mut command = Command::new(program);
    if sys::is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

impl Postgresql {
    pub fn start(programs: &Path) -> Result<Self> {
        let folder = Folder::new(0)?;
        if sys::is_root() {
            chown(folder.path(), Some(NOBODY), Some(NOBODY))?;
        }
        let data = folder.path().join("data");
        let made = as_nobody(&programs.join("initdb"))
            .args([
                "-A",
                "trust",
                "-U",
                "bench",
                "--no-sync",
                "-E",
                "UTF8",
                "-D",
            ])
            .arg(&data)
            .current_dir(folder.path())
            .stderr(Stdio::null())
            .status()
            .context("running initdb")?;
        ensure!(made.success(), "initdb ended with {made}");
        let address = free_address()?;
        let port = address.rsplit(':').next().unwrap_or_default();
        let mut command = as_nobody(&programs.join("postgres"));
        command.arg("-D").arg(&data).args(["-p", port]);
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "max_connections=300",
            "shared_buffers=512MB",
            "max_wal_size=4GB",
            "dynamic_shared_memory_type=mmap",
            "fsync=on",
            "synchronous_commit=on",
        ] {
            command.args(["-c", setting]);
        }
        command.current_dir(folder.path()).stderr(Stdio::null());
        let program = Program::start(&mut command)?;
        let mut server = Postgresql {
            program,
            folder,
            address,
        };
        let deadline = sys::now_ns() + START_LIMIT_NS;
        while let Err(error) = server.simple(SCHEMA) {
            server.program.check()?;
            if sys::now_ns() > deadline {
                return Err(error.context("PostgreSQL does not answer"));
            }
            sys::sleep_until_ns(sys::now_ns() + 20_000_000);
        }
        Ok(server)
    }

    /// A connection that is let in.
    fn connect(&self) -> Result<Socket> {
        let mut socket = Socket::tcp(&self.address)?;
        let mut start = Vec::from([0; 4]);
        start.extend_from_slice(&196_608_u32.to_be_bytes());
        start.extend_from_slice(b"user\0bench\0database\0postgres\0\0");
        let length = start.len() as u32;
        start[..4].copy_from_slice(&length.to_be_bytes());
        socket.ask(&start, ready)?;
        Ok(socket)
    }

    /// Runs statements once, on a connection of their own.
    fn simple(&self, statements: &str) -> Result<()> {
        let mut request = Vec::new();
        message(&mut request, b'Q', |body| text(body, statements));
        self.connect()?.ask(&request, ready)
    }
}

impl Server for Postgresql {
    fn program(&mut self) -> &mut Program {
        &mut self.program
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn client(&self, op: Op, _number: usize) -> Result<Client> {
        let mut socket = self.connect()?;
        let mut prepare = Vec::new();
        match op {
            Op::Enqueue { batch } => {
                let rows = (1..=batch).map(|number| format!("('bench', ${number})"));
                let rows = rows.collect::<Vec<_>>().join(", ");
                let insert = format!("INSERT INTO tasks (kind, payload) VALUES {rows}");
                parse(&mut prepare, "a", &insert);
            }
            Op::Cycle { .. } => {
                parse(&mut prepare, "a", LEASE);
                parse(&mut prepare, "b", ACKNOWLEDGE);
            }
        }
        message(&mut prepare, b'S', |_| {});
        socket.ask(&prepare, ready)?;
        Ok(Client::new(socket, Box::new(Talk::new(op))))
    }

    /// One statement fills the table.
    fn fill(&mut self, tasks: u64) -> Result<()> {
        let payload = "x".repeat(PAYLOAD);
        self.simple(&format!(
            "INSERT INTO tasks (kind, payload) SELECT 'bench', '{payload}' FROM generate_series(1, {tasks})"
        ))?;
        self.simple("VACUUM ANALYZE tasks")?;
        self.simple("CHECKPOINT")
    }
}

fn text(body: &mut Vec<u8>, text: &str) {
    body.extend_from_slice(text.as_bytes());
    body.push(0);
}

/// A message of the protocol (version 3): kind, length, body.
fn message(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let length = (out.len() - at) as u32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

fn parse(out: &mut Vec<u8>, name: &str, statement: &str) {
    message(out, b'P', |body| {
        text(body, name);
        text(body, statement);
        body.extend_from_slice(&0_u16.to_be_bytes());
    });
}

/// Binds texts to a prepared statement, executes it, and ends the transaction.
fn execute<'a>(out: &mut Vec<u8>, name: &str, values: impl ExactSizeIterator<Item = &'a [u8]>) {
    message(out, b'B', |body| {
        text(body, "");
        text(body, name);
        body.extend_from_slice(&0_u16.to_be_bytes());
        body.extend_from_slice(&(values.len() as u16).to_be_bytes());
        for value in values {
            body.extend_from_slice(&(value.len() as u32).to_be_bytes());
            body.extend_from_slice(value);
        }
        body.extend_from_slice(&0_u16.to_be_bytes());
    });
    message(out, b'E', |body| {
        text(body, "");
        body.extend_from_slice(&0_u32.to_be_bytes());
    });
    message(out, b'S', |_| {});
}

/// The message at the beginning: kind, body, length of the whole.
fn message_at(input: &[u8]) -> Option<(u8, &[u8], usize)> {
    let length = u32::from_be_bytes(input.get(1..5)?.try_into().ok()?) as usize;
    let whole = length + 1;
    Some((input[0], input.get(5..whole)?, whole))
}

/// Whether the server waits for a request again.
fn ready(input: &[u8]) -> Result<Option<()>> {
    let mut at = 0;
    while let Some((kind, body, whole)) = message_at(&input[at..]) {
        match kind {
            b'E' => bail!("PostgreSQL says {}", String::from_utf8_lossy(body)),
            b'Z' => return Ok(Some(())),
            _ => at += whole,
        }
    }
    Ok(None)
}

struct Talk {
    op: Op,
    request: Vec<u8>,
    /// Leased rows of this cycle, as PostgreSQL writes an array.
    ids: String,
    leased: u64,
    acknowledging: bool,
}

impl Talk {
    fn new(op: Op) -> Self {
        const TASK: &[u8] = &[b'x'; PAYLOAD];
        let mut request = Vec::new();
        match op {
            Op::Enqueue { batch } => {
                execute(&mut request, "a", std::iter::repeat_n(TASK, batch));
            }
            Op::Cycle { batch } => {
                let limit = batch.to_string();
                execute(&mut request, "a", std::iter::once(limit.as_bytes()));
            }
        }
        Talk {
            op,
            request,
            ids: String::new(),
            leased: 0,
            acknowledging: false,
        }
    }
}

impl Session for Talk {
    fn next(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.request);
        self.ids.clear();
        self.ids.push('{');
        self.leased = 0;
        self.acknowledging = false;
    }

    fn take(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Taken> {
        let mut at = 0;
        while let Some((kind, body, whole)) = message_at(&input[at..]) {
            at += whole;
            match kind {
                b'E' => bail!("PostgreSQL says {}", String::from_utf8_lossy(body)),
                // A row: count of columns, then length and text of each.
                b'D' => {
                    let length = body.get(2..6).context("a row without columns")?;
                    let length = u32::from_be_bytes(length.try_into()?) as usize;
                    let id = body.get(6..6 + length).context("a row ends early")?;
                    if self.leased > 0 {
                        self.ids.push(',');
                    }
                    self.ids.push_str(std::str::from_utf8(id)?);
                    self.leased += 1;
                }
                b'Z' => {
                    let done = match self.op {
                        Op::Enqueue { batch } => Some(batch as u64),
                        Op::Cycle { .. } if self.acknowledging || self.leased == 0 => {
                            Some(self.leased)
                        }
                        Op::Cycle { .. } => {
                            self.ids.push('}');
                            execute(out, "b", std::iter::once(self.ids.as_bytes()));
                            self.acknowledging = true;
                            None
                        }
                    };
                    return Ok(Taken { bytes: at, done });
                }
                _ => {}
            }
        }
        Ok(Taken {
            bytes: at,
            done: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{heard, heard_on};
    use super::*;

    #[test]
    fn answers_may_come_in_pieces() {
        let mut answer = Vec::new();
        message(&mut answer, b'2', |_| {});
        for id in ["12", "345"] {
            message(&mut answer, b'D', |body| {
                body.extend_from_slice(&[0, 1]);
                body.extend_from_slice(&(id.len() as u32).to_be_bytes());
                body.extend_from_slice(id.as_bytes());
            });
        }
        message(&mut answer, b'Z', |body| body.push(b'I'));
        let mut talk = Talk::new(Op::Cycle { batch: 2 });
        let (done, sent) = heard(&mut talk, &answer);
        assert_eq!(done, None);
        assert!(memchr::memmem::find(&sent, b"{12,345}").is_some());
        assert_eq!(heard_on(&mut talk, b"Z\0\0\0\x05I").0, Some(2));
        assert_eq!(
            heard(&mut Talk::new(Op::Cycle { batch: 2 }), b"Z\0\0\0\x05I").0,
            Some(0)
        );
        assert!(talk.take(b"E\0\0\0\x05x", &mut Vec::new()).is_err());
    }
}
