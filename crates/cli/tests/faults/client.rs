//! HTTP over the daemon's socket: one request at a time, one connection.

use serde_json::Value;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// What was answered: status and body.
pub(crate) type Answered = (u16, Value);

/// An answer as it came.
pub(crate) struct Raw {
    pub(crate) status: u16,
    /// Fields with names in lower case.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Raw {
    /// A field that is a number.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        let (_, value) = self.fields.iter().find(|(found, _)| found == name)?;
        value.parse().ok()
    }
}

pub(crate) struct Client(BufReader<UnixStream>);

impl Client {
    pub(crate) fn connect(socket: &Path) -> io::Result<Client> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(crate::PATIENCE))?;
        Ok(Client(BufReader::new(stream)))
    }

    pub(crate) fn get(&mut self, path: &str) -> io::Result<Answered> {
        self.send("GET", path, None, "")
    }

    pub(crate) fn post(&mut self, path: &str, body: &Value) -> io::Result<Answered> {
        self.send("POST", path, None, &body.to_string())
    }

    /// Sends a request; an error means that nobody knows whether it was heard.
    pub(crate) fn send(
        &mut self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: &str,
    ) -> io::Result<Answered> {
        let raw = self.raw(method, path, key, body)?;
        let body = if raw.body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&raw.body).map_err(|_| wrong("no JSON"))?
        };
        Ok((raw.status, body))
    }

    pub(crate) fn raw(
        &mut self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: &str,
    ) -> io::Result<Raw> {
        let key = key.map_or(String::new(), |key| format!("Idempotency-Key: {key}\r\n"));
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{key}Content-Length: {}\r\n\r\n",
            body.len()
        );
        self.0.get_mut().write_all((head + body).as_bytes())?;
        self.answer()
    }

    fn answer(&mut self) -> io::Result<Raw> {
        let status = self
            .line()?
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .ok_or_else(|| wrong("no status"))?;
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            match line.trim_end().split_once(':') {
                Some((name, value)) => {
                    fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
                }
                None => break,
            }
        }
        let mut raw = Raw {
            status,
            fields,
            body: Vec::new(),
        };
        let length = raw.number("content-length").unwrap_or(0);
        raw.body.resize(length as usize, 0);
        self.0.read_exact(&mut raw.body)?;
        Ok(raw)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line)? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            _ => Ok(line),
        }
    }
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}
