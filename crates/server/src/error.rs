//! The one mapping from what can go wrong to what a client sees.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use moesaic_chat::PromptError;
use moesaic_engine::SubmitError;
use moesaic_protocol::anthropic::{MessagesError, MessagesErrorBody};
use moesaic_protocol::{ErrorBody, ErrorResponse, FieldError};
use moesaic_scheduler::FailureCause;

use crate::access::Access;
use crate::field::{Field, own_place};

/// Longest message; what a client sent is echoed only in part.
const MAX_MESSAGE: usize = 2048;
const MAX_ECHO: usize = 100;
/// How bodies may be compressed.
const CODINGS: &str = "gzip, deflate, zstd";
const UNSUPPORTED_ENCODING: &str = "unsupported_content_encoding";

/// An error on its way to a client.
#[derive(Debug, Clone)]
pub struct ApiError {
    status: StatusCode,
    body: Box<ErrorBody>,
    /// Another field, which the message ends with.
    other: Option<String>,
    retry_after_ms: Option<u64>,
    /// What does not fit: Anthropic's clients read it from words of their own.
    excess: Option<Excess>,
}

/// A prompt and the context that it does not fit into, in tokens.
#[derive(Debug, Clone, Copy)]
pub struct Excess {
    /// Of the prompt, or the fewest that it can be.
    pub num_tokens: usize,
    /// Most for its answer.
    pub max_tokens: usize,
    /// Most for both.
    pub max_model_len: usize,
}

impl ApiError {
    fn new(status: StatusCode, kind: &str, code: Option<&str>, message: impl Into<String>) -> Self {
        let body = ErrorBody {
            message: shorten(&message.into(), MAX_MESSAGE),
            kind: kind.to_owned(),
            param: None,
            code: code.map(str::to_owned),
        };
        Self { status, body: Box::new(body), other: None, retry_after_ms: None, excess: None }
    }

    fn retry_after(mut self, milliseconds: u64) -> Self {
        self.retry_after_ms = Some(milliseconds);
        self
    }

    /// 400 about one field.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        let mut error = Self::bad_request(message);
        error.body.param = Some(shorten(&param.into(), MAX_ECHO));
        error
    }

    /// 400: one field or the other.
    pub fn conflict(param: &str, other: &str) -> Self {
        Self { other: Some(other.to_owned()), ..Self::invalid(param, "cannot be combined with") }
    }

    /// 400 about the request as a whole.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", None, message)
    }

    /// 400: text cannot become tokens here.
    pub fn no_tokenizer() -> Self {
        Self::bad_request("This model has no tokenizer: use /v1/completions with token ids as the prompt.")
    }

    /// 400: the prompt does not fit.
    pub fn context_length(param: &str, excess: Excess) -> Self {
        let Excess { num_tokens, max_model_len, .. } = excess;
        let message = format!(
            "This model's maximum context length is {max_model_len} tokens, but the prompt has {num_tokens} tokens, \
             which leaves no room for an answer. Please shorten it."
        );
        let mut error = Self::invalid(param, message);
        error.body.code = Some("context_length_exceeded".to_owned());
        error.excess = Some(excess);
        error
    }

    /// 404: the client names a model that is not served.
    pub fn model_not_found(model: &str) -> Self {
        let message = format!("The model `{}` does not exist.", shorten(model, MAX_ECHO));
        let mut error = Self::new(StatusCode::NOT_FOUND, "invalid_request_error", Some("model_not_found"), message);
        error.body.param = Some("model".to_owned());
        error
    }

    /// 404: no response of the client's own is stored under this id.
    pub fn response_not_found(id: &str) -> Self {
        let message = format!("Response with id '{}' not found.", shorten(id, MAX_ECHO));
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", None, message)
    }

    /// 400: the response to go on from is not stored.
    pub fn previous_response_not_found(id: &str) -> Self {
        let message = format!("Previous response with id '{}' not found.", shorten(id, MAX_ECHO));
        let mut error = Self::invalid("previous_response_id", message);
        error.body.code = Some("previous_response_not_found".to_owned());
        error
    }

    /// 404: no such route.
    pub fn unknown_route(method: &str, path: &str) -> Self {
        let message = format!("Unknown request URL: {method} {}.", shorten(path, MAX_ECHO));
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", Some("unknown_url"), message)
    }

    /// The same, with the route that was meant.
    #[must_use]
    pub fn with_hint(mut self, meant: Option<&str>) -> Self {
        if let Some(meant) = meant {
            self.body.message = format!("{} Did you mean {}?", self.body.message, shorten(meant, 2 * MAX_ECHO));
        }
        self
    }

    /// 405: the route exists, the method does not.
    pub fn method_not_allowed(method: &str, path: &str) -> Self {
        let message = format!("{method} is not allowed on {}.", shorten(path, MAX_ECHO));
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", Some("method_not_allowed"), message)
    }

    /// 401: no key, or a wrong one.
    pub fn unauthorized() -> Self {
        let message = "Missing or incorrect API key. Send it as `Authorization: Bearer KEY` or `x-api-key: KEY`.";
        Self::new(StatusCode::UNAUTHORIZED, "invalid_request_error", Some("invalid_api_key"), message)
    }

    /// 403: a page of an origin that may not connect.
    pub fn origin_not_allowed(origin: &str) -> Self {
        let message = format!("Pages of the origin {:?} may not connect to this server.", echo(origin));
        Self::new(StatusCode::FORBIDDEN, "invalid_request_error", Some("origin_not_allowed"), message)
    }

    /// 400: a WebSocket that has been open for as long as it may be.
    pub fn websocket_limit(seconds: u64) -> Self {
        let message = format!("This WebSocket has been open for its limit of {seconds} s. Open another one to go on.");
        let code = Some("websocket_connection_limit_reached");
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", code, message)
    }

    /// 429: more messages over a WebSocket than wait for their turn.
    pub fn response_in_flight() -> Self {
        let message = "A response is being generated over this WebSocket and another message waits. Send the next one \
                       when a response has ended, or over another WebSocket.";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", Some("response_already_in_flight"), message)
    }

    /// 413: the body is too large.
    pub fn too_large(max_bytes: usize) -> Self {
        let message = format!("The request body is larger than {max_bytes} bytes.");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", Some("request_too_large"), message)
    }

    /// 431: the headers are too large.
    pub fn head_too_large(max_bytes: usize) -> Self {
        let message = format!("The request's headers and address are larger than {max_bytes} bytes together.");
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        Self::new(status, "invalid_request_error", Some("request_too_large"), message)
    }

    /// 413: the body is too large once it is decoded.
    pub fn too_large_decoded(max_bytes: usize) -> Self {
        let message = format!("The request body is larger than {max_bytes} bytes when it is decompressed.");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", Some("request_too_large"), message)
    }

    /// 415: a coding that is not known here.
    pub fn unknown_coding(coding: &str) -> Self {
        Self::content_encoding(&format!("Content-Encoding {coding:?} is not taken"))
    }

    /// 415: compressed more than once.
    pub fn several_codings() -> Self {
        Self::content_encoding("A body compressed more than once is not taken")
    }

    fn content_encoding(what: &str) -> Self {
        let message = format!("{what}. Send the body as it is, or with one of {CODINGS}.");
        let code = Some(UNSUPPORTED_ENCODING);
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", code, message)
    }

    /// 415: not JSON.
    pub fn unsupported_media_type() -> Self {
        let message = "Send the request with `Content-Type: application/json`.";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", Some("unsupported_media_type"), message)
    }

    /// 408: the request took longer than the operator allows.
    pub fn timed_out(seconds: u64) -> Self {
        let message = format!("The request did not finish within {seconds} s.");
        Self::new(StatusCode::REQUEST_TIMEOUT, "timeout_error", Some("request_timeout"), message)
    }

    /// 408: the client takes its answer more slowly than it is made.
    pub fn unread() -> Self {
        let message = "The answer was read too slowly: too much of it waited to be sent.";
        Self::new(StatusCode::REQUEST_TIMEOUT, "timeout_error", Some("request_timeout"), message)
    }

    /// 408: the request itself took too long to arrive.
    pub fn slow_body(seconds: u64) -> Self {
        let message = format!("The request body did not arrive within {seconds} s.");
        Self::new(StatusCode::REQUEST_TIMEOUT, "timeout_error", Some("request_timeout"), message)
    }

    /// 503: the request waited longer than the operator allows.
    pub fn queued_too_long(seconds: u64) -> Self {
        let message = format!("The request waited longer than {seconds} s for its turn. Please try again later.");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", Some("server_overloaded"), message).retry_after(1000)
    }

    /// 503: a resource is in use for longer than a request waits.
    pub fn busy(with: &str) -> Self {
        let message = format!("The server is busy {with}. Please try again later.");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", Some("server_overloaded"), message).retry_after(1000)
    }

    /// 400: what the request asks for left no token to go on with.
    fn dead_end() -> Self {
        Self::bad_request(
            "The constraints on the answer left no token to go on with: they contradict each other, or the grammar is too \
             complex.",
        )
    }

    /// 503: not ready yet.
    pub fn loading() -> Self {
        let message = "The model is still being loaded. Please try again shortly.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", Some("model_loading"), message).retry_after(2000)
    }

    /// 503: not taking requests any more.
    pub fn draining() -> Self {
        let message = "The server is shutting down. Please try again.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", Some("server_shutting_down"), message)
            .retry_after(1000)
    }

    /// 400: more choices than the server ever runs and queues.
    pub fn too_many_choices(param: &str, limit: usize) -> Self {
        Self::invalid(param, format!("this server takes at most {limit} choices at once"))
    }

    /// 500: our fault. The cause goes to the log, not to the client.
    pub fn internal(cause: &str) -> Self {
        tracing::error!(cause, request_id = Access::current_id(), "a request failed");
        let message = "The server had an error while processing the request.";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", Some("internal_error"), message)
    }

    /// The same about a request whose fields are called otherwise than those of a chat request.
    #[must_use]
    pub fn in_terms_of(mut self, fields: &[Field]) -> Self {
        let own = |name: String| Field::own_name(fields, &name);
        (self.body.param, self.other) = (self.body.param.take().map(own), self.other.map(own));
        self
    }

    /// The code that programs know it by.
    pub fn code(&self) -> Option<&str> {
        self.body.code.as_deref()
    }

    /// The same where a list of the client's was translated to one of other items; `own`: as in [`own_place`].
    #[must_use]
    pub fn at_own_places(mut self, list: &str, own: &[String]) -> Self {
        let place = self.body.param.as_deref().and_then(|path| own_place(path, list, own));
        self.body.param = place.or(self.body.param);
        self
    }

    /// The status that a response with this error has.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The same in Anthropic's shape.
    pub fn to_messages_body(&self) -> MessagesError {
        let kind = match self.status.as_u16() {
            400 | 408 | 415 => "invalid_request_error",
            401 => "authentication_error",
            404 | 405 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            _ => "api_error",
        };
        let message = match self.excess {
            None => self.message(),
            Some(Excess { num_tokens, max_model_len, .. }) if num_tokens > max_model_len => {
                format!("prompt is too long: {num_tokens} tokens > {max_model_len} maximum")
            }
            Some(Excess { num_tokens, max_tokens, max_model_len }) => format!(
                "input length and `max_tokens` exceed context limit: {num_tokens} + {max_tokens} > {max_model_len}, decrease \
                 input length or `max_tokens` and try again"
            ),
        };
        let error = MessagesErrorBody { kind: kind.to_owned(), message };
        MessagesError { kind: "error".to_owned(), error }
    }

    /// The body, also sent as an event when a stream has begun already.
    pub fn to_body(&self) -> ErrorResponse {
        ErrorResponse { error: ErrorBody { message: self.message(), ..ErrorBody::clone(&self.body) } }
    }

    /// Names the field where the text goes on from it: many clients show nothing else.
    fn message(&self) -> String {
        let mut text = self.body.message.clone();
        if let Some(other) = &self.other {
            text.extend([" ", other]);
        }
        match &self.body.param {
            Some(param) if !text.starts_with(char::is_uppercase) => shorten(&format!("{param}: {text}"), MAX_MESSAGE),
            _ => text,
        }
    }
}

impl From<FieldError> for ApiError {
    fn from(error: FieldError) -> Self {
        match error.param {
            Some(param) => Self::invalid(param, error.message),
            None => Self::bad_request(error.message),
        }
    }
}

impl From<&FailureCause> for ApiError {
    fn from(cause: &FailureCause) -> Self {
        match cause {
            // What the request asks for left no token to go on with.
            FailureCause::NothingAllowed => Self::dead_end(),
            FailureCause::NotFinite | FailureCause::Step(_) | FailureCause::Refused(_) | FailureCause::Stopped(_) => {
                Self::internal(&cause.to_string())
            }
        }
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Overloaded { .. } => {
                let message = format!("The server is overloaded: {error}. Please try again later.");
                Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", Some("server_overloaded"), message)
                    .retry_after(1000)
            }
            SubmitError::Stopped => Self::draining(),
        }
    }
}

impl From<PromptError> for ApiError {
    fn from(error: PromptError) -> Self {
        let param = match &error {
            PromptError::UnsupportedPart { message, part, .. } => format!("messages[{message}].content[{part}]"),
            PromptError::ReservedVariable(name) => format!("chat_template_kwargs.{name}"),
            PromptError::CannotContinue => "continue_final_message".to_owned(),
            PromptError::Template(_) => "messages".to_owned(),
        };
        Self::invalid(param, error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.to_body())).into_response();
        let headers = response.headers_mut();
        if let Some(milliseconds) = self.retry_after_ms {
            headers.insert("retry-after", HeaderValue::from(milliseconds.div_ceil(1000)));
            headers.insert("retry-after-ms", HeaderValue::from(milliseconds));
        }
        if self.body.code.as_deref() == Some(UNSUPPORTED_ENCODING) {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(CODINGS));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert("www-authenticate", HeaderValue::from_static("Bearer"));
        }
        // For routes whose errors look different.
        response.extensions_mut().insert(self);
        response
    }
}

/// What a client sent, as an error may repeat it.
pub fn echo(text: &str) -> String {
    shorten(text, MAX_ECHO)
}

/// Cuts a text at a character border.
fn shorten(text: &str, max_bytes: usize) -> String {
    if text.len() <= max_bytes {
        return text.to_owned();
    }
    let end = (0..=max_bytes - 3).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", &text[..end])
}
