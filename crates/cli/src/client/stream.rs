//! Event streams: lines that arrive as long as the daemon runs.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use tokio::time::timeout;

use super::{ANSWER, Client, Failure};

/// The daemon sends something at least every few seconds; after so long it is taken for gone.
const SILENCE: Duration = Duration::from_secs(120);
/// Bytes of one event.
const EVENT_MAX: usize = 1 << 20;

/// A stream of events that was opened.
pub(crate) struct Events<'a> {
    client: &'a Client,
    body: Incoming,
    parser: Parser,
}

/// One event.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Event {
    pub(crate) kind: String,
    pub(crate) data: String,
}

impl Client {
    /// Opens a stream of events.
    pub(crate) fn events(&self, path: &str) -> Result<Events<'_>, Failure> {
        let body = self.runtime.block_on(async {
            let (target, stream) = self.connect().await?;
            let asked = self.ask(
                &target,
                stream,
                Method::GET,
                path,
                None,
                "text/event-stream",
            );
            let response = timeout(ANSWER, asked)
                .await
                .map_err(|_| Failure::Unreachable(format!("{target} does not answer")))??;
            if response.status().is_success() {
                return Ok(response.into_body());
            }
            match timeout(ANSWER, self.judge(&target, response)).await {
                Ok(Err(failure)) => Err(failure),
                _ => Err(Failure::Unreachable(format!("{target} does not answer"))),
            }
        })?;
        Ok(Events {
            client: self,
            body,
            parser: Parser::default(),
        })
    }
}

impl Events<'_> {
    /// Waits for the next event.
    pub(crate) fn next(&mut self) -> Result<Event, Failure> {
        let Events {
            client,
            body,
            parser,
        } = self;
        client.runtime.block_on(next(body, parser))
    }

    /// Waits for the next event, so long at most.
    pub(crate) fn next_within(&mut self, time: Duration) -> Result<Option<Event>, Failure> {
        let Events {
            client,
            body,
            parser,
        } = self;
        // What has been read stays with the parser, whenever this is dropped.
        let next = async { timeout(time, next(body, parser)).await };
        client.runtime.block_on(next).ok().transpose()
    }
}

async fn next(body: &mut Incoming, parser: &mut Parser) -> Result<Event, Failure> {
    let lost = |why: &str| Failure::Unreachable(format!("the daemon ended the stream: {why}"));
    loop {
        if let Some(event) = parser.next() {
            return Ok(event);
        }
        if parser.pending.len() > EVENT_MAX {
            return Err(Failure::Broken(format!(
                "an event has more than {EVENT_MAX} bytes"
            )));
        }
        match timeout(SILENCE, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                if let Some(bytes) = frame.data_ref() {
                    parser.pending.extend_from_slice(bytes);
                }
            }
            Ok(Some(Err(error))) => return Err(lost(&error.to_string())),
            Ok(None) => return Err(lost("it stops")),
            Err(_) => return Err(lost("it is silent")),
        }
    }
}

/// Parts bytes into events (the format of the HTML standard, of which the daemon uses `\n` only).
#[derive(Default)]
struct Parser {
    pending: Vec<u8>,
    event: Event,
}

impl Parser {
    /// The next whole event that carries data.
    fn next(&mut self) -> Option<Event> {
        while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line[..end]);
            let line = line.strip_suffix('\r').unwrap_or(&line);
            if line.is_empty() {
                let event = std::mem::take(&mut self.event);
                if !event.data.is_empty() {
                    return Some(event);
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => self.event.kind = value.to_owned(),
                "data" => {
                    if !self.event.data.is_empty() {
                        self.event.data.push('\n');
                    }
                    self.event.data.push_str(value);
                }
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_however_they_are_cut() {
        let text = b"retry: 2000\n\n:\n\nid: 1-1\nevent: decision\ndata: {\"a\":1}\n\nevent: missed\r\ndata: x\r\ndata:y\r\n\r\ndata: half";
        let expected = [("decision", "{\"a\":1}"), ("missed", "x\ny")];
        for size in 1..text.len() {
            let mut parser = Parser::default();
            let mut seen = Vec::new();
            for chunk in text.chunks(size) {
                parser.pending.extend_from_slice(chunk);
                seen.extend(std::iter::from_fn(|| parser.next()));
            }
            let seen: Vec<_> = seen
                .iter()
                .map(|e| (e.kind.as_str(), e.data.as_str()))
                .collect();
            assert_eq!(seen, expected, "{size}");
        }
    }
}
