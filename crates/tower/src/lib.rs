//! Overload control for axum, hyper and tonic: a [`Gate`] before a service, as a tower layer.
//!
//! ```
//! use axum::{Router, routing::get};
//! use flyball_tower::{Gate, GateConfig, layer};
//!
//! # fn main() -> Result<(), flyball_tower::Error> {
//! let gate = Gate::new(GateConfig::default())?;
//! let batch = gate.class("batch")?;
//! let app: Router = Router::new()
//!     .route("/", get(|| async { "hello" }))
//!     .layer(layer(&gate).classify(move |head| head.path().starts_with("/reports").then_some(batch)));
//! # Ok(())
//! # }
//! ```
//!
//! The gate finds how many requests the process can work at, by how long their work waited for a CPU; no number has to be guessed. Requests above that
//! wait for a moment; under overload those of the least important class are refused at once, with a hint when to try again.
//!
//! | of a request | |
//! |---|---|
//! | its class | [`classify`](OverloadLayer::classify) |
//! | whom it is made for | [`cohort`](OverloadLayer::cohort), [`cohort_header`](OverloadLayer::cohort_header) |
//! | its deadline | `grpc-timeout`, and a [header](OverloadLayer::deadline_header) in milliseconds; a request that is too late is refused, or dropped where it is; handlers find it as [`Deadline`], which knows how much is [left](Deadline::left) |
//! | work that it has a pool do | its handler finds an [`Offload`] among the extensions, whose [`wrap`](Offload::wrap) tells the gate of it |
//! | the fault of what it needs | a [`breaker`](OverloadLayer::breaker) |
//!
//! # Promises
//! - The error type stays the service's own (for axum and tonic [`Infallible`](std::convert::Infallible)): a refusal is an answer. HTTP: 503 or 429 with `Retry-After`, 504 past the
//!   deadline, each with a problem document. gRPC, which is known by its content type: `UNAVAILABLE` or `RESOURCE_EXHAUSTED` with `grpc-retry-pushback-ms`, `DEADLINE_EXCEEDED`.
//! - One state over all clones, connections and routes that share a gate.
//! - A request holds its slot until the body of its answer has ended or was dropped, as when the client has gone. An answer that goes on for more than a second after it began
//!   is a stream: its slot stays taken, its latency does not count.
//! - A gate that [observes](flyball_limit::Mode::Observe) refuses nothing: neither it nor the breaker nor deadlines.
//! - Degradation: [`Gate::level`] is a load, [`Gate::on_level`] a hook.
//!
//! The layer yields once a request, before it is served: see [`OverloadLayer::yield_first`]. It needs a tokio runtime with a timer.

mod answer;
mod body;
mod deadline;
mod future;
mod head;
mod layer;
mod verdict;

pub use answer::ShedStatus;
pub use body::Body;
pub use future::ResponseFuture;
pub use head::Head;
pub use layer::{Deadline, Overload, OverloadLayer};

pub use flyball_limit::{
    AdaptiveConfig, AdmissionConfig, Algorithm, Ask, Breaker, BreakerConfig, CallClass,
    Degradation, Error, Gate, GateConfig, GateStatus, Mode, Offload, Permit, Shed, ShedReason,
};

/// Puts this gate before the services that the layer is applied to.
#[must_use]
pub fn layer(gate: &Gate) -> OverloadLayer {
    OverloadLayer::new(gate)
}
