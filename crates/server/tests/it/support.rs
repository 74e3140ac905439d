//! A server on a free port, and a client that sends exactly the bytes it is given.

use flyball_engine::Engine;
use flyball_engine::config::{Sources, load};
use flyball_server::{Options, Server};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Long enough that only a hang meets it.
const HANG: Duration = Duration::from_secs(60);

/// A folder that goes when it is dropped.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("flyball-it-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A server that runs, and its folder.
pub(crate) struct Daemon {
    pub(crate) server: Server,
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
    pub(crate) engine: Arc<Engine>,
    pub(crate) folder: Folder,
}

/// An engine that does nothing of itself.
pub(crate) fn engine() -> Arc<Engine> {
    Arc::new(Engine::start(load(&sources()).unwrap()).unwrap())
}

fn sources() -> Sources {
    Sources::new().with_text(
        "test.yaml",
        "worker_pool: { min_workers: 1, max_workers: 3 }",
    )
}

pub(crate) fn options(folder: &Folder) -> Options {
    let mut options = Options::new(&folder.0);
    options.listen = vec!["127.0.0.1:0".parse().unwrap()];
    options
}

impl Daemon {
    pub(crate) fn start() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Options)) -> Self {
        Self::of(Folder::new(), engine(), change)
    }

    /// With a queue of tasks in its folder, and these settings beside.
    pub(crate) fn with_queue(settings: &str) -> Self {
        let folder = Folder::new();
        let sources = sources().with_text("queue.yaml", settings);
        let options = flyball_engine::Options {
            state_dir: Some(folder.0.clone()),
            ..Default::default()
        };
        let engine = Engine::start_with(load(&sources).unwrap(), options).unwrap();
        Self::of(folder, Arc::new(engine), |_| {})
    }

    fn of(folder: Folder, engine: Arc<Engine>, change: impl FnOnce(&mut Options)) -> Self {
        let mut options = options(&folder);
        change(&mut options);
        let server = Server::start(options, engine.clone()).unwrap();
        let address = server.addresses()[0];
        let token = fs::read_to_string(folder.0.join(flyball_server::TOKEN_FILE)).unwrap();
        Daemon {
            server,
            address,
            token: token.trim().to_owned(),
            engine,
            folder,
        }
    }

    pub(crate) fn connect(&self) -> Client<TcpStream> {
        Client::tcp(self.address)
    }

    /// Asks on a connection of its own; `fields` are whole lines.
    pub(crate) fn ask(&self, method: &str, path: &str, fields: &str, body: &str) -> Reply {
        let mut client = self.connect();
        client.ask(method, path, self.address, fields, body)
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, "", "")
    }

    /// With the token.
    pub(crate) fn admin(&self, method: &str, path: &str, body: &str) -> Reply {
        let fields = format!("authorization: Bearer {}\r\n", self.token);
        let fields = if body.is_empty() {
            fields
        } else {
            fields + "content-type: application/json\r\n"
        };
        self.ask(method, path, &fields, body)
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// Checks that this is a whole problem document with this status.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16) -> serde_json::Value {
        assert_eq!(
            self.status,
            status,
            "{}",
            String::from_utf8_lossy(&self.body)
        );
        assert_eq!(self.field("content-type"), Some("application/problem+json"));
        let document = self.json();
        assert_eq!(document["status"], status);
        for name in ["type", "title", "detail", "instance"] {
            assert!(document[name].is_string(), "{name} in {document}");
        }
        document
    }
}

/// One connection.
pub(crate) struct Client<S> {
    stream: S,
    bytes: Vec<u8>,
}

impl Client<TcpStream> {
    pub(crate) fn tcp(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(HANG)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client {
            stream,
            bytes: Vec::new(),
        }
    }

    /// True if nothing comes for this long.
    pub(crate) fn is_silent_for(&mut self, time: Duration) -> bool {
        if !self.bytes.is_empty() {
            return false;
        }
        self.stream.set_read_timeout(Some(time)).unwrap();
        let answer = self.fill();
        self.stream.set_read_timeout(Some(HANG)).unwrap();
        answer.is_err_and(|error| {
            matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
            )
        })
    }
}

impl Client<UnixStream> {
    pub(crate) fn unix(path: &std::path::Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(HANG)).unwrap();
        Client {
            stream,
            bytes: Vec::new(),
        }
    }
}

impl<S: Read + Write> Client<S> {
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).unwrap();
    }

    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    pub(crate) fn ask(
        &mut self,
        method: &str,
        path: &str,
        host: impl std::fmt::Display,
        fields: &str,
        body: &str,
    ) -> Reply {
        let length = if body.is_empty() && method == "GET" {
            String::new()
        } else {
            format!("content-length: {}\r\n", body.len())
        };
        self.send(format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\n{fields}{length}\r\n{body}"
        ));
        self.receive_to(method)
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut space = [0; 16 * 1024];
        let count = self.stream.read(&mut space)?;
        self.bytes.extend_from_slice(&space[..count]);
        Ok(count)
    }

    pub(crate) fn receive(&mut self) -> Reply {
        self.receive_to("GET")
    }

    pub(crate) fn receive_to(&mut self, method: &str) -> Reply {
        self.try_receive(method).unwrap()
    }

    /// Reads one answer, whole.
    pub(crate) fn try_receive(&mut self, method: &str) -> io::Result<Reply> {
        let mut reply = self.head()?;
        if reply.status == 100 {
            reply = self.head()?;
        }
        if method == "HEAD" || reply.status == 204 {
            return Ok(reply);
        }
        if let Some(length) = reply.field("content-length") {
            let length: usize = length.parse().unwrap();
            while self.bytes.len() < length {
                self.more()?;
            }
            reply.body = self.bytes.drain(..length).collect();
        } else {
            while let Some(chunk) = self.chunk()? {
                reply.body.extend(chunk);
            }
        }
        Ok(reply)
    }

    fn more(&mut self) -> io::Result<()> {
        match self.fill()? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Reads the head of an answer.
    pub(crate) fn head(&mut self) -> io::Result<Reply> {
        let end = loop {
            if let Some(at) = self.bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            self.more()?;
        };
        let head: Vec<u8> = self.bytes.drain(..end).collect();
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        Ok(Reply {
            status: status.parse().unwrap(),
            fields: lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect(),
            body: Vec::new(),
        })
    }

    /// Reads a chunk of an answer; none at its end.
    pub(crate) fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let line = loop {
            if let Some(at) = self.bytes.windows(2).position(|two| two == b"\r\n") {
                break at;
            }
            self.more()?;
        };
        let size: Vec<u8> = self.bytes.drain(..line + 2).collect();
        let size = std::str::from_utf8(&size[..line]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        while self.bytes.len() < size + 2 {
            self.more()?;
        }
        let chunk: Vec<u8> = self.bytes.drain(..size + 2).collect();
        Ok((size > 0).then(|| chunk[..size].to_vec()))
    }

    /// Whether the server closes the connection without saying more.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.bytes.is_empty() && matches!(self.fill(), Ok(0) | Err(_))
    }
}
