use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a server does not start. Nothing was opened or changed when one of these is returned, but for the admin token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An address that others can reach, without what protects it.
    #[error(
        "refusing to listen on {address}, which other machines can reach: requests and tokens would travel unencrypted; \
         listen on 127.0.0.1 or [::1], or put a proxy in front that does TLS and set server.behind_tls_proxy"
    )]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The socket's path is longer than the system's addresses.
    #[error(
        "the path of the socket, {}, has {} bytes, and the system allows {most}; choose a shorter state folder or set server.socket",
        path.display(), path.as_os_str().len()
    )]
    SocketPath {
        /// The path.
        path: PathBuf,
        /// Most bytes.
        most: usize,
    },
    /// Something that is no socket stands where the socket should be.
    #[error("{} exists and is no socket; it is left alone", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot make the socket {}", path.display())]
    Socket {
        /// The path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file of the admin token cannot be used.
    #[error("the admin token in {}: {reason}", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
        /// What the system said, where it said something.
        #[source]
        source: Option<io::Error>,
    },
    /// An option is out of its range.
    #[error("{option} is {found}, expected {expected}")]
    Option {
        /// The option.
        option: &'static str,
        /// What was given.
        found: String,
        /// What may be given.
        expected: &'static str,
    },
    /// The thread of the server cannot be started.
    #[error("cannot start the thread of the server")]
    Thread(#[source] io::Error),
}
