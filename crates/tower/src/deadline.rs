//! How long a caller waits, as its headers say.
//!
//! gRPC has `grpc-timeout`, at most eight digits and a unit (gRPC over HTTP/2, "Timeout"). HTTP has no such header; people send milliseconds in
//! one of their own, as Envoy does in `x-envoy-expected-rq-timeout-ms`. What cannot be read counts as not said.

use std::time::Duration;

use http::HeaderName;

use crate::head::Head;

pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The least of what is said.
pub(crate) fn of(head: &Head<'_>, header: Option<&HeaderName>) -> Option<Duration> {
    let grpc = head.headers.get(GRPC_TIMEOUT).map(|value| value.as_bytes());
    let own = header.and_then(|name| head.headers.get(name));
    let own = own.and_then(|value| millis(value.as_bytes()));
    match (grpc.and_then(grpc_timeout), own) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 12 {
        return None;
    }
    digits.iter().try_fold(0u64, |sum, digit| {
        digit
            .is_ascii_digit()
            .then(|| sum * 10 + u64::from(digit - b'0'))
    })
}

fn grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.len() > 8 {
        return None;
    }
    let number = number(digits)?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

fn millis(value: &[u8]) -> Option<Duration> {
    number(value.trim_ascii()).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use http::Request;
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn units_are_those_of_the_protocol() {
        let seconds = |value: &[u8]| grpc_timeout(value).map(|timeout| timeout.as_secs_f64());
        assert_eq!(seconds(b"2H"), Some(7200.0));
        assert_eq!(seconds(b"3M"), Some(180.0));
        assert_eq!(seconds(b"99999999S"), Some(99_999_999.0));
        assert_eq!(seconds(b"250m"), Some(0.25));
        assert_eq!(seconds(b"5u"), Some(5e-6));
        assert_eq!(seconds(b"7n"), Some(7e-9));
        for broken in [
            &b""[..],
            b"S",
            b"1",
            b"-1S",
            b"1.5S",
            b"123456789S",
            b"1s",
            b" 1S",
        ] {
            assert_eq!(grpc_timeout(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn the_sooner_of_two_counts() {
        let name = HeaderName::from_static("x-timeout-ms");
        let request = Request::builder()
            .header("grpc-timeout", "1S")
            .header("x-timeout-ms", "300");
        let request = request.body(()).unwrap();
        let head = Head::of(&request);
        assert_eq!(of(&head, None), Some(Duration::from_secs(1)));
        assert_eq!(of(&head, Some(&name)), Some(Duration::from_millis(300)));
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            let _ = (grpc_timeout(&bytes), millis(&bytes));
        }

        #[test]
        fn milliseconds_are_read(number in 0u64..1_000_000_000_000) {
            prop_assert_eq!(millis(format!(" {number} ").as_bytes()), Some(Duration::from_millis(number)));
        }
    }
}
