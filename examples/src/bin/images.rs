//! CPU-heavy work beside requests that must be quick: decoding and resizing images next to a light JSON endpoint.
//!
//! `cargo run --release -p flyball-examples --bin images [--seconds 5] [IMAGE]…`
//!
//! The same service runs three times: heavy work spawned on tokio's own threads, on its blocking pool, and in flyball's
//! class `batch`. While a backlog of resizes is kept up, a client asks the light endpoint 200 times a second, and the
//! table says how long the answers took. Client and service share the machine.
#![allow(clippy::print_stdout)]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use clap::Parser;
use flyball::{Class, Config, Flyball};
use flyball_examples::client::{self, Measured};
use flyball_examples::gallery::{Gallery, thumbnail};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// Time between two requests for the light endpoint.
const EVERY: Duration = Duration::from_millis(5);
/// Resizes under way at any time, for each CPU.
const RESIZES_PER_CPU: usize = 4;

// The difference: three handlers that do the same.

/// Heavy work as a tokio task.
async fn resize_spawned(State(gallery): State<Arc<Gallery>>) -> Result<Vec<u8>, Failed> {
    let image = gallery.next();
    let small = tokio::spawn(async move { thumbnail(&image) }).await??;
    Ok(small)
}

/// Heavy work on tokio's blocking pool.
async fn resize_blocking(State(gallery): State<Arc<Gallery>>) -> Result<Vec<u8>, Failed> {
    let image = gallery.next();
    let small = tokio::task::spawn_blocking(move || thumbnail(&image)).await??;
    Ok(small)
}

/// Heavy work in a class.
async fn resize_in_class(State(app): State<App>) -> Result<Vec<u8>, Failed> {
    let image = app.gallery.next();
    let small = app.batch.run(move || thumbnail(&image)).await??;
    Ok(small)
}

/// What the handlers of the service with flyball hold.
#[derive(Clone)]
struct App {
    gallery: Arc<Gallery>,
    batch: Class,
    interactive: Class,
}

/// The light endpoint.
#[derive(Serialize)]
struct Quote {
    items: u64,
    total_cents: u64,
}

fn quote() -> Quote {
    let prices = (1..=200u64).map(|item| item * 7_919 % 10_000);
    Quote {
        items: 200,
        total_cents: prices.sum(),
    }
}

async fn light() -> Json<Quote> {
    Json(quote())
}

async fn light_in_class(State(app): State<App>) -> Result<Json<Quote>, Failed> {
    Ok(Json(app.interactive.run(quote).await?))
}

/// Any failure, as the status that a client sees.
struct Failed(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl axum::response::IntoResponse for Failed {
    fn into_response(self) -> axum::response::Response {
        (StatusCode::INTERNAL_SERVER_ERROR, self.0.to_string()).into_response()
    }
}

// The measurement.

#[derive(Parser)]
#[command(about = "A light endpoint beside heavy work, with and without flyball")]
struct Options {
    /// How long each of the three services is measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// JPEG and PNG files to resize; made at the start if there are none.
    images: Vec<PathBuf>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let during = Duration::from_secs(options.seconds);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let gallery = Arc::new(gallery(options.images)?);

    println!(
        "GET /quote each {EVERY:?} while {} resizes are under way, {} s each, {cpus} CPUs\n",
        RESIZES_PER_CPU * cpus,
        options.seconds
    );
    println!(
        "{:<24} {:>10} {:>10} {:>10} {:>7} {:>11}",
        "resizes run on", "p50", "p99", "max", "failed", "resizes/s"
    );
    let spawned = Router::new()
        .route("/quote", get(light))
        .route("/resize", post(resize_spawned))
        .with_state(Arc::clone(&gallery));
    row("tokio::spawn", measure_on_tokio(spawned, during, cpus)?);

    let blocking = Router::new()
        .route("/quote", get(light))
        .route("/resize", post(resize_blocking))
        .with_state(Arc::clone(&gallery));
    row(
        "tokio spawn_blocking",
        measure_on_tokio(blocking, during, cpus)?,
    );

    let fly = Flyball::start(Config::default())?;
    let app = App {
        gallery,
        batch: fly.class("batch")?,
        interactive: fly.class("interactive")?,
    };
    let in_class = Router::new()
        .route("/quote", get(light_in_class))
        .route("/resize", post(resize_in_class))
        .with_state(app);
    row(
        "flyball, class batch",
        measure_on_tokio(in_class, during, cpus)?,
    );
    fly.shutdown_blocking(Duration::from_secs(30))
        .map_err(|refused| refused.1)?;
    Ok(())
}

fn gallery(paths: Vec<PathBuf>) -> Result<Gallery> {
    if !paths.is_empty() {
        return Gallery::read(&paths);
    }
    let directory = std::env::temp_dir().join(format!("flyball-images-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let made = Gallery::make(&directory, 8, 1).and_then(|paths| Gallery::read(&paths));
    std::fs::remove_dir_all(&directory)?;
    made
}

fn row(name: &str, (measured, resizes_per_second): (Measured, f64)) {
    let ms = |nanos: Option<u64>| {
        nanos.map_or_else(
            || "-".into(),
            |nanos| format!("{:.2} ms", nanos as f64 / 1e6),
        )
    };
    println!(
        "{name:<24} {:>10} {:>10} {:>10} {:>7} {resizes_per_second:>11.1}",
        ms(measured.latency.quantile(0.5)),
        ms(measured.latency.quantile(0.99)),
        ms(measured.latency.max()),
        measured.failed,
    );
}

/// Serves `service` on a tokio runtime as `#[tokio::main]` makes one, and measures it under load.
fn measure_on_tokio(service: Router, during: Duration, cpus: usize) -> Result<(Measured, f64)> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let (server, serving) = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let server = listener.local_addr()?;
        let serving = tokio::spawn(async move {
            axum::serve(listener, service)
                .with_graceful_shutdown(async {
                    // Ends when the sender is used or dropped; both mean the same.
                    let _ = stopped.await;
                })
                .await
        });
        anyhow::Ok((server, serving))
    })?;
    let load = std::thread::spawn(move || keep_resizing(server, during, RESIZES_PER_CPU * cpus));
    let measured = client::measure(server, "/quote", EVERY, during);
    let measured = measured.join().ok().context("the client panicked")??;
    let resizes = load.join().ok().context("the load panicked")??;
    ensure!(stop.send(()).is_ok(), "the service ended by itself");
    runtime.block_on(serving)??;
    Ok((measured, resizes as f64 / during.as_secs_f64()))
}

/// Asks for one resize after the other on one connection.
async fn resize_for_ever(server: SocketAddr, done: Arc<AtomicU64>) -> Result<Infallible> {
    let mut connection = TcpStream::connect(server).await?;
    loop {
        client::request(&mut connection, "POST", "/resize").await?;
        done.fetch_add(1, Ordering::Relaxed);
    }
}

/// Keeps `at_once` resizes under way; answers how many were done.
fn keep_resizing(server: SocketAddr, during: Duration, at_once: usize) -> Result<u64> {
    let done = Arc::new(AtomicU64::new(0));
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let mut clients = JoinSet::new();
            for _ in 0..at_once {
                let done = Arc::clone(&done);
                clients.spawn(resize_for_ever(server, done));
            }
            tokio::select! {
                ended = clients.join_next() => match ended {
                    Some(Ok(Err(error))) => Err(error.context("a resize failed")),
                    _ => bail!("the load ended by itself"),
                },
                () = tokio::time::sleep(during) => Ok(()),
            }
        })?;
    Ok(done.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use flyball::testing::Testing;

    use super::*;

    fn app(engine: &Testing, images: &[PathBuf]) -> App {
        App {
            gallery: Arc::new(Gallery::read(images).unwrap()),
            batch: engine.class("batch").unwrap(),
            interactive: engine.class("interactive").unwrap(),
        }
    }

    /// A file that vanishes with the value.
    struct Image(PathBuf);

    impl Image {
        fn new(name: &str, content: &[u8]) -> Self {
            let path = std::env::temp_dir().join(format!("flyball-{name}-{}", std::process::id()));
            std::fs::write(&path, content).unwrap();
            Self(path)
        }
    }

    impl Drop for Image {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    /// CPU-27: what the handlers submit, and to which class, without a thread, a socket or a sleep.
    #[test]
    fn heavy_work_goes_to_batch_and_light_work_to_interactive() {
        let mut picture = std::io::Cursor::new(Vec::new());
        image::RgbImage::new(640, 480)
            .write_to(&mut picture, image::ImageFormat::Png)
            .unwrap();
        let image = Image::new("handlers", picture.get_ref());
        let mut engine = Testing::new();
        let app = app(&engine, std::slice::from_ref(&image.0));
        let mut context = Context::from_waker(Waker::noop());

        let mut resize = pin!(resize_in_class(State(app.clone())));
        let mut light = pin!(light_in_class(State(app)));
        assert!(resize.as_mut().poll(&mut context).is_pending());
        assert!(light.as_mut().poll(&mut context).is_pending());
        engine.assert_submitted("batch", 1);
        engine.assert_submitted("interactive", 1);

        engine.drain();
        let Poll::Ready(Ok(small)) = resize.as_mut().poll(&mut context) else {
            panic!("the resize is not done");
        };
        assert_eq!(image::load_from_memory(&small).unwrap().width(), 240);
        assert!(matches!(
            light.as_mut().poll(&mut context),
            Poll::Ready(Ok(_))
        ));
        engine.assert_idle();
    }

    /// CPU-27: a file that is no image is an answer, not a panic, and leaves nothing behind.
    #[test]
    fn a_damaged_image_is_answered() {
        let image = Image::new("damaged", b"not an image");
        let mut engine = Testing::new();
        let app = app(&engine, std::slice::from_ref(&image.0));
        let mut context = Context::from_waker(Waker::noop());
        let mut resize = pin!(resize_in_class(State(app)));
        assert!(resize.as_mut().poll(&mut context).is_pending());
        engine.drain();
        assert!(matches!(
            resize.as_mut().poll(&mut context),
            Poll::Ready(Err(_))
        ));
        engine.assert_idle();
    }
}
