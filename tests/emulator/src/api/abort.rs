//! The routes that end another connection's request: vLLM's by answer id, sglang's by `rid`.
//!
//! The ended request answers what it had, with the finish reason `abort`. As in the engines, a name that nobody
//! has is no error, since the request may just have finished.

use bytes::Bytes;
use http::Response;
use serde_json::Value;

use crate::api;
use crate::engine::Engine;
use crate::error::ApiError;
use crate::http::body::Body;

/// The abort routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `{"request_ids": [..]}`
    Ids,
    /// `{"rid": ".."}` or `{"abort_all": true}`
    Rid,
}

impl Route {
    /// The route behind a path.
    pub(crate) fn of(path: &str) -> Option<Self> {
        match path {
            "/inference/v1/abort_requests" => Some(Self::Ids),
            "/abort_request" => Some(Self::Rid),
            _ => None,
        }
    }

    fn names(self, body: &Value) -> Option<Names> {
        if self == Self::Ids {
            let ids = body.get("request_ids")?.as_array()?;
            return ids
                .iter()
                .map(|id| id.as_str().map(str::to_owned))
                .collect::<Option<_>>()
                .map(Names::These);
        }
        if body.get("abort_all").and_then(Value::as_bool) == Some(true) {
            return Some(Names::All);
        }
        Some(Names::These(vec![body.get("rid")?.as_str()?.to_owned()]))
    }
}

enum Names {
    All,
    These(Vec<String>),
}

/// Aborts what the body names.
pub(crate) fn serve(engine: &Engine, route: Route, body: &Bytes) -> Response<Body> {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    match route.names(&body) {
        Some(Names::All) => engine.aborts.abort_all(),
        Some(Names::These(names)) => names.iter().for_each(|name| engine.aborts.abort(name)),
        None => {
            let wanted = match route {
                Route::Ids => "request_ids, a list of text",
                Route::Rid => "rid, text",
            };
            return api::error(&ApiError::schema(format!("1 validation error: {wanted}: Field required")));
        }
    }
    api::empty()
}
