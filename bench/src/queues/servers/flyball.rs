//! `flyball serve`, over TCP with the token or over its Unix socket.

use super::{Op, PAYLOAD, Server, free_address};
use crate::cases::daemon::Daemon;
use crate::http;
use crate::process::{Folder, Program};
use crate::queues::load::{Client, Session, Socket, Taken};
use anyhow::{Context, Result, ensure};
use std::path::Path;

/// Room for what the campaign puts in and for its ended tasks.
const SETTINGS: &[(&str, &str)] = &[("FLYBALL_QUEUE_MAX_TASKS", "10000000")];

/// Which door is knocked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Tcp,
    Socket,
}

pub struct Flyball {
    daemon: Daemon,
    door: Door,
}

impl Flyball {
    /// Started, and ready.
    pub fn start(program: &Path, door: Door, number: usize) -> Result<Self> {
        Flyball::start_in(program, door, Folder::new(number)?).map(|(flyball, _)| flyball)
    }

    /// Over the state in the folder; also the nanoseconds from its start until it was ready.
    pub fn start_in(program: &Path, door: Door, folder: Folder) -> Result<(Self, u64)> {
        let mut daemon = Daemon::start_in(program, folder, &free_address()?, SETTINGS)?;
        let ready_ns = daemon.wait_ready()?;
        Ok((Flyball { daemon, door }, ready_ns))
    }

    /// Leaves the folder of one that has been ended.
    pub fn leave(self) -> Folder {
        self.daemon.folder
    }

    /// Ends it in peace and leaves its folder.
    pub fn end(mut self) -> Result<Folder> {
        self.daemon.end()?;
        Ok(self.daemon.folder)
    }
}

impl Server for Flyball {
    fn program(&mut self) -> &mut Program {
        &mut self.daemon.program
    }

    fn folder(&self) -> &Path {
        self.daemon.folder.path()
    }

    fn client(&self, op: Op, number: usize) -> Result<Client> {
        let (socket, host, token) = match self.door {
            Door::Tcp => (
                Socket::tcp(&self.daemon.address)?,
                self.daemon.address.as_str(),
                Some(self.daemon.token()?),
            ),
            Door::Socket => (Socket::unix(&self.daemon.socket())?, "localhost", None),
        };
        let talk = Talk::new(op, number, host.to_owned(), token);
        Ok(Client::new(socket, Box::new(talk)))
    }
}

struct Talk {
    op: Op,
    request: Vec<u8>,
    host: String,
    token: Option<String>,
    /// Tasks of this cycle that are leased and are being finished; 0 while leasing.
    finishing: u64,
    body: String,
}

impl Talk {
    fn new(op: Op, number: usize, host: String, token: Option<String>) -> Self {
        let task = format!(
            r#"{{"kind":"bench","payload":"{}"}}"#,
            "x".repeat(PAYLOAD - 2)
        );
        let (path, body) = match op {
            Op::Enqueue { batch: 1 } => ("/v1/tasks", task),
            Op::Enqueue { batch } => {
                let tasks = vec![task; batch].join(",");
                ("/v1/tasks", format!(r#"{{"tasks":[{tasks}]}}"#))
            }
            Op::Cycle { batch } => (
                "/v1/tasks/lease",
                format!(r#"{{"worker":"w{number}","max":{batch}}}"#),
            ),
        };
        Talk {
            op,
            request: http::post(&host, path, token.as_deref(), &body),
            host,
            token,
            finishing: 0,
            body: String::new(),
        }
    }

    /// Asks to finish what the answer has leased; how many that are.
    fn finish(&mut self, leased: &[u8], out: &mut Vec<u8>) -> Result<u64> {
        self.body.clear();
        self.body.push_str(r#"{"tasks":["#);
        let (mut at, mut count) = (0, 0);
        while let Some((id, after)) = text_of(leased, at, br#""id":""#)? {
            let (token, after) =
                text_of(leased, after, br#""token":""#)?.context("a leased task without token")?;
            if count > 0 {
                self.body.push(',');
            }
            for part in [r#"{"id":""#, id, r#"","token":""#, token, r#""}"#] {
                self.body.push_str(part);
            }
            (at, count) = (after, count + 1);
        }
        self.body.push_str("]}");
        if count > 0 {
            let token = self.token.as_deref();
            out.extend(http::post(
                &self.host,
                "/v1/tasks/finish",
                token,
                &self.body,
            ));
        }
        Ok(count)
    }
}

/// The text that follows `key` from `from` on, and where it ends.
fn text_of<'a>(json: &'a [u8], from: usize, key: &[u8]) -> Result<Option<(&'a str, usize)>> {
    let Some(found) = memchr::memmem::find(&json[from..], key) else {
        return Ok(None);
    };
    let begin = from + found + key.len();
    let length = memchr::memchr(b'"', &json[begin..]).context("a text without end")?;
    let text = std::str::from_utf8(&json[begin..begin + length])?;
    Ok(Some((text, begin + length)))
}

impl Session for Talk {
    fn next(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.request);
        self.finishing = 0;
    }

    fn take(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Taken> {
        let Some((status, bytes)) = http::answer(input)? else {
            return Ok(Taken::default());
        };
        let answer = &input[..bytes];
        let good = matches!(status, 200 | 201);
        ensure!(good, "flyball says {}", String::from_utf8_lossy(answer));
        let done = match self.op {
            Op::Enqueue { batch } => Some(batch as u64),
            Op::Cycle { .. } if self.finishing > 0 => {
                let refused = memchr::memmem::find(answer, br#""status":4"#);
                ensure!(
                    refused.is_none(),
                    "flyball says {}",
                    String::from_utf8_lossy(answer)
                );
                Some(self.finishing)
            }
            Op::Cycle { .. } => {
                self.finishing = self.finish(answer, out)?;
                (self.finishing == 0).then_some(0)
            }
        };
        Ok(Taken { bytes, done })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{heard, heard_on};
    use super::*;

    #[test]
    fn answers_may_come_in_pieces() {
        let talk = |op| Talk::new(op, 0, "h".to_owned(), None);
        let answer = |json: &str| {
            format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{json}",
                json.len()
            )
        };
        let leased = answer(
            r#"{"tasks":[{"id":"1","kind":"a","token":"1-1"},{"id":"2","kind":"a","token":"1-2"}]}"#,
        );
        let mut cycle = talk(Op::Cycle { batch: 2 });
        let (done, sent) = heard(&mut cycle, leased.as_bytes());
        assert_eq!(done, None);
        let body = br#"{"tasks":[{"id":"1","token":"1-1"},{"id":"2","token":"1-2"}]}"#;
        assert!(sent.ends_with(body));
        assert_eq!(
            heard_on(&mut cycle, answer(r#"{"tasks":[]}"#).as_bytes()).0,
            Some(2)
        );
        assert_eq!(
            heard(&mut cycle, answer(r#"{"tasks":[]}"#).as_bytes()).0,
            Some(0)
        );
        assert_eq!(
            heard(&mut talk(Op::Enqueue { batch: 1 }), answer("{}").as_bytes()).0,
            Some(1)
        );
        let refused = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n";
        assert!(cycle.take(refused, &mut Vec::new()).is_err());
    }
}
