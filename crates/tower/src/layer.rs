//! The layer and its service.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use flyball_core::time::Timestamp;
use flyball_limit::{Ask, Breaker, CallClass, Gate};
use http::{HeaderName, Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use crate::answer::ShedStatus;
use crate::body::Body;
use crate::deadline;
use crate::future::ResponseFuture;
use crate::head::Head;

type Classify = Arc<dyn Fn(&Head<'_>) -> Option<CallClass> + Send + Sync>;
type Cohort = Arc<dyn Fn(&Head<'_>) -> Option<u64> + Send + Sync>;

/// When the answer to a request is of no use any more: among the extensions of requests whose headers say so.
///
/// ```
/// use axum::Extension;
/// use flyball_tower::Deadline;
/// use std::time::Duration;
///
/// async fn page(deadline: Option<Extension<Deadline>>) -> String {
///     let left = deadline.map_or(Duration::from_secs(1), |Extension(deadline)| deadline.left());
///     format!("what it asks of others may take {left:?}")
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Deadline {
    at: Timestamp,
    gate: Gate,
}

impl Deadline {
    /// The instant, on the [gate's clock](Gate::now), as an [`Ask`] has it.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// How long it is until then; zero once it has passed.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.at.duration_since(self.gate.now())
    }
}

/// What layers and services of one layer share.
pub(crate) struct Shared {
    pub(crate) gate: Gate,
    classify: Option<Classify>,
    cohort: Option<Cohort>,
    deadline_header: Option<HeaderName>,
    pub(crate) breaker: Option<Breaker>,
    pub(crate) shed: ShedStatus,
    pub(crate) yields: bool,
}

/// Puts a [`Gate`] before a service. All services that it makes, and their clones, are behind the one gate.
#[derive(Clone)]
pub struct OverloadLayer {
    shared: Arc<Shared>,
}

impl fmt::Debug for OverloadLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OverloadLayer")
            .field("gate", &self.shared.gate)
            .finish_non_exhaustive()
    }
}

impl OverloadLayer {
    /// Puts this gate before what it is applied to. Several layers may share a gate: what they let in counts together.
    #[must_use]
    pub fn new(gate: &Gate) -> Self {
        let shared = Shared {
            gate: gate.clone(),
            classify: None,
            cohort: None,
            deadline_header: None,
            breaker: None,
            shed: ShedStatus::default(),
            yields: true,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    fn change(mut self, change: impl FnOnce(&mut Shared)) -> Self {
        match Arc::get_mut(&mut self.shared) {
            Some(shared) => change(shared),
            None => {
                // Clones and services that were made before keep what they have.
                let mut shared = Shared {
                    gate: self.shared.gate.clone(),
                    classify: self.shared.classify.clone(),
                    cohort: self.shared.cohort.clone(),
                    deadline_header: self.shared.deadline_header.clone(),
                    breaker: self.shared.breaker.clone(),
                    shed: self.shared.shed,
                    yields: self.shared.yields,
                };
                change(&mut shared);
                self.shared = Arc::new(shared);
            }
        }
        self
    }

    /// Says which class a request is of; `None` is the gate's default class, as are all without this.
    #[must_use]
    pub fn classify(
        self,
        classify: impl Fn(&Head<'_>) -> Option<CallClass> + Send + Sync + 'static,
    ) -> Self {
        self.change(|shared| shared.classify = Some(Arc::new(classify)))
    }

    /// Says whom a request is made for, as any hash: tenant, user, session. Under overload requests of one class with the same number are treated alike, for
    /// an hour, so that some users are served whole instead of all by halves. Requests of which it says `None`, and all without this, are each on their own.
    ///
    /// Who chooses the number chooses whether it is served: take it from what was authenticated. A caller that may name itself as it likes can try names until
    /// one passes, and is served by that for the rest of the hour.
    #[must_use]
    pub fn cohort(self, cohort: impl Fn(&Head<'_>) -> Option<u64> + Send + Sync + 'static) -> Self {
        self.change(|shared| shared.cohort = Some(Arc::new(cohort)))
    }

    /// As [`cohort`](Self::cohort), by the bytes of a header: one that a proxy before this service sets, not one that callers choose.
    #[must_use]
    pub fn cohort_header(self, name: HeaderName) -> Self {
        self.cohort(move |head| {
            let value = head.headers.get(&name);
            value.map(|value| fnv(value.as_bytes()))
        })
    }

    /// Reads deadlines, in milliseconds from the arrival, from this header too; `grpc-timeout` is always read.
    #[must_use]
    pub fn deadline_header(self, name: HeaderName) -> Self {
        self.change(|shared| shared.deadline_header = Some(name))
    }

    /// Guards the service by a breaker: answers of 500 and more, and gRPC's counterparts, are failures. While it is open requests are refused.
    ///
    /// It is asked when a request has come through the gate and is about to be served: what waits or is shed there is nothing to it. Nor is a caller's deadline a failure,
    /// as anybody may choose a short one.
    #[must_use]
    pub fn breaker(self, breaker: Breaker) -> Self {
        self.change(|shared| shared.breaker = Some(breaker))
    }

    /// Sets what callers that are shed are told.
    #[must_use]
    pub fn shed_status(self, status: ShedStatus) -> Self {
        self.change(|shared| shared.shed = status)
    }

    /// Sets whether a request that came in goes to the end of the runtime's queue once, before it is served: it does unless set.
    ///
    /// Handlers that compute without awaiting anything would otherwise be served from the connection at once, and requests on other connections would not be
    /// read until then: as many would be in flight as there are threads, whatever waits. The one round makes those who wait come up, so that the gate sees
    /// them and decides. It costs a fraction of a microsecond.
    #[must_use]
    pub fn yield_first(self, yields: bool) -> Self {
        self.change(|shared| shared.yields = yields)
    }

    /// The gate.
    #[must_use]
    pub fn gate(&self) -> &Gate {
        &self.shared.gate
    }
}

/// Spreads bytes over 64 bits (FNV-1a; Fowler, Noll, Vo). The same in all processes, so that all servers of a service serve the same users.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

impl<S> Layer<S> for OverloadLayer {
    type Service = Overload<S>;

    fn layer(&self, inner: S) -> Overload<S> {
        Overload {
            inner,
            shared: Arc::clone(&self.shared),
        }
    }
}

/// A service behind a [`Gate`].
#[derive(Clone)]
pub struct Overload<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S: fmt::Debug> fmt::Debug for Overload<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overload")
            .field("inner", &self.inner)
            .field("gate", &self.shared.gate)
            .finish_non_exhaustive()
    }
}

impl<S, B, R> Service<Request<B>> for Overload<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    R: http_body::Body<Data = Bytes>,
{
    type Response = Response<Body<R>>;
    /// The service's own: a refusal is an answer.
    type Error = S::Error;
    type Future = ResponseFuture<S, B, R>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let shared = &self.shared;
        let head = Head::of(&request);
        let grpc = head.is_grpc();
        let timeout = deadline::of(&head, shared.deadline_header.as_ref());
        let deadline = timeout.map(|timeout| shared.gate.now().saturating_add(timeout));
        let ask = Ask {
            class: shared
                .classify
                .as_ref()
                .and_then(|classify| classify(&head)),
            cohort: shared.cohort.as_ref().and_then(|cohort| cohort(&head)),
            deadline,
        };
        if let Some(at) = deadline {
            let gate = shared.gate.clone();
            request.extensions_mut().insert(Deadline { at, gate });
        }
        // The service that is ready serves this request; a clone takes its place.
        let clone = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, clone);
        ResponseFuture::entering(Arc::clone(shared), grpc, ask, timeout, ready, request)
    }
}
