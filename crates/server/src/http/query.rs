//! Parameters of the query, read as strictly as bodies: unknown ones, repeated ones and wrong types are refused (422), and any where a call
//! takes none. So nobody believes that a change was only tried because its query said `dry_run=true`.

use crate::openapi;
use crate::problem::{Problem, echo};
use crate::routes::Shared;
use axum::extract::{FromRequestParts, MatchedPath, Query as Parsed, Request, State};
use axum::http::request::Parts;
use axum::http::{Method, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use std::collections::HashSet;
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;

/// The parameters of a request.
pub(crate) struct Query<T>(pub(crate) T);

impl<T, S> FromRequestParts<S> for Query<T>
where
    T: DeserializeOwned,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Parsed::<T>::from_request_parts(parts, state).await {
            Ok(Parsed(parameters)) => Ok(Query(parameters)),
            Err(rejection) => {
                let text = rejection.body_text();
                let detail = text
                    .strip_prefix("Failed to deserialize query string: ")
                    .unwrap_or(&text);
                // "name: what is wrong", where one parameter is wrong.
                let problem = Problem::invalid(format!("wrong query: {}", echo(detail)));
                Err(match detail.split_once(": ") {
                    Some((name, detail)) => problem.at(format!("?{name}"), echo(detail)),
                    None => problem,
                })
            }
        }
    }
}

/// Makes the calls that are described without parameters of the query refuse every one.
pub(crate) fn strict(mut router: OpenApiRouter<Shared>) -> OpenApiRouter<Shared> {
    let takers = openapi::takers_of_queries(router.get_openapi_mut());
    router.route_layer(from_fn_with_state(Arc::new(takers), refuse))
}

type Takers = Arc<HashSet<(Method, String)>>;

async fn refuse(
    State(takers): State<Takers>,
    method: Method,
    path: MatchedPath,
    uri: Uri,
    request: Request,
    next: Next,
) -> Response {
    let mut pairs = uri.query().unwrap_or_default().split('&');
    let Some(pair) = pairs.find(|pair| !pair.is_empty()) else {
        return next.run(request).await;
    };
    let method = match method {
        Method::HEAD => Method::GET,
        other => other,
    };
    if takers.contains(&(method, path.as_str().to_owned())) {
        return next.run(request).await;
    }
    let name = pair.split('=').next().unwrap_or_default();
    Problem::invalid("wrong query: this call takes no parameters")
        .at(format!("?{}", echo(name)), "unknown parameter")
        .into_response()
}
