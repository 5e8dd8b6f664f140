//! Errors as vLLM words and shapes them.

use http::StatusCode;
use serde_json::{Value, json};

/// An error on its way to a client.
#[derive(Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    kind: &'static str,
    message: String,
    param: Option<&'static str>,
}

impl ApiError {
    /// The body never became a request: not JSON, or a field of the wrong type.
    pub(crate) fn schema(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, kind: "Bad Request", message: message.into(), param: None }
    }

    /// The request was understood and cannot be served as asked.
    pub(crate) fn bad_request(message: impl Into<String>, param: &'static str) -> Self {
        let (status, kind) = (StatusCode::BAD_REQUEST, "BadRequestError");
        Self { status, kind, message: message.into(), param: Some(param) }
    }

    /// Another model than the one served.
    pub(crate) fn no_model(model: &str) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            kind: "NotFoundError",
            message: format!("The model `{model}` does not exist."),
            param: Some("model"),
        }
    }

    /// No such route.
    pub(crate) fn not_found() -> Self {
        Self::status(StatusCode::NOT_FOUND)
    }

    /// A bare status.
    pub(crate) fn status(status: StatusCode) -> Self {
        let kind = status.canonical_reason().unwrap_or("Unknown");
        Self { status, kind, message: kind.into(), param: None }
    }

    /// The KV could not be had.
    pub(crate) fn kv_load(reason: impl std::fmt::Display) -> Self {
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            kind: "InternalServerError",
            message: format!("Internal server error: KV load failed: {reason}"),
            param: None,
        }
    }

    /// The KV was computed and could not be handed over.
    pub(crate) fn kv_handover(reason: impl std::fmt::Display) -> Self {
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            kind: "InternalServerError",
            message: format!("Internal server error: KV handover failed: {reason}"),
            param: None,
        }
    }

    /// The shape of the `OpenAI` routes.
    pub(crate) fn openai(&self) -> Value {
        let Self { status, kind, message, param } = self;
        json!({"error": {"message": message, "type": kind, "param": param, "code": status.as_u16()}})
    }

    /// The shape of `/v1/messages`.
    pub(crate) fn anthropic(&self) -> Value {
        json!({"type": "error", "error": {"type": self.kind, "message": self.message}})
    }
}
