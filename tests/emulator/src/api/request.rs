//! What the routes' bodies have in common: typed fields, the checks of vLLM's handlers.
//!
//! Wrong types are schema errors, found while reading; wrong values are rejections, found by [`check`]. The
//! difference matters: only a rejection releases remote KV.

use serde_json::Value;

use crate::engine::Engine;
use crate::error::ApiError;
use crate::finish::Finish;

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
    /// The least number of tokens with which the model may end its answer by itself; `None`: it may not.
    pub(crate) may_end_from: Option<usize>,
    pub(crate) n: i64,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) return_token_ids: bool,
    /// The least share of a prompt that must be cached.
    pub(crate) threshold: Option<f64>,
    /// A field that asks for something this engine cannot do.
    pub(crate) unsupported: Option<&'static str>,
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
            may_end_from: may_end_from(body, "min_tokens")?,
            n: integer(body, "n")?.unwrap_or(1),
            stream: flag(body, "stream")?,
            include_usage: options.map_or(Ok(false), |options| flag(options, "include_usage"))?,
            return_token_ids: flag(body, "return_token_ids")?,
            unsupported: unsupported(body),
            threshold: typed(body, "cache_hit_threshold", "number", Value::as_f64)?,
        })
    }

    /// Whether there is one prompt with one answer.
    pub(crate) fn is_single(&self) -> bool {
        self.prompts.len() == 1 && self.n == 1
    }

    /// Output tokens, once checked.
    pub(crate) fn limit(&self) -> usize {
        usize::try_from(self.max_tokens).expect("checked to be positive")
    }

    /// How many tokens an answer has, and why it ends there, if the model's own end is at `stop_after`.
    pub(crate) fn end(&self, stop_after: Option<usize>) -> (usize, Finish) {
        let limit = self.limit();
        let own = stop_after.zip(self.may_end_from).map(|(stop, least)| stop.max(least));
        match own.filter(|stop| *stop <= limit) {
            Some(stop) => (stop, Finish::Stop),
            None => (limit, Finish::Length),
        }
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
    if let Some(field) = wanted.unsupported {
        return Err(ApiError::bad_request(format!("{field} is not supported by this emulator."), field));
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

/// The first field that would change the answer in a way this engine does not know. To ignore it would be to
/// answer something else than was asked.
fn unsupported(body: &Value) -> Option<&'static str> {
    const FIELDS: [&str; 7] = [
        "stop",
        "stop_token_ids",
        "stop_sequences",
        "logprobs",
        "top_logprobs",
        "prompt_logprobs",
        "return_logprob",
    ];
    let asks = |field: &&str| match body.get(*field) {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::Number(count)) => *field != "top_logprobs" || count.as_u64() != Some(0),
        Some(_) => true,
    };
    FIELDS.into_iter().find(asks)
}

/// From which token on the model may end its answer: behind the `least` that were asked for, unless not at all.
pub(crate) fn may_end_from(body: &Value, least: &'static str) -> Result<Option<usize>, ApiError> {
    let least = integer(body, least)?.unwrap_or(0);
    let never = flag(body, "ignore_eos")?;
    Ok((!never).then(|| usize::try_from(least).unwrap_or_default() + 1))
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

/// A switch, off without a word.
pub(crate) fn flag(body: &Value, key: &'static str) -> Result<bool, ApiError> {
    Ok(switch(body, key)?.unwrap_or(false))
}

/// A switch, where it was set.
pub(crate) fn switch(body: &Value, key: &'static str) -> Result<Option<bool>, ApiError> {
    typed(body, key, "boolean", Value::as_bool)
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
