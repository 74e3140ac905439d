//! As much of an HTTP/1.1 client as measuring needs: requests, and answers of a stated length.

use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};

/// Answers longer than this are an error.
const MAX_ANSWER: usize = 4 << 20;

/// A request on a connection that stays open.
pub fn get(host: &str, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: {host}\r\naccept: application/json\r\n\r\n").into_bytes()
}

/// A request with a JSON body on a connection that stays open; with a token, as its bearer.
pub fn post(host: &str, path: &str, token: Option<&str>, json: &str) -> Vec<u8> {
    let bearer = token.map_or_else(String::new, |token| {
        format!("authorization: Bearer {token}\r\n")
    });
    format!(
        "POST {path} HTTP/1.1\r\nhost: {host}\r\n{bearer}content-type: application/json\r\ncontent-length: {}\r\n\r\n{json}",
        json.len()
    )
    .into_bytes()
}

/// Status and length in bytes, head included, of the answer at the beginning of `bytes`; None while it is not complete.
pub fn answer(bytes: &[u8]) -> Result<Option<(u16, usize)>> {
    const BLANK_LINE: &[u8] = b"\r\n\r\n";
    let Some(end) = memchr::memmem::find(bytes, BLANK_LINE) else {
        ensure!(bytes.len() <= MAX_ANSWER, "an answer without an end");
        return Ok(None);
    };
    let head = std::str::from_utf8(&bytes[..end]).context("the head of an answer")?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1.1 "))
        .and_then(|rest| rest.get(..3)?.parse().ok())
        .with_context(|| format!("no HTTP/1.1 answer: {head:?}"))?;
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .with_context(|| format!("an answer without content-length: {head:?}"))?
        .1;
    let length: usize = length.trim().parse().context("content-length")?;
    ensure!(length <= MAX_ANSWER, "an answer of {length} bytes");
    let whole = end + BLANK_LINE.len() + length;
    Ok((bytes.len() >= whole).then_some((status, whole)))
}

/// Asks over a connection that stays open, and reads the whole answer; its status.
pub fn exchange(stream: &mut (impl Read + Write), path: &str) -> Result<u16> {
    stream.write_all(&get("localhost", path))?;
    let (mut bytes, mut piece) = (Vec::new(), [0; 2048]);
    loop {
        let length = stream.read(&mut piece)?;
        ensure!(length > 0, "the connection ended within an answer");
        bytes.extend_from_slice(&piece[..length]);
        if let Some((status, _)) = answer(&bytes)? {
            return Ok(status);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_end_where_they_say() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nx: y\r\n\r\n{}HTTP/1.1 ";
        let whole = bytes.len() - 9;
        for cut in 0..whole {
            assert_eq!(answer(&bytes[..cut]).unwrap(), None, "{cut}");
        }
        assert_eq!(answer(bytes).unwrap(), Some((200, whole)));
    }

    #[test]
    fn strange_answers_are_errors() {
        for text in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n",
            "HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
            "nonsense\r\n\r\n",
        ] {
            assert!(answer(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
