//! What the routes' bodies have in common: typed fields, the checks of vLLM's handlers, prompt rendering.
//!
//! Wrong types are schema errors, found while reading; wrong values are rejections, found by [`check`]. The
//! difference matters: only a rejection releases remote KV.

use serde_json::Value;

use crate::engine::Engine;
use crate::error::ApiError;
use crate::tokens;

/// Output tokens when the request sets no limit: vLLM's default for completions, used for every route.
const DEFAULT_MAX_TOKENS: i64 = 16;

/// Most choices of one prompt; each costs only its text here.
const MAX_CHOICES: i64 = 128;

/// A request as the engine understands it.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) model: Option<String>,
    pub(crate) prompts: Vec<Vec<u32>>,
    pub(crate) max_tokens: i64,
    pub(crate) n: i64,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) return_token_ids: bool,
    /// The least share of a prompt that must be cached.
    pub(crate) threshold: Option<f64>,
}

impl Wanted {
    /// Reads the fields that all routes share; `limits` names the output limits, strongest first.
    pub(crate) fn read(
        body: &Value,
        prompts: Vec<Vec<u32>>,
        limits: &[&'static str],
    ) -> Result<Self, ApiError> {
        let mut max_tokens = None;
        for limit in limits {
            max_tokens = max_tokens.or(integer(body, limit)?);
        }
        let options = body.get("stream_options").filter(|options| !options.is_null());
        Ok(Self {
            model: text(body, "model")?,
            prompts,
            max_tokens: max_tokens.unwrap_or(DEFAULT_MAX_TOKENS),
            n: integer(body, "n")?.unwrap_or(1),
            stream: flag(body, "stream")?,
            include_usage: options.map_or(Ok(false), |options| flag(options, "include_usage"))?,
            return_token_ids: flag(body, "return_token_ids")?,
            threshold: typed(body, "cache_hit_threshold", "number", Value::as_f64)?,
        })
    }

    /// Output tokens, once checked.
    pub(crate) fn limit(&self) -> usize {
        usize::try_from(self.max_tokens).expect("checked to be positive")
    }

    /// Choice indexes of the prompt at `index`.
    pub(crate) fn choices(&self, index: usize) -> std::ops::Range<usize> {
        let n = usize::try_from(self.n).expect("checked to be positive");
        index * n..(index + 1) * n
    }
}

/// The rejections of vLLM's handlers.
pub(crate) fn check(engine: &Engine, wanted: &mut Wanted) -> Result<(), ApiError> {
    if let Some(model) = wanted.model.as_ref().filter(|model| **model != engine.config().model) {
        return Err(ApiError::no_model(model));
    }
    if wanted.prompts.is_empty() || wanted.prompts.iter().any(Vec::is_empty) {
        return Err(ApiError::bad_request("The decoder prompt cannot be empty", "prompt"));
    }
    if wanted.threshold.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
        let message = "cache_hit_threshold must be between 0 and 1.";
        return Err(ApiError::bad_request(message, "cache_hit_threshold"));
    }
    if wanted.max_tokens < 1 {
        let message = format!("max_tokens must be at least 1, got {}.", wanted.max_tokens);
        return Err(ApiError::bad_request(message, "max_tokens"));
    }
    if !(1..=MAX_CHOICES).contains(&wanted.n) {
        return Err(ApiError::bad_request(format!("n must be 1 to {MAX_CHOICES}, got {}.", wanted.n), "n"));
    }
    let room = engine.config().max_model_len();
    let longest = wanted.prompts.iter().map(Vec::len).max().unwrap_or_default();
    if longest >= room {
        let message = format!(
            "This model's maximum context length is {room} tokens. However, your request has {longest} input tokens."
        );
        return Err(ApiError::bad_request(message, "input_tokens"));
    }
    wanted.max_tokens = wanted.max_tokens.min(i64::try_from(room - longest).unwrap_or(i64::MAX));
    Ok(())
}

/// The role-tagged text of a conversation: a stand-in for a chat template.
pub(crate) fn render<'a>(
    turns: impl IntoIterator<Item = (&'a str, &'a Value)>,
    tools: Option<&Value>,
) -> Vec<u32> {
    let mut rendered = String::new();
    if let Some(tools) = tools.filter(|tools| !tools.is_null()) {
        rendered.extend(["<|tools|> ", &tools.to_string(), "\n"]);
    }
    for (role, content) in turns {
        rendered.push_str("<|");
        rendered.push_str(role);
        rendered.push_str("|> ");
        push_content(&mut rendered, content);
        rendered.push('\n');
    }
    if rendered.is_empty() {
        return Vec::new();
    }
    rendered.push_str("<|assistant|>");
    tokens::encode(&rendered)
}

/// The turns of a `messages` or `input` array.
pub(crate) fn turns(items: &[Value]) -> Result<Vec<(&str, &Value)>, ApiError> {
    const NOTHING: &Value = &Value::Null;
    items
        .iter()
        .map(|item| {
            let item =
                item.as_object().ok_or_else(|| ApiError::schema("messages must be a list of objects"))?;
            let role = item.get("role").or(item.get("type")).and_then(Value::as_str).unwrap_or("user");
            Ok((role, item.get("content").unwrap_or(NOTHING)))
        })
        .collect()
}

/// Text as it is; parts one after the other, those without text as their JSON.
fn push_content(rendered: &mut String, content: &Value) {
    match content {
        Value::Null => {}
        Value::String(text) => rendered.push_str(text),
        Value::Array(parts) => parts.iter().for_each(|part| push_content(rendered, part)),
        Value::Object(part) => match part.get("text") {
            Some(Value::String(text)) => rendered.push_str(text),
            _ => rendered.push_str(&content.to_string()),
        },
        other => rendered.push_str(&other.to_string()),
    }
}

/// A list of token ids.
pub(crate) fn token_ids(items: &[Value]) -> Option<Vec<u32>> {
    items.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect()
}

fn integer(body: &Value, key: &'static str) -> Result<Option<i64>, ApiError> {
    typed(body, key, "integer", |value| {
        // A float without a fraction passes, as in vLLM.
        #[expect(clippy::cast_possible_truncation, reason = "only whole numbers in i64's range are cast")]
        value
            .as_i64()
            .or_else(|| value.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 1e15).map(|n| n as i64))
    })
}

fn text(body: &Value, key: &'static str) -> Result<Option<String>, ApiError> {
    typed(body, key, "string", |value| value.as_str().map(str::to_owned))
}

fn flag(body: &Value, key: &'static str) -> Result<bool, ApiError> {
    Ok(typed(body, key, "boolean", Value::as_bool)?.unwrap_or(false))
}

fn typed<T>(
    body: &Value,
    key: &'static str,
    kind: &str,
    read: impl FnOnce(&Value) -> Option<T>,
) -> Result<Option<T>, ApiError> {
    match body.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => read(value).map(Some).ok_or_else(|| {
            ApiError::schema(format!("1 validation error: {key}: Input should be a valid {kind}"))
        }),
    }
}
