//! JSON bodies, read strictly.
//!
//! Malformed text is refused with its position (400), well-formed text that does not fit with a pointer to the place (422). The parser
//! bounds the depth and refuses numbers that no `f64` holds. What it would let pass is refused here: an object that
//! names a key twice, since readers disagree on which one counts.

use super::body::UploadError;
use crate::problem::{Problem, echo, pointer_to};
use crate::routes::Shared;
use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::BodyExt;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess};
use serde_json::{Map, Number, Value};
use std::fmt;

/// A request's or a response's body of type `T`.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

impl<T: serde::Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(bytes) => (
                [(header::CONTENT_TYPE, "application/json")],
                Body::from(bytes),
            )
                .into_response(),
            Err(error) => {
                tracing::error!(%error, "a reply cannot be written as JSON");
                Problem::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the reply cannot be written",
                )
                .into_response()
            }
        }
    }
}

impl<T: DeserializeOwned> FromRequest<Shared> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Shared) -> Result<Self, Problem> {
        let JsonBytes(bytes) = JsonBytes::from_request(request, app).await?;
        fit(parse(&bytes, app.json_depth - 1)?).map(Json)
    }
}

/// A request's body that says that it is JSON, as it came.
#[derive(Debug)]
pub(crate) struct JsonBytes(pub(crate) Bytes);

impl FromRequest<Shared> for JsonBytes {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &Shared) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "the body must be application/json",
            ));
        }
        read(request.into_body()).await.map(JsonBytes)
    }
}

/// Reads text of at most `depth` levels straight into a `T`, without a tree between. What is wrong is found by reading it once more: first as
/// text, then with the way to the place.
pub(crate) fn direct<T: DeserializeOwned>(bytes: &[u8], depth: usize) -> Result<T, Problem> {
    let shallow = is_shallow(bytes, depth);
    let object = bytes.trim_ascii_start().first() == Some(&b'{');
    if shallow
        && object
        && let Ok(value) = serde_json::from_slice(bytes)
    {
        return Ok(value);
    }
    expect_object(&parse(bytes, depth)?)?;
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let pointer = pointer(error.path());
        let inner = error.into_inner().to_string();
        // The position says nothing to who has the pointer.
        let detail = inner.split(" at line ").next().unwrap_or_default();
        Problem::invalid("the body does not fit what is expected here").at(pointer, echo(detail))
    })
}

/// Whether a text has at most so many levels. Most texts have fewer brackets than that, which costs next to nothing to tell.
fn is_shallow(bytes: &[u8], most: usize) -> bool {
    let opens = |byte: &&u8| matches!(byte, b'{' | b'[');
    if bytes.iter().filter(opens).count() <= most {
        return true;
    }
    let mut depth = 0usize;
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'{' | b'[' if depth == most => return false,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => loop {
                let rest = bytes.get(at..).unwrap_or_default();
                match memchr::memchr2(b'"', b'\\', rest) {
                    Some(found) if rest[found] == b'"' => {
                        at += found + 1;
                        break;
                    }
                    Some(found) => at += found + 2,
                    None => return true,
                }
            },
            _ => {}
        }
    }
    true
}

fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(one), None) = (types.next(), types.next()) else {
        return false;
    };
    let Ok(text) = one.to_str() else { return false };
    let mut parts = text.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    essence.eq_ignore_ascii_case("application/json")
        && parts.all(|parameter| {
            parameter.is_empty()
                || parameter.eq_ignore_ascii_case("charset=utf-8")
                || parameter.eq_ignore_ascii_case("charset=\"utf-8\"")
        })
}

/// Reads a body whole; it is bounded already.
async fn read(body: Body) -> Result<Bytes, Problem> {
    body.collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .map_err(|error| {
            // axum boxes the error of the body that it was given.
            let inner = error.into_inner();
            match inner.downcast::<UploadError>() {
                Ok(upload) => match *upload {
                    UploadError::Refused(refusal) => Problem::new(refusal.status, refusal.detail),
                    UploadError::Broken(_) => Problem::bad_request("the body is broken"),
                },
                Err(_) => Problem::bad_request("the body cannot be read"),
            }
        })
}

/// Parses text into a tree of at most `depth` levels, 128 at the most.
fn parse(bytes: &[u8], depth: usize) -> Result<Value, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    Strict { depth }
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|error| Problem::bad_request(format!("malformed JSON: {error}")))
}

/// Refuses what is no object. A list would be taken for the fields of a structure in the order in which the code happens to have them.
fn expect_object(value: &Value) -> Result<(), Problem> {
    let found = match value {
        Value::Object(_) => return Ok(()),
        Value::Array(_) => "a list",
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
    };
    Err(
        Problem::invalid("the body does not fit what is expected here")
            .at("", format!("found {found}, expected an object")),
    )
}

/// Makes a `T` of a tree.
fn fit<T: DeserializeOwned>(value: Value) -> Result<T, Problem> {
    expect_object(&value)?;
    serde_path_to_error::deserialize(value).map_err(|error| {
        let pointer = pointer(error.path());
        let detail = echo(&error.into_inner().to_string()).into_owned();
        Problem::invalid("the body does not fit what is expected here").at(pointer, detail)
    })
}

/// Writes a path as a JSON pointer (RFC 6901).
fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut pointer = String::new();
    for segment in path.iter() {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } | Segment::Enum { variant: key } => {
                pointer.push_str(&pointer_to(key));
            }
            Segment::Unknown => {}
        }
    }
    pointer
}

/// Builds a [`Value`], refusing keys that are given twice.
struct Strict {
    /// Levels that may still follow.
    depth: usize,
}

impl Strict {
    fn inner<E: de::Error>(&self) -> Result<Strict, E> {
        match self.depth.checked_sub(1) {
            Some(depth) => Ok(Strict { depth }),
            None => Err(E::custom("nested too deeply")),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> de::Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        self.inner::<A::Error>()?;
        while let Some(value) = seq.next_element_seed(self.inner()?)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        self.inner::<A::Error>()?;
        while let Some(key) = map.next_key::<String>()? {
            if values.contains_key(&key) {
                let key = echo(&key);
                return Err(de::Error::custom(format!("the key {key:?} is given twice")));
            }
            let value = map.next_value_seed(self.inner()?)?;
            values.insert(key, value);
        }
        Ok(Value::Object(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(text: &str) -> (u16, String) {
        let problem = parse(text.as_bytes(), 127).unwrap_err();
        (problem.status, problem.detail)
    }

    /// API-1: malformed JSON is refused with its position: too deep, out of range, not a number, half a pair, a key twice.
    #[test]
    fn malformed_json_is_refused_with_its_position() {
        for text in [
            "[".repeat(100_000),
            format!("{}1{}", "[".repeat(129), "]".repeat(129)),
            "{\"a\": 1e999}".into(),
            "{\"a\": -1e999}".into(),
            "{\"a\": NaN}".into(),
            "{\"a\": Infinity}".into(),
            "{\"a\": \"\\ud800\"}".into(),
            "{\"a\": 1, \"b\": {\"c\": 1, \"c\": 2}}".into(),
            "{} {}".into(),
            "".into(),
            "\u{feff}{}".into(),
            "{\"a\": 01}".into(),
        ] {
            let (status, detail) = status(&text);
            assert_eq!(status, 400);
            assert!(detail.contains("line 1 column"), "{detail}");
        }
        assert_eq!(parse(b"\"\xff\"", 127).unwrap_err().status, 400);
        let deep = format!("{}1{}", "[".repeat(127), "]".repeat(127));
        assert!(parse(deep.as_bytes(), 127).is_ok());
        assert!(parse(b"[{\"a\": []}]", 3).is_ok());
        assert!(parse(b"[{\"a\": []}]", 2).is_err());
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Outer {
        inner: Vec<Inner>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Inner {
        count: u8,
    }

    /// API-1: what is well-formed but does not fit is refused with a pointer to the place.
    #[test]
    fn what_does_not_fit_is_refused_with_a_pointer() {
        for (text, pointer) in [
            (
                "{\"inner\": [{\"count\": 1}, {\"count\": 256}]}",
                "/inner/1/count",
            ),
            ("{\"inner\": [{\"count\": -1}]}", "/inner/0/count"),
            ("{\"inner\": [{\"coumt\": 1}]}", "/inner/0/coumt"),
            ("{\"inner\": {}}", "/inner"),
            ("{\"inner\": [], \"x/y~\": 1}", "/x~1y~0"),
            ("[]", ""),
        ] {
            let problem = fit::<Outer>(parse(text.as_bytes(), 127).unwrap()).unwrap_err();
            assert_eq!(problem.status, 422);
            assert_eq!(problem.errors[0].pointer, pointer, "{problem:?}");
        }
    }

    #[test]
    fn only_json_counts_as_json() {
        for (value, accepted) in [
            ("application/json", true),
            ("Application/JSON; charset=UTF-8", true),
            ("application/json; charset=latin1", false),
            ("text/plain", false),
            ("application/jsonp", false),
            ("text/plain; application/json", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
            assert_eq!(is_json(&headers), accepted, "{value}");
            headers.append(header::CONTENT_TYPE, "text/plain".parse().unwrap());
            assert!(!is_json(&headers));
        }
    }
}
