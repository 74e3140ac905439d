//! Values that travel with a task: from the thread that submits to wherever the task runs.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Captures what should travel; asked once a submission, on the submitting thread.
pub trait Carrier: Send + Sync {
    /// Takes the values along.
    fn capture(&self) -> Box<dyn Captured>;
}

/// Values on their way.
pub trait Captured: Send {
    /// Puts the values in place on the thread that runs the task. They stay until what is returned is dropped.
    fn enter(&self) -> Box<dyn Entered + '_>;
}

/// Takes the values out of place again when it is dropped.
pub trait Entered {}

impl<T> Entered for T {}

/// What was captured for one task.
#[derive(Default)]
pub(crate) struct Luggage {
    #[cfg(feature = "tracing")]
    span: Option<tracing::Span>,
    captured: Option<Box<dyn Captured>>,
}

impl Luggage {
    /// Captures on the submitting thread; None when nothing travels, which costs a branch.
    #[inline]
    pub(crate) fn pack(carrier: Option<&dyn Carrier>) -> Option<Self> {
        #[cfg(feature = "tracing")]
        let span = if tracing::level_filters::LevelFilter::current()
            == tracing::level_filters::LevelFilter::OFF
        {
            None
        } else {
            Some(tracing::Span::current()).filter(|span| !span.is_none())
        };
        #[cfg(feature = "tracing")]
        let nothing = span.is_none() && carrier.is_none();
        #[cfg(not(feature = "tracing"))]
        let nothing = carrier.is_none();
        if nothing {
            return None;
        }
        Some(Luggage {
            #[cfg(feature = "tracing")]
            span,
            captured: carrier.map(Carrier::capture),
        })
    }

    /// Calls `f` with everything in place.
    pub(crate) fn within<R>(&self, f: impl FnOnce() -> R) -> R {
        let _entered = self.captured.as_ref().map(|captured| captured.enter());
        #[cfg(feature = "tracing")]
        let _span = self.span.as_ref().map(tracing::Span::enter);
        f()
    }
}

/// A future that is polled, and dropped, with its luggage in place.
pub(crate) struct Carried<F> {
    luggage: Luggage,
    future: Option<F>,
}

impl<F> Carried<F> {
    pub(crate) fn new(luggage: Luggage, future: F) -> Self {
        Carried {
            luggage,
            future: Some(future),
        }
    }
}

impl<F: Future> Future for Carried<F> {
    type Output = F::Output;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: `future` is pinned structurally: never moved out, dropped in place below.
        let this = unsafe { self.get_unchecked_mut() };
        let Carried { luggage, future } = this;
        match future {
            // SAFETY: as above.
            Some(future) => luggage.within(|| unsafe { Pin::new_unchecked(future) }.poll(cx)),
            None => unreachable!("polled while it is dropped"),
        }
    }
}

impl<F> Drop for Carried<F> {
    fn drop(&mut self) {
        let Carried { luggage, future } = self;
        // Assigning drops the old value in place.
        luggage.within(|| *future = None);
    }
}
