//! The calls, a module a resource. Handlers translate: a body or query into one call of the engine, its answer into JSON.
//!
//! Each module has its calls in two groups, `figures` and `guarded`; which group a call is in decides who may make it (`access`),
//! in the router as in the description of the API. A call that is in neither group is open: those are in [`meta`] only.

use crate::Limits;
use crate::access::{self, Access};
use crate::http::query;
use crate::openapi;
use crate::problem::Problem;
use crate::relay::Relay;
use crate::server::Stage;
use axum::Router;
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state};
use bytes::Bytes;
use flyball_engine::Engine;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use tokio::sync::{Semaphore, watch};
use utoipa_axum::router::OpenApiRouter;

mod absent;
mod backup;
mod breakers;
mod classes;
mod config;
mod control;
mod cpu;
mod docs;
mod events;
pub(crate) mod express;
mod failure;
mod fields;
mod file;
mod limits;
mod meta;
mod outputs;
mod page;
mod tasks;
mod throttles;
mod workers;

/// What handlers share.
pub(crate) struct App {
    pub(crate) engine: Arc<Engine>,
    pub(crate) stage: watch::Receiver<Stage>,
    /// Wakes those who wait for the queue.
    pub(crate) relay: Arc<Relay>,
    /// Copies of the queue that may still be taken: one.
    pub(crate) backups: Arc<Semaphore>,
    /// The state folder.
    pub(crate) state_dir: PathBuf,
    /// Event streams that may still be opened.
    pub(crate) streams: Arc<Semaphore>,
    /// Most items of a page.
    pub(crate) page: usize,
    /// Most levels of a JSON body.
    pub(crate) json_depth: usize,
    /// Tells this run of the server from others, in the ids of events.
    pub(crate) run: u64,
    /// The description of the API, once it is made.
    pub(crate) description: OnceLock<Bytes>,
}

pub(crate) type Shared = Arc<App>;

impl App {
    pub(crate) fn new(
        engine: Arc<Engine>,
        stage: watch::Receiver<Stage>,
        limits: &Limits,
        streams: usize,
        state_dir: PathBuf,
    ) -> Shared {
        Arc::new(App {
            engine,
            stage,
            relay: Arc::default(),
            backups: Arc::new(Semaphore::new(1)),
            state_dir,
            streams: Arc::new(Semaphore::new(streams)),
            page: limits.page,
            json_depth: limits.json_depth,
            run: flyball_core::time::unix_nanos() / 1_000_000,
            description: OnceLock::new(),
        })
    }

    pub(crate) fn is_ready(&self) -> bool {
        *self.stage.borrow() == Stage::Serving && self.engine.is_ready()
    }
}

/// All calls, with who may make them.
pub(crate) fn router(app: Shared, access: Arc<Access>) -> Router {
    let open = OpenApiRouter::with_openapi(openapi::base()).merge(meta::open());
    let figures = meta::figures()
        .merge(cpu::figures())
        .merge(workers::figures())
        .merge(classes::figures())
        .merge(control::figures())
        .merge(throttles::figures())
        .merge(limits::figures())
        .merge(tasks::figures())
        .merge(breakers::figures())
        .merge(events::figures());
    let guarded = cpu::guarded()
        .merge(workers::guarded())
        .merge(classes::guarded())
        .merge(control::guarded())
        .merge(throttles::guarded())
        .merge(limits::guarded())
        .merge(tasks::guarded())
        .merge(outputs::guarded())
        .merge(backup::guarded())
        .merge(breakers::guarded())
        .merge(config::guarded());
    // What a part that is absent would be asked is not known here: it says that it is absent.
    let figures = query::strict(figures).merge(absent::figures());
    let guarded = query::strict(guarded).merge(absent::guarded());
    let (router, mut description) = open
        .merge(openapi::figures(figures).route_layer(from_fn_with_state(access, access::figures)))
        .merge(openapi::guarded(guarded).route_layer(from_fn(access::guarded)))
        .split_for_parts();
    openapi::complete(&mut description);
    // Plain data with string keys: writing it cannot fail.
    let document = serde_json::to_vec(&description).unwrap_or_default();
    let _ = app.description.set(document.into());
    router
        .merge(docs::router())
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, NOTHING_HERE))
        .with_state(app)
}

const NOTHING_HERE: &str = "there is nothing at this path; /openapi.json lists what there is";
