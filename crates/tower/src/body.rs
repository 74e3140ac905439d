//! The body of a response, with what is held until it has ended.
//!
//! Invariant: the slot and the breaker's pass are given back when the body has ended or is dropped, whichever is first, and exactly once.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use flyball_limit::{Pass, Permit};
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::verdict::Judged;

/// What a request holds while it is served.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) permit: Option<Permit>,
    pub(crate) pass: Option<Pass>,
}

impl Held {
    /// Gives everything back.
    pub(crate) fn end(self, judged: Judged) {
        if let Some(permit) = self.permit {
            permit.end(judged.outcome);
        }
        if let Some(pass) = self.pass {
            pass.end(judged.verdict);
        }
    }
}

pin_project! {
    /// A response's body: the service's own, or the few words of a refusal.
    #[derive(Debug)]
    #[must_use]
    pub struct Body<B: http_body::Body> {
        #[pin]
        inner: Option<B>,
        words: Option<Bytes>,
        held: Option<(Held, Judged)>,
    }

    impl<B: http_body::Body> PinnedDrop for Body<B> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if let Some((held, judged)) = this.held.take() {
                let whole = has_ended(this.inner.as_ref());
                held.end(if whole { judged } else { Judged::DROPPED });
            }
        }
    }
}

/// Nobody asks a body for more that says it has ended.
fn has_ended<B: http_body::Body>(body: Pin<&Option<B>>) -> bool {
    let body = body.as_pin_ref();
    body.is_some_and(|body| body.get_ref().is_end_stream())
}

impl<B: http_body::Body> Body<B> {
    /// Passes the service's body on, and holds until it has ended.
    pub(crate) fn holding(inner: B, held: Held, judged: Judged) -> Self {
        let mut body = Self {
            inner: Some(inner),
            words: None,
            held: Some((held, judged)),
        };
        if body.inner.as_ref().is_some_and(B::is_end_stream) {
            body.give_back(judged);
        }
        body
    }

    /// The few words of a refusal.
    pub(crate) fn words(words: Bytes) -> Self {
        Self {
            inner: None,
            words: Some(words).filter(|words| !words.is_empty()),
            held: None,
        }
    }

    fn give_back(&mut self, judged: Judged) {
        if let Some((held, _)) = self.held.take() {
            held.end(judged);
        }
    }
}

impl<B: http_body::Body<Data = Bytes>> http_body::Body for Body<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let Some(inner) = this.inner.as_pin_mut() else {
            return Poll::Ready(this.words.take().map(|words| Ok(Frame::data(words))));
        };
        let permit = this
            .held
            .as_mut()
            .and_then(|(held, _)| held.permit.as_mut());
        let polled = match permit {
            Some(permit) => permit.poll(context, |context| inner.poll_frame(context)),
            None => inner.poll_frame(context),
        };
        let frame = ready!(polled);
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(trailers), Some((_, judged))) =
                    (frame.trailers_ref(), this.held.as_mut())
                    && let Some(by_trailers) = Judged::by_trailers(trailers)
                {
                    *judged = by_trailers;
                }
            }
            Some(Err(_)) => {
                if let Some((held, _)) = this.held.take() {
                    held.end(Judged::BROKEN);
                }
            }
            None => {
                if let Some((held, judged)) = this.held.take() {
                    held.end(judged);
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Some(inner) => inner.is_end_stream(),
            None => self.words.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.inner, &self.words) {
            (Some(inner), _) => inner.size_hint(),
            (None, Some(words)) => SizeHint::with_exact(words.len() as u64),
            (None, None) => SizeHint::with_exact(0),
        }
    }
}
