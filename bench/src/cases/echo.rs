//! TCP echo over loopback, server and clients as urgent tasks of one pool: the work that belongs on tokio itself.

use super::Sample;
use crate::machine::{Company, Window};
use crate::stats::quantile;
use crate::subjects::{OnTokio, Subject, Tokio, on_tokio};
use crate::sys;
use crate::work::{finished, wait_for};
use anyhow::Result;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

const MESSAGE: usize = 64;

struct Echo {
    connections: usize,
    round_trips: usize,
}

async fn serve<P: Tokio>(pool: &'static P, listener: TcpListener) -> std::io::Result<()> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        pool.spawn_front(async move {
            let mut message = [0; MESSAGE];
            while stream.read_exact(&mut message).await.is_ok() {
                if stream.write_all(&message).await.is_err() {
                    break;
                }
            }
        });
    }
}

async fn call(address: std::net::SocketAddr, round_trips: usize) -> std::io::Result<Vec<u64>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut message = [7; MESSAGE];
    let mut times = Vec::with_capacity(round_trips);
    for _ in 0..round_trips {
        let begun = sys::now_ns();
        stream.write_all(&message).await?;
        stream.read_exact(&mut message).await?;
        times.push(sys::now_ns() - begun);
    }
    Ok(times)
}

impl OnTokio for Echo {
    type Out = Sample;

    fn run<P: Tokio>(self, pool: &'static P) -> Result<Sample> {
        let Echo {
            connections,
            round_trips,
        } = self;
        let (send_address, address) = oneshot::channel();
        pool.spawn_front(async move {
            let listener = TcpListener::bind("127.0.0.1:0")
                .await
                .expect("loopback has a free port");
            let address = listener.local_addr().expect("it is bound");
            send_address.send(address).expect("the sample waits for it");
            serve(pool, listener).await.expect("loopback accepts");
        });
        let address = address.blocking_recv()?;

        let alone = Company::none();
        let window = Window::open(&alone);
        let times = Arc::new(Mutex::new(Vec::new()));
        let begun = sys::now_ns();
        for _ in 0..connections {
            let times = times.clone();
            pool.spawn_front(async move {
                let mut mine = call(address, round_trips)
                    .await
                    .expect("loopback carries the echo");
                times.lock().expect("no holder panics").append(&mut mine);
                finished();
            });
        }
        wait_for(connections as u64, 60_000_000_000)?;
        let elapsed = (sys::now_ns() - begun) as f64;
        let mut times = std::mem::take(&mut *times.lock().expect("no holder panics"));
        times.sort_unstable();
        Ok(Sample::default()
            .with("rtt_p50_us", quantile(&times, 0.5) as f64 / 1e3)
            .with("rtt_p99_us", quantile(&times, 0.99) as f64 / 1e3)
            .with("round_trips_per_s", times.len() as f64 / (elapsed / 1e9))
            .foreign(window.close().others_share))
    }
}

/// Round-trip time of 64 bytes over each of `connections` connections at once.
pub fn run(subject: Subject, connections: usize, round_trips: usize) -> Result<Sample> {
    on_tokio(
        subject,
        Echo {
            connections,
            round_trips,
        },
    )
}
