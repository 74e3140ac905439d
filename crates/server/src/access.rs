//! Who may ask what.
//!
//! A daemon on loopback is reachable by every page in a browser on the same machine, and by every user of it. So:
//! - `Host` must be one of a list, exactly, port included: else a page whose name was pointed at 127.0.0.1 could read replies
//!   (DNS rebinding). The list is what counts; that `Origin` equals `Host` proves nothing, since rebinding makes them equal.
//! - Everything but GET and HEAD is refused when a browser says that another site caused it, whatever the method: DELETE, too; and the
//!   one GET that leases a task.
//! - Changes and configuration need the admin token, or the Unix socket, on which the system vouches for the user.
//!
//! Absent on purpose: CORS, cookies, tokens in addresses.

use crate::problem::Problem;
use crate::token::Token;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Peer {
    Tcp(SocketAddr),
    /// Over the Unix socket; the system says who.
    Local {
        uid: u32,
    },
}

/// Who asks, as far as is known.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Caller {
    Local {
        uid: u32,
    },
    /// Holds the admin token.
    Admin(SocketAddr),
    Anonymous(SocketAddr),
}

impl Caller {
    /// Whether this is the local user, over the socket.
    pub(crate) fn is_local(self) -> bool {
        matches!(self, Caller::Local { .. })
    }

    /// Whether it may read fields of payloads that only administrators may.
    pub(crate) fn sees_secrets(self) -> bool {
        matches!(self, Caller::Local { .. } | Caller::Admin(_))
    }
}

/// Whether a request changes something: all but GET and HEAD do, and so does the one GET that leases a task.
pub(crate) fn is_change(method: &Method, path: &str) -> bool {
    !matches!(*method, Method::GET | Method::HEAD) || path == "/v1/cpu/scheduler/task"
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Caller::Local { uid } => write!(f, "uid {uid}"),
            Caller::Admin(address) => write!(f, "admin token from {address}"),
            Caller::Anonymous(address) => write!(f, "nobody from {address}"),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts
            .extensions
            .get::<Caller>()
            .copied()
            .ok_or_else(unauthorized)
    }
}

/// The rules.
#[derive(Debug)]
pub(crate) struct Access {
    /// Lower case.
    hosts: Vec<String>,
    token: Token,
    open_figures: bool,
}

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

impl Access {
    pub(crate) fn new(
        addresses: &[SocketAddr],
        allowed_hosts: &[String],
        token: Token,
        open_figures: bool,
    ) -> Self {
        let mut hosts: Vec<String> = allowed_hosts
            .iter()
            .map(|host| host.to_ascii_lowercase())
            .collect();
        for address in addresses {
            let port = address.port();
            let own = address.to_string();
            for name in ["127.0.0.1", "localhost", "[::1]"] {
                hosts.push(format!("{name}:{port}"));
                if port == 80 {
                    hosts.push(name.to_owned());
                }
            }
            // Another address of the loopback net; on any other the allowed hosts say who is meant.
            if address.ip().is_loopback() && !hosts.contains(&own) {
                hosts.push(own);
            }
        }
        Access {
            hosts,
            token,
            open_figures,
        }
    }

    /// Judges a request before it is routed; tells who asks.
    pub(crate) fn judge(
        &self,
        peer: Peer,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<Caller, Problem> {
        let host = self.host(peer, headers)?;
        // A target that names a host itself must name the same (RFC 9112 §3.2.2); CONNECT and `*` name nothing here.
        if !uri.path().starts_with('/') {
            return Err(Problem::bad_request(
                "the target of the request must be a path",
            ));
        }
        if uri
            .authority()
            .is_some_and(|authority| !authority.as_str().eq_ignore_ascii_case(host))
        {
            return Err(Problem::bad_request(
                "the target of the request names another host than its Host field",
            ));
        }
        if is_change(method, uri.path()) {
            self.same_site(headers)?;
        }
        match peer {
            Peer::Local { uid } => Ok(Caller::Local { uid }),
            Peer::Tcp(address) => self.bearer(address, headers),
        }
    }

    /// Who asks for a change in a request without `Origin` and `Sec-Fetch-Site`, with these fields given once; none if that is not for sure somebody
    /// who may.
    pub(crate) fn admits(
        &self,
        peer: Peer,
        host: &[u8],
        authorization: Option<&[u8]>,
    ) -> Option<Caller> {
        let host = std::str::from_utf8(host).ok()?;
        match peer {
            Peer::Local { uid } => host
                .bytes()
                .all(|b| b.is_ascii_graphic())
                .then_some(Caller::Local { uid }),
            Peer::Tcp(address) => {
                let known = |known: &String| known.eq_ignore_ascii_case(host);
                let (scheme, token) = authorization?.split_at_checked(7)?;
                let admitted = self.hosts.iter().any(known)
                    && scheme.eq_ignore_ascii_case(b"bearer ")
                    && self.token.matches(token.trim_ascii());
                admitted.then_some(Caller::Admin(address))
            }
        }
    }

    fn host<'a>(&self, peer: Peer, headers: &'a HeaderMap) -> Result<&'a str, Problem> {
        let host = single(headers, header::HOST)
            .map_err(|()| Problem::bad_request("Host is given more than once"))?
            .ok_or_else(|| Problem::bad_request("Host is missing"))?;
        let known = match (peer, host.to_str()) {
            (Peer::Local { .. }, Ok(host)) => return Ok(host),
            (Peer::Tcp(_), Ok(host)) => self
                .hosts
                .iter()
                .any(|known| known.eq_ignore_ascii_case(host))
                .then_some(host),
            (_, Err(_)) => None,
        };
        known.ok_or_else(|| {
            Problem::new(
                StatusCode::MISDIRECTED_REQUEST,
                "this server does not answer for that Host; server.allowed_hosts names those beside localhost",
            )
        })
    }

    /// Refuses what a browser did for another site's page.
    fn same_site(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let forbidden = |what: &'static str| Err(Problem::new(StatusCode::FORBIDDEN, what));
        match single(headers, SEC_FETCH_SITE) {
            Ok(None) => {}
            Ok(Some(site)) if site == "same-origin" || site == "none" => {}
            _ => return forbidden("a page of another site may not do this (Sec-Fetch-Site)"),
        }
        let origin = match single(headers, header::ORIGIN) {
            Ok(None) => return Ok(()),
            Ok(Some(origin)) => origin.to_str().unwrap_or_default(),
            Err(()) => "",
        };
        let host = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"));
        match host {
            Some(host)
                if self
                    .hosts
                    .iter()
                    .any(|known| known.eq_ignore_ascii_case(host)) =>
            {
                Ok(())
            }
            _ => forbidden("a page of another site may not do this (Origin)"),
        }
    }

    /// Judges the token; one that is wrong is refused everywhere, so that nobody believes that it works.
    fn bearer(&self, address: SocketAddr, headers: &HeaderMap) -> Result<Caller, Problem> {
        let given = match single(headers, header::AUTHORIZATION) {
            Ok(None) => return Ok(Caller::Anonymous(address)),
            Ok(Some(given)) => given.as_bytes(),
            Err(()) => return Err(unauthorized()),
        };
        let token = match given.split_at_checked(7) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => token,
            _ => return Err(unauthorized()),
        };
        if self.token.matches(token.trim_ascii()) {
            Ok(Caller::Admin(address))
        } else {
            Err(unauthorized())
        }
    }
}

/// The one value of a field, if there is one; an error if there are more.
fn single(headers: &HeaderMap, name: HeaderName) -> Result<Option<&HeaderValue>, ()> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        _ => Err(()),
    }
}

fn unauthorized() -> Problem {
    Problem::new(
        StatusCode::UNAUTHORIZED,
        "this needs the admin token (Authorization: Bearer …), which is in admin.token in the state folder; \
         the Unix socket there needs none",
    )
}

fn refuse() -> Response {
    unauthorized().into_response()
}

/// In front of routes that need the token or the socket.
pub(crate) async fn guarded(caller: Caller, request: Request, next: Next) -> Response {
    match caller {
        Caller::Local { .. } | Caller::Admin(_) => next.run(request).await,
        Caller::Anonymous(_) => refuse(),
    }
}

/// In front of figures, which are open on loopback.
pub(crate) async fn figures(
    State(access): State<Arc<Access>>,
    caller: Caller,
    request: Request,
    next: Next,
) -> Response {
    match caller {
        Caller::Anonymous(_) if !access.open_figures => refuse(),
        _ => next.run(request).await,
    }
}
