//! Every response carries `x-request-id`: the client's, if it is a sensible one, else ours.

use axum::body::Body;
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::middleware::Next;
use axum::response::Response;

use crate::access::Access;
use crate::holding_body::HoldingBody;

/// The header.
pub const HEADER: &str = "x-request-id";

/// The id of the request being answered.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

/// Whether an id is safe to log and to send back.
pub fn is_valid(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
}

/// A fresh id.
pub fn fresh() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// Notes the id and adds it to the response.
pub async fn layer(mut request: Request, next: Next) -> Response {
    let given = request.headers().get(HEADER).and_then(|value| value.to_str().ok()).filter(|id| is_valid(id));
    let id = given.map_or_else(fresh, str::to_owned);
    request.extensions_mut().insert(RequestId(id.clone()));
    let access = Access::new(&id, request.method(), request.uri().path());
    let response = access.during(next.run(request)).await;
    access.set_status(response.status());
    let mut response = response.map(|body| Body::new(HoldingBody::new(body, access)));
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(HEADER, value);
    }
    response
}
