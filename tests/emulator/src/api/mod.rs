//! vLLM's generation routes, and sglang's own, over one engine.
//!
//! Each route has a file that reads its body and shapes its answer; this one runs what they have in common, in
//! vLLM's order: parse (a bad body notifies nobody), claim the remote KV, check the model and the prompt (a
//! rejection releases the claim), then generate.

pub(crate) mod abort;
mod chat;
mod completions;
mod generate;
mod messages;
mod native;
mod request;
mod responses;
mod run;
mod sse;
mod template;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header};
use serde_json::Value;
use uuid::Uuid;

use crate::encoder::{self, Needs};
use crate::engine::Engine;
use crate::error::ApiError;
use crate::handoff::{Intent, Plan};
use crate::http::body::{Body, full, json};
use request::Wanted;
use run::{Job, Outcome};
use sse::Frames;

/// The routes that generate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Chat,
    Completions,
    Messages,
    Responses,
    Generate,
    Native,
}

impl Route {
    /// The route behind a path.
    pub(crate) fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/v1/chat/completions" => Self::Chat,
            "/v1/completions" => Self::Completions,
            "/v1/messages" => Self::Messages,
            "/v1/responses" => Self::Responses,
            "/inference/v1/generate" => Self::Generate,
            "/generate" => Self::Native,
            _ => return None,
        })
    }

    fn read(self, body: &Value) -> Result<Wanted, ApiError> {
        match self {
            Self::Chat => chat::read(body),
            Self::Completions => completions::read(body),
            Self::Messages => messages::read(body),
            Self::Responses => responses::read(body),
            Self::Generate => generate::read(body),
            Self::Native => native::read(body),
        }
    }

    fn id_prefix(self) -> &'static str {
        match self {
            Self::Native => "",
            Self::Chat | Self::Messages => "chatcmpl-",
            Self::Completions => "cmpl-",
            Self::Responses => "resp_",
            Self::Generate => "generate-tokens-",
        }
    }

    /// vLLM wraps these handlers so that a rejection notifies the prefill engine; generate is not wrapped.
    fn releases_on_rejection(self) -> bool {
        self != Self::Generate
    }

    /// The routes whose answers, streamed or not, have room for the handle of kept KV.
    fn keeps(self) -> bool {
        matches!(self, Self::Chat | Self::Completions)
    }

    fn error(self, error: &ApiError) -> Value {
        if self == Self::Messages { error.anthropic() } else { error.openai() }
    }

    fn whole(self, job: &Job, outcome: &Outcome) -> Response<Body> {
        match self {
            Self::Chat => json(StatusCode::OK, &chat::whole(job, outcome)),
            Self::Completions => json(StatusCode::OK, &completions::whole(job, outcome)),
            Self::Messages => json(StatusCode::OK, &messages::whole(job, outcome)),
            Self::Responses => json(StatusCode::OK, &responses::whole(job, outcome)),
            Self::Generate => json(StatusCode::OK, &generate::whole(job, outcome)),
            Self::Native => json(StatusCode::OK, &native::whole(job, outcome)),
        }
    }

    fn frames(self, job: &Job) -> Box<dyn Frames> {
        match self {
            Self::Chat => Box::new(chat::Stream::new(job)),
            Self::Completions => Box::new(completions::Stream::new(job)),
            Self::Messages => Box::new(messages::Stream::new(job)),
            Self::Responses => Box::new(responses::Stream::new(job)),
            Self::Generate => Box::new(generate::Stream::new(job)),
            Self::Native => Box::new(native::Stream::new(job)),
        }
    }
}

/// Serves one generation request.
pub(crate) async fn serve(
    engine: &Arc<Engine>,
    route: Route,
    headers: &HeaderMap,
    body: &Bytes,
) -> Response<Body> {
    match prepare(engine, route, headers, body) {
        Ok((job, plans)) if job.wanted.stream => stream(engine, route, job, plans),
        Ok((job, plans)) => match run::to_end(engine, &job, plans).await {
            Ok(outcome) => route.whole(&job, &outcome),
            Err(error) => json(error.status, &route.error(&error)),
        },
        Err(error) => json(error.status, &route.error(&error)),
    }
}

fn prepare(
    engine: &Arc<Engine>,
    route: Route,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<(Job, Vec<Plan>), ApiError> {
    check_content_type(headers)?;
    let body: Value = serde_json::from_slice(body)
        .map_err(|error| ApiError::schema(format!("JSON decode error: {error}")))?;
    if !body.is_object() {
        return Err(ApiError::schema("Input should be a valid dictionary or object to extract fields from"));
    }
    let mut wanted = route.read(&body)?;
    let intent = Intent::read(engine, headers, &body);
    let threshold = wanted.threshold;
    let encodes = encoder::task(engine, &body)?;
    let needs = Needs::read(&body).filter(|_| encodes.is_none());
    let ttl = engine.config().decoder_kv_ttl.filter(|_| route.keeps() && wanted.is_single());
    let plan = |index| Plan { threshold, needs: needs.clone(), ..intent.plan(engine, index) }.keeping(ttl);
    // One claim even without a prompt: that is a rejection like any other.
    let plans = |prompts: usize| (0..prompts.max(1)).map(plan).collect();
    let prompts = wanted.prompts.len();
    let plans = if route.releases_on_rejection() {
        // The claims are armed first: if the checks fail, their drop is the release.
        let armed: Vec<Plan> = plans(prompts);
        request::check(engine, &mut wanted)?;
        armed
    } else {
        request::check(engine, &mut wanted)?;
        plans(prompts)
    };
    if encodes.is_some() && wanted.stream {
        return Err(ApiError::bad_request("An encode request cannot stream.", "stream"));
    }
    if intent.one_token || encodes.is_some() {
        wanted.max_tokens = 1;
    }
    let rid = body.get("rid").and_then(Value::as_str).map(str::to_owned);
    let id = match (&rid, route) {
        (Some(rid), Route::Native) => rid.clone(),
        _ => format!("{}{}", route.id_prefix(), request_id(headers)),
    };
    let job = Job::new(id, rid, engine.config().model.clone(), wanted);
    Ok((Job { encodes, ..job }, plans))
}

/// vLLM insists on JSON; a request without the header is let through, for hand-written tests.
fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let media = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if media.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(ApiError::schema("Unsupported Media Type: Only 'application/json' is allowed"))
}

/// The first `x-request-id`, as vLLM takes it, or a random one.
fn request_id(headers: &HeaderMap) -> String {
    headers
        .get("x-request-id")
        .and_then(|value| value.to_str().ok())
        .map_or_else(|| Uuid::new_v4().simple().to_string(), str::to_owned)
}

/// Answers 200 at once and generates while the body is read, as vLLM does; a later error is a frame.
fn stream(engine: &Arc<Engine>, route: Route, job: Job, plans: Vec<Plan>) -> Response<Body> {
    let frames = route.frames(&job);
    let body = run::into_frames(Arc::clone(engine), job, plans, frames);
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, http::HeaderValue::from_static("text/event-stream; charset=utf-8"));
    response
}

/// An error outside the generation routes.
pub(crate) fn error(error: &ApiError) -> Response<Body> {
    json(error.status, &error.openai())
}

/// `GET /v1/models`.
pub(crate) fn models(engine: &Engine) -> Response<Body> {
    let config = engine.config();
    json(
        StatusCode::OK,
        &serde_json::json!({"object": "list", "data": [{
            "id": config.model, "object": "model", "created": now(), "owned_by": "vllm",
            "root": config.model, "parent": null, "max_model_len": config.max_model_len(), "permission": [],
        }]}),
    )
}

/// An empty 200, as vLLM answers a health probe.
pub(crate) fn empty() -> Response<Body> {
    Response::new(full(Bytes::new()))
}

/// Seconds since 1970.
fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map(|since| since.as_secs())
        .unwrap_or_default()
}
