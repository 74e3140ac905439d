//! The Unix socket.

use crate::support::{Client, Daemon, Folder, engine, options};
use flyball_server::{Error, Server};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;

/// API-6: the socket is in the state folder, for its owner only, replaces a stale one, and goes with the server.
#[test]
fn the_socket_is_its_owners_and_replaces_a_stale_one() {
    let folder = Folder::new();
    let path = folder.0.join("flyball.sock");
    // A daemon that died leaves its socket.
    drop(UnixListener::bind(&path).unwrap());

    let server = Server::start(options(&folder), engine()).unwrap();
    let about = fs::symlink_metadata(&path).unwrap();
    assert!(about.file_type().is_socket());
    assert_eq!(about.mode() & 0o777, 0o600);
    assert_eq!(server.socket(), path);
    let mut client = Client::unix(&path);
    assert_eq!(client.ask("GET", "/livez", "anything", "", "").status, 200);
    client.send("GET /livez HTTP/1.1\r\n\r\n");
    client.receive().problem(400);
    let mut client = Client::unix(&path);
    client
        .ask("POST", "/livez", "x", "origin: http://evil.com\r\n", "")
        .problem(403);
    drop(server);
    assert!(!path.exists());
    let names: Vec<_> = fs::read_dir(&folder.0)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["admin.token"]);
}

/// API-6: what is no socket is left alone, and a path that the system cannot hold is told clearly.
#[test]
fn the_socket_replaces_nothing_else() {
    let folder = Folder::new();
    let path = folder.0.join("flyball.sock");
    fs::write(&path, "precious").unwrap();

    let error = Server::start(options(&folder), engine()).unwrap_err();
    assert!(matches!(error, Error::NotASocket { .. }), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");

    let mut long = options(&folder);
    long.socket = Some(folder.0.join("x".repeat(108)));
    let error = Server::start(long, engine()).unwrap_err();
    assert!(matches!(error, Error::SocketPath { .. }), "{error}");
    assert!(error.to_string().contains("107"), "{error}");
}

/// API-6: a server removes only the socket that it made.
#[test]
fn a_successors_socket_stays() {
    let daemon = Daemon::start();
    let path = daemon.folder.0.join("flyball.sock");
    fs::remove_file(&path).unwrap();
    let _successor = UnixListener::bind(&path).unwrap();
    let Daemon { server, folder, .. } = daemon;
    drop(server);
    assert!(path.exists());
    drop(folder);
}
