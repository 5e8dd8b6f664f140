//! The canned answers of a zero-think engine.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;

use super::body::ZeroBody;
use super::scan::TrueMember;
use super::shape::Shape;
use crate::Role;

const ROLE: HeaderName = HeaderName::from_static("x-emulator-role");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream; charset=utf-8");

/// Every answer, made once.
#[derive(Clone)]
pub(super) struct Canned {
    prefill: Bytes,
    whole: Bytes,
    frame: Bytes,
    models: Bytes,
    metrics: Bytes,
    role: HeaderValue,
}

impl Canned {
    pub(super) fn new(model: &str, role: Role) -> Self {
        let bytes = |value: serde_json::Value| Bytes::from(value.to_string());
        let usage = json!({"prompt_tokens": 128, "total_tokens": 129, "completion_tokens": 1,
            "prompt_tokens_details": {"cached_tokens": 64}});
        let answer = |extra: serde_json::Value| {
            json!({"id": "chatcmpl-zero", "object": "chat.completion", "created": 1_700_000_000, "model": model,
                "choices": [{"index": 0, "message": {"role": "assistant", "content": " bafiku"},
                    "logprobs": null, "finish_reason": "length", "stop_reason": null, "token_ids": null}],
                "system_fingerprint": null, "usage": usage, "kv_transfer_params": extra})
        };
        let handle = json!({"do_remote_prefill": true, "do_remote_decode": false,
            "remote_block_ids": [[1, 2, 3, 4, 5, 6, 7, 8]],
            "remote_engine_id": "00000000-0000-4000-8000-000000000000",
            "remote_request_id": "chatcmpl-zero-0", "remote_host": "127.0.0.1", "remote_port": 5600,
            "tp_size": 1, "dcp_size": 1, "pp_size": 1, "remote_num_tokens": 128,
            "remote_blocks_expiry_time": null, "transfer_mode": "pull"});
        let chunk = json!({"id": "chatcmpl-zero", "object": "chat.completion.chunk", "created": 1_700_000_000,
            "model": model, "choices": [{"index": 0, "delta": {"content": " bafiku"}, "logprobs": null,
                "finish_reason": null, "token_ids": null}]});
        let metrics = "vllm:num_requests_running{engine=\"0\"} 0.0\nvllm:num_requests_waiting{engine=\"0\"} 0.0\n\
            vllm:kv_cache_usage_perc{engine=\"0\"} 0.0\n";
        Self {
            prefill: bytes(answer(handle)),
            whole: bytes(answer(json!(null))),
            frame: Bytes::from(format!("data: {chunk}\n\n")),
            models: bytes(json!({"object": "list", "data": [{"id": model, "object": "model",
                "created": 1_700_000_000, "owned_by": "vllm", "root": model, "parent": null,
                "max_model_len": 131_072}]})),
            metrics: Bytes::from_static(metrics.as_bytes()),
            role: HeaderValue::from_static(role.as_str()),
        }
    }

    fn respond(&self, status: StatusCode, kind: HeaderValue, body: ZeroBody) -> Response<ZeroBody> {
        let mut response = Response::new(body);
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response.headers_mut().insert(ROLE, self.role.clone());
        response
    }

    fn ok(&self, kind: HeaderValue, bytes: &Bytes) -> Response<ZeroBody> {
        self.respond(StatusCode::OK, kind, ZeroBody::Whole(bytes.clone()))
    }
}

/// Answers one request.
pub(super) async fn answer(
    canned: &Canned,
    mut request: Request<Incoming>,
) -> Result<Response<ZeroBody>, hyper::Error> {
    if request.method() != Method::POST {
        return Ok(match request.uri().path() {
            "/health" => canned.ok(TEXT, &Bytes::new()),
            "/v1/models" => canned.ok(JSON, &canned.models),
            "/metrics" => canned.ok(TEXT, &canned.metrics),
            "/get_server_info" | "/server_info" | "/version" => canned.ok(JSON, &Bytes::from_static(b"{}")),
            _ => canned.respond(StatusCode::NOT_FOUND, TEXT, ZeroBody::Whole(Bytes::new())),
        });
    }
    let mut prefill = TrueMember::new("\"do_remote_decode\"");
    let mut stream = TrueMember::new("\"stream\"");
    while let Some(frame) = request.body_mut().frame().await {
        if let Some(data) = frame?.data_ref() {
            prefill.feed(data);
            stream.feed(data);
        }
    }
    if prefill.found() {
        return Ok(canned.ok(JSON, &canned.prefill));
    }
    if !stream.found() {
        return Ok(canned.ok(JSON, &canned.whole));
    }
    let Shape { frames, interval } = Shape::read(request.headers());
    let body = ZeroBody::frames(canned.frame.clone(), frames, interval);
    Ok(canned.respond(StatusCode::OK, EVENTS, body))
}
