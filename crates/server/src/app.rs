//! The router: which route, behind which layers.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use moesaic_protocol::{FormatFields, SamplingFields, UnsupportedFields};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::Access;
use crate::api::{anthropic, chat, completions, embeddings, models, page, responses, status, tokenize};
use crate::auth::ClientKey;
use crate::error::ApiError;
use crate::heavy::in_name_of;
use crate::known_routes::KnownRoutes;
use crate::state::AppState;
use crate::{head, request_id};

/// Head of the OpenAPI document.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "moesaic",
        description = "OpenAI-compatible inference server for mixture-of-experts language models",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    // Flattened parts are not found by themselves.
    components(schemas(SamplingFields, FormatFields, UnsupportedFields))
)]
struct ApiDoc;

/// A model's name with a slash in it; not in the document, where it would be a second route to the same.
const MODEL_OF_OWNER: &str = "/v1/models/{owner}/{name}";

/// Routes that need a key, when keys are configured.
fn protected() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(chat::chat_completions))
        .routes(routes!(completions::completions))
        .routes(routes!(responses::create_response))
        .routes(routes!(responses::get_response, responses::delete_response))
        .routes(routes!(responses::cancel_response))
        .routes(routes!(responses::count_input_tokens))
        .routes(routes!(responses::compact::compact_response))
        .routes(routes!(responses::input_items))
        .routes(routes!(anthropic::messages))
        .routes(routes!(anthropic::count_tokens))
        .routes(routes!(embeddings::embeddings))
        .routes(routes!(models::list_models))
        .routes(routes!(models::get_model))
        .route(MODEL_OF_OWNER, get(models::get_model_of_owner))
        .routes(routes!(tokenize::tokenize))
        .routes(routes!(tokenize::detokenize))
        .routes(routes!(tokenize::tokenizer_info))
}

/// Routes that anybody may use.
fn public() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(ApiDoc::openapi())
        .routes(routes!(status::live))
        .routes(routes!(status::ready))
        .routes(routes!(status::health))
        .routes(routes!(status::version))
}

fn metrics() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(status::metrics))
}

/// The OpenAPI document, as JSON text.
pub fn openapi_json() -> String {
    let document = public().merge(protected()).merge(metrics()).to_openapi();
    document.to_pretty_json().expect("the document serialises") + "\n"
}

/// The whole application.
pub fn router(state: AppState) -> Router {
    let with_key = |routes: OpenApiRouter<AppState>| {
        routes.route_layer(middleware::from_fn_with_state(Arc::clone(&state), check_key))
    };
    let metrics = if state.config.protect_metrics { with_key(metrics()) } else { metrics() };
    let (router, document) = public().merge(with_key(protected())).merge(metrics).split_for_parts();
    let document = Arc::new(document);
    let described = Arc::clone(&document);
    let pages = [
        ("/", get(page::index)),
        ("/docs", get(page::docs)),
        ("/assets/{name}", get(page::asset)),
        ("/openapi.json", get(move || async move { Json(described.as_ref()).into_response() })),
    ];
    let undocumented = pages.iter().map(|(path, _)| *path).chain([MODEL_OF_OWNER]);
    let known = Arc::new(KnownRoutes::new(&document, undocumented));
    let router = pages.into_iter().fold(router, |router, (path, page)| router.route(path, page));
    router
        .fallback(async move |request: Request| -> Response {
            let (method, path) = (request.method().as_str(), request.uri().path());
            ApiError::unknown_route(method, path).with_hint(known.hint(method, path).as_deref()).into_response()
        })
        .method_not_allowed_fallback(async |request: Request| -> Response {
            ApiError::method_not_allowed(request.method().as_str(), request.uri().path()).into_response()
        })
        .layer(middleware::from_fn_with_state(Arc::clone(&state), take_websockets))
        .layer(middleware::from_fn(anthropic::error_layer))
        .layer(middleware::from_fn_with_state(Arc::clone(&state), count_rejections))
        .layer(DefaultBodyLimit::max(state.config.limits.max_body_bytes))
        .layer(middleware::from_fn(head::layer))
        .layer(cors(&state))
        .layer(middleware::from_fn(request_id::layer))
        .with_state(state)
}

/// Lets requests with an accepted key through and notes whose they are.
async fn check_key(
    axum::extract::State(state): axum::extract::State<AppState>,
    mut request: Request,
    next: middleware::Next,
) -> Response {
    match client_of(&state, &request) {
        Ok(client) => {
            request.extensions_mut().insert(client);
            in_name_of(client, next.run(request)).await
        }
        Err(error) => error.into_response(),
    }
}

/// Opens WebSockets, on a path whose document knows POST alone, and so does its `Allow`.
async fn take_websockets(
    axum::extract::State(state): axum::extract::State<AppState>,
    request: Request,
    next: middleware::Next,
) -> Response {
    if !responses::socket::is_wanted(&request) {
        return next.run(request).await;
    }
    match client_of(&state, &request) {
        Ok(client) => responses::socket::connect(state, client, request).await.into_response(),
        Err(error) => error.into_response(),
    }
}

/// Whose request it is, which the log tells too.
fn client_of(state: &AppState, request: &Request) -> Result<ClientKey, ApiError> {
    let client = state.api_keys().check(request.headers());
    if let Some(access) = Access::current() {
        access.set_client(client);
    }
    client.ok_or_else(ApiError::unauthorized)
}

/// Counts requests that were refused.
async fn count_rejections(
    axum::extract::State(state): axum::extract::State<AppState>,
    request: Request,
    next: middleware::Next,
) -> Response {
    let is_api = request.method() == Method::POST;
    let response = next.run(request).await;
    if is_api || response.status() == StatusCode::TOO_MANY_REQUESTS {
        state.metrics.refused(response.status());
    }
    response
}

/// Any origin without credentials, unless the operator names origins.
fn cors(state: &AppState) -> CorsLayer {
    let origins = &state.config.cors_allow_origins;
    let origin = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()))
    };
    CorsLayer::new()
        .allow_origin(origin)
        .allow_methods([Method::GET, Method::POST, Method::DELETE, Method::OPTIONS])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([HeaderName::from_static(request_id::HEADER), header::RETRY_AFTER])
}
