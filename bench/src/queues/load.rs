//! The load on a queue: clients that each wait for an answer before they ask again, all on one thread.
//!
//! A client is a connection. What it sends is prepared, or put together from a few bytes of the last answer, and of an answer only as much is read as
//! that takes, so that the thread's time goes into system calls. All queues are asked by the same loop; only their [`Session`]s differ. The CPU
//! time of the loop is measured beside: where it nears a core, the figure is the generator's.

use crate::sys;
use anyhow::{Context, Result, bail, ensure};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A server that says nothing for so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);
const PATIENCE_NS: u64 = 20_000_000_000;
/// How much longer than it should a span may become for the sake of slow servers, seconds.
const STRETCH_S: f64 = 10.0;
/// Read at once at most.
const BUFFER: usize = 256 << 10;

/// What a client says and how it reads answers.
pub trait Session {
    /// Puts the next request into `out`.
    fn next(&mut self, out: &mut Vec<u8>);

    /// Reads what has arrived, as far as it is complete. What it puts into `out` is sent before anything else.
    fn take(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Taken>;
}

/// What became of bytes that arrived.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// That many are read and gone.
    pub bytes: usize,
    /// Whether that ended a request, and with how many tasks; 0 says that the queue is empty.
    pub done: Option<u64>,
}

/// A stream socket.
pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    pub fn tcp(address: &str) -> Result<Self> {
        let stream =
            TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Socket::Tcp(stream))
    }

    pub fn unix(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path)
            .with_context(|| format!("connecting to {}", path.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Socket::Unix(stream))
    }

    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Socket::Tcp(stream) => stream.write_all(bytes)?,
            Socket::Unix(stream) => stream.write_all(bytes)?,
        }
        Ok(())
    }

    /// Waits for bytes; an end of the connection is an error.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            let read = match self {
                Socket::Tcp(stream) => stream.read(buffer),
                Socket::Unix(stream) => stream.read(buffer),
            };
            match read {
                Ok(0) => bail!("the server has closed a connection"),
                Ok(length) => return Ok(length),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends a request and waits until `complete` has found what it looks for in the answer.
    pub fn ask<T>(
        &mut self,
        request: &[u8],
        mut complete: impl FnMut(&[u8]) -> Result<Option<T>>,
    ) -> Result<T> {
        self.send(request)?;
        let (mut received, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
        loop {
            let length = self.receive(&mut buffer)?;
            received.extend_from_slice(&buffer[..length]);
            if let Some(found) = complete(&received)? {
                return Ok(found);
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(stream) => stream.as_fd(),
            Socket::Unix(stream) => stream.as_fd(),
        }
    }
}

/// A connection, with what is said over it.
pub struct Client {
    socket: Socket,
    session: Box<dyn Session>,
    /// What has arrived of an answer that is not complete.
    received: Vec<u8>,
    /// Whether an answer is due.
    asked: bool,
}

impl Client {
    pub fn new(socket: Socket, session: Box<dyn Session>) -> Self {
        Client {
            socket,
            session,
            received: Vec::new(),
            asked: false,
        }
    }
}

/// How long clients ask.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// Before tasks count.
    pub warm_up_s: f64,
    /// While they count; longer, up to [`STRETCH_S`], where clients have not had two answers each on the average by then.
    pub seconds: f64,
    /// No more is asked for when so many tasks have been counted.
    pub most: Option<u64>,
}

impl Span {
    /// Until so many tasks are done, whatever that takes within ten minutes.
    pub fn until(tasks: u64) -> Self {
        Span {
            warm_up_s: 0.0,
            seconds: 600.0,
            most: Some(tasks),
        }
    }
}

/// What the clients got done.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    pub tasks: u64,
    /// In which time.
    pub seconds: f64,
    /// CPU time of the generator in that time, cores.
    pub generator_cores: f64,
}

impl Done {
    pub fn per_second(&self) -> f64 {
        self.tasks as f64 / self.seconds
    }
}

/// The clients of a queue.
pub struct Load {
    clients: Vec<Client>,
    epoll: sys::Epoll,
    buffer: Vec<u8>,
    out: Vec<u8>,
}

/// What came in over a connection.
enum Heard {
    /// Part of an answer, or one that leads to another request.
    Some,
    /// So many tasks are done.
    Done(u64),
}

impl Load {
    pub fn new(clients: Vec<Client>) -> Result<Self> {
        let epoll = sys::Epoll::new()?;
        for (number, client) in clients.iter().enumerate() {
            epoll.add(client.socket.as_fd(), number)?;
        }
        Ok(Load {
            clients,
            epoll,
            buffer: vec![0; BUFFER],
            out: Vec::new(),
        })
    }

    fn ask(&mut self, number: usize) -> Result<()> {
        let client = &mut self.clients[number];
        self.out.clear();
        client.session.next(&mut self.out);
        client.asked = true;
        client.socket.send(&self.out)
    }

    /// Reads once from a connection that can be read.
    fn hear(&mut self, number: usize) -> Result<Heard> {
        let client = &mut self.clients[number];
        let length = client.socket.receive(&mut self.buffer)?;
        let fresh = client.received.is_empty();
        if !fresh {
            client.received.extend_from_slice(&self.buffer[..length]);
        }
        let input = match fresh {
            true => &self.buffer[..length],
            false => client.received.as_slice(),
        };
        let (mut at, mut done) = (0, None);
        self.out.clear();
        while at < input.len() {
            let taken = client.session.take(&input[at..], &mut self.out)?;
            at += taken.bytes;
            if let Some(tasks) = taken.done {
                ensure!(done.is_none(), "an answer to a request that was not made");
                done = Some(tasks);
            }
            if taken.bytes == 0 {
                break;
            }
        }
        if fresh {
            client.received.extend_from_slice(&self.buffer[at..length]);
        } else {
            client.received.drain(..at);
        }
        if !self.out.is_empty() {
            client.socket.send(&self.out)?;
        }
        Ok(match done {
            Some(tasks) => {
                client.asked = false;
                Heard::Done(tasks)
            }
            None => Heard::Some,
        })
    }

    /// Has all clients ask until the time is over, the tasks are done or the queue is empty, then waits for what is still to be answered.
    pub fn run(&mut self, span: Span) -> Result<Done> {
        let counted_from = sys::now_ns() + (span.warm_up_s * 1e9) as u64;
        let until = counted_from + (span.seconds * 1e9) as u64;
        let at_most = until + (STRETCH_S * 1e9) as u64;
        let mut begun: Option<(u64, u64)> =
            (span.warm_up_s <= 0.0).then(|| (sys::now_ns(), sys::thread_cpu_ns()));
        let mut last = (counted_from, 0);
        let (mut tasks, mut answers, mut asking) = (0, 0, self.clients.len());
        let mut closed = false;
        let mut ready = Vec::new();
        let mut heard_at = sys::now_ns();
        for number in 0..self.clients.len() {
            self.ask(number)?;
        }
        while asking > 0 {
            self.epoll.wait(&mut ready, 1000)?;
            let now = sys::now_ns();
            if ready.is_empty() {
                ensure!(now - heard_at < PATIENCE_NS, "the server is silent");
                continue;
            }
            heard_at = now;
            if begun.is_none() && now >= counted_from {
                begun = Some((now, sys::thread_cpu_ns()));
            }
            let enough = answers >= 2 * self.clients.len() || now >= at_most;
            if !closed && now >= until && enough {
                closed = true;
                last = (now, sys::thread_cpu_ns());
            }
            for &number in &ready {
                let Heard::Done(done) = self.hear(number)? else {
                    continue;
                };
                if begun.is_some() && !closed {
                    tasks += done;
                    answers += 1;
                    if done > 0 {
                        last = (now, 0);
                    }
                }
                let enough = span.most.is_some_and(|most| tasks >= most);
                if closed || enough || done == 0 {
                    asking -= 1;
                } else {
                    self.ask(number)?;
                }
            }
        }
        let (began, cpu_before) = begun.unwrap_or((counted_from, sys::thread_cpu_ns()));
        let (ended, cpu_after) = match last {
            (ended, 0) => (ended, sys::thread_cpu_ns()),
            last => last,
        };
        ensure!(tasks > 0, "no task was done in the time");
        let passed = ended.saturating_sub(began).max(1) as f64;
        Ok(Done {
            tasks,
            seconds: passed / 1e9,
            generator_cores: cpu_after.saturating_sub(cpu_before) as f64 / passed,
        })
    }
}
