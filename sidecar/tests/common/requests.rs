//! A request for every API.

use serde_json::{Value, json};

/// Tokens that each request asks for.
const TOKENS: usize = 12;

/// One of the intercepted APIs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) path: &'static str,
    /// As the log calls it.
    pub(crate) label: &'static str,
}

impl Route {
    /// A request for `tokens` tokens after a prompt made from `text`.
    pub(crate) fn value(self, text: &str, tokens: usize, stream: bool) -> Value {
        let mut body = match self.label {
            "chat_completions" => json!({"model": "tiny", "max_tokens": tokens,
                "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": text}]}),
            "completions" => json!({"model": "tiny", "prompt": text, "max_tokens": tokens}),
            "messages" => json!({"model": "tiny", "system": "be brief", "max_tokens": tokens,
                "messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]}),
            "responses" => json!({"model": "tiny", "input": text, "max_output_tokens": tokens}),
            _ => {
                let ids: Vec<u32> = text.bytes().map(u32::from).collect();
                json!({"token_ids": ids, "sampling_params": {"max_tokens": tokens}})
            }
        };
        if stream {
            body["stream"] = true.into();
        }
        body
    }

    pub(crate) fn body(self, stream: bool) -> String {
        self.value(&prompt(80), TOKENS, stream).to_string()
    }
}

pub(crate) const APIS: [Route; 5] = [
    Route { path: "/v1/chat/completions", label: "chat_completions" },
    Route { path: "/v1/completions", label: "completions" },
    Route { path: "/v1/messages", label: "messages" },
    Route { path: "/v1/responses", label: "responses" },
    Route { path: "/inference/v1/generate", label: "vllm_generate" },
];

/// A text of about so many tokens.
pub(crate) fn prompt(tokens: usize) -> String {
    (0..tokens).fold(String::new(), |text, n| text + " w" + &n.to_string())
}
