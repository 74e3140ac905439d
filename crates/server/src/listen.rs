//! Opens what the server listens on.
//!
//! The socket is bound inside a folder that only this user can enter, given its mode there, and then moved to its place. So at no
//! moment can somebody else connect, whatever the umask, and a socket left behind by a daemon that died is replaced in one
//! step. (The state folder's lock says that no other daemon uses it.)

use crate::{Error, Options};
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use tokio::net::{TcpListener, TcpSocket, UnixListener};

/// Most bytes of a socket's path: `sun_path` has 108 with the final zero.
const MAX_SOCKET_PATH: usize = 107;

/// Connections that the system keeps until they are taken. One more is not refused but tries again after a second, so a burst of silent
/// connections must fit. The system caps it at `net.core.somaxconn`, 4,096 by default.
const BACKLOG: u32 = 4096;

/// Everything the server listens on.
pub(crate) struct Listening {
    pub(crate) tcp: Vec<TcpListener>,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) unix: UnixListener,
    pub(crate) socket: Socket,
}

impl Listening {
    /// Opens everything, or nothing. To be called inside the runtime that will serve.
    pub(crate) fn open(options: &Options) -> Result<Self, Error> {
        let mut tcp = Vec::new();
        let mut addresses = Vec::new();
        for &address in &options.listen {
            let refused = |source| Error::Listen { address, source };
            let listener = listen(address).map_err(refused)?;
            addresses.push(listener.local_addr().map_err(refused)?);
            tcp.push(listener);
        }
        let (unix, socket) = Socket::open(options.socket_path())?;
        let unix = UnixListener::from_std(unix).map_err(|source| Error::Socket {
            path: socket.path().to_owned(),
            source,
        })?;
        Ok(Listening {
            tcp,
            addresses,
            unix,
            socket,
        })
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A port is free again at once, although connections of a daemon that ended linger on it.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The socket's place in the file system; it is removed when this is dropped, if it is still the same socket.
#[derive(Debug)]
pub(crate) struct Socket {
    path: PathBuf,
    identity: (u64, u64),
}

impl Socket {
    fn open(path: PathBuf) -> Result<(StdUnixListener, Socket), Error> {
        let failed = |source| Error::Socket {
            path: path.clone(),
            source,
        };
        let nursery = path
            .parent()
            .unwrap_or(Path::new("."))
            .join(format!(".s{}", std::process::id()));
        let newborn = nursery.join("s");
        let longest = path.as_os_str().len().max(newborn.as_os_str().len());
        if longest > MAX_SOCKET_PATH || path.as_os_str().as_bytes().contains(&0) {
            return Err(Error::SocketPath {
                path,
                most: MAX_SOCKET_PATH,
            });
        }
        match fs::symlink_metadata(&path) {
            Ok(about) if !about.file_type().is_socket() => return Err(Error::NotASocket { path }),
            Ok(_) => {
                tracing::debug!(path = %path.display(), "replacing the socket of a daemon that is gone")
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        DirBuilder::new()
            .mode(0o700)
            .create(&nursery)
            .map_err(failed)?;
        let opened = (|| {
            let listener = StdUnixListener::bind(&newborn)?;
            listener.set_nonblocking(true)?;
            fs::set_permissions(&newborn, Permissions::from_mode(0o600))?;
            let about = fs::symlink_metadata(&newborn)?;
            fs::rename(&newborn, &path)?;
            Ok((listener, (about.dev(), about.ino())))
        })();
        if opened.is_err() {
            let _ = fs::remove_file(&newborn);
        }
        let removed = fs::remove_dir(&nursery);
        let (listener, identity) = opened.map_err(failed)?;
        let socket = Socket {
            path: path.clone(),
            identity,
        };
        removed.map_err(failed)?;
        Ok((listener, socket))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let still_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|about| (about.dev(), about.ino()) == self.identity);
        if still_ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}
