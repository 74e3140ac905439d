//! Parameters of the query, read as strictly as bodies: unknown ones, repeated ones and wrong types are refused (422).

use crate::problem::{Problem, echo};
use axum::extract::{FromRequestParts, Query as Parsed};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

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
