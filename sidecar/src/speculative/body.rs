//! What the next turn's request says, as far as it is known.
//!
//! Its prompt has to begin with the very tokens of the next turn's, and to be found it has to be cached for the same
//! tenant and adapter. So what goes in is what shapes a prompt, spelled as the client spelled it, and nothing else: what
//! shapes an answer (sampling, tools' parsers, formats, log-probabilities) has no say over one token that nobody reads,
//! and what one engine is told of another's KV would leave some behind.

use bytes::Bytes;
use kvferry_splice::Chunks;
use serde_json::Value;

use crate::chat::request::{ChatRequest, MESSAGES};

/// One token, and not in events.
const LIMITS: &[u8] = br#","max_tokens":1,"max_completion_tokens":1,"stream":false}"#;

/// The beginning of whatever a user says next: templates open the turn before they render this.
const USER: &[u8] = br#"{"role":"user","content":" "}]"#;

/// The request that has the turn after `chat` computed, which was answered with `reply`. `None`: nothing was said.
pub(super) fn next_turn(chat: ChatRequest<'_>, reply: &str) -> Option<Chunks> {
    let messages = chat.member(MESSAGES)?;
    let said = messages.strip_prefix(b"[")?.strip_suffix(b"]")?.trim_ascii();
    if said.is_empty() || reply.is_empty() {
        return None;
    }
    let mut body = Chunks::new();
    body.push(Bytes::from_static(b"{"));
    for (_, name, value) in chat.shaping() {
        body.push(format!("\"{name}\":").into());
        body.push(value);
        body.push(Bytes::from_static(b","));
    }
    body.push(format!("\"{MESSAGES}\":[").into());
    body.push(messages.slice_ref(said));
    let reply = Value::from(reply);
    body.push(format!(",{{\"role\":\"assistant\",\"content\":{reply}}},").into());
    body.push(Bytes::from_static(USER));
    body.push(Bytes::from_static(LIMITS));
    Some(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::request::WATCH;
    use crate::request::intake::Intake;
    use crate::request::route::Api;

    fn next(body: &str, reply: &str) -> Option<String> {
        // In two pieces, as larger bodies come.
        let (one, other) = body.split_at(body.len() / 2);
        let mut chunks = Chunks::from(Bytes::copy_from_slice(one.as_bytes()));
        chunks.push(Bytes::copy_from_slice(other.as_bytes()));
        let intake = Intake::of(chunks, &WATCH).unwrap();
        let next = next_turn(ChatRequest::of(Api::ChatCompletions, &intake)?, reply)?;
        Some(String::from_utf8(next.to_bytes().to_vec()).unwrap())
    }

    #[test]
    fn what_was_said_is_followed_by_the_reply_and_a_user_who_begins() {
        let chat = r#"{"messages":[ {"role":"user", "content":"o\u006ee"} ]}"#;
        assert_eq!(
            next(chat, "two \"words\"\n").unwrap(),
            r#"{"messages":[{"role":"user", "content":"o\u006ee"},{"role":"assistant","content":"two \"words\"\n"},{"role":"user","content":" "}],"max_tokens":1,"max_completion_tokens":1,"stream":false}"#
        );
    }

    #[test]
    fn what_shapes_the_prompt_goes_along_and_what_shapes_an_answer_or_moves_kv_does_not() {
        let chat = r#"{"stream":true,"stream_options":{"include_usage":true},"model": "m","n":1,"max_completion_tokens":9,
            "tools":[{"type":"function"}],"tool_choice":"auto","chat_template_kwargs":{"enable_thinking" : false},
            "cache_salt":"tenant","lora_path":"l","logprobs":true,"top_logprobs":2,"response_format":{"type":"json"},
            "kv_transfer_params":{"do_remote_decode":true},"bootstrap_room":7,"min_tokens":5,"stop":["x"],"seed":1,
            "messages":[1],"documents":null}"#;
        assert_eq!(
            next(chat, "r").unwrap(),
            r#"{"model":"m","cache_salt":"tenant","tools":[{"type":"function"}],"tool_choice":"auto","chat_template_kwargs":{"enable_thinking" : false},"lora_path":"l","messages":[1,{"role":"assistant","content":"r"},{"role":"user","content":" "}],"max_tokens":1,"max_completion_tokens":1,"stream":false}"#
        );
    }

    #[test]
    fn a_turn_without_words_or_whose_reply_is_no_message_of_its_own_has_no_next() {
        for body in [
            r#"{"model":"m"}"#,
            r#"{"messages":[ ]}"#,
            r#"{"messages":"hello"}"#,
            r#"{"messages":[1],"n":2}"#,
            r#"{"messages":[1],"continue_final_message":true}"#,
            r#"{"messages":[1],"add_generation_prompt":false}"#,
            r#"{"messages":[1],"truncate_prompt_tokens":9}"#,
        ] {
            assert_eq!(next(body, "r"), None, "{body}");
        }
        assert_eq!(next(r#"{"messages":[1]}"#, ""), None);
    }
}
