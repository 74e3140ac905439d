//! Why the daemon did not do what it was asked to, in sentences.

use serde_json::Value;

use crate::show::inert;

/// Why there is no answer to use.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// What was asked makes no sense.
    Usage(String),
    /// Nobody answered, or not in time.
    Unreachable(String),
    /// The daemon said no.
    Refused(String),
    /// The daemon knows nothing of that name.
    Missing(String),
    /// The daemon ends, or has just begun, and said no for that reason.
    Ending(String),
    /// The answer is none that this program understands.
    Broken(String),
}

impl Failure {
    /// The exit status that stands for it.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Failure::Broken(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Unreachable(_) => 3,
            Failure::Refused(_) | Failure::Missing(_) | Failure::Ending(_) => 4,
        }
    }

    pub(crate) fn text(&self) -> &str {
        match self {
            Failure::Usage(text)
            | Failure::Unreachable(text)
            | Failure::Refused(text)
            | Failure::Missing(text)
            | Failure::Ending(text)
            | Failure::Broken(text) => text,
        }
    }
}

/// A refusal (RFC 9457) as sentences: what, then each wrong field. Whatever it holds cannot play with the terminal.
pub(crate) fn refusal(status: u16, retry_after: Option<&str>, body: &[u8]) -> Failure {
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    let word = |key: &str| problem.get(key).and_then(Value::as_str).map(inert);
    let mut text = match (word("detail"), word("title")) {
        (Some(detail), _) if !detail.is_empty() => detail,
        (_, Some(title)) if !title.is_empty() => title,
        _ => "the daemon refused, and did not say why".to_owned(),
    };
    let errors: Vec<(String, String)> = problem
        .get("errors")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|error| {
            let part = |key: &str| inert(error.get(key).and_then(Value::as_str).unwrap_or("?"));
            (field(&part("pointer")), part("detail"))
        })
        .collect();
    // The one thing that is wrong needs to be said once.
    if let [(field, detail)] = &errors[..]
        && text.ends_with(detail.as_str())
    {
        text = match field.as_str() {
            "" => format!("{detail} ({status})"),
            field => format!("{field}: {detail} ({status})"),
        };
    } else {
        text.push_str(&format!(" ({status})"));
        for (field, detail) in errors {
            let colon = if field.is_empty() { "" } else { ": " };
            text.push_str(&format!("\n  {field}{colon}{detail}"));
        }
    }
    if let Some(seconds) = retry_after.and_then(|text| text.parse::<u32>().ok()) {
        text.push_str(&format!("\n  try again in {seconds} s"));
    }
    match status {
        404 => Failure::Missing(text),
        503 => Failure::Ending(text),
        _ => Failure::Refused(text),
    }
}

/// A JSON pointer as people write keys: `/worker_pool/min_workers` is `worker_pool.min_workers`.
fn field(pointer: &str) -> String {
    match pointer.strip_prefix('/') {
        Some(path) => path
            .split('/')
            .map(|step| step.replace("~1", "/").replace("~0", "~"))
            .collect::<Vec<_>>()
            .join("."),
        None => pointer.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// API-1: a problem document reads as a sentence, with a line a field.
    #[test]
    fn problems_become_sentences() {
        let body = br#"{"type":"/docs#unprocessable-entity","title":"Unprocessable Entity","status":422,"detail":"two settings are wrong",
            "errors":[{"pointer":"/worker_pool/min_workers","detail":"found -1, expected 0 to 128"},{"pointer":"?limit","detail":"found 0"},
            {"pointer":"","detail":"they exclude each other"}]}"#;
        assert_eq!(
            refusal(422, Some("5"), body),
            Failure::Refused(
                "two settings are wrong (422)\n  worker_pool.min_workers: found -1, expected 0 to 128\n  ?limit: found 0\n  they exclude each other\n  try again in 5 s"
                    .to_owned()
            )
        );
        let once = br#"{"detail":"/class: there is no such class","errors":[{"pointer":"/class","detail":"there is no such class"}]}"#;
        assert_eq!(
            refusal(422, None, once).text(),
            "class: there is no such class (422)"
        );
        let hostile = refusal(
            409,
            None,
            "{\"detail\":\"\\u001b[2J\\nroot# \u{202e}\"}".as_bytes(),
        );
        assert_eq!(hostile.text(), "\\u{1b}[2J\\nroot# \\u{202e} (409)");
        for odd in [&b""[..], b"<html>", b"[1]", b"{}", b"{\"detail\":7}"] {
            assert!(
                refusal(502, None, odd)
                    .text()
                    .contains("did not say why (502)")
            );
        }
    }
}
