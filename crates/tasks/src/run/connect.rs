//! Makes the connections of calls: to wherever a name leads, or only to where a list lets it lead.
//!
//! A name is looked up here, each of its addresses judged, and one that may be reached connected to by number: between the judgement and the connection nobody
//! looks the name up again, so an answer that changes meanwhile helps nobody.

use crate::run::reach::{Reach, literal};
use hyper::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;

/// How long a name may take to be found, and a connection to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

type Failure = Box<dyn StdError + Send + Sync>;

/// The list in force.
#[derive(Clone, Debug)]
pub(crate) struct Shared(Arc<RwLock<Reach>>);

impl Shared {
    pub(crate) fn new(reach: Reach) -> Shared {
        Shared(Arc::new(RwLock::new(reach)))
    }

    /// Puts another list in its place; whether it is another one.
    pub(crate) fn set(&self, reach: &Reach) -> bool {
        let mut own = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let changed = *own != *reach;
        if changed {
            own.clone_from(reach);
        }
        changed
    }

    /// As [`Reach::check`].
    pub(crate) fn check(&self, url: &str) -> Result<(), String> {
        self.with(|reach| reach.check(url))
    }

    fn with<T>(&self, ask: impl FnOnce(&Reach) -> T) -> T {
        ask(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A host that is out of reach.
#[derive(Debug)]
pub(crate) struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the URL {}", self.0)
    }
}

impl StdError for Refused {}

/// Connects.
#[derive(Clone)]
pub(crate) struct Connector {
    inner: HttpConnector,
    /// None: everywhere.
    reach: Option<Shared>,
}

impl Connector {
    /// To everywhere.
    pub(crate) fn free() -> Connector {
        let mut inner = HttpConnector::new();
        inner.enforce_http(false);
        inner.set_connect_timeout(Some(CONNECT_TIMEOUT));
        inner.set_nodelay(true);
        Connector { inner, reach: None }
    }

    /// To where a list lets it.
    pub(crate) fn bound(reach: Shared) -> Connector {
        Connector {
            reach: Some(reach),
            ..Connector::free()
        }
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<TcpStream>, Failure>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.inner.poll_ready(cx).map_err(Failure::from)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let mut inner = self.inner.clone();
        let Some(reach) = self.reach.clone() else {
            let connecting = inner.call(to);
            return Box::pin(async move { Ok(connecting.await?) });
        };
        Box::pin(async move {
            let mut last: Option<Failure> = None;
            for address in addresses(&reach, &to).await? {
                let there = Uri::builder()
                    .scheme(to.scheme_str().unwrap_or("http"))
                    .authority(address.to_string())
                    .path_and_query("/")
                    .build()?;
                match inner.call(there).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => last = Some(error.into()),
                }
            }
            Err(last.unwrap_or_else(|| io::Error::from(io::ErrorKind::NotFound).into()))
        })
    }
}

/// The addresses of a host that may be reached; at least one.
async fn addresses(reach: &Shared, to: &Uri) -> Result<Vec<SocketAddr>, Failure> {
    let host = to.host().unwrap_or_default().to_ascii_lowercase();
    let usual = if to.scheme_str() == Some("https") {
        443
    } else {
        80
    };
    let port = to.port_u16().unwrap_or(usual);
    let found: Vec<IpAddr> = match literal(&host) {
        Some(address) => vec![address],
        None => {
            let looked_up = tokio::net::lookup_host((host.as_str(), port));
            let found = tokio::time::timeout(CONNECT_TIMEOUT, looked_up).await??;
            found.map(|address| address.ip()).collect()
        }
    };
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address").into());
    }
    let within: Vec<SocketAddr> = reach.with(|reach| {
        let allowed = found
            .into_iter()
            .filter(|ip| reach.allows(&host, port, *ip));
        allowed.map(|ip| SocketAddr::new(ip, port)).collect()
    });
    if within.is_empty() {
        return Err(Refused(reach.with(|reach| reach.why_not(&host, port))).into());
    }
    Ok(within)
}
