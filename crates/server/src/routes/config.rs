//! The configuration: whole, or its CPU part; schema, origins, change.

use super::Shared;
use super::page::{Page, PageQuery};
use crate::access::Caller;
use crate::http::json::Json;
use crate::http::query::Query;
use crate::problem::Problem;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flyball_engine::config::{self, Change, Loaded};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{IntoParams, PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The blocks that family 1 shows and changes.
const CPU_BLOCKS: [&str; 8] = [
    "performance",
    "cpu_scheduler",
    "worker_pool",
    "load_balancer",
    "throttling",
    "optimizer",
    "monitor",
    "classes",
];

pub(super) fn guarded() -> OpenApiRouter<Shared> {
    OpenApiRouter::default()
        .routes(routes!(get, change))
        .routes(routes!(schema))
        .routes(routes!(origins))
        .routes(routes!(get_cpu, change_cpu))
}

/// Settings, nested like the configuration file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
struct Settings(Map<String, Value>);

impl PartialSchema for Settings {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Object)
            .description(Some(
                "Settings, nested like the configuration file: blocks of keys. /v1/config/schema lists every key with type, range and \
                 default. In a change, a value sets and null takes an earlier change back.",
            ))
            .into()
    }
}

impl ToSchema for Settings {}

/// Fields of a class, as in `classes` of the configuration.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct ClassFields(pub(super) Map<String, Value>);

impl PartialSchema for ClassFields {
    fn schema() -> RefOr<Schema> {
        config::class_keys()
            .iter()
            .fold(
                ObjectBuilder::new().schema_type(Type::Object),
                |object, key| {
                    let about = format!("{} Expected: {}.", key.about(), key.expected());
                    let field = ObjectBuilder::new()
                        .schema_type(SchemaType::AnyValue)
                        .description(Some(about));
                    object.property(key.name(), field)
                },
            )
            .into()
    }
}

impl ToSchema for ClassFields {}

/// Names a configuration by what it says, for `ETag` and `If-Match`.
fn tag(loaded: &Loaded) -> String {
    let hash = Sha256::digest(loaded.to_json().to_string().as_bytes());
    let hex: String = hash
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("\"{hex}\"")
}

fn tagged(loaded: &Loaded, body: impl IntoResponse) -> Response {
    let mut response = body.into_response();
    // Hexadecimal digits in quotes are a valid field value.
    if let Ok(tag) = HeaderValue::try_from(tag(loaded)) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// Refuses a change of a configuration that is no longer the one that the client saw. All changes by clients pass the API's one thread,
/// without a pause between this check and the change.
fn unchanged(headers: &HeaderMap, loaded: &Loaded) -> Result<(), Problem> {
    let Some(wanted) = headers.get(header::IF_MATCH) else {
        return Ok(());
    };
    let tag = tag(loaded);
    let met = wanted.to_str().is_ok_and(|list| {
        list.split(',')
            .map(str::trim)
            .any(|one| one == tag || one == "*")
    });
    if met {
        Ok(())
    } else {
        Err(Problem::new(
            StatusCode::PRECONDITION_FAILED,
            "the configuration has changed since the version that If-Match names",
        ))
    }
}

/// The whole configuration in force, secrets left out. `ETag` names this version.
#[utoipa::path(get, path = "/v1/config", tag = "config", operation_id = "get_config", responses((status = 200, body = Settings)))]
async fn get(State(app): State<Shared>) -> Response {
    let loaded = app.engine.configuration();
    tagged(&loaded, Json(loaded.to_json()))
}

/// Where a value came from.
#[derive(Serialize, ToSchema)]
struct Setting {
    /// The key.
    key: &'static str,
    /// Its value, as it is written in the file.
    value: String,
    /// `default`, `flyball.yaml:12:3`, the name of a variable or flag, or `api`.
    origin: String,
}

/// Every key with its value and where that came from.
#[utoipa::path(get, path = "/v1/config/origins", tag = "config", params(PageQuery), responses((status = 200, body = Page<Setting>)))]
async fn origins(
    State(app): State<Shared>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<Setting>>, Problem> {
    let settings = app.engine.configuration().origins();
    let settings = settings
        .into_iter()
        .map(|(key, value, origin)| Setting {
            key,
            value,
            origin: origin.to_string(),
        })
        .collect();
    page.cut(&app, settings).map(Json)
}

/// Every key there is: type, unit, range, default, and what it is for.
#[utoipa::path(get, path = "/v1/config/schema", tag = "config", operation_id = "config_schema", responses((status = 200, body = Value)))]
async fn schema() -> Json<Value> {
    Json(config::schema_json())
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct How {
    /// Only say what would change.
    dry_run: Option<bool>,
}

/// One setting that changed.
#[derive(Serialize, ToSchema)]
struct Changed {
    /// The key.
    key: &'static str,
    /// The value that held.
    old: Value,
    /// The value that holds now.
    new: Value,
    /// Whether it takes effect at the next start only.
    restart: bool,
}

/// What a change did.
#[derive(Serialize, ToSchema)]
struct Changes {
    /// Whether nothing was done, only checked.
    dry_run: bool,
    /// The settings that changed, or would; empty where all were so already.
    changes: Vec<Changed>,
}

impl Changes {
    fn new(changes: Vec<Change>, dry_run: bool) -> Self {
        let changed = |change: Change| Changed {
            key: change.key,
            old: change.old,
            new: change.new,
            restart: change.restart,
        };
        Changes {
            dry_run,
            changes: changes.into_iter().map(changed).collect(),
        }
    }
}

/// Changes settings while the daemon runs: checked as a whole, then done, or nothing is.
#[utoipa::path(patch, path = "/v1/config", tag = "config", operation_id = "change_config",
    params(How, ("If-Match" = Option<String>, Header, description = "Change only this version of the configuration")),
    request_body = Settings, responses(
    (status = 200, body = Changes),
    (status = 409, description = "Takes a restart, or does not go together with what runs", body = Problem, content_type = "application/problem+json"),
    (status = 412, description = "The configuration is no longer the one that If-Match names", body = Problem, content_type = "application/problem+json"),
))]
async fn change(
    State(app): State<Shared>,
    caller: Caller,
    headers: HeaderMap,
    Query(how): Query<How>,
    Json(Settings(settings)): Json<Settings>,
) -> Result<Response, Problem> {
    apply(&app, caller, &headers, settings, how.dry_run == Some(true))
}

fn apply(
    app: &Shared,
    caller: Caller,
    headers: &HeaderMap,
    settings: Map<String, Value>,
    dry_run: bool,
) -> Result<Response, Problem> {
    unchanged(headers, &app.engine.configuration())?;
    let changes = app
        .engine
        .configure(&settings.into(), &caller.to_string(), dry_run)?;
    let body = Json(Changes::new(changes, dry_run));
    Ok(tagged(&app.engine.configuration(), body))
}

/// The CPU part of the configuration.
#[utoipa::path(get, path = "/v1/cpu/config", tag = "cpu", operation_id = "get_cpu_config", responses((status = 200, body = Settings)))]
async fn get_cpu(State(app): State<Shared>) -> Response {
    let loaded = app.engine.configuration();
    let settings = loaded.blocks_to_json(|block| CPU_BLOCKS.contains(&block));
    tagged(&loaded, Json(settings))
}

/// Changes settings of the CPU part: checked as a whole, then done, or nothing is.
#[utoipa::path(post, path = "/v1/cpu/config", tag = "cpu", operation_id = "change_cpu_config",
    params(How, ("If-Match" = Option<String>, Header, description = "Change only this version of the configuration")),
    request_body = Settings, responses(
    (status = 200, body = Changes),
    (status = 409, description = "Takes a restart, or does not go together with what runs", body = Problem, content_type = "application/problem+json"),
    (status = 412, description = "The configuration is no longer the one that If-Match names", body = Problem, content_type = "application/problem+json"),
))]
async fn change_cpu(
    State(app): State<Shared>,
    caller: Caller,
    headers: HeaderMap,
    Query(how): Query<How>,
    Json(Settings(settings)): Json<Settings>,
) -> Result<Response, Problem> {
    let foreign = settings
        .keys()
        .filter(|block| !CPU_BLOCKS.contains(&block.as_str()));
    let refused = foreign.fold(None, |problem: Option<Problem>, block| {
        let problem = problem.unwrap_or_else(|| {
            Problem::invalid("this is not of the CPU part; PATCH /v1/config takes all")
        });
        let pointer = crate::problem::pointer_to(block);
        Some(problem.at(
            pointer,
            format!("expected one of {}", CPU_BLOCKS.join(", ")),
        ))
    });
    match refused {
        Some(problem) => Err(problem),
        None => apply(&app, caller, &headers, settings, how.dry_run == Some(true)),
    }
}
