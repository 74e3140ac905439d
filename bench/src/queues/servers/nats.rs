//! NATS JetStream, its file store synced before every acknowledgement.
//!
//! Tasks are published with a subject for the server's answer, which comes when they are stored. A cycle asks a pull consumer for tasks, and acknowledges each with a
//! subject for the server's answer, so that both ends know of it. (An acknowledgement without one may be lost.)

use super::{Op, PAYLOAD, Server, free_address};
use crate::process::{Folder, Program};
use crate::queues::load::{Client, Session, Socket, Taken};
use crate::sys;
use anyhow::{Context, Result, bail, ensure};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

const START_LIMIT_NS: u64 = 20_000_000_000;
const CONNECT: &[u8] =
    b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true}\r\nPING\r\n";

pub struct Nats {
    program: Program,
    folder: Folder,
    address: String,
}

impl Nats {
    pub fn start(program: &Path) -> Result<Self> {
        let folder = Folder::new(0)?;
        let address = free_address()?;
        let config = folder.path().join("nats.conf");
        let store = folder.path().join("store");
        std::fs::write(
            &config,
            format!(
                "listen: \"{address}\"\njetstream {{ store_dir: \"{}\", sync_interval: always, max_file_store: 4G }}\n",
                store.display()
            ),
        )?;
        let mut command = Command::new(program);
        command
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let program = Program::start(&mut command)?;
        let mut server = Nats {
            program,
            folder,
            address,
        };
        let deadline = sys::now_ns() + START_LIMIT_NS;
        while let Err(error) = server.lay_out() {
            server.program.check()?;
            if sys::now_ns() > deadline {
                return Err(error.context("NATS does not answer"));
            }
            sys::sleep_until_ns(sys::now_ns() + 20_000_000);
        }
        Ok(server)
    }

    fn connect(&self, number: usize) -> Result<Socket> {
        let mut socket = Socket::tcp(&self.address)?;
        socket.ask(CONNECT, |answer| {
            Ok(memchr::memmem::find(answer, b"PONG\r\n").map(|_| ()))
        })?;
        socket.send(format!("SUB i.{number} 1\r\n").as_bytes())?;
        Ok(socket)
    }

    /// Makes the stream and its consumer.
    fn lay_out(&self) -> Result<()> {
        let mut socket = self.connect(0)?;
        for (subject, body) in [
            (
                "$JS.API.STREAM.CREATE.T",
                r#"{"name":"T","subjects":["t"],"retention":"workqueue","storage":"file"}"#,
            ),
            (
                "$JS.API.CONSUMER.DURABLE.CREATE.T.W",
                r#"{"stream_name":"T","config":{"durable_name":"W","ack_policy":"explicit","max_ack_pending":-1}}"#,
            ),
        ] {
            let request = format!("PUB {subject} i.0 {}\r\n{body}\r\n", body.len());
            let answer = socket.ask(request.as_bytes(), |answer| {
                Ok(answer
                    .ends_with(b"}\r\n")
                    .then(|| String::from_utf8_lossy(answer).into_owned()))
            })?;
            ensure!(!answer.contains(r#""error""#), "NATS says {answer}");
        }
        Ok(())
    }
}

impl Server for Nats {
    fn program(&mut self) -> &mut Program {
        &mut self.program
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn client(&self, op: Op, number: usize) -> Result<Client> {
        let socket = self.connect(number)?;
        Ok(Client::new(socket, Box::new(Talk::new(op, number))))
    }
}

struct Talk {
    op: Op,
    number: usize,
    request: Vec<u8>,
    /// Messages that are still to come.
    due: usize,
    /// Where the tasks of this cycle are acknowledged.
    replies: Vec<String>,
    acknowledging: bool,
}

impl Talk {
    fn new(op: Op, number: usize) -> Self {
        let mut request = Vec::new();
        match op {
            Op::Enqueue { batch } => {
                for _ in 0..batch {
                    request.extend_from_slice(format!("PUB t i.{number} {PAYLOAD}\r\n").as_bytes());
                    request.extend_from_slice(&[b'x'; PAYLOAD]);
                    request.extend_from_slice(b"\r\n");
                }
            }
            Op::Cycle { batch } => {
                let body = format!(r#"{{"batch":{batch},"no_wait":true}}"#);
                request.extend_from_slice(
                    format!(
                        "PUB $JS.API.CONSUMER.MSG.NEXT.T.W i.{number} {}\r\n{body}\r\n",
                        body.len()
                    )
                    .as_bytes(),
                );
            }
        }
        Talk {
            op,
            number,
            request,
            due: 0,
            replies: Vec::new(),
            acknowledging: false,
        }
    }

    /// Acknowledges what has come; whether that is anything.
    fn acknowledge(&mut self, out: &mut Vec<u8>) -> Result<bool> {
        for reply in &self.replies {
            write!(out, "PUB {reply} i.{} 4\r\n+ACK\r\n", self.number)?;
        }
        self.due = self.replies.len();
        self.acknowledging = true;
        Ok(self.due > 0)
    }
}

impl Session for Talk {
    fn next(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.request);
        self.due = self.op.batch();
        self.replies.clear();
        self.acknowledging = false;
    }

    fn take(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Taken> {
        let mut at = 0;
        while let Some(length) = memchr::memmem::find(&input[at..], b"\r\n") {
            let line = std::str::from_utf8(&input[at..at + length])?;
            let words: Vec<&str> = line.split(' ').collect();
            // MSG subject sid [reply] bytes; HMSG has the bytes of its header before.
            let message = matches!(words[0], "MSG" | "HMSG");
            let mut whole = length + 2;
            if message {
                whole += words
                    .last()
                    .context("a message has words")?
                    .parse::<usize>()?
                    + 2;
                if input.len() < at + whole {
                    break;
                }
            }
            let body = &input[at + length + 2..at + whole];
            at += whole;
            match words[0] {
                "MSG" | "HMSG" => {}
                "PING" => {
                    out.extend_from_slice(b"PONG\r\n");
                    continue;
                }
                "PONG" | "+OK" | "INFO" => continue,
                _ => bail!("NATS says {line}"),
            }
            let ends = match self.op {
                Op::Enqueue { .. } => {
                    let stored = memchr::memmem::find(body, b"\"seq\"").is_some();
                    ensure!(stored, "NATS says {}", String::from_utf8_lossy(body));
                    false
                }
                // A status: there are no more.
                Op::Cycle { .. } if !self.acknowledging && words[0] == "HMSG" => true,
                Op::Cycle { .. } => {
                    if !self.acknowledging {
                        self.replies.push(words[3].to_owned());
                    }
                    false
                }
            };
            self.due -= 1;
            if self.due > 0 && !ends {
                continue;
            }
            let done = match self.op {
                Op::Enqueue { batch } => Some(batch as u64),
                Op::Cycle { .. } if self.acknowledging => Some(self.replies.len() as u64),
                Op::Cycle { .. } => match self.acknowledge(out)? {
                    true => None,
                    false => Some(0),
                },
            };
            return Ok(Taken { bytes: at, done });
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
        let mut talk = Talk::new(Op::Cycle { batch: 2 }, 5);
        let first = b"MSG t 1 $JS.ACK.a 3\r\nabc\r\nPING\r\nHMSG i.5 1 10 12\r\n1234567890ab\r\n";
        let (done, sent) = heard(&mut talk, first);
        assert_eq!(
            (done, sent.as_slice()),
            (None, b"PONG\r\nPUB $JS.ACK.a i.5 4\r\n+ACK\r\n".as_slice())
        );
        assert_eq!(heard_on(&mut talk, b"MSG i.5 1 0\r\n\r\n").0, Some(1));
        let mut talk = Talk::new(Op::Enqueue { batch: 1 }, 5);
        assert_eq!(
            heard(&mut talk, b"MSG i.5 1 9\r\n{\"seq\":1}\r\n").0,
            Some(1)
        );
        assert!(talk.take(b"-ERR 'x'\r\n", &mut Vec::new()).is_err());
    }
}
