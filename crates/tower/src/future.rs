//! A request on its way: coming in, being served, answered.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use flyball_limit::{Ask, Breaker, Enter, Refused, Shed, ShedReason};
use http::{Request, Response};
use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower_service::Service;

use crate::answer::Refusal;
use crate::body::{Body, Held};
use crate::layer::Shared;
use crate::verdict::Judged;

pin_project! {
    /// The future of a service behind a gate.
    #[must_use = "does nothing unless awaited"]
    pub struct ResponseFuture<S: Service<Request<B>>, B, R> {
        shared: Arc<Shared>,
        grpc: bool,
        held: Held,
        // Only of requests with a deadline.
        late: Option<Pin<Box<Sleep>>>,
        #[pin]
        stage: Stage<S, B, S::Future>,
        body: std::marker::PhantomData<fn() -> R>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<S, B, F> {
        Enters { enter: Enter, service: Option<(S, Request<B>)> },
        Yields { service: Option<(S, Request<B>)>, yielded: bool },
        Serves { #[pin] future: F },
        Refused { refusal: Refusal },
    }
}

impl<S: Service<Request<B>>, B, R> ResponseFuture<S, B, R> {
    pub(crate) fn entering(
        shared: Arc<Shared>,
        grpc: bool,
        ask: Ask,
        timeout: Option<Duration>,
        service: S,
        request: Request<B>,
    ) -> Self {
        let enter = shared.gate.enter(ask);
        Self {
            shared,
            grpc,
            held: Held::default(),
            late: timeout.map(|timeout| Box::pin(tokio::time::sleep(timeout))),
            stage: Stage::Enters {
                enter,
                service: Some((service, request)),
            },
            body: std::marker::PhantomData,
        }
    }
}

fn refusal_of(shed: Shed) -> Refusal {
    let why = match shed.reason {
        ShedReason::Deadline => return Refusal::Late,
        ShedReason::Overload => "the service is overloaded and serves what matters more",
        ShedReason::Waited => "the service is overloaded and the request has waited too long",
        ShedReason::QueueFull => "the service is overloaded and too many requests wait",
        _ => "the service is overloaded",
    };
    Refusal::Shed {
        why,
        retry_after: shed.retry_after,
    }
}

impl<S, B, R> Future for ResponseFuture<S, B, R>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: http_body::Body<Data = Bytes>,
{
    type Output = Result<Response<Body<R>>, S::Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.stage.as_mut().project() {
                StageProj::Enters { enter, service } => match ready!(Pin::new(enter).poll(context))
                {
                    Ok(permit) => {
                        this.held.permit = Some(permit);
                        Stage::Yields {
                            service: service.take(),
                            yielded: !this.shared.yields,
                        }
                    }
                    Err(shed) => Stage::Refused {
                        refusal: refusal_of(shed),
                    },
                },
                StageProj::Yields { service, yielded } => {
                    if !std::mem::replace(yielded, true) {
                        // Polled again after all that is ready now; a sampled request knows from it how long that takes.
                        let again = |context: &mut Context<'_>| {
                            context.waker().wake_by_ref();
                            Poll::<()>::Pending
                        };
                        let polled = match &mut this.held.permit {
                            Some(permit) => permit.poll(context, again),
                            None => again(context),
                        };
                        ready!(polled);
                    }
                    let Some((mut service, mut request)) = service.take() else {
                        panic!("polled after it has answered");
                    };
                    // Not before, as the time until here is the gate's and the runtime's, not the service's.
                    let passed = this.shared.breaker.as_ref().map(Breaker::enter);
                    match passed.transpose() {
                        Err(Refused { retry_after, .. }) if !this.shared.gate.observes() => {
                            Stage::Refused {
                                refusal: Refusal::Broken { retry_after },
                            }
                        }
                        passed => {
                            // What an observing gate lets through all the same was counted by the breaker.
                            this.held.pass = passed.unwrap_or_default();
                            if let Some(permit) = &this.held.permit {
                                request.extensions_mut().insert(permit.offload());
                            }
                            Stage::Serves {
                                future: service.call(request),
                            }
                        }
                    }
                }
                StageProj::Serves { mut future } => {
                    let served = match &mut this.held.permit {
                        Some(permit) => {
                            permit.poll(context, |context| future.as_mut().poll(context))
                        }
                        None => future.as_mut().poll(context),
                    };
                    match served {
                        Poll::Ready(Ok(response)) => {
                            let mut held = std::mem::take(this.held);
                            let judged = Judged::by_head(response.status(), response.headers());
                            if let Some(permit) = &mut held.permit {
                                permit.answered();
                            }
                            let response = response.map(|body| Body::holding(body, held, judged));
                            return Poll::Ready(Ok(response));
                        }
                        Poll::Ready(Err(error)) => {
                            std::mem::take(this.held).end(Judged::BROKEN);
                            return Poll::Ready(Err(error));
                        }
                        Poll::Pending => {
                            let Some(late) = this.late else {
                                return Poll::Pending;
                            };
                            ready!(late.as_mut().poll(context));
                            if this.shared.gate.observes() {
                                *this.late = None;
                                return Poll::Pending;
                            }
                            // Nobody waits for the answer any more: the handler is dropped.
                            std::mem::take(this.held).end(Judged::DROPPED);
                            Stage::Refused {
                                refusal: Refusal::Late,
                            }
                        }
                    }
                }
                StageProj::Refused { refusal } => {
                    // What was refused says nothing about what the breaker guards.
                    std::mem::take(this.held).end(Judged::DROPPED);
                    return Poll::Ready(Ok(refusal.answer(*this.grpc, this.shared.shed)));
                }
            };
            this.stage.set(next);
        }
    }
}

impl<S: Service<Request<B>>, B, R> std::fmt::Debug for ResponseFuture<S, B, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
