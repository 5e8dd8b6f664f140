//! Refuses what the Responses API can only do where state is kept: engines behind a router share none (spec/sidecar.md
//! 12.2). Answering such a request from whichever engine it reaches would be a wrong answer now and then.

use bytes::Bytes;

use super::intake::Intake;
use crate::error::Error;

/// Members to look for in the body.
pub const WATCH: [&str; 4] = ["previous_response_id", "conversation", "background", "input"];

/// Parts of an input that may refer to a stored file.
const FILE_PARTS: [&str; 3] = ["input_image", "input_file", "computer_screenshot"];

/// Deepest nesting that is searched for file references. Inputs nest four deep; beyond this nothing is an input.
const MAX_DEPTH: usize = 64;

/// Checks a body of the Responses API.
///
/// # Errors
/// Names the member that needs state.
pub fn check(intake: &Intake) -> Result<(), Error> {
    let unsupported = |field| Err(Error::UnsupportedField { field });
    let value = |name: &str| intake.document.value(name).map(|range| intake.body.gather(range));
    for name in ["previous_response_id", "conversation"] {
        if value(name).is_some_and(|value| &value[..] != b"null") {
            return unsupported(name);
        }
    }
    if value("background").is_some_and(|value| !matches!(&value[..], b"null" | b"false")) {
        return unsupported("background");
    }
    let Some(input) = value("input") else { return Ok(()) };
    match input.first() {
        Some(b'[') if refers_to_file(&input) => unsupported("file_id"),
        Some(b'"' | b'n' | b'[') => Ok(()),
        _ => unsupported("input"),
    }
}

/// Whether any file part at any depth has a `file_id`. The text is looked at only if the word is there at all.
fn refers_to_file(input: &Bytes) -> bool {
    memchr::memmem::find(input, b"file_id").is_some()
        && serde_json::from_slice(input).is_ok_and(|value| finds_file(&value, MAX_DEPTH))
}

fn finds_file(value: &serde_json::Value, depth: usize) -> bool {
    use serde_json::Value;
    let Some(depth) = depth.checked_sub(1) else { return false };
    match value {
        Value::Array(items) => items.iter().any(|item| finds_file(item, depth)),
        Value::Object(members) => {
            let kind = members.get("type").and_then(Value::as_str).unwrap_or_default();
            let stored = members.get("file_id").is_some_and(|id| !id.is_null());
            (stored && FILE_PARTS.contains(&kind)) || members.values().any(|member| finds_file(member, depth))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use kvferry_splice::{Chunks, scan};

    use super::*;

    fn refused(body: &str) -> Option<&'static str> {
        let bytes = Bytes::copy_from_slice(body.as_bytes());
        let document = scan(&bytes, &WATCH).unwrap();
        match check(&Intake { body: Chunks::from(bytes), document }) {
            Ok(()) => None,
            Err(Error::UnsupportedField { field }) => Some(field),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn members_that_need_state_are_refused_by_name() {
        for (body, field) in [
            (r#"{"input":"x"}"#, None),
            (r#"{"input":null,"store":true}"#, None),
            ("{}", None),
            (r#"{"previous_response_id":"r","input":"x"}"#, Some("previous_response_id")),
            (r#"{"previous_response_id":null}"#, None),
            (r#"{"conversation":{"id":"c"}}"#, Some("conversation")),
            (r#"{"background":true}"#, Some("background")),
            (r#"{"background":"no"}"#, Some("background")),
            (r#"{"background":false}"#, None),
            (r#"{"input":{"a":1}}"#, Some("input")),
            (r#"{"input":5}"#, Some("input")),
            (r#"{"input":[{"type":"input_file","file_id":"f"}]}"#, Some("file_id")),
            (r#"{"input":[{"content":[{"type":"input_image","file_id":"f"}]}]}"#, Some("file_id")),
            (r#"{"input":[{"type":"input_image","file_id":null}]}"#, None),
            (r#"{"input":[{"type":"text","file_id":"f"},{"text":"file_id"}]}"#, None),
        ] {
            assert_eq!(refused(body), field, "{body}");
        }
    }
}
