//! The description of the API: made from the handlers, completed with what holds for all of them.
//!
//! What every call may answer is decided in few places (the wire, the gate, the extractors), so it is described in one place,
//! here, by the same facts: whether a call changes something, has a body, or needs the token.

use crate::access;
use crate::problem::{FieldError, MEDIA_TYPE, Problem};
use crate::routes::Shared;
use axum::http::{Method, StatusCode};
use std::collections::HashSet;
use utoipa::openapi::path::{Operation, Parameter, ParameterIn};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Components, ContentBuilder, InfoBuilder, OpenApi, OpenApiBuilder, PathItem, Ref, RefOr,
    Response, ResponseBuilder,
};
use utoipa::{PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;

/// Name of the token in the description.
const TOKEN: &str = "token";

/// The empty description.
pub(crate) fn base() -> OpenApi {
    let mut components = Components::new();
    components
        .schemas
        .insert(Problem::name().into_owned(), Problem::schema());
    components
        .schemas
        .insert(FieldError::name().into_owned(), FieldError::schema());
    components.add_security_scheme(
        TOKEN,
        SecurityScheme::Http(
            HttpBuilder::new()
                .scheme(HttpAuthScheme::Bearer)
                .description(Some(
                    "The admin token, in admin.token in the state folder. The Unix socket needs none.",
                ))
                .build(),
        ),
    );
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("flyball")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(
                    "What a flyball daemon shows and lets change. A figure that is not known is null, never zero. Timestamps are RFC 3339 \
                     in UTC, percentages 0 to 100, other units in the names.",
                )),
        )
        .components(Some(components))
        .build()
}

/// Marks calls that are open on loopback.
pub(crate) fn figures(mut router: OpenApiRouter<Shared>) -> OpenApiRouter<Shared> {
    mark(
        router.get_openapi_mut(),
        &[SecurityRequirement::default(), token()],
    );
    router
}

/// Marks calls that need the token.
pub(crate) fn guarded(mut router: OpenApiRouter<Shared>) -> OpenApiRouter<Shared> {
    mark(router.get_openapi_mut(), &[token()]);
    router
}

fn token() -> SecurityRequirement {
    SecurityRequirement::new::<_, [&str; 0], &str>(TOKEN, [])
}

fn mark(description: &mut OpenApi, security: &[SecurityRequirement]) {
    for item in description.paths.paths.values_mut() {
        for (_, operation) in operations(item) {
            operation.security = Some(security.to_vec());
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    [
        (Method::GET, item.get.as_mut()),
        (Method::POST, item.post.as_mut()),
        (Method::PUT, item.put.as_mut()),
        (Method::PATCH, item.patch.as_mut()),
        (Method::DELETE, item.delete.as_mut()),
    ]
    .into_iter()
    .filter_map(|(method, operation)| Some((method, operation?)))
}

/// The calls that are described with parameters of the query, by method and path.
pub(crate) fn takers_of_queries(description: &mut OpenApi) -> HashSet<(Method, String)> {
    let mut takers = HashSet::new();
    for (path, item) in &mut description.paths.paths {
        for (method, operation) in operations(item) {
            let mut parameters = operation.parameters.iter().flatten();
            let of_query = |parameter: &RefOr<Parameter>| matches!(parameter, RefOr::T(known) if known.parameter_in == ParameterIn::Query);
            if parameters.any(of_query) {
                takers.insert((method, path.clone()));
            }
        }
    }
    takers
}

/// Adds the answers that the server itself may give.
pub(crate) fn complete(description: &mut OpenApi) {
    for (path, item) in &mut description.paths.paths {
        let queue = ["/v1/tasks", "/v1/cpu/scheduler/task", "/v1/limits/breakers"]
            .iter()
            .any(|start| path.starts_with(start));
        for (method, operation) in operations(item) {
            let changes = access::is_change(&method, path);
            for (status, answer) in &mut operation.responses.responses {
                if let RefOr::T(answer) = answer
                    && answer.description.is_empty()
                {
                    let status = status.parse::<StatusCode>().ok();
                    let reason = status.and_then(|status| status.canonical_reason());
                    answer.description = reason.unwrap_or("Answer").to_owned();
                }
            }
            let needs = operation.security.is_some();
            let body = operation.request_body.is_some();
            let answers: [(bool, &str, &str); 16] = [
                (
                    true,
                    "400",
                    "Malformed: the head, the framing, Host, or the JSON",
                ),
                (needs, "401", "The token is missing or wrong"),
                (changes, "403", "A page of another site caused it"),
                (true, "408", "The head or the body arrived too slowly"),
                (body, "413", "The body is too large"),
                (true, "414", "The target is too long"),
                (body, "415", "The body is not application/json"),
                (
                    true,
                    "421",
                    "The Host field names none of this server's hosts",
                ),
                (
                    needs,
                    "422",
                    "Well-formed but wrong; `errors` points to the places",
                ),
                (true, "431", "The head has too many bytes or fields"),
                (true, "500", "A fault of the server"),
                (queue, "409", "The queue of tasks is switched off"),
                (queue, "501", "Nobody said where to keep tasks"),
                (
                    queue,
                    "503",
                    "The daemon is stopping, or the store has stopped",
                ),
                (queue && changes, "507", "The disk is full"),
                (changes, "503", "The daemon is stopping"),
            ];
            for (applies, status, about) in answers {
                if applies {
                    operation
                        .responses
                        .responses
                        .entry(status.to_owned())
                        .or_insert_with(|| RefOr::T(problem(about)));
                }
            }
        }
    }
}

fn problem(about: &str) -> Response {
    ResponseBuilder::new()
        .description(about)
        .content(
            MEDIA_TYPE,
            ContentBuilder::new()
                .schema(Some(Ref::from_schema_name(Problem::name())))
                .build(),
        )
        .build()
}
