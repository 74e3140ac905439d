//! beanstalkd with its log on disk, synced after every write.

use super::{Op, PAYLOAD, Server, free_address};
use crate::process::{Folder, Program};
use crate::queues::load::{Client, Session, Socket, Taken};
use anyhow::{Result, bail};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

pub struct Beanstalkd {
    program: Program,
    folder: Folder,
    address: String,
}

impl Beanstalkd {
    pub fn start(program: &Path) -> Result<Self> {
        let folder = Folder::new(0)?;
        let address = free_address()?;
        let port = address.rsplit(':').next().unwrap_or_default();
        let mut command = Command::new(program);
        command
            .args(["-l", "127.0.0.1", "-p", port, "-f0", "-b"])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Ok(Beanstalkd {
            program: Program::start(&mut command)?,
            folder,
            address,
        })
    }
}

impl Server for Beanstalkd {
    fn program(&mut self) -> &mut Program {
        &mut self.program
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn client(&self, op: Op, _number: usize) -> Result<Client> {
        let socket = Socket::tcp(&self.address)?;
        Ok(Client::new(socket, Box::new(Talk::new(op))))
    }
}

struct Talk {
    op: Op,
    request: Vec<u8>,
    /// Answers that are still to come.
    due: usize,
    /// Jobs of this cycle that are reserved.
    reserved: Vec<u64>,
    deleting: bool,
}

impl Talk {
    fn new(op: Op) -> Self {
        let mut request = Vec::new();
        for _ in 0..op.batch() {
            match op {
                Op::Enqueue { .. } => {
                    request.extend_from_slice(format!("put 0 0 60 {PAYLOAD}\r\n").as_bytes());
                    request.extend_from_slice(&[b'x'; PAYLOAD]);
                    request.extend_from_slice(b"\r\n");
                }
                Op::Cycle { .. } => request.extend_from_slice(b"reserve-with-timeout 0\r\n"),
            }
        }
        Talk {
            op,
            request,
            due: 0,
            reserved: Vec::new(),
            deleting: false,
        }
    }
}

impl Session for Talk {
    fn next(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.request);
        self.due = self.op.batch();
        self.reserved.clear();
        self.deleting = false;
    }

    fn take(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Taken> {
        let mut at = 0;
        while let Some(length) = memchr::memmem::find(&input[at..], b"\r\n") {
            let line = &input[at..at + length];
            let mut whole = length + 2;
            if let Some(rest) = line.strip_prefix(b"RESERVED ") {
                let text = std::str::from_utf8(rest)?;
                let Some((id, bytes)) = text.split_once(' ') else {
                    bail!("a reservation without length: {text}");
                };
                whole += bytes.parse::<usize>()? + 2;
                if input.len() < at + whole {
                    break;
                }
                self.reserved.push(id.parse()?);
            } else if !(line.starts_with(b"INSERTED")
                || line == b"DELETED"
                || line == b"TIMED_OUT"
                || line == b"DEADLINE_SOON")
            {
                bail!("beanstalkd says {}", String::from_utf8_lossy(line));
            }
            at += whole;
            self.due -= 1;
            if self.due > 0 {
                continue;
            }
            let done = match self.op {
                Op::Enqueue { batch } => Some(batch as u64),
                Op::Cycle { .. } if self.deleting => Some(self.reserved.len() as u64),
                Op::Cycle { .. } if self.reserved.is_empty() => Some(0),
                Op::Cycle { .. } => {
                    for id in &self.reserved {
                        write!(out, "delete {id}\r\n")?;
                    }
                    self.due = self.reserved.len();
                    self.deleting = true;
                    None
                }
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
        let mut talk = Talk::new(Op::Cycle { batch: 2 });
        let first = b"RESERVED 7 3\r\nabc\r\nRESERVED 8 2\r\n\r\n\r\n".to_vec();
        let (done, sent) = heard(&mut talk, &first);
        assert_eq!(
            (done, sent.as_slice()),
            (None, b"delete 7\r\ndelete 8\r\n".as_slice())
        );
        assert_eq!(heard_on(&mut talk, b"DELETED\r\nDELETED\r\n").0, Some(2));
        assert_eq!(
            heard(&mut Talk::new(Op::Cycle { batch: 1 }), b"TIMED_OUT\r\n").0,
            Some(0)
        );
        let mut talk = Talk::new(Op::Enqueue { batch: 2 });
        assert_eq!(heard(&mut talk, b"INSERTED 1\r\nINSERTED 2\r\n").0, Some(2));
        assert!(talk.take(b"OUT_OF_MEMORY\r\n", &mut Vec::new()).is_err());
    }
}
