//! Whom a URL speaks to.

/// Host and port of an `http` or `https` URL, in lower case, the port written out; `None` if it is none.
pub(crate) fn authority(url: &str) -> Option<Box<str>> {
    let (scheme, rest) = url.split_once("://")?;
    let port = if scheme.eq_ignore_ascii_case("http") {
        80
    } else if scheme.eq_ignore_ascii_case("https") {
        443
    } else {
        return None;
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?.to_ascii_lowercase();
    // The colons of an IPv6 address stand inside brackets.
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(_, after)| !after.is_empty() && after.bytes().all(|c| c.is_ascii_digit()));
    match host.trim_end_matches(':') {
        "" => None,
        _ if has_port => Some(host.into()),
        host => Some(format!("{host}:{port}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::authority;

    #[test]
    fn host_and_port_are_told() {
        for (url, expected) in [
            ("http://Example.com/a:b", Some("example.com:80")),
            ("HTTPS://u:p@example.com?x=1", Some("example.com:443")),
            ("http://127.0.0.1:8080#x", Some("127.0.0.1:8080")),
            ("http://[::1]/", Some("[::1]:80")),
            ("http://[::1]:81/", Some("[::1]:81")),
            ("http://host:/", Some("host:80")),
            ("ftp://host/", None),
            ("http:///path", None),
            ("host", None),
        ] {
            assert_eq!(authority(url).as_deref(), expected, "{url}");
        }
    }
}
