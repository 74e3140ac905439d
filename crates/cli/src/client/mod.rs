//! The client of the daemon's API: blocking calls over the local socket or TCP.
//!
//! One connection a call, on a runtime of one thread that lives as long as the client. Bounds: 5 s to connect, 30 s to answer, 16 MiB
//! an answer, but for those that are passed on as they come (`stream`, `pour`). TLS is absent: the local socket needs none, and a tunnel serves other machines.

mod failure;
mod pour;
mod stream;
mod target;

pub(crate) use failure::Failure;
pub(crate) use stream::Events;
pub(crate) use target::{Target, state_folders};

use std::ffi::OsString;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use flyball_server::TOKEN_FILE;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::show::inert;
use failure::refusal;
use target::SOCKET;

/// To connect.
const CONNECT: Duration = Duration::from_secs(5);
/// From the request to the end of the answer.
const ANSWER: Duration = Duration::from_secs(30);
/// Bytes of an answer.
const BODY_MAX: usize = 16 << 20;
/// Bytes of a token file that are read: a token has 64 digits.
const TOKEN_MAX: u64 = 4096;

/// Makes a repeated request one.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// What is sent.
struct Document {
    bytes: Bytes,
    idempotency_key: Option<header::HeaderValue>,
}

impl From<&Value> for Document {
    fn from(value: &Value) -> Document {
        Document {
            bytes: value.to_string().into(),
            idempotency_key: None,
        }
    }
}

/// How to reach the daemon: options of every command that talks to it.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "The daemon")]
pub(crate) struct Reach {
    /// The daemon: http://HOST:PORT, HOST:PORT, unix:PATH, or the path of its socket [default: $FLYBALL_SERVER, else the socket in the
    /// state folder]
    #[arg(long, value_name = "URL|SOCKET", global = true)]
    pub(crate) server: Option<String>,
    /// File with the token for a daemon over TCP [default: $FLYBALL_TOKEN_FILE, else admin.token in the state folder if the daemon is on
    /// this machine]
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) token_file: Option<PathBuf>,
    /// State folder of the daemon, which holds socket and token [default: $FLYBALL_STATE_DIR, else those of this user and of the system]
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) state_dir: Option<PathBuf>,
    /// Print the daemon's JSON as it is
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// Talks to one daemon.
#[derive(Debug)]
pub(crate) struct Client {
    runtime: Runtime,
    /// Tried in this order; the first that connects is the daemon.
    targets: Vec<Target>,
    token: Option<Token>,
}

#[derive(Debug)]
struct Token {
    file: PathBuf,
    /// `Bearer …`, marked as sensitive.
    field: header::HeaderValue,
}

/// An answer that is none of refusal.
#[derive(Debug)]
pub(crate) struct Reply {
    body: Bytes,
}

impl Reply {
    /// The document as it came.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.body
    }

    /// The document as what it should be.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|error| {
            Failure::Broken(format!(
                "the daemon's answer is none that this version understands: {}; --json prints it as it is",
                inert(&error.to_string())
            ))
        })
    }
}

impl Client {
    /// Finds out where the daemon is and what token it wants; connects to nothing yet.
    pub(crate) fn new(reach: &Reach) -> Result<Client, Failure> {
        Client::of(reach, |name| std::env::var_os(name))
    }

    fn of(
        reach: &Reach,
        environment: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Client, Failure> {
        let set = |name: &str| environment(name).filter(|value| !value.is_empty());
        let folders = state_folders(reach.state_dir.as_deref(), &environment);
        let from_environment = || {
            // A named folder says more than a variable of the shell's start-up files.
            let server = set("FLYBALL_SERVER").filter(|_| reach.state_dir.is_none());
            server.map(|server| server.to_string_lossy().into_owned())
        };
        let targets = match reach.server.clone().or_else(from_environment) {
            Some(server) => vec![Target::parse(&server).map_err(Failure::Usage)?],
            None => folders
                .iter()
                .map(|folder| Target::Socket(folder.join(SOCKET)))
                .collect(),
        };
        let named = reach
            .token_file
            .clone()
            .or_else(|| set("FLYBALL_TOKEN_FILE").map(PathBuf::from));
        let token = match (&targets[..], named) {
            (_, Some(file)) => Some(Token::read(&file).map_err(|error| {
                let file = inert(&file.to_string_lossy());
                Failure::Usage(format!("cannot read the token in {file}: {error}"))
            })?),
            ([target @ Target::Tcp { .. }], None) if target.is_local() => folders
                .iter()
                .find_map(|folder| Token::read(&folder.join(TOKEN_FILE)).ok()),
            _ => None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(|error| Failure::Broken(format!("cannot start the client: {error}")))?;
        Ok(Client {
            runtime,
            targets,
            token,
        })
    }

    /// Asks for a document.
    pub(crate) fn get(&self, path: &str) -> Result<Reply, Failure> {
        self.call(Method::GET, path, None)
    }

    /// Asks for a change.
    pub(crate) fn send(&self, method: Method, path: &str, body: &Value) -> Result<Reply, Failure> {
        self.call(method, path, Some(Document::from(body)))
    }

    /// Asks for a change by a document that is written already; the key makes a repeated request one.
    pub(crate) fn send_bytes(
        &self,
        method: Method,
        path: &str,
        bytes: Vec<u8>,
        idempotency_key: Option<&str>,
    ) -> Result<Reply, Failure> {
        let idempotency_key = match idempotency_key {
            None => None,
            Some(key) => Some(header::HeaderValue::from_str(key).map_err(|_| {
                Failure::Usage(format!(
                    "{:?} is no key: expected visible ASCII characters",
                    key
                ))
            })?),
        };
        let document = Document {
            bytes: bytes.into(),
            idempotency_key,
        };
        self.call(method, path, Some(document))
    }

    /// Whether the daemon is asked over a socket of this machine, where it knows who asks.
    pub(crate) fn is_local(&self) -> bool {
        self.targets
            .iter()
            .all(|target| matches!(target, Target::Socket(_)))
    }

    /// Waits.
    pub(crate) fn pause(&self, time: Duration) {
        // Made inside, where there is a timer.
        self.runtime
            .block_on(async { tokio::time::sleep(time).await });
    }

    /// Asks for a change that needs no further words.
    pub(crate) fn act(&self, method: Method, path: &str) -> Result<Reply, Failure> {
        self.call(method, path, None)
    }

    fn call(&self, method: Method, path: &str, body: Option<Document>) -> Result<Reply, Failure> {
        self.runtime.block_on(async {
            let (target, stream) = self.connect().await?;
            let asked = async {
                let response = self
                    .ask(&target, stream, method, path, body, "application/json")
                    .await?;
                self.judge(&target, response).await
            };
            timeout(ANSWER, asked).await.unwrap_or_else(|_| {
                Err(Failure::Unreachable(format!(
                    "{target} took the request and did not answer within {} s",
                    ANSWER.as_secs()
                )))
            })
        })
    }

    /// Connects to the first target that takes connections.
    async fn connect(&self) -> Result<(Target, Stream), Failure> {
        let mut tried = String::new();
        for target in &self.targets {
            match timeout(CONNECT, open(target)).await {
                Ok(Ok(stream)) => return Ok((target.clone(), stream)),
                Ok(Err(error)) => tried.push_str(&format!("\n  {target}: {}", why(&error))),
                Err(_) => {
                    tried.push_str(&format!(
                        "\n  {target}: no connection within {} s",
                        CONNECT.as_secs()
                    ));
                }
            }
        }
        Err(Failure::Unreachable(format!(
            "no daemon can be reached; tried{tried}\n  `flyball serve` starts one, --server URL|SOCKET names one"
        )))
    }

    async fn ask(
        &self,
        target: &Target,
        stream: Stream,
        method: Method,
        path: &str,
        body: Option<Document>,
        accept: &str,
    ) -> Result<Response<Incoming>, Failure> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, target.authority())
            .header(
                header::USER_AGENT,
                concat!("flyball/", env!("CARGO_PKG_VERSION")),
            )
            .header(header::ACCEPT, accept);
        if let (Target::Tcp { .. }, Some(token)) = (target, &self.token) {
            request = request.header(header::AUTHORIZATION, token.field.clone());
        }
        let body = match body {
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                if let Some(key) = body.idempotency_key {
                    request = request.header(IDEMPOTENCY_KEY, key);
                }
                body.bytes
            }
            None => Bytes::new(),
        };
        let request = request
            .body(Full::new(body))
            .map_err(|error| Failure::Usage(format!("this cannot be asked: {error}")))?;
        let lost = |error: hyper::Error| {
            Failure::Unreachable(format!(
                "{target} is no flyball daemon, or broke off: {}",
                chain(&error)
            ))
        };
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        // Ends when the answer has been read; what goes wrong there, the request hears of.
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(lost)
    }

    async fn judge(&self, target: &Target, response: Response<Incoming>) -> Result<Reply, Failure> {
        let (head, body) = response.into_parts();
        let body = match Limited::new(body, BODY_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                return Err(Failure::Broken(format!(
                    "the answer of {target} has more than {} MiB",
                    BODY_MAX >> 20
                )));
            }
            Err(error) => {
                return Err(Failure::Unreachable(format!(
                    "{target} broke off its answer: {error}"
                )));
            }
        };
        if head.status.is_success() {
            return Ok(Reply { body });
        }
        let retry_after = head
            .headers
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok());
        let mut failure = refusal(head.status.as_u16(), retry_after, &body);
        if let (401, Failure::Refused(text)) = (head.status.as_u16(), &mut failure) {
            text.push_str(&match &self.token {
                Some(token) => format!("\n  the token sent is that in {}", inert(&token.file.to_string_lossy())),
                None => "\n  no token was sent: --token-file names one, and over the local socket none is needed".to_owned(),
            });
        }
        Err(failure)
    }
}

impl Token {
    fn read(file: &Path) -> io::Result<Token> {
        let mut text = String::new();
        std::fs::File::open(file)?
            .take(TOKEN_MAX)
            .read_to_string(&mut text)?;
        let token = text.trim();
        let plain = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        let mut field = header::HeaderValue::try_from(format!("Bearer {token}"))
            .ok()
            .filter(|_| plain)
            .ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "it holds no token"))?;
        field.set_sensitive(true);
        Ok(Token {
            file: file.to_owned(),
            field,
        })
    }
}

/// One segment of a path or one value of a query.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    // A segment of dots only would be a step in the path.
    if out.bytes().all(|byte| byte == b'.') {
        out = out.replace('.', "%2E");
    }
    out
}

/// A connection of either kind.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

type Stream = Box<dyn Duplex>;

async fn open(target: &Target) -> io::Result<Stream> {
    match target {
        Target::Socket(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        Target::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream))
        }
    }
}

/// Why a connection failed, in words that help.
fn why(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "not there".to_owned(),
        ErrorKind::ConnectionRefused => "nobody listens there".to_owned(),
        ErrorKind::PermissionDenied => "belongs to another user (permission denied)".to_owned(),
        _ => inert(&error.to_string()),
    }
}

/// An error with what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    inert(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_outside_stay_one_segment() {
        assert_eq!(escape("worker_pool.back"), "worker_pool.back");
        assert_eq!(escape("a/b?c#d%e f\n"), "a%2Fb%3Fc%23d%25e%20f%0A");
        assert_eq!(
            (escape(".."), escape("ü")),
            ("%2E%2E".into(), "%C3%BC".into())
        );
    }

    /// API-6: a token goes to this machine, or where a person sends it, and is never shown.
    #[test]
    fn tokens_are_found_for_this_machine_only() {
        let folder = std::env::temp_dir().join(format!("flyball-client-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(TOKEN_FILE), "abc123\n").unwrap();
        let token = |server: &str| {
            let reach = Reach {
                server: Some(server.to_owned()),
                state_dir: Some(folder.clone()),
                ..Reach::default()
            };
            Client::of(&reach, |_| None).unwrap().token
        };
        let found = token("localhost:7070").unwrap();
        assert_eq!(found.field, "Bearer abc123");
        assert!(!format!("{found:?}").contains("abc123"));
        assert!(token("example.org:7070").is_none());
        assert!(token("unix:/x").is_none());
        std::fs::write(folder.join(TOKEN_FILE), "two words").unwrap();
        assert!(token("localhost:7070").is_none());
        let reach = Reach {
            token_file: Some(folder.join("absent")),
            ..Reach::default()
        };
        assert!(matches!(
            Client::of(&reach, |_| None),
            Err(Failure::Usage(_))
        ));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
