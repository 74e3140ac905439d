//! The service under overload: axum as its users set it up, in a process of its own, behind one limiter or none.
//!
//! A handler waits as for a database, then computes. All limiters stand before the same handlers, on the same runtime, which has a thread a CPU.

use super::{KINDS, Kind, Limiter, Service};
use crate::work::{Work, churn};
use anyhow::Result;
use axum::Router;
use axum::error_handling::HandleErrorLayer;
use axum::extract::{Extension, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use congestion_limiter::limiter::{DefaultLimiter, Limiter as _, Outcome};
use congestion_limiter::limits::Vegas;
use flyball_executor::{Config, Executor};
use flyball_tower::{Gate, GateConfig, Head, Offload};
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceBuilder;

/// What a request of one kind costs.
#[derive(Clone, Copy)]
struct Cost {
    waits: Duration,
    iterations: u64,
}

impl Cost {
    async fn wait(self) {
        if !self.waits.is_zero() {
            tokio::time::sleep(self.waits).await;
        }
    }
}

const DONE: &str = "done\n";

async fn too_much<E>(_: E) -> StatusCode {
    StatusCode::SERVICE_UNAVAILABLE
}

/// What its documentation shows: a token at the beginning, given back at the end.
async fn congestion(
    State(limiter): State<Arc<DefaultLimiter<Vegas>>>,
    request: Request,
    next: Next,
) -> Response {
    let Some(token) = limiter.try_acquire().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let response = next.run(request).await;
    limiter.release(token, Some(Outcome::Success)).await;
    response
}

/// A gate before all; what is asked for by the path of batches is of class `batch`.
fn flyball(app: Router, config: GateConfig) -> Result<Router> {
    let gate = Gate::new(config)?;
    let batch = gate.class("batch")?;
    let batches = move |head: &Head<'_>| (head.path() == Kind::Batch.path()).then_some(batch);
    Ok(app.layer(flyball_tower::layer(&gate).classify(batches)))
}

fn limited(app: Router, limiter: Limiter) -> Result<Router> {
    let shed = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(too_much))
        .load_shed();
    Ok(match limiter {
        Limiter::Nothing => app,
        Limiter::Flyball | Limiter::FlyballInline => flyball(app, GateConfig::default())?,
        Limiter::Fixed(limit) => flyball(app, GateConfig::fixed(limit))?,
        Limiter::Tower(limit) => app.layer(shed.layer(
            tower::limit::GlobalConcurrencyLimitLayer::new(limit as usize),
        )),
        Limiter::TowerAcc => app.layer(shed.layer(tower_acc::ConcurrencyLimitLayer::new(
            tower_acc::Vegas::default(),
        ))),
        Limiter::TowerResilience => {
            let algorithm = tower_resilience_adaptive::Gradient2::builder().build()?;
            app.layer(
                shed.layer(tower_resilience_adaptive::AdaptiveLimiterLayer::new(
                    algorithm,
                )),
            )
        }
        Limiter::Congestion => {
            let limiter = DefaultLimiter::new(Vegas::new_with_initial_limit(10));
            app.layer(from_fn_with_state(Arc::new(limiter), congestion))
        }
    })
}

fn costs(service: &Service, work: Work) -> [Cost; 3] {
    service.costs.map(|(waits_us, cpu_us)| Cost {
        waits: Duration::from_secs_f64(waits_us / 1e6),
        iterations: work.iterations(cpu_us),
    })
}

fn kind_of(request: &Request) -> Kind {
    let path = request.uri().path();
    let kind = KINDS.into_iter().find(|kind| kind.path() == path);
    kind.unwrap_or(Kind::Page)
}

/// One route, as some limiters count by route. With its state it is complete: of one without, axum applies layers anew for each connection, and
/// limiters whose count is made then would count connections one by one.
fn routed<H, T>(handler: H) -> Router
where
    H: axum::handler::Handler<T, ()>,
    T: 'static,
{
    Router::new().route("/{kind}", get(handler)).with_state(())
}

/// Handlers compute where they are.
fn inline(costs: [Cost; 3]) -> Router {
    routed(move |request: Request| {
        let cost = costs[kind_of(&request) as usize];
        async move {
            cost.wait().await;
            churn(cost.iterations);
            DONE
        }
    })
}

/// Handlers have flyball's executor compute, batches in class `batch`, the others in class `interactive`.
fn on_executor(costs: [Cost; 3]) -> Result<Router> {
    // Ends with the process.
    let executor: &'static Executor = Box::leak(Box::new(Executor::start(Config::default())?));
    let (interactive, batch) = (executor.class("interactive")?, executor.class("batch")?);
    Ok(routed(
        move |Extension(offload): Extension<Offload>, request: Request| {
            let kind = kind_of(&request);
            let cost = costs[kind as usize];
            let class = match kind {
                Kind::Batch => batch.clone(),
                Kind::Page | Kind::Report => interactive.clone(),
            };
            async move {
                cost.wait().await;
                let work = move || churn(cost.iterations);
                match class.run(offload.wrap(work)).await {
                    Ok(()) => DONE.into_response(),
                    Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
                }
            }
        },
    ))
}

/// Serves until it is ended; tells its address by a line.
pub fn run(service: &Service, limiter: Limiter, work: Work) -> Result<()> {
    crate::sys::allow_files()?;
    let costs = costs(service, work);
    let app = match limiter {
        Limiter::Flyball => on_executor(costs)?,
        _ => inline(costs),
    };
    let app = limited(app, limiter)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(crate::sys::cpus())
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        std::io::stdout().flush()?;
        axum::serve(listener, app).await?;
        Ok(())
    })
}
