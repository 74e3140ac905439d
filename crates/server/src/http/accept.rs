//! Takes connections and serves them, whatever comes.
//!
//! A listener never ends by an error of one connection, nor by the process's being out of files: then the connection that has the
//! least to lose goes, and after a pause it tries again. When the table is full, the new connection waits in the hand of the
//! listener until somebody left; the next ones wait in the system's queue.

use super::connections::{Connections, Entry};
use super::express::Lane;
use super::gate::{Gate, Gates};
use super::head;
use super::wire::{Waits, Wire};
use crate::access::Peer;
use crate::server::Stage;
use crate::sys;
use hyper::server::conn::http1;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

/// Pause after the system refused a connection for want of something: as long as it takes a connection that was told to go.
const PAUSE: Duration = Duration::from_millis(50);
/// Bytes that the library buffers a connection, beside a head: what an event stream whose client does not read may hold.
const BUFFER: usize = 64 * 1024;

/// What the listeners share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) connections: Arc<Connections>,
    pub(crate) gates: Gates,
    pub(crate) lane: Arc<Lane>,
    pub(crate) head: head::Bounds,
    pub(crate) waits: Waits,
    pub(crate) stage: watch::Receiver<Stage>,
}

/// Takes connections from a TCP listener until the server stops.
pub(crate) async fn tcp(listener: TcpListener, shared: Shared) {
    let mut stage = shared.stage.clone();
    loop {
        let accepted = tokio::select! {
            _ = stage.wait_for(|stage| stage.is_stopping()) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                // Only latency is lost where the system refuses.
                let _ = stream.set_nodelay(true);
                shared.take(stream, Peer::Tcp(address)).await;
            }
            Err(error) => shared.survive(error).await,
        }
    }
}

/// Takes connections from the Unix socket until the server stops; only the daemon's own user and root are let in.
pub(crate) async fn unix(listener: UnixListener, shared: Shared) {
    let mut stage = shared.stage.clone();
    loop {
        let accepted = tokio::select! {
            _ = stage.wait_for(|stage| stage.is_stopping()) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted.and_then(|(stream, _)| Ok((stream.peer_cred()?.uid(), stream))) {
            Ok((uid, stream)) if uid == sys::effective_uid() || uid == 0 => {
                shared.take(stream, Peer::Local { uid }).await;
            }
            Ok((uid, _)) => tracing::warn!(uid, "refused another user on the socket"),
            Err(error) => shared.survive(error).await,
        }
    }
}

impl Shared {
    /// Serves a connection on a task of its own, once there is room for it.
    async fn take<S>(&self, stream: S, peer: Peer)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        while self.connections.is_full() {
            let mut left = pin!(self.connections.left.notified());
            left.as_mut().enable();
            self.connections.evict();
            // Woken by who left; the pause is for those that meanwhile became idle.
            let _ = tokio::time::timeout(PAUSE, left).await;
        }
        let entry = self.connections.enter();
        tokio::spawn(serve(stream, peer, entry, self.clone()));
        // The new connection reads its request before the next one comes, so that a flood of silent ones never pushes it out unheard.
        tokio::task::yield_now().await;
    }

    async fn survive(&self, error: io::Error) {
        match error.raw_os_error() {
            Some(libc::ECONNABORTED | libc::EINTR | libc::ECONNRESET | libc::ENOTCONN) => {
                tokio::task::yield_now().await;
            }
            _ => {
                let mut left = pin!(self.connections.left.notified());
                left.as_mut().enable();
                // Once a shortage, not once a connection.
                if self.connections.shrink() {
                    tracing::warn!(%error, "cannot take a connection; those that ask nothing go");
                }
                self.connections.evict();
                // Others may hold the files, so nobody may ever leave: then the pause keeps this from spinning.
                let _ = tokio::time::timeout(PAUSE, left).await;
            }
        }
    }
}

async fn serve<S>(stream: S, peer: Peer, entry: Entry, shared: Shared)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let link = entry.0.clone();
    let mut stage = shared.stage.clone();
    let gate = Gate {
        gates: shared.gates,
        link: link.clone(),
        peer,
    };
    let lane = (shared.lane, peer);
    let wire = Wire::new(stream, link.clone(), shared.head, shared.waits, lane);
    // Above what the wire lets through, so that refusals are the wire's.
    let connection = http1::Builder::new()
        .max_buf_size(BUFFER + shared.head.bytes)
        .max_headers(shared.head.fields + 1)
        .serve_connection(wire, gate);
    let mut connection = pin!(connection);
    let mut stopping = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(?peer, %error, "a connection broke");
                }
                return;
            }
            () = link.evicted.notified() => {
                tracing::debug!(?peer, "a connection made room for another");
                return;
            }
            _ = stage.wait_for(|stage| stage.is_stopping()), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}
