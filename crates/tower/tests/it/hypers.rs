//! Before a server of hyper's, over real connections.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use flyball_tower::{Gate, layer};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tower::{Layer as _, service_fn};

use crate::gate;

/// A server whose requests each end when the test says so; the requests, as they come in.
async fn serve(gate: &Gate) -> (SocketAddr, mpsc::Receiver<oneshot::Sender<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (came, requests) = mpsc::channel(8);
    let service = layer(gate).layer(service_fn(move |_: Request<Incoming>| {
        let came = came.clone();
        async move {
            let (end, ended) = oneshot::channel();
            came.send(end).await.unwrap();
            ended.await.unwrap();
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"done"))))
        }
    }));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = TowerToHyperService::new(service.clone());
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
    (address, requests)
}

async fn connect(address: SocketAddr) -> SendRequest<Empty<Bytes>> {
    let stream = TcpStream::connect(address).await.unwrap();
    let connected = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = connected.unwrap();
    tokio::spawn(connection);
    sender
}

/// The status of an answer that has come whole.
async fn ask(connection: &mut SendRequest<Empty<Bytes>>) -> StatusCode {
    let request = Request::get("/").header("host", "localhost");
    let answer = connection.send_request(request.body(Empty::new()).unwrap());
    let (head, body) = answer.await.unwrap().into_parts();
    body.collect().await.unwrap();
    head.status
}

/// What a server does after its answer has gone out, it does soon.
async fn until_in_flight(gate: &Gate, expected: u32) {
    while gate.in_flight() != expected {
        tokio::task::yield_now().await;
    }
}

/// CPU-23: the limit counts the requests of all connections together; a slot is free again when its answer has gone, or its connection.
#[tokio::test]
async fn connections_share_the_gate() {
    let (_clock, gate) = gate(2);
    let (address, mut requests) = serve(&gate).await;
    let mut first = connect(address).await;
    let mut second = connect(address).await;
    let mut third = connect(address).await;
    let first = tokio::spawn(async move { ask(&mut first).await });
    let end_first = requests.recv().await.unwrap();
    let second = tokio::spawn(async move { ask(&mut second).await });
    let _end_second = requests.recv().await.unwrap();
    assert_eq!(gate.in_flight(), 2);
    assert_eq!(ask(&mut third).await, StatusCode::SERVICE_UNAVAILABLE);

    end_first.send(()).unwrap();
    assert_eq!(first.await.unwrap(), StatusCode::OK);
    until_in_flight(&gate, 1).await;
    let third = tokio::spawn(async move { ask(&mut third).await });
    let end_third = requests.recv().await.unwrap();
    assert_eq!(gate.in_flight(), 2);

    // The client of the second goes away.
    second.abort();
    until_in_flight(&gate, 1).await;
    end_third.send(()).unwrap();
    assert_eq!(third.await.unwrap(), StatusCode::OK);
    until_in_flight(&gate, 0).await;
}
