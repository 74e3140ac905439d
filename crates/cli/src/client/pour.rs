//! Answers that are passed on as they come, byte for byte: outputs of commands, copies of the queue.

use std::io;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Method;
use serde_json::Value;
use tokio::time::timeout;

use super::{ANSWER, Client, Document, Failure};

/// Says how many bytes of an output were beyond its bound.
const DROPPED: &str = "flyball-output-dropped";

/// An answer that was passed on whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Poured {
    /// Bytes beyond the bound of what is kept, where that is known.
    pub(crate) dropped: Option<u64>,
}

impl Client {
    /// Passes an answer on, however long it is and however long it takes once it has begun, which it must within `begins`. What the one who takes
    /// it fails with is the inner error.
    pub(crate) fn pour(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        begins: Duration,
        take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<io::Result<Poured>, Failure> {
        self.runtime.block_on(async {
            let (target, stream) = self.connect().await?;
            let body = body.map(Document::from);
            let asked = self.ask(&target, stream, method, path, body, "*/*");
            let response = timeout(begins, asked).await.map_err(|_| {
                Failure::Unreachable(format!(
                    "{target} took the request and did not answer within {} s",
                    begins.as_secs()
                ))
            })??;
            if !response.status().is_success() {
                return match timeout(ANSWER, self.judge(&target, response)).await {
                    Ok(Err(failure)) => Err(failure),
                    _ => Err(Failure::Unreachable(format!("{target} does not answer"))),
                };
            }
            let field = |name: &str| response.headers().get(name)?.to_str().ok()?.parse().ok();
            let poured = Poured {
                dropped: field(DROPPED),
            };
            let mut body = response.into_body();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| {
                    Failure::Unreachable(format!("{target} broke off its answer: {error}"))
                })?;
                if let Some(bytes) = frame.data_ref()
                    && let Err(error) = take(bytes)
                {
                    return Ok(Err(error));
                }
            }
            Ok(Ok(poured))
        })
    }
}
