//! What a classifier may look at.

use http::{Extensions, HeaderMap, Method, Request, Uri};

/// The head of a request, whatever its body is.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// `GET`, `POST` and so on.
    pub method: &'a Method,
    /// What was asked for.
    pub uri: &'a Uri,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// What layers outside of this one have added: in axum the matched path, the peer's address.
    pub extensions: &'a Extensions,
}

impl<'a> Head<'a> {
    /// The head of this request.
    pub fn of<B>(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            extensions: request.extensions(),
        }
    }

    /// The path that was asked for; for gRPC `/package.Service/Method`.
    #[must_use]
    pub fn path(&self) -> &'a str {
        self.uri.path()
    }

    /// A header's value, if it is there and text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Whether this is a gRPC call (content type `application/grpc`, also with a suffix such as `+proto`; gRPC over HTTP/2, "Requests"). gRPC-Web
    /// is not: its clients read an HTTP status.
    #[must_use]
    pub fn is_grpc(&self) -> bool {
        let Some(kind) = self.headers.get(http::header::CONTENT_TYPE) else {
            return false;
        };
        let rest = kind.as_bytes().strip_prefix(b"application/grpc");
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_known_by_its_content_type() {
        let is = |kind: Option<&str>| {
            let mut request = Request::builder();
            if let Some(kind) = kind {
                request = request.header("content-type", kind);
            }
            Head::of(&request.body(()).unwrap()).is_grpc()
        };
        for kind in [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc;charset=x",
        ] {
            assert!(is(Some(kind)), "{kind}");
        }
        for kind in [
            "application/grpc-web",
            "application/json",
            "application/grpcx",
            "",
        ] {
            assert!(!is(Some(kind)), "{kind}");
        }
        assert!(!is(None));
    }
}
