//! The names of all attributes, in one place: dashboards and queries depend on them.

/// How engines hand over, `--kv-connector`.
pub const CONNECTOR: &str = "llm_d.pd_proxy.connector";
/// The same, under its later name.
pub const KV_CONNECTOR: &str = "llm_d.pd_proxy.kv_connector";
/// How encoders hand over, `--ec-connector`.
pub const EC_CONNECTOR: &str = "llm_d.pd_proxy.ec_connector";
/// The request's path.
pub const REQUEST_PATH: &str = "llm_d.pd_proxy.request_path";
/// Whether prefill and decode ran in different places.
pub const DISAGGREGATION_USED: &str = "llm_d.pd_proxy.disaggregation_used";
/// Why not, such as [`NO_PREFILL_HEADER`].
pub const REASON: &str = "llm_d.pd_proxy.reason";
/// A value of [`REASON`].
pub const NO_PREFILL_HEADER: &str = "no_prefill_header";
/// A value of [`REASON`], and ours: each of them would need a prefill of its own.
pub const SEVERAL_PROMPTS: &str = "several_prompts";
/// The prefill engine that was chosen.
pub const PREFILL_TARGET: &str = "llm_d.pd_proxy.prefill_target";
/// How many there were to choose from.
pub const PREFILL_CANDIDATES: &str = "llm_d.pd_proxy.prefill_candidates";
/// Why the request was refused, such as [`SSRF_PROTECTION_DENIED`].
pub const ERROR: &str = "llm_d.pd_proxy.error";
/// A value of [`ERROR`].
pub const SSRF_PROTECTION_DENIED: &str = "ssrf_protection_denied";
/// The target that the allowlist does not hold.
pub const DENIED_TARGET: &str = "llm_d.pd_proxy.denied_target";
/// Where KV is pulled from.
pub const KV_CACHE_SOURCE: &str = "llm_d.pd_proxy.kv_cache_source";
/// The id that both legs carry.
pub const REQUEST_ID: &str = "llm_d.pd_proxy.request_id";
/// Status of prefill's answer.
pub const PREFILL_STATUS_CODE: &str = "llm_d.pd_proxy.prefill.status_code";
/// Prefill, sent to answered, in milliseconds, on the prefill span.
pub const PREFILL_LEG_DURATION_MS: &str = "llm_d.pd_proxy.prefill.duration_ms";
/// Whether prefill still ran when decode was sent.
pub const PREFILL_ASYNC: &str = "llm_d.pd_proxy.prefill.async";
/// Whether the answer is streamed.
pub const DECODE_STREAMING: &str = "llm_d.pd_proxy.decode.streaming";
/// Whether decode has several ranks.
pub const DECODE_DATA_PARALLEL: &str = "llm_d.pd_proxy.decode.data_parallel";
/// The decode engine.
pub const DECODE_TARGET: &str = "llm_d.pd_proxy.decode.target";
/// Decode, sent to its answer's end, in milliseconds, on the decode span.
pub const DECODE_LEG_DURATION_MS: &str = "llm_d.pd_proxy.decode.duration_ms";
/// Whether decode was sent before prefill had answered.
pub const DECODE_CONCURRENT: &str = "llm_d.pd_proxy.decode.concurrent_with_prefill";
/// The whole request, in milliseconds.
pub const TOTAL_DURATION_MS: &str = "llm_d.pd_proxy.total_duration_ms";
/// Request begun to decode sent, in milliseconds. (The name promises more; it is what dashboards know.)
pub const TRUE_TTFT_MS: &str = "llm_d.pd_proxy.true_ttft_ms";
/// Prefill, sent to answered, in milliseconds, beside the total.
pub const PREFILL_DURATION_MS: &str = "llm_d.pd_proxy.prefill_duration_ms";
/// Decode, sent to its answer's end, in milliseconds, beside the total.
pub const DECODE_DURATION_MS: &str = "llm_d.pd_proxy.decode_duration_ms";
/// The total without both legs, in milliseconds.
pub const COORDINATOR_OVERHEAD_MS: &str = "llm_d.pd_proxy.coordinator_overhead_ms";
/// Whether this request's legs ran at once.
pub const CONCURRENT_PD: &str = "llm_d.pd_proxy.concurrent_pd";
/// The same, by its other name.
pub const PARALLEL_DISPATCH: &str = "llm_d.pd_proxy.parallel_dispatch";
/// How long both legs ran side by side, in milliseconds.
pub const PARALLEL_WINDOW_MS: &str = "llm_d.pd_proxy.parallel_window_ms";
/// Tokens of each chunk of a chunked decode.
pub const CHUNKED_CHUNK_SIZE: &str = "llm_d.pd_proxy.chunked_decode.chunk_size";
/// Whether its answer is streamed.
pub const CHUNKED_STREAMING: &str = "llm_d.pd_proxy.chunked_decode.streaming";
/// How many chunks it took.
pub const CHUNKED_CHUNKS: &str = "llm_d.pd_proxy.chunked_decode.chunks";
/// Tokens of all of them.
pub const CHUNKED_TOTAL_TOKENS: &str = "llm_d.pd_proxy.chunked_decode.total_tokens";
/// How long all of them took, in milliseconds.
pub const CHUNKED_DURATION_MS: &str = "llm_d.pd_proxy.chunked_decode.duration_ms";
/// The request's API, as metrics call it.
pub const OPENAI_API: &str = "llm_d.openai.api";
/// Whether encoding ran elsewhere.
pub const ENCODE_DISAGGREGATION_USED: &str = "llm_d.ec_proxy.encode_disaggregation_used";
/// How many encoders took part.
pub const ENCODER_COUNT: &str = "llm_d.ec_proxy.encoder_count";
/// How many there were to choose from.
pub const ENCODER_CANDIDATES: &str = "llm_d.ec_proxy.encoder_candidates";
/// How many of them the allowlist holds.
pub const ENCODER_ALLOWED: &str = "llm_d.ec_proxy.encoder_allowed";

/// What the model is asked for: `chat`, `text_completion`.
pub const GEN_AI_OPERATION_NAME: &str = "gen_ai.operation.name";
/// The model that the request names.
pub const GEN_AI_REQUEST_MODEL: &str = "gen_ai.request.model";
/// Of the prompt's tokens, those whose KV was there already.
pub const GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: &str = "gen_ai.usage.cache_read.input_tokens";
/// Host of the engine that a client span asks.
pub const SERVER_ADDRESS: &str = "server.address";
/// Its port.
pub const SERVER_PORT: &str = "server.port";
/// The method.
pub const HTTP_REQUEST_METHOD: &str = "http.request.method";
/// The path.
pub const URL_PATH: &str = "url.path";
/// Status of the answer.
pub const HTTP_RESPONSE_STATUS_CODE: &str = "http.response.status_code";
/// What went wrong: a stable code of ours, or the status of the answer.
pub const ERROR_TYPE: &str = "error.type";
