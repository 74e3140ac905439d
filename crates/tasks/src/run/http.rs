//! Calls of URLs.
//!
//! The attempt is done when the answer's status is 200 to 299; 429 and 503 say "later", and when; other 500s and connections that fail may pass; everything else
//! will not, redirects included: they are not followed, as the body would go to somebody nobody named. Each call carries `Flyball-Task-Id`,
//! `Flyball-Attempt` and, the same for each attempt, `Idempotency-Key`, unless the task brings its own.
//!
//! Invariants: of an answer at most [`BODY_BYTES_MAX`] are read and kept; a call that is to end drops its connection; a second call goes out only for tasks that
//! allow it, and only as often as the budget does.

use crate::run::connect::{Connector, Refused, Shared};
use crate::run::context::Live;
use crate::run::drive::Body;
use crate::run::ended::Ended;
use crate::run::settings::RunSettings;
use crate::task::HttpSpec;
use bytes::{Bytes, BytesMut};
use flyball_core::time::{Clock, OsClock, WallTime};
use flyball_policy::limit::{Hedge, Verdict};
use flyball_policy::queue::Reason;
use http_body_util::{BodyExt, Full};
use hyper::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, Error as CallError};
use hyper_util::rt::TokioExecutor;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The most of an answer's body that is read, bytes.
const BODY_BYTES_MAX: usize = 1 << 20;
/// The longest result, bytes of JSON: the queue's bound, with room for status and headers.
const RESULT_BYTES_MAX: usize = crate::run::handlers::RESULT_BYTES_MAX;
/// The most header fields of an answer that are kept, and the longest value, bytes.
const HEADERS_MAX: usize = 64;
const HEADER_BYTES_MAX: usize = 1_024;
/// A wait that an answer asks for counts at most as this: beyond, it is an error of theirs.
const WAIT_MAX: Duration = Duration::from_secs(86_400);
/// How long a connection without a call is kept for the next one, and how many to a host.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const IDLE_MAX: usize = 16;
/// How calls name themselves.
const USER: &str = concat!("flyball/", env!("CARGO_PKG_VERSION"));

/// Makes calls.
#[derive(Clone)]
pub(crate) struct Caller {
    /// For the local user and the program itself.
    free: Clients,
    /// For calls that were submitted over a network: connections are not shared with the others, nor kept when the list changes.
    bound: Arc<Mutex<Clients>>,
    reach: Shared,
    hedge: Arc<Mutex<Option<Hedge>>>,
}

/// What connections are made and kept by.
#[derive(Clone)]
struct Clients {
    client: Result<Client<HttpsConnector<Connector>, Full<Bytes>>, Box<str>>,
    plain: Client<Connector, Full<Bytes>>,
}

/// What came back.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    truncated: bool,
}

/// Why nothing came back.
struct Failure {
    why: String,
    retryable: bool,
}

impl Clients {
    fn new(connector: &Connector) -> Clients {
        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_MAX)
            .pool_timer(hyper_util::rt::TokioTimer::new());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(provider)
            .map(|tls| {
                let tls = tls.https_or_http().enable_http1();
                builder.build(tls.wrap_connector(connector.clone()))
            })
            .map_err(|error| format!("no certificates to trust were found: {error}").into());
        Clients {
            client,
            plain: builder.build(connector.clone()),
        }
    }
}

impl Caller {
    pub(crate) fn new(settings: &RunSettings) -> Caller {
        let reach = Shared::new(settings.calls.clone());
        Caller {
            free: Clients::new(&Connector::free()),
            bound: Arc::new(Mutex::new(Clients::new(&Connector::bound(reach.clone())))),
            reach,
            hedge: Arc::new(Mutex::new(Hedge::new(settings.hedge).ok())),
        }
    }

    pub(crate) fn set(&self, settings: &RunSettings) {
        if self.reach.set(&settings.calls) {
            *self.bound() = Clients::new(&Connector::bound(self.reach.clone()));
        }
        let mut hedge = self.hedge();
        if hedge.as_ref().map(Hedge::config) != Some(&settings.hedge) {
            *hedge = Hedge::new(settings.hedge).ok();
        }
    }

    fn bound(&self) -> MutexGuard<'_, Clients> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hedge(&self) -> MutexGuard<'_, Option<Hedge>> {
        self.hedge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a task's call.
    pub(crate) fn call(&self, live: Arc<Live>, spec: HttpSpec) -> Body {
        let caller = self.clone();
        Box::pin(async move {
            live.start();
            let request = match Prepared::new(&live, &spec) {
                Ok(request) => request,
                Err(why) => return Ended::fatal(why),
            };
            tokio::select! {
                ended = caller.run(&request, spec.hedge) => ended,
                // The connection goes with the call.
                _ = live.wait_stopped() => Ended::returned(None),
            }
        })
    }

    async fn run(&self, request: &Prepared, hedged: bool) -> Ended {
        let answer = if hedged {
            self.hedged(request).await
        } else {
            self.send(request).await
        };
        match answer {
            Ok(answer) => judge(&answer),
            Err(failure) => Ended::failed(Reason::Error, failure.retryable, failure.why),
        }
    }

    /// Makes a call, and a second one if the first is slow and the budget allows it; the first answer that is one counts.
    async fn hedged(&self, request: &Prepared) -> Result<Answer, Failure> {
        let began = OsClock.now();
        let delay = self.hedge().as_mut().and_then(|hedge| hedge.begin(began));
        let mut first = std::pin::pin!(self.send(request));
        let mut won = false;
        let answer = 'answer: {
            let Some(delay) = delay else {
                break 'answer first.await;
            };
            tokio::select! {
                answer = &mut first => break 'answer answer,
                () = tokio::time::sleep(delay) => {}
            }
            let now = OsClock.now();
            if !self.hedge().as_mut().is_some_and(|hedge| hedge.second(now)) {
                break 'answer first.await;
            }
            let mut second = std::pin::pin!(self.send(request));
            tokio::select! {
                answer = &mut first => match answer {
                    Ok(answer) => Ok(answer),
                    Err(_) => second.await,
                },
                answer = &mut second => match answer {
                    Ok(answer) => {
                        won = true;
                        Ok(answer)
                    }
                    Err(_) => first.await,
                },
            }
        };
        let now = OsClock.now();
        if let Some(hedge) = self.hedge().as_mut() {
            hedge.end(now, now.duration_since(began), won);
        }
        answer
    }

    async fn send(&self, prepared: &Prepared) -> Result<Answer, Failure> {
        let request = prepared.request();
        let clients = if prepared.remote {
            self.reach.check(&prepared.url).map_err(|why| Failure {
                why: format!("the URL {why}"),
                retryable: false,
            })?;
            self.bound().clone()
        } else {
            self.free.clone()
        };
        let answer = match (&clients.client, prepared.uri.scheme_str()) {
            (Ok(client), _) => client.request(request).await,
            (Err(_), Some("http")) => clients.plain.request(request).await,
            (Err(why), _) => {
                return Err(Failure {
                    why: why.to_string(),
                    retryable: false,
                });
            }
        };
        let answer = answer.map_err(|error| failure(&error))?;
        let (head, mut body) = answer.into_parts();
        let mut kept = BytesMut::new();
        let mut truncated = false;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Failure {
                why: format!("the answer broke off: {}", chain(&error)),
                retryable: true,
            })?;
            if let Some(data) = frame.data_ref() {
                let room = BODY_BYTES_MAX - kept.len();
                kept.extend_from_slice(&data[..data.len().min(room)]);
                if data.len() > room {
                    truncated = true;
                    break;
                }
            }
        }
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body: kept.freeze(),
            truncated,
        })
    }

    /// Asks a dependency whether it is well.
    pub(crate) async fn check(&self, url: &str) -> Result<(), Box<str>> {
        let prepared = Prepared::plain(url)?;
        match self.send(&prepared).await {
            Ok(answer) if answer.status.as_u16() < 400 => Ok(()),
            Ok(answer) => Err(format!("it answered {}", answer.status).into()),
            Err(failure) => Err(failure.why.into()),
        }
    }
}

/// A call that can be made, and made again.
struct Prepared {
    method: Method,
    uri: Uri,
    /// The URL as it was given.
    url: String,
    remote: bool,
    headers: HeaderMap,
    body: Bytes,
}

impl Prepared {
    fn plain(url: &str) -> Result<Prepared, String> {
        let uri = read(url).map_err(|why| format!("{url:?} {why}"))?;
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_static(USER));
        Ok(Prepared {
            method: Method::GET,
            uri,
            url: url.to_owned(),
            remote: false,
            headers,
            body: Bytes::new(),
        })
    }

    fn new(live: &Live, spec: &HttpSpec) -> Result<Prepared, String> {
        let mut prepared = Prepared::plain(&spec.url)?;
        prepared.remote = spec.remote;
        prepared.method = Method::from_bytes(spec.method.as_bytes())
            .map_err(|_| format!("{:?} is no method", spec.method))?;
        if prepared.method == Method::CONNECT {
            return Err("CONNECT is no call that has an answer".to_owned());
        }
        prepared.body = spec.body.clone().unwrap_or_default();
        let id = live.id.to_string();
        let attempt = live.attempts.started.to_string();
        let key = format!("flyball-task-{id}");
        for (name, value) in [
            ("flyball-task-id", id),
            ("flyball-attempt", attempt),
            ("idempotency-key", key),
        ] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                prepared
                    .headers
                    .insert(HeaderName::from_static(name), value);
            }
        }
        let mut own = HeaderMap::new();
        for (name, value) in &spec.headers {
            let field = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| format!("{name:?} is no name of a header field"))?;
            let value = HeaderValue::from_bytes(value.as_bytes())
                .map_err(|_| format!("the value of header field {name:?} is none"))?;
            if is_framing(&field) {
                return Err(format!("header field {name:?} is not the task's to set"));
            }
            own.append(field, value);
        }
        for name in own.keys() {
            prepared.headers.remove(name);
        }
        prepared.headers.extend(own);
        Ok(prepared)
    }

    fn request(&self) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

fn read(url: &str) -> Result<Uri, String> {
    let uri: Uri = url.parse().map_err(|error| format!("is no URL: {error}"))?;
    let host = uri.host().unwrap_or_default();
    if !matches!(uri.scheme_str(), Some("http" | "https")) || host.is_empty() {
        return Err("is no URL that begins with http:// or https://".to_owned());
    }
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let port = authority.rsplit_once(&format!("{host}:"));
    if port.is_some_and(|(_, port)| !port.is_empty()) && uri.port_u16().is_none() {
        return Err("names a port that there is not: expected 1 to 65535".to_owned());
    }
    Ok(uri)
}

/// Says whether a URL can be called.
///
/// # Errors
/// Why not, beginning with a verb.
pub fn check_url(url: &str) -> Result<(), String> {
    let uri = read(url)?;
    if uri.authority().is_some_and(|a| a.as_str().contains('@')) {
        return Err(
            "names a user, and those are not sent from there: say who calls in a header field"
                .to_owned(),
        );
    }
    Ok(())
}

/// Says whether a task may set a header field of its call.
///
/// # Errors
/// Why not, beginning with a verb.
pub fn check_header(name: &str, value: &str) -> Result<(), String> {
    let field = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| "is no name of a header field".to_owned())?;
    HeaderValue::from_bytes(value.as_bytes())
        .map_err(|_| "has no value that a header field can have".to_owned())?;
    if is_framing(&field) {
        return Err("is not the task's to set".to_owned());
    }
    Ok(())
}

/// Fields that say where a message ends or what becomes of the connection.
fn is_framing(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "content-length"
            | "transfer-encoding"
            | "connection"
            | "upgrade"
            | "te"
            | "trailer"
            | "keep-alive"
    )
}

fn failure(error: &CallError) -> Failure {
    Failure {
        why: if error.is_connect() {
            format!("no connection: {}", chain(error))
        } else {
            format!("no answer: {}", chain(error))
        },
        retryable: !is_refusal(error),
    }
}

/// Whether it was this side that did not want to connect.
fn is_refusal(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<Refused>().is_some() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// What was said, by all who said something.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn judge(answer: &Answer) -> Ended {
    let status = answer.status;
    if status.is_success() {
        return Ended::done(Some(result(answer)));
    }
    let later = matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    );
    let retryable = later || status.is_server_error();
    let mut why = format!("answered {status}");
    if status.is_redirection() {
        why.push_str(", and redirects are not followed");
    }
    let said = String::from_utf8_lossy(&answer.body[..answer.body.len().min(2_048)]);
    if !said.trim().is_empty() {
        why = format!("{why}: {}", said.trim());
    }
    let wait = later.then(|| retry_after(&answer.headers)).flatten();
    let ended = Ended::failed(Reason::Error, retryable, why).after(wait);
    Ended {
        // Too much was asked of it: it works.
        verdict: match status {
            StatusCode::TOO_MANY_REQUESTS => Verdict::Unknown,
            _ if retryable => Verdict::Failure,
            _ => Verdict::Success,
        },
        overload: matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
        ),
        ..ended
    }
}

/// How long to wait, by a number of seconds or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if let Ok(seconds) = text.parse::<u64>() {
        Duration::from_secs(seconds)
    } else {
        let date = jiff::fmt::rfc2822::DateTimeParser::new()
            .relaxed_weekday(true)
            .parse_timestamp(text)
            .ok()?;
        let nanos = u64::try_from(date.as_nanosecond()).ok()?;
        WallTime::from_unix_nanos(nanos).duration_since(WallTime::now())
    };
    Some(wait.min(WAIT_MAX))
}

/// Status, header fields and body as JSON, the body cut where it would be too long.
fn result(answer: &Answer) -> Bytes {
    let mut headers = serde_json::Map::new();
    for (name, value) in answer.headers.iter().take(HEADERS_MAX) {
        let value = &value.as_bytes()[..value.len().min(HEADER_BYTES_MAX)];
        let value = String::from_utf8_lossy(value).into_owned();
        headers.insert(name.as_str().to_owned(), value.into());
    }
    let mut length = answer.body.len();
    loop {
        let kept = &answer.body[..length];
        let mut json = serde_json::Map::new();
        json.insert("status".to_owned(), answer.status.as_u16().into());
        json.insert("headers".to_owned(), headers.clone().into());
        // Cut in the middle of a character, what stands before it is still text.
        match std::str::from_utf8(kept) {
            Ok(text) => json.insert("body".to_owned(), text.into()),
            Err(error) if error.error_len().is_none() && length < answer.body.len() => {
                length = error.valid_up_to();
                continue;
            }
            Err(_) => json.insert("body_base64".to_owned(), base64(kept).into()),
        };
        let truncated = answer.truncated || length < answer.body.len();
        if truncated {
            json.insert("truncated".to_owned(), true.into());
        }
        let json = serde_json::Value::from(json).to_string();
        if json.len() <= RESULT_BYTES_MAX {
            return json.into();
        }
        // Base64 takes four thirds, an escaped byte six times its place: two or three rounds at most.
        length = length * 9 / 10 * RESULT_BYTES_MAX / json.len();
    }
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            if place <= chunk.len() {
                let letter = LETTERS[(word >> (18 - 6 * place)) as usize & 63];
                text.push(char::from(letter));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_text_of_rfc_4648() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
    }

    fn answer(status: u16, headers: &[(&'static str, &'static str)], body: Vec<u8>) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: headers
                .iter()
                .map(|(name, value)| {
                    (
                        HeaderName::from_static(name),
                        HeaderValue::from_static(value),
                    )
                })
                .collect(),
            body: body.into(),
            truncated: false,
        }
    }

    /// TASK-11: what a result may hold is bounded, whatever the body is made of.
    #[test]
    fn results_fit_whatever_the_body_is() {
        for body in [
            vec![b'a'; BODY_BYTES_MAX],
            vec![1; BODY_BYTES_MAX],
            vec![0xff; BODY_BYTES_MAX],
            "ä".repeat(BODY_BYTES_MAX / 2).into_bytes(),
        ] {
            let json = result(&answer(200, &[], body));
            assert!(
                json.len() <= RESULT_BYTES_MAX && json.len() > RESULT_BYTES_MAX / 2,
                "{}",
                json.len()
            );
            let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
            assert_eq!(json["truncated"], true);
        }
        let json: serde_json::Value =
            serde_json::from_slice(&result(&answer(201, &[("x-a", "b")], b"{}".to_vec()))).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"status": 201, "headers": {"x-a": "b"}, "body": "{}"})
        );
    }

    /// TASK-7: how long to wait is read as a number or a date; a day at most.
    #[test]
    fn waits_are_read() {
        let wait = |text| retry_after(&answer(503, &[("retry-after", text)], Vec::new()).headers);
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("99999999999"), Some(WAIT_MAX));
        assert_eq!(wait("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("Fri, 31 Dec 2199 23:59:59 GMT"), Some(WAIT_MAX));
        assert_eq!(wait("soon"), None);
    }
}
