//! The thread that serves, from start to shutdown.

use crate::access::Access;
use crate::http::accept::{self, Shared};
use crate::http::connections::Connections;
use crate::http::express::Lane;
use crate::http::gate::Gates;
use crate::http::{body, head, wire};
use crate::listen::{Listening, Socket};
use crate::relay::Relay;
use crate::routes::{self, App};
use crate::token::Token;
use crate::{Error, Options, sys};
use flyball_engine::Engine;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

/// Files that connections leave to the rest of the process: standard streams, listeners, sensors, the queue.
const RESERVED_FILES: u64 = 64;
/// How much longer than its deadline a shutdown waits for a thread that is in the middle of something.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// How far a server has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Serving,
    /// Serves, but says that it soon will not.
    Draining,
    /// Takes no connections, finishes what it has, for at most so long.
    Stopping(Duration),
}

impl Stage {
    pub(crate) fn is_stopping(self) -> bool {
        matches!(self, Stage::Stopping(_))
    }
}

/// A server that runs. Dropping it stops it at once.
#[derive(Debug)]
pub struct Server {
    stage: watch::Sender<Stage>,
    /// Behind a lock only so that a server can be shared.
    done: Mutex<mpsc::Receiver<usize>>,
    thread: Option<JoinHandle<()>>,
    addresses: Vec<SocketAddr>,
    socket: Socket,
}

impl Server {
    /// Starts to serve `engine` on one thread, named `flyball-api`, at normal priority and outside the engine's workers, so that it
    /// answers while they are saturated. The admin token is made in the state folder if there is none.
    ///
    /// # Errors
    /// An address that others can reach without [`Options::behind_tls_proxy`], an address or socket that cannot be listened on, a
    /// doubtful token file, an option out of range.
    pub fn start(options: Options, engine: Arc<Engine>) -> Result<Server, Error> {
        options.check()?;
        let token = Token::of_state(&options.state_dir)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(Error::Thread)?;
        let listening = {
            let _inside = runtime.enter();
            Listening::open(&options)?
        };
        let (stage, watched) = watch::channel(Stage::Serving);
        let limits = &options.limits;
        let most = match sys::open_files() {
            Some(files) => {
                (files.saturating_sub(RESERVED_FILES) as usize).clamp(1, limits.connections)
            }
            None => limits.connections,
        };
        let access = Arc::new(Access::new(
            &listening.addresses,
            &options.allowed_hosts,
            token,
            options.open_figures(),
        ));
        // Streams last, so they leave connections to those who only ask something.
        let streams = limits.event_streams.min((most / 2).max(1));
        let state_dir = options.state_dir.clone();
        let app = App::new(engine, watched.clone(), limits, streams, state_dir);
        let relay = app.relay.clone();
        let lane = Lane::new(app.clone(), access.clone(), limits.body_bytes);
        let shared = Shared {
            lane: Arc::new(lane),
            connections: Connections::new(most),
            gates: Gates {
                router: routes::router(app, access.clone()),
                access,
                body: body::Bounds {
                    bytes: limits.body_bytes,
                    time: limits.body_timeout,
                    rate: limits.body_rate,
                },
            },
            head: head::Bounds {
                bytes: limits.header_bytes,
                fields: limits.header_fields,
                target: limits.target_bytes,
            },
            waits: wire::Waits {
                head: limits.header_timeout,
                idle: limits.idle_timeout,
                write: limits.write_timeout,
            },
            stage: watched,
        };
        let Listening {
            tcp,
            addresses,
            unix,
            socket,
        } = listening;
        let (tx, done) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("flyball-api".into())
            .spawn(move || {
                let cut_off = runtime.block_on(serve(tcp, unix, shared, relay));
                runtime.shutdown_background();
                // Nobody listens if the server was dropped.
                let _ = tx.send(cut_off);
            })
            .map_err(Error::Thread)?;
        Ok(Server {
            stage,
            done: Mutex::new(done),
            thread: Some(thread),
            addresses,
            socket,
        })
    }

    /// The TCP addresses, with the ports that were chosen.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The path of the Unix socket.
    pub fn socket(&self) -> &Path {
        self.socket.path()
    }

    /// Makes `/readyz` answer 503 while everything is still served, so that who balances over several daemons looks elsewhere.
    pub fn drain(&self) {
        self.stage.send_if_modified(|stage| match stage {
            Stage::Serving => {
                *stage = Stage::Draining;
                true
            }
            _ => false,
        });
    }

    /// Stops: no new connections, event streams end, requests that have begun are answered, for at most `deadline`; then what is
    /// left is cut off. Returns how many connections were. The server holds the engine no longer then.
    pub fn shutdown(mut self, deadline: Duration) -> usize {
        self.stop(deadline)
    }

    fn stop(&mut self, deadline: Duration) -> usize {
        let Some(thread) = self.thread.take() else {
            return 0;
        };
        self.stage.send_replace(Stage::Stopping(deadline));
        let done = self.done.get_mut().unwrap_or_else(PoisonError::into_inner);
        match done.recv_timeout(deadline.saturating_add(SHUTDOWN_GRACE)) {
            Err(mpsc::RecvTimeoutError::Timeout) => {
                tracing::error!("the thread of the server does not end; it is left behind");
                0
            }
            said => {
                // It has said its last word, or panicked, which its hook reported.
                let _ = thread.join();
                said.unwrap_or(0)
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

/// Serves until told to stop; returns how many connections were cut off.
async fn serve(
    tcp: Vec<TcpListener>,
    unix: UnixListener,
    shared: Shared,
    relay: Arc<Relay>,
) -> usize {
    tokio::spawn(async move { relay.run().await });
    for listener in tcp {
        tokio::spawn(accept::tcp(listener, shared.clone()));
    }
    tokio::spawn(accept::unix(unix, shared.clone()));
    let mut stage = shared.stage.clone();
    let deadline = match stage.wait_for(|stage| stage.is_stopping()).await.as_deref() {
        Ok(Stage::Stopping(deadline)) => *deadline,
        _ => Duration::ZERO,
    };
    let connections = &shared.connections;
    let ended = async {
        loop {
            let mut left = pin!(connections.left.notified());
            left.as_mut().enable();
            if connections.len() == 0 {
                return;
            }
            left.await;
        }
    };
    let _ = tokio::time::timeout(deadline, ended).await;
    connections.len()
}
