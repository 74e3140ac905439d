//! How a server is started, and the rules on where it may listen.

use crate::Error;
use flyball_engine::config;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The port of a daemon that was told no other.
pub const DEFAULT_PORT: u16 = 7070;

/// How a server is started.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// Addresses to listen on; port 0 is any free port. Default: `127.0.0.1:7070`. None: the socket only.
    pub listen: Vec<SocketAddr>,
    /// The folder that holds the admin token, and the socket unless it is elsewhere. It exists, belongs to this daemon
    /// alone, and is locked by it.
    pub state_dir: PathBuf,
    /// The Unix socket. Default: `flyball.sock` in the state folder.
    pub socket: Option<PathBuf>,
    /// `Host` values beside the loopback ones that requests over TCP may carry, with port where it is not the scheme's own:
    /// `flyball.example.org`, `box:8080`.
    pub allowed_hosts: Vec<String>,
    /// A proxy in front does TLS. Addresses other than loopback are refused without it; with it, figures need the token, too.
    pub behind_tls_proxy: bool,
    /// Bounds on clients.
    pub limits: Limits,
}

impl Options {
    /// Options for a daemon whose state is in `state_dir`.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Options {
            listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT))],
            state_dir: state_dir.into(),
            socket: None,
            allowed_hosts: Vec::new(),
            behind_tls_proxy: false,
            limits: Limits::default(),
        }
    }

    /// Options as the configuration has them, for a daemon whose state is in `state_dir`.
    pub fn of(config: &config::Server, state_dir: impl Into<PathBuf>) -> Self {
        let limits = &config.limits;
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let header_bytes = size(limits.header_bytes);
        let defaults = Limits::default();
        Options {
            listen: vec![config.listen],
            state_dir: state_dir.into(),
            socket: config.socket.clone(),
            allowed_hosts: config.allowed_hosts.clone(),
            behind_tls_proxy: config.behind_tls_proxy,
            limits: Limits {
                header_bytes,
                header_fields: limits.header_fields as usize,
                target_bytes: defaults.target_bytes.min(header_bytes),
                header_timeout: limits.header_timeout,
                body_bytes: limits.body_bytes,
                body_timeout: limits.body_timeout,
                body_rate: limits.body_min_rate,
                connections: limits.max_connections as usize,
                event_streams: limits.event_streams as usize,
                page: limits.page as usize,
                json_depth: limits.json_depth as usize,
                ..defaults
            },
        }
    }

    /// The path of the socket.
    pub fn socket_path(&self) -> PathBuf {
        self.socket
            .clone()
            .unwrap_or_else(|| self.state_dir.join("flyball.sock"))
    }

    /// Checks everything that can be checked before anything is opened.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let exposed = self
            .listen
            .iter()
            .find(|address| !address.ip().to_canonical().is_loopback());
        if let Some(&address) = exposed
            && !self.behind_tls_proxy
        {
            return Err(Error::NotLoopback { address });
        }
        for host in &self.allowed_hosts {
            let plain = !host.is_empty()
                && host.bytes().all(|b| {
                    b.is_ascii_alphanumeric()
                        || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']')
                });
            if !plain {
                return Err(Error::Option {
                    option: "server.allowed_hosts",
                    found: format!("{host:?}"),
                    expected: "a host name or address, with a port where it is not the usual one, and nothing else",
                });
            }
        }
        self.limits.check()
    }

    /// Whether figures are open to whoever reaches the port: only if nobody else's machine can.
    pub(crate) fn open_figures(&self) -> bool {
        !self.behind_tls_proxy
    }
}

/// Bounds on what clients may take. Whoever passes one is refused and told so.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of a request's head, 1 KiB to 1 MiB. Default: 16 KiB. Beyond: 431.
    pub header_bytes: usize,
    /// Header fields, 1 to 1,000. Default: 32. Beyond: 431.
    pub header_fields: usize,
    /// Bytes of a request's target, 64 to `header_bytes`. Default: 8 KiB. Beyond: 414.
    pub target_bytes: usize,
    /// Time for a head to arrive, 1 ms to 10 min. Default: 5 s. Beyond: 408.
    pub header_timeout: Duration,
    /// Bytes of a body, at most 1 GiB. Default: 1 MiB. Beyond: 413.
    pub body_bytes: u64,
    /// Time for a body to arrive, 1 ms to 1 h. Default: 10 s. Beyond: 408.
    pub body_timeout: Duration,
    /// Least rate of a body after its first two seconds, bytes a second; 0 for none. Default: 1 KiB. Beneath: 408.
    pub body_rate: u64,
    /// How long a connection may be idle between requests, 1 ms to 1 h. Default: 60 s.
    pub idle_timeout: Duration,
    /// How long a client may not read its answer, 1 ms to 10 min. Default: 10 s.
    pub write_timeout: Duration,
    /// Connections, at least 1, beside what files the process may have open: never more than 64 below that. Default: 512.
    /// Beyond, those go that ask nothing.
    pub connections: usize,
    /// Event streams, at least 1, and at most half as many as connections. Default: 32. Beyond: 429.
    pub event_streams: usize,
    /// Items of a page of a list, 1 to 100,000. Default: 1,000. Beyond: 422.
    pub page: usize,
    /// Levels of a JSON body that are too many, 2 to 128. Default: 128. From there on: 400.
    pub json_depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            header_bytes: 16 * 1024,
            header_fields: 32,
            target_bytes: 8 * 1024,
            header_timeout: Duration::from_secs(5),
            body_bytes: 1024 * 1024,
            body_timeout: Duration::from_secs(10),
            body_rate: 1024,
            idle_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(10),
            connections: 512,
            event_streams: 32,
            page: 1000,
            json_depth: 128,
        }
    }
}

impl Limits {
    fn check(&self) -> Result<(), Error> {
        let number = |option, found: u64, range: std::ops::RangeInclusive<u64>, expected| {
            if range.contains(&found) {
                return Ok(());
            }
            Err(Error::Option {
                option,
                found: found.to_string(),
                expected,
            })
        };
        let time = |option, found: Duration, most: Duration, expected| {
            if found >= Duration::from_millis(1) && found <= most {
                return Ok(());
            }
            Err(Error::Option {
                option,
                found: format!("{found:?}"),
                expected,
            })
        };
        let (minutes, hour) = (Duration::from_secs(600), Duration::from_secs(3600));
        number(
            "header_bytes",
            self.header_bytes as u64,
            1024..=1 << 20,
            "1 KiB to 1 MiB",
        )?;
        number(
            "header_fields",
            self.header_fields as u64,
            1..=1000,
            "1 to 1000",
        )?;
        number(
            "target_bytes",
            self.target_bytes as u64,
            64..=self.header_bytes as u64,
            "64 bytes to header_bytes",
        )?;
        number("body_bytes", self.body_bytes, 0..=1 << 30, "at most 1 GiB")?;
        number("page", self.page as u64, 1..=100_000, "1 to 100000")?;
        number("json_depth", self.json_depth as u64, 2..=128, "2 to 128")?;
        number(
            "connections",
            self.connections as u64,
            1..=1 << 20,
            "1 to 1048576",
        )?;
        number(
            "event_streams",
            self.event_streams as u64,
            1..=1 << 20,
            "1 to 1048576",
        )?;
        time(
            "header_timeout",
            self.header_timeout,
            minutes,
            "1 ms to 10 min",
        )?;
        time("body_timeout", self.body_timeout, hour, "1 ms to 1 h")?;
        time(
            "write_timeout",
            self.write_timeout,
            minutes,
            "1 ms to 10 min",
        )?;
        time("idle_timeout", self.idle_timeout, hour, "1 ms to 1 h")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// API-6: an address that others can reach is refused unless a proxy in front does TLS, and the error says what to do.
    #[test]
    fn only_loopback_without_a_proxy() {
        for (address, loopback) in [
            ("127.0.0.1:0", true),
            ("127.8.0.1:7070", true),
            ("[::1]:0", true),
            ("[::ffff:127.0.0.1]:0", true),
            ("0.0.0.0:0", false),
            ("[::]:0", false),
            ("192.168.1.4:80", false),
            ("[::ffff:10.0.0.1]:80", false),
        ] {
            let mut options = Options::new("/nowhere");
            options.listen = vec!["127.0.0.1:0".parse().unwrap(), address.parse().unwrap()];
            assert_eq!(options.check().is_ok(), loopback, "{address}");
            options.behind_tls_proxy = true;
            assert!(options.check().is_ok(), "{address}");
            assert!(!options.open_figures());
        }
        let mut options = Options::new("/nowhere");
        options.listen = vec!["0.0.0.0:80".parse().unwrap()];
        let text = options.check().unwrap_err().to_string();
        assert!(text.contains("0.0.0.0:80") && text.contains("behind_tls_proxy"));
    }

    #[test]
    fn options_have_ranges() {
        type Break = fn(&mut Options);
        let breaks: [Break; 8] = [
            |o| o.limits.header_bytes = 1,
            |o| o.limits.header_fields = 0,
            |o| o.limits.target_bytes = 1 << 20,
            |o| o.limits.header_timeout = Duration::ZERO,
            |o| o.limits.idle_timeout = Duration::MAX,
            |o| o.limits.connections = 0,
            |o| o.allowed_hosts = vec!["http://a/".into()],
            |o| o.allowed_hosts = vec!["a b".into()],
        ];
        for wrong in breaks {
            let mut options = Options::new("/nowhere");
            wrong(&mut options);
            assert!(matches!(options.check(), Err(Error::Option { .. })));
        }
        assert!(Options::new("/nowhere").check().is_ok());
    }
}
