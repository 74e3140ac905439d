//! The short way of the calls that put tasks into the queue and take them out, which come in their ten thousands a second.
//!
//! Such a request is small, has arrived whole, and says nothing unusual. It is read here once, answered from here, and never goes through the HTTP
//! library and the router; neither sees anything of it. What is not exactly so goes the ordinary way, from its first byte: another method, path or
//! version, a body that is not all there, any field that is not in a short list or is given twice, a caller without the right, a body that is wrong.
//! So whatever is refused before the queue is asked is refused by the same code as everything else, and this module only ever says yes or steps aside.
//!
//! Invariants
//! - Deciding has no effect: what steps aside has changed nothing.
//! - The wire asks only while the library has nothing to read or to write, so that answers keep their order.
//! - Answers have the fields that all others have.

use super::gate::{self, Guarded};
use super::head;
use crate::access::{Access, Caller, Peer};
use crate::problem::{self, Problem};
use crate::routes::{Shared, express as routes};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use http_body_util::BodyExt;
use std::fmt::Write as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

/// Most header fields of a request that is taken; the list below has fewer.
const FIELDS: usize = 12;
/// Answers that are written before they are sent begin with room for this many bytes.
const ANSWER: usize = 768;

/// An answer in the making: bytes for the socket.
pub(crate) type Pending = Pin<Box<dyn Future<Output = Vec<u8>> + Send>>;

/// The short way, for all connections.
pub(crate) struct Lane {
    app: Shared,
    access: Arc<Access>,
    /// Bytes that a body may have.
    body: u64,
    /// The fields of all answers, as they are sent.
    fields: String,
    date: Date,
}

/// A request that goes the short way.
pub(crate) struct Taken {
    /// Its length.
    pub(crate) bytes: usize,
    /// Its answer.
    pub(crate) answer: Pending,
}

/// What is known of a head that is plain enough.
struct Plain<'a> {
    call: routes::Call,
    /// Where the head ends and the body begins.
    head: usize,
    /// Bytes of the body.
    body: u64,
    host: &'a [u8],
    authorization: Option<&'a [u8]>,
    key: Option<&'a [u8]>,
}

impl<'a> Plain<'a> {
    /// Reads a head; none if it is not complete or not plain.
    fn read(bytes: &'a [u8], bounds: &head::Bounds) -> Option<Self> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS];
        let mut request = httparse::Request::new(&mut fields);
        let Ok(httparse::Status::Complete(head)) = request.parse(bytes) else {
            return None;
        };
        let call = match (request.method?, request.version?) {
            ("POST", 1) => routes::Call::at(request.path?)?,
            _ => return None,
        };
        if head > bounds.bytes || request.headers.len() > bounds.fields {
            return None;
        }
        let (mut host, mut length, mut kind) = (None, None, None);
        let (mut authorization, mut key, mut connection) = (None, None, None);
        for field in request.headers.iter() {
            let name = field.name;
            let is = |known: &str| name.eq_ignore_ascii_case(known);
            let place = match name.len() {
                4 if is("host") => &mut host,
                14 if is("content-length") => &mut length,
                12 if is("content-type") => &mut kind,
                13 if is("authorization") => &mut authorization,
                15 if is("idempotency-key") => &mut key,
                10 if is("connection") => &mut connection,
                6 if is("accept") => continue,
                10 if is("user-agent") => continue,
                15 if is("accept-encoding") || is("accept-language") => continue,
                _ => return None,
            };
            if place.replace(field.value).is_some() {
                return None;
            }
        }
        let keeps = connection.is_none_or(|value| value.eq_ignore_ascii_case(b"keep-alive"));
        let json = kind.is_some_and(|kind| kind.eq_ignore_ascii_case(b"application/json"));
        if !keeps || !json {
            return None;
        }
        Some(Plain {
            call,
            head,
            body: head::content_length(length?).ok()?,
            host: host?,
            authorization,
            key,
        })
    }
}

impl Lane {
    pub(crate) fn new(app: Shared, access: Arc<Access>, body: u64) -> Self {
        let mut fields = String::new();
        for (name, value) in gate::FIXED.iter().chain(&gate::DEFAULTS) {
            let _ = write!(fields, "{name}: {value}\r\n");
        }
        Lane {
            app,
            access,
            body,
            fields,
            date: Date::default(),
        }
    }

    /// Takes the request that `bytes` begin with, if it may go the short way.
    pub(crate) fn take(
        self: &Arc<Self>,
        bytes: &[u8],
        bounds: &head::Bounds,
        peer: Peer,
    ) -> Option<Taken> {
        // Nearly all that is not for here is told by this.
        if !bytes.starts_with(b"POST /v1/tasks") {
            return None;
        }
        let plain = Plain::read(bytes, bounds)?;
        if plain.body > self.body {
            return None;
        }
        let end = plain.head.checked_add(usize::try_from(plain.body).ok()?)?;
        let body = bytes.get(plain.head..end)?;
        let caller = self.access.admits(peer, plain.host, plain.authorization)?;
        let (lane, call) = (self.clone(), plain.call);
        let asked = routes::ask(&self.app, call, caller, plain.key, body)?;
        Some(Taken {
            bytes: end,
            answer: Box::pin(async move { lane.answer(call, caller, asked).await }),
        })
    }

    async fn answer(&self, call: routes::Call, caller: Caller, asked: routes::Asked) -> Vec<u8> {
        let answered = match Guarded(asked).await {
            Some(answered) => answered,
            None => Err(gate::failure()),
        };
        match answered {
            Ok(json) => {
                tracing::debug!(by = %caller, path = call.path(), "changed");
                self.write(call.status(), &json)
            }
            Err(problem) => {
                tracing::debug!(by = %caller, path = call.path(), status = problem.status, detail = problem.detail, "refused a change");
                // Rare: its room is not taken from every answer.
                Box::pin(self.refuse(call, problem)).await
            }
        }
    }

    /// The bytes of a good answer.
    fn write(&self, status: StatusCode, json: &[u8]) -> Vec<u8> {
        let mut answer = Vec::with_capacity(ANSWER + json.len());
        answer.extend_from_slice(match status {
            StatusCode::CREATED => b"HTTP/1.1 201 Created\r\n",
            _ => b"HTTP/1.1 200 OK\r\n".as_slice(),
        });
        answer.extend_from_slice(b"content-type: application/json\r\ncontent-length: ");
        push_number(&mut answer, json.len());
        answer.extend_from_slice(b"\r\n");
        answer.extend_from_slice(self.fields.as_bytes());
        self.date.push(&mut answer);
        answer.extend_from_slice(b"\r\n");
        answer.extend_from_slice(json);
        answer
    }

    /// The bytes of a refusal, made as all others are.
    async fn refuse(&self, call: routes::Call, problem: Problem) -> Vec<u8> {
        let response = problem::complete(problem.into_response(), call.path());
        let (parts, body) = gate::dress(response).into_parts();
        let body = body.collect().await.map(|body| body.to_bytes());
        // A body that is in memory can be read.
        let body = body.unwrap_or_default();
        let status = parts.status;
        let mut answer = Vec::with_capacity(ANSWER + body.len());
        let reason = status.canonical_reason().unwrap_or_default();
        answer.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).as_bytes());
        let mut fields: Vec<(HeaderName, HeaderValue)> = Vec::new();
        for (name, value) in &parts.headers {
            fields.push((name.clone(), value.clone()));
        }
        fields.push((header::CONTENT_LENGTH, HeaderValue::from(body.len())));
        for (name, value) in &fields {
            answer.extend_from_slice(name.as_str().as_bytes());
            answer.extend_from_slice(b": ");
            answer.extend_from_slice(value.as_bytes());
            answer.extend_from_slice(b"\r\n");
        }
        self.date.push(&mut answer);
        answer.extend_from_slice(b"\r\n");
        answer.extend_from_slice(&body);
        answer
    }
}

fn push_number(bytes: &mut Vec<u8>, number: usize) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    bytes.extend_from_slice(&digits[at..]);
}

/// The field with the date (RFC 9110 §6.6.1), written anew once a second.
#[derive(Debug, Default)]
struct Date(Mutex<(u64, String)>);

impl Date {
    fn push(&self, answer: &mut Vec<u8>) {
        let second = flyball_core::time::unix_nanos() / 1_000_000_000;
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.0 != second || kept.1.is_empty() {
            *kept = (second, date(second));
        }
        answer.extend_from_slice(kept.1.as_bytes());
    }
}

fn date(second: u64) -> String {
    let at = i64::try_from(second)
        .ok()
        .and_then(|second| time::OffsetDateTime::from_unix_timestamp(second).ok())
        .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let (day, month) = (at.weekday().to_string(), at.month().to_string());
    format!(
        "date: {}, {:02} {} {} {:02}:{:02}:{:02} GMT\r\n",
        &day[..3],
        at.day(),
        &month[..3],
        at.year(),
        at.hour(),
        at.minute(),
        at.second()
    )
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lane")
    }
}

/// What the ordinary way would send, for comparison.
#[cfg(test)]
fn ordinary(response: axum::response::Response) -> Vec<(String, String)> {
    gate::dress(response)
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: head::Bounds = head::Bounds {
        bytes: 16 * 1024,
        fields: 32,
        target: 8 * 1024,
    };

    fn plain(head: &str) -> bool {
        let head = head.replace('\n', "\r\n");
        Plain::read(head.as_bytes(), &BOUNDS).is_some()
    }

    /// API-6: only what is plain in every respect goes the short way; all else is judged by the ordinary rules.
    #[test]
    fn only_plain_requests_are_taken() {
        let with = |fields: &str| {
            plain(&format!(
                "POST /v1/tasks HTTP/1.1\nhost: a\ncontent-type: application/json\ncontent-length: 2\n{fields}\n"
            ))
        };
        for fields in [
            "",
            "Authorization: Bearer x\n",
            "User-Agent: a\nAccept: */*\nAccept-Encoding: gzip\nConnection: Keep-Alive\nIdempotency-Key: k\n",
        ] {
            assert!(with(fields), "{fields}");
        }
        for fields in [
            "origin: http://evil\n",
            "sec-fetch-site: cross-site\n",
            "transfer-encoding: chunked\n",
            "content-length: 2\n",
            "host: b\n",
            "content-encoding: gzip\n",
            "expect: 100-continue\n",
            "connection: close\n",
            "connection: upgrade\n",
            "idempotency-key: a\nidempotency-key: b\n",
            "authorization: a\nauthorization: b\n",
            "x-anything: 1\n",
        ] {
            assert!(!with(fields), "{fields}");
        }
        let field = "host: a\ncontent-type: application/json\ncontent-length: 2\n\n";
        assert!(plain(&format!("POST /v1/tasks/lease HTTP/1.1\n{field}")));
        assert!(plain(&format!("POST /v1/tasks/finish HTTP/1.1\n{field}")));
        for line in [
            "GET /v1/tasks HTTP/1.1",
            "POST /v1/tasks HTTP/1.0",
            "POST /v1/tasks?a HTTP/1.1",
            "POST /v1/tasks/ HTTP/1.1",
            "POST /v1/tasks/7/retry HTTP/1.1",
            "POST http://a/v1/tasks HTTP/1.1",
            "POST /v1/%74asks HTTP/1.1",
        ] {
            assert!(!plain(&format!("{line}\n{field}")), "{line}");
        }
        for fields in [
            "host: a\ncontent-type: application/json\n",
            "host: a\ncontent-length: 2\n",
            "content-type: application/json\ncontent-length: 2\n",
            "host: a\ncontent-type: text/plain\ncontent-length: 2\n",
            "host: a\ncontent-type: application/json\ncontent-length: +2\n",
        ] {
            assert!(
                !plain(&format!("POST /v1/tasks HTTP/1.1\n{fields}\n")),
                "{fields}"
            );
        }
        assert!(!plain("POST /v1/tasks HTTP/1.1\nhost: a\n"));
    }

    #[test]
    fn answers_have_the_fields_of_all_answers() {
        let mut fields: Vec<_> = gate::FIXED.iter().chain(&gate::DEFAULTS).collect();
        let mut expected = ordinary(StatusCode::OK.into_response());
        expected.retain(|(name, _)| name != "content-length");
        fields.sort();
        expected.sort();
        let fields: Vec<_> = fields
            .into_iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        assert_eq!(fields, expected);
    }

    #[test]
    fn dates_are_those_of_http() {
        assert_eq!(date(784_111_777), "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n");
        let mut bytes = Vec::new();
        for number in [0, 9, 10, 1234] {
            push_number(&mut bytes, number);
        }
        assert_eq!(bytes, b"09101234");
    }
}
