//! Redis with its log synced before every answer.
//!
//! Tasks stand in a stream with a consumer group, which is what leases and acknowledgements there are made of: added one by one, many of them by as many
//! commands sent at once, read for a consumer, then acknowledged and deleted. A list takes many values by one command and costs a third, but who
//! takes from it has no lease.

use super::{Op, PAYLOAD, Server, free_address};
use crate::process::{Folder, Program};
use crate::queues::load::{Client, Session, Socket, Taken};
use anyhow::{Result, bail};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

pub struct Redis {
    program: Program,
    folder: Folder,
    address: String,
}

impl Redis {
    pub fn start(program: &Path) -> Result<Self> {
        let folder = Folder::new(0)?;
        let address = free_address()?;
        let port = address.rsplit(':').next().unwrap_or_default();
        let mut command = Command::new(program);
        command
            .args(["--port", port, "--bind", "127.0.0.1"])
            .args(["--appendonly", "yes", "--appendfsync", "always"])
            .args(["--save", "", "--auto-aof-rewrite-percentage", "0", "--dir"])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Ok(Redis {
            program: Program::start(&mut command)?,
            folder,
            address,
        })
    }
}

impl Server for Redis {
    fn program(&mut self) -> &mut Program {
        &mut self.program
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn client(&self, op: Op, number: usize) -> Result<Client> {
        let socket = Socket::tcp(&self.address)?;
        Ok(Client::new(socket, Box::new(Talk::new(op, number))))
    }

    fn prepare(&mut self, cycles: bool) -> Result<()> {
        if cycles {
            let mut request = Vec::new();
            command(
                &mut request,
                &[b"XGROUP", b"CREATE", b"s", b"g", b"0", b"MKSTREAM"],
            );
            Socket::tcp(&self.address)?.ask(&request, |answer| {
                Ok(memchr::memmem::find(answer, b"\r\n").map(|_| ()))
            })?;
        }
        Ok(())
    }
}

fn command(out: &mut Vec<u8>, words: &[&[u8]]) {
    // Writing into a vector cannot fail.
    let _ = write!(out, "*{}\r\n", words.len());
    for word in words {
        let _ = write!(out, "${}\r\n", word.len());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

struct Talk {
    op: Op,
    request: Vec<u8>,
    /// Answers to the request.
    answers: usize,
    due: usize,
    /// Entries of this cycle.
    read: Vec<Vec<u8>>,
    acknowledging: bool,
}

impl Talk {
    fn new(op: Op, number: usize) -> Self {
        const TASK: &[u8] = &[b'x'; PAYLOAD];
        let (mut request, mut answers) = (Vec::new(), 1);
        match op {
            Op::Enqueue { batch } => {
                answers = batch;
                for _ in 0..batch {
                    command(&mut request, &[b"XADD", b"s", b"*", b"p", TASK]);
                }
            }
            Op::Cycle { batch } => {
                let (consumer, count) = (format!("c{number}"), batch.to_string());
                let words: [&[u8]; 9] = [
                    b"XREADGROUP",
                    b"GROUP",
                    b"g",
                    consumer.as_bytes(),
                    b"COUNT",
                    count.as_bytes(),
                    b"STREAMS",
                    b"s",
                    b">",
                ];
                command(&mut request, &words);
            }
        }
        Talk {
            op,
            request,
            answers,
            due: 0,
            read: Vec::new(),
            acknowledging: false,
        }
    }
}

/// Where the value at the beginning of `input` ends; none while it is not complete. Its strings go into `strings`.
fn value<'a>(input: &'a [u8], strings: &mut Vec<&'a [u8]>) -> Result<Option<usize>> {
    let Some(line) = memchr::memmem::find(input, b"\r\n") else {
        return Ok(None);
    };
    let after = line + 2;
    let number = || -> Result<i64> { Ok(std::str::from_utf8(&input[1..line])?.parse()?) };
    match input[0] {
        b':' | b'+' => Ok(Some(after)),
        b'$' => match usize::try_from(number()?) {
            Err(_) => Ok(Some(after)),
            Ok(length) => {
                let whole = after + length + 2;
                if input.len() < whole {
                    return Ok(None);
                }
                strings.push(&input[after..after + length]);
                Ok(Some(whole))
            }
        },
        b'*' => {
            let mut at = after;
            for _ in 0..number()?.max(0) {
                if at >= input.len() {
                    return Ok(None);
                }
                match value(&input[at..], strings)? {
                    Some(length) => at += length,
                    None => return Ok(None),
                }
            }
            Ok(Some(at))
        }
        _ => bail!("Redis says {}", String::from_utf8_lossy(&input[..line])),
    }
}

impl Session for Talk {
    fn next(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.request);
        self.due = self.answers;
        self.acknowledging = false;
    }

    fn take(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Taken> {
        let mut strings = Vec::new();
        let Some(bytes) = value(input, &mut strings)? else {
            return Ok(Taken::default());
        };
        self.due -= 1;
        if self.due > 0 {
            return Ok(Taken { bytes, done: None });
        }
        let done = match self.op {
            Op::Enqueue { batch } => Some(batch as u64),
            Op::Cycle { .. } if self.acknowledging => Some(self.read.len() as u64),
            Op::Cycle { .. } if strings.is_empty() => Some(0),
            Op::Cycle { .. } => {
                // The name of the stream, then id, name and value of each entry.
                let ids = strings[1..].iter().step_by(3);
                self.read = ids.map(|id| id.to_vec()).collect();
                for head in [
                    [b"XACK".as_slice(), b"s", b"g"].as_slice(),
                    &[b"XDEL", b"s"],
                ] {
                    let mut words = head.to_vec();
                    words.extend(self.read.iter().map(Vec::as_slice));
                    command(out, &words);
                }
                self.due = 2;
                self.acknowledging = true;
                None
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
        let mut talk = Talk::new(Op::Cycle { batch: 2 }, 0);
        let entries = b"*1\r\n*2\r\n$1\r\ns\r\n*2\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\np\r\n$2\r\n\r\n\r\n*2\r\n$3\r\n2-0\r\n*2\r\n$1\r\np\r\n$1\r\nx\r\n";
        let (done, sent) = heard(&mut talk, entries);
        let expected = b"*5\r\n$4\r\nXACK\r\n$1\r\ns\r\n$1\r\ng\r\n$3\r\n1-0\r\n$3\r\n2-0\r\n*4\r\n$4\r\nXDEL\r\n$1\r\ns\r\n$3\r\n1-0\r\n$3\r\n2-0\r\n";
        assert_eq!((done, sent.as_slice()), (None, expected.as_slice()));
        assert_eq!(heard_on(&mut talk, b":2\r\n:2\r\n").0, Some(2));
        assert_eq!(
            heard(&mut Talk::new(Op::Cycle { batch: 2 }, 0), b"*-1\r\n").0,
            Some(0)
        );
        let mut talk = Talk::new(Op::Enqueue { batch: 3 }, 0);
        assert_eq!(heard(&mut talk, b"$3\r\n1-0\r\n$3\r\n2-0\r\n").0, None);
        assert_eq!(heard_on(&mut talk, b"$3\r\n3-0\r\n").0, Some(3));
        assert!(talk.take(b"-MISCONF no\r\n", &mut Vec::new()).is_err());
    }
}
