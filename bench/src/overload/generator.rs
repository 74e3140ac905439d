//! The load: requests at times fixed beforehand, whether or not earlier ones are answered, over connections that stay open.
//!
//! One thread, at real-time priority where it may have it, which does next to nothing a request: a write, a read, and twice a wait. A request goes over the
//! connection that has been free for the shortest time, or over a new one, up to [`CONNECTIONS`]. What is not answered in time is given up, as a client
//! would, and its connection closed. It looks at its schedule and at what has arrived once a tick, as looking at once would cost as much as the requests do.
//! Latency counts from the intended time to the last byte. How late the thread itself looked at its schedule is its lag.

use crate::{http, sys};
use anyhow::{Context, Result};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::os::fd::AsFd;

/// At most so many at once; a request beyond is lost. That is as many as a second of what is offered at most.
const CONNECTIONS: usize = 4000;
/// Open before the first request.
const AT_FIRST: usize = 64;
/// Nobody waits longer for an answer.
pub const GIVE_UP_NS: u64 = 1_000_000_000;
/// Answers are read in pieces of this.
const PIECE: usize = 2048;

/// A request to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meant {
    /// Nanoseconds from the first.
    pub at: u64,
    /// Which of the requests.
    pub kind: u8,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Answered by 200, so long after it was meant.
    Served(u64),
    /// Answered by another status.
    Refused(u64),
    /// No whole answer, or no connection for it.
    Lost,
}

/// What became of all, in the order in which they were meant.
#[derive(Debug, Default)]
pub struct Fates {
    pub fates: Vec<Fate>,
    /// How late the generator looked, nanoseconds, sorted.
    pub lags: Vec<u64>,
    pub cpu_ns: u64,
    pub wall_ns: u64,
    /// Lost for want of a connection.
    pub unsent: usize,
    pub connections: usize,
}

struct Connection {
    stream: TcpStream,
    /// The request that is being answered.
    waiting: Option<usize>,
    /// It is still to be sent.
    to_send: bool,
    /// What has arrived of an answer.
    received: Vec<u8>,
    /// Told apart from those that had the same place before.
    generation: u32,
}

pub struct Generator {
    server: SocketAddrV4,
    epoll: sys::Epoll,
    connections: Vec<Option<Connection>>,
    /// Places that wait for nothing, the one that became so last at the end.
    free: Vec<usize>,
    /// Places without a connection.
    empty: Vec<usize>,
    requests: Vec<Vec<u8>>,
    generation: u32,
    tick_ns: u64,
}

/// What a connection has brought.
enum Brought {
    Nothing,
    Answer(usize, u16),
    End(Option<usize>),
}

impl Generator {
    pub fn connect(server: SocketAddrV4, paths: &[&str], tick_ns: u64) -> Result<Self> {
        sys::allow_files()?;
        let mut generator = Generator {
            server,
            epoll: sys::Epoll::new()?,
            connections: Vec::new(),
            free: Vec::new(),
            empty: Vec::new(),
            requests: paths
                .iter()
                .map(|path| http::get("localhost", path))
                .collect(),
            generation: 0,
            tick_ns,
        };
        for _ in 0..AT_FIRST {
            let place = generator.open()?.context("the first connections")?;
            generator.free.push(place);
        }
        Ok(generator)
    }

    /// A new connection's place, if there may be one more.
    fn open(&mut self) -> Result<Option<usize>> {
        let place = match self.empty.pop() {
            Some(place) => place,
            None if self.connections.len() < CONNECTIONS => {
                self.connections.push(None);
                self.connections.len() - 1
            }
            None => return Ok(None),
        };
        let stream = sys::connect(self.server).context("connecting to the service")?;
        self.epoll.add_edges(stream.as_fd(), place)?;
        self.generation = self.generation.wrapping_add(1);
        self.connections[place] = Some(Connection {
            stream,
            waiting: None,
            to_send: false,
            received: Vec::new(),
            generation: self.generation,
        });
        Ok(Some(place))
    }

    /// Sends the requests at their times and waits for what becomes of them.
    pub fn run(&mut self, meant: &[Meant]) -> Result<Fates> {
        let mut fates = Fates {
            fates: vec![Fate::Lost; meant.len()],
            lags: Vec::with_capacity(meant.len()),
            ..Fates::default()
        };
        let (cpu, begun) = (sys::thread_cpu_ns(), sys::now_ns());
        let first = begun + 5_000_000;
        // In the order in which they are given up: (time, place, generation, request).
        let mut given_up: VecDeque<(u64, usize, u32, usize)> = VecDeque::new();
        let (mut next, mut open) = (0, 0usize);
        let mut ready = Vec::new();
        while next < meant.len() || open > 0 {
            let now = sys::now_ns();
            while let Some(request) = meant.get(next).filter(|request| first + request.at <= now) {
                fates.lags.push(now - (first + request.at));
                let place = match self.free.pop() {
                    Some(place) => Some(place),
                    None => self.open()?,
                };
                match place {
                    Some(place) => {
                        let generation = self.send(place, next, request.kind);
                        given_up.push_back((
                            first + request.at + GIVE_UP_NS,
                            place,
                            generation,
                            next,
                        ));
                        open += 1;
                    }
                    None => fates.unsent += 1,
                }
                next += 1;
            }
            while let Some(&(at, place, generation, request)) = given_up.front() {
                let waits = self.connections[place].as_ref().is_some_and(|connection| {
                    connection.generation == generation && connection.waiting == Some(request)
                });
                if waits && at > now {
                    break;
                }
                given_up.pop_front();
                if waits {
                    self.close(place);
                    open -= 1;
                }
            }
            let until = meant
                .get(next)
                .map_or(u64::MAX, |request| first + request.at)
                .min(given_up.front().map_or(u64::MAX, |front| front.0));
            if until == u64::MAX {
                continue;
            }
            if open == 0 {
                sys::sleep_until_ns(until);
            } else {
                sys::sleep_until_ns(now + self.tick_ns);
            }
            self.epoll.wait(&mut ready, 0)?;
            for &place in &ready {
                match self.happened(place, meant)? {
                    Brought::Nothing => {}
                    Brought::Answer(request, status) => {
                        let took = sys::now_ns() - (first + meant[request].at);
                        fates.fates[request] = match status {
                            200 => Fate::Served(took),
                            _ => Fate::Refused(took),
                        };
                        open -= 1;
                    }
                    Brought::End(request) => open -= usize::from(request.is_some()),
                }
            }
        }
        fates.lags.sort_unstable();
        fates.cpu_ns = sys::thread_cpu_ns() - cpu;
        fates.wall_ns = sys::now_ns() - begun;
        fates.connections = self.connections.len();
        Ok(fates)
    }

    /// Sends a request, or what it can; the connection's generation.
    fn send(&mut self, place: usize, request: usize, kind: u8) -> u32 {
        let bytes = &self.requests[usize::from(kind)];
        let Some(connection) = &mut self.connections[place] else {
            return 0;
        };
        connection.waiting = Some(request);
        // A request is a fraction of what a socket buffers. One that is not connected yet takes nothing, and one that was closed brings its end.
        connection.to_send = connection.stream.write(bytes).is_err();
        connection.generation
    }

    /// A connection can be read or written, or has ended.
    fn happened(&mut self, place: usize, meant: &[Meant]) -> Result<Brought> {
        let Some(connection) = &mut self.connections[place] else {
            return Ok(Brought::Nothing);
        };
        if connection.to_send
            && let Some(request) = connection.waiting
        {
            let bytes = &self.requests[usize::from(meant[request].kind)];
            connection.to_send = connection.stream.write(bytes).is_err();
        }
        let mut piece = [0; PIECE];
        let ended = loop {
            match connection.stream.read(&mut piece) {
                Ok(0) => break true,
                Ok(length) => {
                    connection.received.extend_from_slice(&piece[..length]);
                    // What did not fill the buffer was all; what comes later is told anew.
                    if length < PIECE {
                        break false;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break true,
            }
        };
        if let Some((status, length)) = http::answer(&connection.received)? {
            let waiting = connection.waiting.take();
            connection.received.drain(..length);
            if ended {
                self.close(place);
            } else {
                self.free.push(place);
            }
            return Ok(match waiting {
                Some(request) => Brought::Answer(request, status),
                None => Brought::Nothing,
            });
        }
        if ended {
            let waiting = connection.waiting;
            self.free.retain(|free| *free != place);
            self.close(place);
            return Ok(Brought::End(waiting));
        }
        Ok(Brought::Nothing)
    }

    fn close(&mut self, place: usize) {
        self.connections[place] = None;
        self.empty.push(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{SocketAddr, TcpListener};

    /// A server that answers the first request of each connection by what its path says, and closes the second one's.
    fn serve() -> SocketAddrV4 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(address) = listener.local_addr().unwrap() else {
            panic!("an address of IPv4")
        };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                std::thread::spawn(move || {
                    let mut piece = [0; 1024];
                    while let Ok(length @ 1..) = stream.read(&mut piece) {
                        let request = String::from_utf8_lossy(&piece[..length]).into_owned();
                        let status = match &request[..] {
                            text if text.starts_with("GET /good") => "200 OK",
                            text if text.starts_with("GET /bad") => "503 No",
                            text if text.starts_with("GET /end") => return,
                            _ => continue,
                        };
                        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                        if stream.write_all(answer.as_bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        address
    }

    #[test]
    fn fates_are_told_apart() {
        let paths = ["/good", "/bad", "/end", "/silent"];
        let mut generator = Generator::connect(serve(), &paths, 100_000).unwrap();
        let meant: Vec<Meant> = (0..8)
            .map(|number| Meant {
                at: u64::from(number) * 500_000,
                kind: number % 4,
            })
            .collect();
        let fates = generator.run(&meant).unwrap();
        for (number, fate) in fates.fates.iter().enumerate() {
            let expected = match number % 4 {
                0 => matches!(fate, Fate::Served(_)),
                1 => matches!(fate, Fate::Refused(_)),
                _ => *fate == Fate::Lost,
            };
            assert!(expected, "{number}: {fate:?}");
        }
        assert_eq!((fates.lags.len(), fates.unsent), (8, 0));
        assert!(fates.wall_ns >= GIVE_UP_NS, "silence was waited for");
    }
}
