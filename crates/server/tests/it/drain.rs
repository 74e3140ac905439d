//! Draining and stopping.

use crate::support::Daemon;
use std::net::TcpStream;
use std::time::Duration;

const PLENTY: Duration = Duration::from_secs(60);

/// API-4: while it drains, `/readyz` is 503 and everything else is served.
#[test]
fn a_draining_server_is_not_ready() {
    let daemon = Daemon::start();
    assert_eq!(daemon.get("/readyz").status, 200);
    daemon.server.drain();
    daemon.get("/readyz").problem(503);
    assert_eq!(daemon.get("/livez").status, 200);
}

/// API-6: a shutdown finishes what has begun, ends idle connections and event streams, and takes no new ones.
#[test]
fn a_shutdown_finishes_what_has_begun() {
    let daemon = Daemon::start();
    let mut idle = daemon.connect();
    assert_eq!(
        idle.ask("GET", "/livez", daemon.address, "", "").status,
        200
    );
    let mut stream = daemon.connect();
    stream.send(format!(
        "GET /v1/events HTTP/1.1\r\nhost: {}\r\n\r\n",
        daemon.address
    ));
    assert_eq!(stream.head().unwrap().status, 200);
    stream.chunk().unwrap().unwrap();
    let address = daemon.address;
    assert_eq!(daemon.server.shutdown(PLENTY), 0);
    assert_eq!(stream.chunk().unwrap(), None);
    assert!(stream.is_closed() && idle.is_closed());
    assert!(TcpStream::connect(address).is_err());
}

/// API-6: a shutdown ends although clients do not.
#[test]
fn a_shutdown_ends_although_clients_do_not() {
    let daemon = Daemon::start();
    let mut half = daemon.connect();
    half.send(format!(
        "POST /livez HTTP/1.1\r\nhost: {}\r\ncontent-length: 1000\r\n\r\nabc",
        daemon.address
    ));
    half.receive().problem(405);
    // The answer was given, and the server waits for a peer that neither sends nor closes.
    assert!(daemon.server.shutdown(Duration::from_millis(1)) <= 1);
    assert!(half.is_closed());
}
