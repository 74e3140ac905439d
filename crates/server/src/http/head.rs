//! Judges the head of a request, byte for byte as it arrived, before the HTTP library sees it.
//!
//! The library is lenient where leniency helps an attacker: it takes `Transfer-Encoding` beside `Content-Length` and drops
//! the latter, so that a proxy in front and this server could disagree on where a request ends (RFC 9112 §6.3, §11.2). So the
//! head is parsed here first, and its framing decided. Pure: bytes in, a verdict out.
//!
//! Left out: `Host`, `Origin` and rights, which are judged on the parsed request (`access`).

use axum::http::StatusCode;

/// Where the body of an accepted request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// After so many bytes; zero for a request without a body.
    Length(u64),
    /// After the last chunk.
    Chunked,
}

/// A head that is refused: the status, and one sentence for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) detail: String,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Refusal {
            status,
            detail: detail.into(),
        }
    }
}

fn bad(detail: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, detail)
}

/// Bounds on a head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Bytes of request line and fields together.
    pub(crate) bytes: usize,
    /// Fields.
    pub(crate) fields: usize,
    /// Bytes of the request target.
    pub(crate) target: usize,
}

/// Looks for the end of a head in `bytes`, continuing at `from`; returns the length of the head, or from where to look when more
/// has come. Empty lines before the request line do not count (RFC 9112 §2.2). Linear however the bytes arrive.
pub(crate) fn end_of(bytes: &[u8], from: usize) -> Result<usize, usize> {
    let start = bytes
        .iter()
        .position(|b| !matches!(b, b'\r' | b'\n'))
        .unwrap_or(bytes.len());
    let mut at = from.max(start);
    while at < bytes.len() {
        if bytes[at] == b'\n' {
            match &bytes[at + 1..] {
                [b'\n', ..] => return Ok(at + 2),
                [b'\r', b'\n', ..] => return Ok(at + 3),
                [] | [b'\r'] => return Err(at),
                _ => {}
            }
        }
        at += 1;
    }
    Err(at)
}

/// Judges a head that has grown to its bound without ending: the target or the fields are too long.
pub(crate) fn too_long(bytes: &[u8], bounds: &Bounds) -> Refusal {
    if bytes.contains(&b'\n') {
        Refusal::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            format!("the head of a request may have {} bytes", bounds.bytes),
        )
    } else {
        target_too_long(bounds)
    }
}

fn target_too_long(bounds: &Bounds) -> Refusal {
    Refusal::new(
        StatusCode::URI_TOO_LONG,
        format!("the target of a request may have {} bytes", bounds.target),
    )
}

/// Judges a complete head.
pub(crate) fn judge(head: &[u8], bounds: &Bounds) -> Result<Framing, Refusal> {
    let mut fields = vec![httparse::EMPTY_HEADER; bounds.fields];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(bad("the head of the request is malformed")),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Refusal::new(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                format!("a request may have {} header fields", bounds.fields),
            ));
        }
        Err(error) => {
            return Err(bad(format!(
                "the head of the request is malformed: {error}"
            )));
        }
    }
    let target = request.path.unwrap_or_default();
    if target.len() > bounds.target {
        return Err(target_too_long(bounds));
    }
    // The library would answer this one by itself, without a document.
    if axum::http::Uri::try_from(target).is_err() {
        return Err(bad("the target of the request is malformed"));
    }
    let is_http_11 = request.version == Some(1);

    let mut length = None;
    let mut coding = None;
    for field in request.headers.iter() {
        if field.name.eq_ignore_ascii_case("content-length") {
            if length.is_some() {
                return Err(bad("Content-Length is given more than once"));
            }
            length = Some(content_length(field.value)?);
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            if coding.is_some() {
                return Err(bad("Transfer-Encoding is given more than once"));
            }
            coding = Some(field.value);
        } else if field.name.eq_ignore_ascii_case("content-encoding")
            && !field.value.eq_ignore_ascii_case(b"identity")
        {
            return Err(Refusal::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "bodies are not decompressed: send them as they are",
            ));
        }
    }
    match (coding, length) {
        (Some(_), Some(_)) => Err(bad(
            "Transfer-Encoding and Content-Length exclude each other",
        )),
        (Some(_), None) if !is_http_11 => Err(bad("HTTP/1.0 has no Transfer-Encoding")),
        (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        (Some(_), None) => Err(Refusal::new(
            StatusCode::NOT_IMPLEMENTED,
            "the only transfer coding understood is chunked",
        )),
        (None, length) => Ok(Framing::Length(length.unwrap_or(0))),
    }
}

/// Digits only: no sign, no list, no white space inside (RFC 9110 §8.6).
pub(super) fn content_length(value: &[u8]) -> Result<u64, Refusal> {
    let refused = || bad("Content-Length must be one decimal number");
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(refused());
    }
    std::str::from_utf8(value)
        .ok()
        .and_then(|digits| digits.parse().ok())
        // The library keeps the greatest numbers for itself, and would answer them without a document.
        .filter(|length| *length <= i64::MAX as u64)
        .ok_or_else(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        bytes: 16 * 1024,
        fields: 32,
        target: 8 * 1024,
    };

    fn status(head: &str) -> u16 {
        judge(head.as_bytes(), &BOUNDS).unwrap_err().status.as_u16()
    }

    #[test]
    fn the_end_of_a_head_is_found_however_it_arrives() {
        for text in [
            "GET / HTTP/1.1\r\nhost: a\r\n\r\nrest",
            "GET / HTTP/1.1\nhost: a\n\nrest",
            "\r\n\r\nGET / HTTP/1.1\r\nhost: a\n\r\nrest",
        ] {
            let whole = end_of(text.as_bytes(), 0).unwrap();
            assert_eq!(&text[whole..], "rest");
            let mut from = 0;
            for end in 0..whole {
                match end_of(&text.as_bytes()[..end], from) {
                    Err(next) => from = next,
                    Ok(found) => panic!("an end at {found} in {:?}", &text[..end]),
                }
            }
            assert_eq!(end_of(text.as_bytes(), from), Ok(whole));
        }
    }

    #[test]
    fn framing_is_decided_once_and_never_twice() {
        let framed = |fields: &str| {
            judge(
                format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n").as_bytes(),
                &BOUNDS,
            )
        };
        assert_eq!(framed(""), Ok(Framing::Length(0)));
        assert_eq!(framed("content-length: 12\r\n"), Ok(Framing::Length(12)));
        assert_eq!(
            framed("Transfer-Encoding: Chunked\r\n"),
            Ok(Framing::Chunked)
        );
        for fields in [
            "content-length: 5\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
            "content-length: 5\r\ncontent-length: 5\r\n",
            "content-length: 5, 5\r\n",
            "content-length: +5\r\n",
            "content-length: \r\n",
            "content-length: 99999999999999999999\r\n",
            "content-length: 18446744073709551615\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            "content-length : 5\r\n",
            "x: a\r\n folded\r\n",
        ] {
            let refusal = framed(fields).unwrap_err();
            assert_eq!(refusal.status, 400, "{fields:?}");
        }
        assert_eq!(
            framed("transfer-encoding: gzip, chunked\r\n")
                .unwrap_err()
                .status,
            501
        );
        assert_eq!(
            framed("content-encoding: gzip\r\n").unwrap_err().status,
            415
        );
        assert_eq!(
            status("POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n"),
            400
        );
    }

    #[test]
    fn heads_are_bounded_in_fields_and_target() {
        let fields: String = (0..33).map(|n| format!("x-{n}: 1\r\n")).collect();
        assert_eq!(status(&format!("GET / HTTP/1.1\r\n{fields}\r\n")), 431);
        let target = "a".repeat(9000);
        assert_eq!(status(&format!("GET /{target} HTTP/1.1\r\n\r\n")), 414);
        assert_eq!(status("GET / HTTP/2.0\r\n\r\n"), 400);
        assert_eq!(status("PRI * HTTP/2.0\r\n\r\n"), 400);
        assert_eq!(too_long(&[b'a'; 20_000], &BOUNDS).status, 414);
        assert_eq!(too_long(b"GET / HTTP/1.1\r\nx: aaa", &BOUNDS).status, 431);
    }
}
