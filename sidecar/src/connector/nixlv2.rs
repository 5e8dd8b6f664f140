//! `nixlv2`: vLLM's NixlConnector, serial (spec/sidecar.md 3.1 and 12.3).
//!
//! Prefill computes one token and keeps its KV for a remote decode; its `kv_transfer_params` go verbatim into the decode
//! leg, whose engine pulls the KV.

use bytes::Bytes;
use kvferry_splice::{Chunks, Edits, Malformed, get_path, scan};

use super::{Connector, KvParams, PrefillAnswer, ReleaseRequest};
use crate::request::intake::Intake;
use crate::request::route::Api;

const KV: &str = "kv_transfer_params";

/// Asks prefill to keep its KV for somebody else to pull.
const KEEP_FOR_REMOTE: &[u8] = br#"{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,"remote_block_ids":null,"remote_host":null,"remote_port":null}"#;

/// A model that no engine serves. vLLM refuses the request before it is scheduled, and on the way out tells the prefill
/// engine that its KV is not wanted (spec/vllm.md 4): the one request that frees KV and can never read it.
const NO_SUCH_MODEL: &str = "kvferry-release-no-such-model";

/// The `nixlv2` connector.
#[derive(Debug, Clone, Copy, Default)]
pub struct NixlV2;

impl Connector for NixlV2 {
    fn name(&self) -> &'static str {
        "nixlv2"
    }

    fn watch(&self) -> &'static [&'static str] {
        &[
            KV,
            "stream",
            "stream_options",
            "max_tokens",
            "max_completion_tokens",
            "max_output_tokens",
            "min_tokens",
            "sampling_params",
            "store",
            "n",
        ]
    }

    fn prefill_body(&self, api: Api, request: &Intake) -> Chunks {
        let mut edits = Edits::new()
            .set(KV, KEEP_FOR_REMOTE)
            .set("stream", "false")
            .remove("stream_options")
            .remove("min_tokens");
        edits = match api {
            Api::ChatCompletions => edits.set("max_tokens", "1").set("max_completion_tokens", "1"),
            Api::Completions | Api::Messages => edits.set("max_tokens", "1"),
            // Nothing of this leg may be found again by its id.
            Api::Responses => edits.set("max_output_tokens", "1").set("store", "false"),
            Api::VllmGenerate => match capped_sampling(request) {
                Some(sampling) => edits.set("sampling_params", sampling),
                None => edits,
            },
        };
        // Each of n samples would keep the prompt's KV under an id of its own, and only one id comes back.
        if matches!(api, Api::ChatCompletions | Api::Completions) && request.document.value("n").is_some() {
            edits = edits.set("n", "1");
        }
        edits.apply(&request.document, &request.body)
    }

    fn read_prefill(&self, api: Api, answer: &Bytes) -> Result<PrefillAnswer, Malformed> {
        let document = scan(answer, &[KV])?;
        let kv = document.value(KV).map(|range| answer.slice(range)).filter(|kv| &kv[..] != b"null");
        let path: &[&str] = match api {
            Api::Responses => &["usage", "input_tokens_details", "cached_tokens"],
            _ => &["usage", "prompt_tokens_details", "cached_tokens"],
        };
        let cached_tokens = get_path(answer, path)
            .and_then(|text| std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()))
            .unwrap_or(0);
        // Its own buffer: the answer around it may be large and need not live as long.
        let kv = kv.map(|kv| KvParams(Bytes::copy_from_slice(&kv)));
        Ok(PrefillAnswer { kv, cached_tokens })
    }

    fn decode_body(&self, request: &Intake, kv: Option<&KvParams>) -> Chunks {
        let kv = kv.map_or(Bytes::from_static(b"null"), |kv| kv.0.clone());
        Edits::new().set(KV, kv).apply(&request.document, &request.body)
    }

    fn release(&self, kv: &KvParams) -> ReleaseRequest {
        let mut body = Vec::with_capacity(kv.0.len() + 128);
        body.extend_from_slice(b"{\"model\":\"");
        body.extend_from_slice(NO_SUCH_MODEL.as_bytes());
        body.extend_from_slice(b"\",\"prompt\":[0],\"max_tokens\":1,\"kv_transfer_params\":");
        body.extend_from_slice(&kv.0);
        body.push(b'}');
        ReleaseRequest { path: Api::Completions.path(), body: body.into() }
    }
}

/// `sampling_params` with one token to produce. `None` leaves it to the engine to refuse what is no object.
fn capped_sampling(request: &Intake) -> Option<Bytes> {
    const WATCH: [&str; 2] = ["max_tokens", "min_tokens"];
    let only_cap = Bytes::from_static(br#"{"max_tokens":1}"#);
    let Some(range) = request.document.value("sampling_params") else {
        return Some(only_cap);
    };
    let sampling = request.body.gather(range);
    if &sampling[..] == b"null" {
        return Some(only_cap);
    }
    let document = scan(&sampling, &WATCH).ok()?;
    let edits = Edits::new().set("max_tokens", "1").remove("min_tokens");
    Some(edits.apply(&document, &Chunks::from(sampling)).to_bytes())
}
