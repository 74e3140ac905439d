//! Where the daemon is: what people type, and where a daemon of this user or of the system would be.

use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use crate::show::inert;

/// Name of the socket in the state folder.
pub(crate) const SOCKET: &str = "flyball.sock";
/// Folders where a daemon of the whole machine keeps its state.
const SYSTEM: [&str; 2] = ["/var/lib/flyball", "/run/flyball"];

/// The other end of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    Socket(PathBuf),
    Tcp {
        /// A name, or an address without brackets.
        host: String,
        port: u16,
    },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Socket(path) => write!(f, "{}", inert(&path.to_string_lossy())),
            Target::Tcp { .. } => write!(f, "http://{}", self.authority()),
        }
    }
}

impl Target {
    /// Reads `http://HOST:PORT`, `HOST:PORT`, `unix:PATH`, or a path, which has a slash.
    pub(crate) fn parse(text: &str) -> Result<Target, String> {
        let wrong = |why: &str| {
            format!(
                "{:?} is no server: {why}; expected http://HOST:PORT, HOST:PORT, unix:PATH or a path with a slash in it",
                text
            )
        };
        if let Some(path) = text.strip_prefix("unix:") {
            // unix:///run/x is what some write for unix:/run/x.
            let path = path.strip_prefix("//").unwrap_or(path);
            return match path {
                "" => Err(wrong("the path is missing")),
                path => Ok(Target::Socket(path.into())),
            };
        }
        if text.starts_with("https://") {
            return Err(wrong(
                "https is not in this build; use the local socket, or a tunnel such as `ssh -L 7070:127.0.0.1:7070 HOST`",
            ));
        }
        let authority = match text.strip_prefix("http://") {
            Some(rest) => rest.strip_suffix('/').unwrap_or(rest),
            None if text.contains("://") => return Err(wrong("unknown scheme")),
            None if text.contains('/') => return Ok(Target::Socket(text.into())),
            None => text,
        };
        if authority.contains(['/', '?', '#']) {
            return Err(wrong("the API has its place at the root, without a path"));
        }
        if authority.contains('@') {
            return Err(wrong(
                "a name and password have no place there; --token-file names a token",
            ));
        }
        let (host, port) = authority
            .rsplit_once(':')
            .ok_or_else(|| wrong("the port is missing"))?;
        let port = port
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| wrong("the port is no number from 1 to 65535"))?;
        let bracketed = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let host = match bracketed {
            Some(address) if address.parse::<Ipv6Addr>().is_ok() => address,
            Some(_) => return Err(wrong("what is in brackets is no IPv6 address")),
            None if !host.is_empty() && host.chars().all(plain) => host,
            None => return Err(wrong("the host is no name and no address")),
        };
        Ok(Target::Tcp {
            host: host.to_owned(),
            port,
        })
    }

    /// What the request's `Host` says.
    pub(crate) fn authority(&self) -> String {
        match self {
            Target::Socket(_) => "localhost".to_owned(),
            Target::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Target::Tcp { host, port } => format!("{host}:{port}"),
        }
    }

    /// Whether it is on this machine, so that the state folder here is the daemon's.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Target::Socket(_) => true,
            Target::Tcp { host, .. } => {
                host.eq_ignore_ascii_case("localhost")
                    || host
                        .parse::<IpAddr>()
                        .is_ok_and(|address| address.to_canonical().is_loopback())
            }
        }
    }
}

/// Folders where a daemon may keep its state, the likeliest first. One that was named is the only one.
pub(crate) fn state_folders(
    named: Option<&Path>,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Vec<PathBuf> {
    let set = |name: &str| environment(name).filter(|value| !value.is_empty());
    let chosen = named
        .map(Path::to_owned)
        .or_else(|| set("FLYBALL_QUEUE_STATE_DIR").map(PathBuf::from))
        .or_else(|| set("FLYBALL_STATE_DIR").map(PathBuf::from));
    if let Some(folder) = chosen {
        return vec![folder];
    }
    let absolute = |name| {
        set(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    // systemd separates several folders by colons; flyball's is the first.
    let given = set("STATE_DIRECTORY").and_then(|folders| {
        let first = folders.to_str()?.split(':').next()?.to_owned();
        Some(PathBuf::from(first)).filter(|path| path.is_absolute())
    });
    let own = [
        given,
        absolute("XDG_STATE_HOME").map(|home| home.join("flyball")),
        absolute("HOME").map(|home| home.join(".local/state/flyball")),
    ];
    let mut folders: Vec<PathBuf> = Vec::new();
    for folder in own.into_iter().flatten().chain(SYSTEM.map(PathBuf::from)) {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Target {
        Target::Tcp {
            host: host.to_owned(),
            port,
        }
    }

    #[test]
    fn servers_are_addresses_or_sockets() {
        for (text, expected) in [
            ("http://localhost:7070", tcp("localhost", 7070)),
            ("http://localhost:7070/", tcp("localhost", 7070)),
            ("box-1.example.org:80", tcp("box-1.example.org", 80)),
            ("127.0.0.1:7070", tcp("127.0.0.1", 7070)),
            ("http://[::1]:7070", tcp("::1", 7070)),
            (
                "unix:/run/flyball/flyball.sock",
                Target::Socket("/run/flyball/flyball.sock".into()),
            ),
            ("unix:///run/x", Target::Socket("/run/x".into())),
            ("unix:here", Target::Socket("here".into())),
            ("./here", Target::Socket("./here".into())),
            ("/a b/c", Target::Socket("/a b/c".into())),
        ] {
            assert_eq!(Target::parse(text).as_ref(), Ok(&expected), "{text}");
        }
        for (text, why) in [
            ("https://a:1", "https is not in this build"),
            ("ftp://a:1", "unknown scheme"),
            ("localhost", "port is missing"),
            ("http://localhost", "port is missing"),
            ("a:0", "no number"),
            ("a:99999", "no number"),
            ("a:", "no number"),
            (":1", "no name"),
            ("::1", "no name"),
            ("[::1:1", "no name"),
            ("[x]:1", "no IPv6"),
            ("http://a:1/v1", "without a path"),
            ("http://me:secret@a:1", "--token-file"),
            ("a b:1", "no name"),
            ("a\r\nX:1", "no name"),
            ("unix:", "path is missing"),
            ("", "port is missing"),
        ] {
            let error = Target::parse(text).unwrap_err();
            assert!(
                error.contains(why) && error.contains("unix:PATH"),
                "{text:?}: {error}"
            );
            assert!(!error.chars().any(char::is_control), "{error:?}");
        }
    }

    /// API-6: the token of the state folder is for daemons on this machine only.
    #[test]
    fn only_loopback_is_local() {
        for (host, local) in [
            ("localhost", true),
            ("LOCALHOST", true),
            ("127.1.2.3", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("localhost.example.org", false),
            ("127.0.0.1.example.org", false),
            ("10.0.0.1", false),
        ] {
            assert_eq!(tcp(host, 1).is_local(), local, "{host}");
        }
        assert_eq!(tcp("::1", 7070).authority(), "[::1]:7070");
    }

    #[test]
    fn a_named_state_folder_is_the_only_one() {
        let environment = |set: &'static [(&str, &str)]| {
            move |name: &str| {
                let (_, value) = set.iter().find(|(known, _)| *known == name)?;
                Some(OsString::from(value))
            }
        };
        let named = [("FLYBALL_STATE_DIR", "/b"), ("HOME", "/home/me")];
        let named = environment(Box::leak(Box::new(named)));
        assert_eq!(
            state_folders(Some(Path::new("/a")), named),
            [Path::new("/a")]
        );
        assert_eq!(state_folders(None, named), [Path::new("/b")]);
        let usual = environment(&[
            ("FLYBALL_QUEUE_STATE_DIR", ""),
            ("STATE_DIRECTORY", "/var/lib/flyball:/other"),
            ("XDG_STATE_HOME", "relative"),
            ("HOME", "/home/me"),
        ]);
        assert_eq!(
            state_folders(None, usual),
            [
                "/var/lib/flyball",
                "/home/me/.local/state/flyball",
                "/run/flyball"
            ]
            .map(PathBuf::from)
        );
        assert_eq!(
            state_folders(None, environment(&[])),
            SYSTEM.map(PathBuf::from)
        );
    }
}
