//! Calls of parts that this build does not have: 501, and which part is missing. They are described like all others, so that a program
//! written for them learns why they fail.

use super::Shared;
use crate::problem::Problem;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

macro_rules! absent {
    ($(#[$doc:meta] $name:ident: $method:ident $path:literal, $tag:literal, $part:literal;)*) => {
        $(
            #[$doc]
            #[utoipa::path($method, path = $path, tag = $tag, responses(
                (status = 501, description = "This build has no such part", body = Problem, content_type = "application/problem+json"),
            ))]
            async fn $name() -> Problem {
                Problem::not_implemented(concat!("this build has no ", $part))
            }
        )*
    };
}

absent! {
    /// What the optimizer tried, and how often that helped.
    optimizer_stats: get "/v1/cpu/optimizer/stats", "cpu", "optimizer";
    /// Every decision of the optimizer with its evidence.
    optimizer_history: get "/v1/cpu/optimizer/history", "cpu", "optimizer";
    /// Starts a round of the optimizer now.
    optimize: post "/v1/cpu/optimizer/optimize", "cpu", "optimizer";
    /// Adds or changes a strategy of the optimizer.
    optimizer_strategy: post "/v1/cpu/optimizer/strategy", "cpu", "optimizer";
}

pub(super) fn figures() -> OpenApiRouter<Shared> {
    OpenApiRouter::default()
        .routes(routes!(optimizer_stats))
        .routes(routes!(optimizer_history))
}

pub(super) fn guarded() -> OpenApiRouter<Shared> {
    OpenApiRouter::default()
        .routes(routes!(optimize))
        .routes(routes!(optimizer_strategy))
}
