//! Handlers: what a program registers for kinds of tasks, typed by serde.
//!
//! A handler runs in the executor's class of its task, as a future or as a closure; reading the payload and writing the result are its work too.
//! A panic ends the attempt, never the worker.
//!
//! Invariant: a kind has at most one handler, and at most one fallback, which runs instead of anything else while the kind's breaker is open.

use crate::run::context::TaskContext;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::watch;

/// The largest result, bytes of JSON: the queue's bound.
pub(crate) const RESULT_BYTES_MAX: usize = 1 << 20;
/// The most kinds with a handler.
const KINDS_MAX: usize = 10_000;
/// The longest name of a kind, bytes: the queue's bound.
const KIND_BYTES_MAX: usize = 128;

/// Why a handler did not do its task, and whether trying again may help.
///
/// Every error converts into one that is not tried again, so that `?` works; [`TaskError::retry`] makes one that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskError {
    message: Box<str>,
    retryable: bool,
    after: Option<Duration>,
}

impl TaskError {
    /// Trying again may help.
    pub fn retry(why: impl std::fmt::Display) -> TaskError {
        TaskError {
            message: why.to_string().into(),
            retryable: true,
            after: None,
        }
    }

    /// Trying again would not help.
    pub fn fatal(why: impl std::fmt::Display) -> TaskError {
        TaskError {
            retryable: false,
            ..TaskError::retry(why)
        }
    }

    /// Not before this long has passed.
    #[must_use]
    pub fn after(mut self, wait: Duration) -> TaskError {
        self.after = Some(wait);
        self
    }

    /// What was said.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether trying again may help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.retryable
    }

    /// How long to wait before that, at least.
    #[must_use]
    pub fn wait(&self) -> Option<Duration> {
        self.after
    }
}

impl std::fmt::Display for TaskError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: std::error::Error> From<E> for TaskError {
    fn from(error: E) -> TaskError {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        TaskError::fatal(message)
    }
}

/// What a handler makes of its task: JSON.
pub(crate) type Made = Result<Vec<u8>, TaskError>;
pub(crate) type FutureWork = Pin<Box<dyn Future<Output = Made> + Send>>;

type StartFuture = dyn Fn(TaskContext, Bytes) -> FutureWork + Send + Sync;
type CallClosure = dyn Fn(TaskContext, &[u8]) -> Made + Send + Sync;

/// A handler without its types.
#[derive(Clone)]
pub(crate) enum Work {
    Future(Arc<StartFuture>),
    Closure(Arc<CallClosure>),
}

/// The handler of a kind could not be registered.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// There is one already.
    #[error("kind {kind:?} has a handler already; remove it first")]
    Taken {
        /// The kind.
        kind: Box<str>,
    },
    /// That is no name of a kind.
    #[error("{kind:?} is no kind, expected 1 to {KIND_BYTES_MAX} bytes without control characters")]
    Kind {
        /// What was given.
        kind: Box<str>,
    },
    /// There are too many.
    #[error("{KINDS_MAX} kinds have handlers, the most there can be")]
    TooMany,
}

#[derive(Default)]
struct Tables {
    handlers: BTreeMap<Box<str>, Work>,
    fallbacks: BTreeMap<Box<str>, Work>,
}

/// The handlers of a program, by kind. They can come and go while tasks run.
pub struct Handlers {
    tables: RwLock<Tables>,
    changed: watch::Sender<u64>,
}

impl Default for Handlers {
    fn default() -> Self {
        Handlers {
            tables: RwLock::default(),
            changed: watch::Sender::new(0),
        }
    }
}

impl Handlers {
    /// None yet.
    #[must_use]
    pub fn new() -> Arc<Handlers> {
        Arc::default()
    }

    /// Registers an async function for a kind. A payload that does not read as `In` fails the task, with the place in it, and is not tried again.
    ///
    /// When the task is to end (see [`TaskContext::is_cancelled`]), the future is dropped at its next await.
    ///
    /// # Errors
    /// The kind has a handler already or is none, or there are too many.
    pub fn register<In, Out, F, Fut>(&self, kind: &str, handler: F) -> Result<(), RegisterError>
    where
        F: Fn(TaskContext, In) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Out, TaskError>> + Send + 'static,
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + 'static,
    {
        self.insert(kind, future_work(handler), false)
    }

    /// Registers a closure that computes or blocks. It should look at [`TaskContext::is_cancelled`] now and then: nobody can end it but itself.
    ///
    /// # Errors
    /// As [`register`](Self::register).
    pub fn register_blocking<In, Out, F>(&self, kind: &str, handler: F) -> Result<(), RegisterError>
    where
        F: Fn(TaskContext, In) -> Result<Out, TaskError> + Send + Sync + 'static,
        In: DeserializeOwned + 'static,
        Out: Serialize + 'static,
    {
        self.insert(kind, closure_work(handler), false)
    }

    /// Registers what runs instead of tasks of a kind, however they would run, while the breaker of what they depend on is open. Without one they
    /// wait.
    ///
    /// # Errors
    /// As [`register`](Self::register).
    pub fn register_fallback<In, Out, F, Fut>(
        &self,
        kind: &str,
        fallback: F,
    ) -> Result<(), RegisterError>
    where
        F: Fn(TaskContext, In) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Out, TaskError>> + Send + 'static,
        In: DeserializeOwned + Send + 'static,
        Out: Serialize + 'static,
    {
        self.insert(kind, future_work(fallback), true)
    }

    /// Removes handler and fallback of a kind; what runs goes on. Answers whether there was one.
    pub fn remove(&self, kind: &str) -> bool {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let had_handler = tables.handlers.remove(kind).is_some();
        let had_fallback = tables.fallbacks.remove(kind).is_some();
        drop(tables);
        self.changed.send_modify(|version| *version += 1);
        had_handler || had_fallback
    }

    /// The kinds that have a handler, in order.
    #[must_use]
    pub fn kinds(&self) -> Vec<Box<str>> {
        self.read(|tables| tables.handlers.keys().cloned().collect())
    }

    /// Whether a kind has a handler.
    #[must_use]
    pub fn handles(&self, kind: &str) -> bool {
        self.read(|tables| tables.handlers.contains_key(kind))
    }

    pub(crate) fn has_fallback(&self, kind: &str) -> bool {
        self.read(|tables| tables.fallbacks.contains_key(kind))
    }

    pub(crate) fn work(&self, kind: &str) -> Option<Work> {
        self.read(|tables| tables.handlers.get(kind).cloned())
    }

    pub(crate) fn fallback(&self, kind: &str) -> Option<Work> {
        self.read(|tables| tables.fallbacks.get(kind).cloned())
    }

    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn read<R>(&self, look: impl FnOnce(&Tables) -> R) -> R {
        look(&self.tables.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn insert(&self, kind: &str, work: Work, fallback: bool) -> Result<(), RegisterError> {
        let fits = (1..=KIND_BYTES_MAX).contains(&kind.len()) && !kind.contains(char::is_control);
        if !fits {
            return Err(RegisterError::Kind { kind: kind.into() });
        }
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let table = if fallback {
            &mut tables.fallbacks
        } else {
            &mut tables.handlers
        };
        if table.contains_key(kind) {
            return Err(RegisterError::Taken { kind: kind.into() });
        }
        if table.len() >= KINDS_MAX {
            return Err(RegisterError::TooMany);
        }
        table.insert(kind.into(), work);
        drop(tables);
        self.changed.send_modify(|version| *version += 1);
        Ok(())
    }
}

impl std::fmt::Debug for Handlers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handlers")
            .field("kinds", &self.kinds())
            .finish_non_exhaustive()
    }
}

fn future_work<In, Out, F, Fut>(handler: F) -> Work
where
    F: Fn(TaskContext, In) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Out, TaskError>> + Send + 'static,
    In: DeserializeOwned + Send + 'static,
    Out: Serialize + 'static,
{
    let handler = Arc::new(handler);
    Work::Future(Arc::new(move |context, payload: Bytes| {
        let handler = Arc::clone(&handler);
        // All of it inside the future: a panic of any part is then the task's, in its class, and caught there.
        Box::pin(async move {
            let input = read::<In>(&payload)?;
            drop(payload);
            let output = handler(context, input).await?;
            write(&output)
        })
    }))
}

fn closure_work<In, Out, F>(handler: F) -> Work
where
    F: Fn(TaskContext, In) -> Result<Out, TaskError> + Send + Sync + 'static,
    In: DeserializeOwned + 'static,
    Out: Serialize + 'static,
{
    Work::Closure(Arc::new(move |context, payload| {
        write(&handler(context, read::<In>(payload)?)?)
    }))
}

fn read<In: DeserializeOwned>(payload: &[u8]) -> Result<In, TaskError> {
    let mut json = serde_json::Deserializer::from_slice(payload);
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let place = if path == "." {
            String::new()
        } else {
            format!(" at {path}")
        };
        TaskError::fatal(format!(
            "the payload does not fit{place}: {}",
            error.inner()
        ))
    })
}

fn write<Out: Serialize>(output: &Out) -> Made {
    let json = serde_json::to_vec(output).map_err(|error| {
        TaskError::fatal(format!("the result cannot be written as JSON: {error}"))
    })?;
    if json.len() > RESULT_BYTES_MAX {
        return Err(TaskError::fatal(format!(
            "the result has {} bytes, the most is {RESULT_BYTES_MAX}",
            json.len()
        )));
    }
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Size {
        #[serde(rename = "width")]
        _width: u32,
    }

    /// TASK-2: a payload that does not fit its type says where.
    #[test]
    fn payloads_that_do_not_fit_say_where() {
        #[derive(serde::Deserialize)]
        struct Image {
            #[serde(rename = "sizes")]
            _sizes: Vec<Size>,
        }
        let error = read::<Image>(br#"{"sizes":[{"width":1},{"width":"x"}]}"#)
            .err()
            .unwrap();
        assert!(error.message().contains("at sizes[1].width"), "{error}");
        assert!(!error.is_retryable());
        let error = read::<Image>(b"7").err().unwrap();
        assert!(
            error.message().starts_with("the payload does not fit: "),
            "{error}"
        );
    }

    #[test]
    fn a_kind_has_one_handler() {
        let handlers = Handlers::new();
        let handler = |_: TaskContext, (): ()| async { Ok(()) };
        handlers.register("a", handler).unwrap();
        assert!(matches!(
            handlers.register("a", handler),
            Err(RegisterError::Taken { .. })
        ));
        for kind in ["", "a\nb", &"x".repeat(129)] {
            assert!(matches!(
                handlers.register(kind, handler),
                Err(RegisterError::Kind { .. })
            ));
        }
        assert_eq!(handlers.kinds(), ["a".into()]);
        assert!(handlers.remove("a") && !handlers.remove("a") && !handlers.handles("a"));
    }

    #[test]
    fn results_are_bounded() {
        assert!(write(&"x".repeat(RESULT_BYTES_MAX)).is_err());
        assert_eq!(write(&()).unwrap(), b"null");
    }
}
