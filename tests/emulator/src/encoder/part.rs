//! The multimodal parts of a request, and what an encoder makes of them.

use serde_json::Value;

use crate::kv::{Chain, mix};

/// Part types that need an encoder, on the chat and responses routes.
const TYPES: [&str; 5] = ["image_url", "audio_url", "video_url", "input_audio", "input_image"];

/// Bytes of one encoded part: a small stand-in for an image's embeddings.
const ENCODED_BYTES: usize = 4096;

/// One part, known by a hash of everything in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    hash: String,
    seed: u64,
}

impl Part {
    /// The parts of a body in order, wherever in its messages or input they are (tool outputs have some, too).
    pub(crate) fn all(body: &Value) -> Vec<Self> {
        let mut found = Vec::new();
        for key in ["messages", "input"] {
            if let Some(value) = body.get(key) {
                find(value, &mut found);
            }
        }
        found
    }

    fn new(part: &Value) -> Self {
        let seed =
            part.to_string().bytes().fold(0, |seed: u64, byte| mix(seed.rotate_left(8) ^ u64::from(byte)));
        Self { hash: format!("{seed:016x}{:016x}", mix(seed ^ u64::MAX)), seed }
    }

    /// The name under which an encoder's output is handed on.
    pub(crate) fn hash(&self) -> &str {
        &self.hash
    }

    /// What an encoder of this model makes of it.
    pub(crate) fn encode(&self, model: &str) -> Vec<u8> {
        let mut bytes = vec![0; ENCODED_BYTES];
        Chain::new(model).salted(self.seed).fill(&mut bytes);
        bytes
    }
}

fn find(value: &Value, found: &mut Vec<Part>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| find(item, found)),
        Value::Object(object) => {
            if object.get("type").and_then(Value::as_str).is_some_and(|kind| TYPES.contains(&kind)) {
                found.push(Part::new(value));
            } else {
                object.values().for_each(|member| find(member, found));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parts_are_found_in_order_and_at_any_depth() {
        let image = |url: &str| json!({"type": "image_url", "image_url": {"url": url}});
        let body = json!({"messages": [
            {"role": "user", "content": [{"type": "text", "text": "look"}, image("a"), image("b")]},
            {"role": "tool", "content": [image("a")]}], "tools": [image("c")]});
        let parts = Part::all(&body);
        assert_eq!(parts.len(), 3);
        assert_eq!(parts[0], parts[2]);
        assert_ne!(parts[0].hash(), parts[1].hash());
        let body = json!({"input": [{"type": "function_call_output", "output": [
            {"type": "input_image", "image_url": "a"}, {"type": "input_text", "text": "b"}]}]});
        assert_eq!(Part::all(&body).len(), 1);
        assert!(Part::all(&json!({"input": "text", "messages": []})).is_empty());
    }

    #[test]
    fn encodings_differ_between_parts_and_models() {
        let parts = Part::all(&json!({"input": [{"type": "input_image", "image_url": "a"},
            {"type": "input_image", "image_url": "b"}]}));
        assert_eq!(parts[0].encode("m"), parts[0].encode("m"));
        assert_ne!(parts[0].encode("m"), parts[1].encode("m"));
        assert_ne!(parts[0].encode("m"), parts[0].encode("n"));
    }
}
