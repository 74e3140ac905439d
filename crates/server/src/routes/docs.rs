//! The API's description as a page: own files without anything from the network, under a policy that allows nothing else.

use super::Shared;
use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

/// Scripts, styles and requests of this server only; nothing inline, so a string of the description can never run.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) fn router() -> Router<Shared> {
    Router::new()
        .route(
            "/docs",
            get(async || page("text/html; charset=utf-8", include_str!("docs/index.html"))),
        )
        .route(
            "/docs/docs.js",
            get(async || {
                page(
                    "text/javascript; charset=utf-8",
                    include_str!("docs/docs.js"),
                )
            }),
        )
        .route(
            "/docs/docs.css",
            get(async || page("text/css; charset=utf-8", include_str!("docs/docs.css"))),
        )
}

fn page(media_type: &'static str, text: &'static str) -> impl IntoResponse {
    (
        [
            (header::CONTENT_TYPE, media_type),
            (header::CONTENT_SECURITY_POLICY, POLICY),
        ],
        text,
    )
}
