//! Errors as people and programs read them: `application/problem+json` (RFC 9457).

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::borrow::Cow;
use utoipa::ToSchema;

/// The media type of every error.
pub(crate) const MEDIA_TYPE: &str = "application/problem+json";

/// Longest text that a problem repeats of what a client sent, characters.
const MAX_ECHO: usize = 200;
/// Longest explanation, characters: parts that say what they were given do not always bound it.
const MAX_DETAIL: usize = 1000;

/// One wrong place in a body, or one wrong parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// Where: a JSON pointer (RFC 6901) into the body, or `?name` for a parameter of the query.
    pub pointer: String,
    /// What is wrong there, and what is expected.
    pub detail: String,
}

/// Why a request was refused. A refused request has changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// The kind of problem, an address relative to this server where it is explained.
    #[serde(rename = "type")]
    #[schema(example = "/docs#unprocessable-entity")]
    pub kind: String,
    /// The kind of problem in words, the same for every problem of its kind.
    #[schema(example = "Unprocessable Entity")]
    pub title: String,
    /// The HTTP status.
    #[schema(example = 422)]
    pub status: u16,
    /// What went wrong this time.
    pub detail: String,
    /// The path that was asked for.
    pub instance: String,
    /// The wrong places, where places are wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// Seconds after which to try again.
    #[serde(skip)]
    pub(crate) retry_after: Option<u32>,
}

impl Problem {
    /// A problem whose status says its kind. The path is filled in where the response leaves.
    pub(crate) fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        Problem {
            kind: format!("/docs#{}", title.to_ascii_lowercase().replace(' ', "-")),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: detail.into().into_owned(),
            instance: String::new(),
            errors: Vec::new(),
            retry_after: None,
        }
    }

    pub(crate) fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Problem::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(crate) fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Problem::new(StatusCode::NOT_FOUND, detail)
    }

    pub(crate) fn conflict(detail: impl Into<Cow<'static, str>>) -> Self {
        Problem::new(StatusCode::CONFLICT, detail)
    }

    pub(crate) fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }

    pub(crate) fn not_implemented(detail: impl Into<Cow<'static, str>>) -> Self {
        Problem::new(StatusCode::NOT_IMPLEMENTED, detail)
    }

    /// Names a wrong place.
    pub(crate) fn at(mut self, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        self.errors.push(FieldError {
            pointer: pointer.into(),
            detail: detail.into(),
        });
        self
    }

    /// Says of each wrong place where it is for the client.
    pub(crate) fn moved(mut self, to: impl Fn(&str) -> String) -> Self {
        for error in &mut self.errors {
            let moved = to(&error.pointer);
            // A single place is named in the sentence, too.
            let rest = self.detail.strip_prefix(&error.pointer);
            if let Some(rest) = rest.filter(|rest| rest.starts_with(": ")) {
                self.detail = format!("{moved}{rest}");
            }
            error.pointer = moved;
        }
        self
    }

    /// Places below `parent` are given from there.
    pub(crate) fn below(self, parent: &str) -> Self {
        self.moved(|pointer| pointer.strip_prefix(parent).unwrap_or(pointer).to_owned())
    }

    pub(crate) fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }
}

/// One step of a JSON pointer (RFC 6901), bounded.
pub(crate) fn pointer_to(key: &str) -> String {
    format!("/{}", echo(&key.replace('~', "~0").replace('/', "~1")))
}

/// Shortens what a client sent before it is repeated to it or to a log.
pub(crate) fn echo(text: &str) -> Cow<'_, str> {
    clip(text, MAX_ECHO)
}

fn clip(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status;
        if let Some(seconds) = self.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        // The document is written where the response leaves, when the path is known.
        response.extensions_mut().insert(self);
        response
    }
}

/// Gives a response that tells of an error its document: the handler's own, or one made of the status (of the router's own 404 and
/// 405, for example). Header fields such as `Allow` stay.
pub(crate) fn complete(response: Response, instance: &str) -> Response {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let (mut parts, _) = response.into_parts();
    let mut problem = parts
        .extensions
        .remove::<Problem>()
        .unwrap_or_else(|| Problem::new(status, default_detail(status)));
    problem.instance = echo(instance).into_owned();
    let details = problem.errors.iter_mut().map(|error| &mut error.detail);
    for detail in details.chain([&mut problem.detail]) {
        if let Cow::Owned(clipped) = clip(detail, MAX_DETAIL) {
            *detail = clipped;
        }
    }
    // A structure of strings and numbers: writing it cannot fail.
    let document = serde_json::to_vec(&problem).unwrap_or_default();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts
        .headers
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    Response::from_parts(parts, Body::from(document))
}

fn default_detail(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "there is nothing at this path; /openapi.json lists what there is",
        StatusCode::METHOD_NOT_ALLOWED => {
            "this path has no such method; the Allow field lists those it has"
        }
        _ => "the request was refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_repeated_is_bounded_at_a_character() {
        let text = "é".repeat(500);
        assert_eq!(echo(&text).chars().count(), MAX_ECHO + 1);
        assert_eq!(echo("short"), "short");
    }
}
