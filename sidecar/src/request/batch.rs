//! Whether a completion asks for several prompts at once.
//!
//! Engines make a request of each prompt, but a handoff names one transfer: with most connectors the second prompt would be
//! answered from the first one's KV, and vLLM's decode engine ends on block counts that do not match. So such a body is
//! not spread over two engines.

use bytes::Bytes;
use serde_json::value::RawValue;

use super::intake::Intake;
use super::route::Api;

/// Members to look for in the body.
pub const WATCH: [&str; 2] = ["prompt", "prompt_embeds"];

/// Whether `intake` has more than one prompt.
pub fn has_several_prompts(api: Api, intake: &Intake) -> bool {
    api == Api::Completions
        && WATCH.iter().filter_map(|name| intake.document.value(name)).any(|range| {
            let value = intake.body.gather(range);
            is_several(&value)
        })
}

/// A list of numbers is one prompt in tokens; any other list has a prompt in each element.
fn is_several(value: &Bytes) -> bool {
    let inside = value.strip_prefix(b"[").unwrap_or_default().trim_ascii_start();
    if !matches!(inside.first(), Some(b'[' | b'"' | b'{')) {
        return false;
    }
    // A list that cannot be taken apart is nobody's single prompt.
    serde_json::from_slice::<Vec<&RawValue>>(value).map_or(true, |prompts| prompts.len() > 1)
}

#[cfg(test)]
mod tests {
    use kvferry_splice::{Chunks, scan};

    use super::*;

    fn several(api: Api, body: &str) -> bool {
        let bytes = Bytes::copy_from_slice(body.as_bytes());
        let document = scan(&bytes, &WATCH).unwrap();
        has_several_prompts(api, &Intake { body: Chunks::from(bytes), document })
    }

    #[test]
    fn only_lists_of_more_than_one_prompt_are_several() {
        for (body, expected) in [
            ("{}", false),
            (r#"{"prompt":"text"}"#, false),
            (r#"{"prompt":"[[1],[2]]"}"#, false),
            (r#"{"prompt":[1,2,3]}"#, false),
            (r#"{"prompt":[]}"#, false),
            (r#"{"prompt":[[1,2,3]]}"#, false),
            (r#"{"prompt":["one"]}"#, false),
            (r#"{"prompt":null}"#, false),
            (r#"{"prompt": [ [1], [2] ]}"#, true),
            (r#"{"prompt":["one","two"]}"#, true),
            (r#"{"prompt":[{"prompt_token_ids":[1]},{"prompt":"x"}]}"#, true),
            (r#"{"prompt":"x","prompt_embeds":["a","b"]}"#, true),
            (r#"{"prompt":"x","prompt_embeds":["a"]}"#, false),
            (r#"{"prompt":[1],"prompt":[[1],[2]]}"#, true),
        ] {
            assert_eq!(several(Api::Completions, body), expected, "{body}");
        }
        assert!(!several(Api::ChatCompletions, r#"{"prompt":["one","two"]}"#));
    }
}
