//! Cached tokens in the client's answer.
//!
//! The decode engine finds the whole prompt in the KV it received and reports it as cached. What the client should see
//! is how much *prefill* found in its cache, so that number replaces the decode engine's (spec/sidecar.md 3.1 and 14).

use std::sync::LazyLock;

use bytes::Bytes;
use kvferry_splice::{Finder, Missing, get_path, set_path};

use crate::request::route::Api;

/// Sets an answer's cached tokens.
#[derive(Debug, Clone, Copy)]
pub struct UsageEdit {
    api: Api,
    cached_tokens: u64,
    resumed: bool,
}

impl UsageEdit {
    /// What the edit looks for before it looks closer: frames without it are passed on unread.
    pub fn needle() -> &'static Finder<'static> {
        static NEEDLE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"usage\""));
        &NEEDLE
    }

    /// `None` where the API's usage has no such number to set (Anthropic messages, SGLang).
    pub fn new(api: Api, cached_tokens: u64) -> Option<Self> {
        (!matches!(api, Api::Messages | Api::SglangGenerate)).then_some(Self {
            api,
            cached_tokens,
            resumed: false,
        })
    }

    /// For an answer that goes on behind its first token: its engine counts that one with the prompt.
    pub fn resumed(self) -> Self {
        Self { resumed: true, ..self }
    }

    /// The edited JSON, or `None` if there is nothing to edit.
    pub fn apply(self, json: &[u8]) -> Option<Bytes> {
        let number = self.cached_tokens.to_string();
        let moved = self.resumed.then(|| one_token_moved(json)).flatten();
        let json = moved.as_deref().unwrap_or(json);
        match self.api {
            Api::ChatCompletions | Api::Completions | Api::VllmGenerate => {
                set_path(json, &["usage", "prompt_tokens_details", "cached_tokens"], &number, Missing::Create)
            }
            // Events of a stream wrap the response; a whole answer is the response. Only a number that is there is
            // replaced, since this schema is not ours to extend.
            Api::Responses => {
                let path = ["response", "usage", "input_tokens_details", "cached_tokens"];
                set_path(json, &path, &number, Missing::Leave)
                    .or_else(|| set_path(json, &path[1..], &number, Missing::Leave))
            }
            Api::Messages | Api::SglangGenerate => None,
        }
    }
}

/// The usage with one token of the prompt counted as the answer's.
fn one_token_moved(json: &[u8]) -> Option<Bytes> {
    const PROMPT: [&str; 2] = ["usage", "prompt_tokens"];
    const COMPLETION: [&str; 2] = ["usage", "completion_tokens"];
    let json = Bytes::copy_from_slice(json);
    let number =
        |path: &[&str]| -> Option<u64> { std::str::from_utf8(&get_path(&json, path)?).ok()?.parse().ok() };
    let (prompt, completion) = (number(&PROMPT)?.checked_sub(1)?, number(&COMPLETION)? + 1);
    let json = set_path(&json, &PROMPT, &prompt.to_string(), Missing::Leave)?;
    set_path(&json, &COMPLETION, &completion.to_string(), Missing::Leave)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(api: Api, json: &str) -> Option<String> {
        let edited = UsageEdit::new(api, 48)?.apply(json.as_bytes())?;
        Some(String::from_utf8(edited.to_vec()).unwrap())
    }

    #[test]
    fn each_api_gets_its_own_schemas_field() {
        for (api, json, expected) in [
            (
                Api::ChatCompletions,
                r#"{"id":"x","usage":{"prompt_tokens":64,"prompt_tokens_details":{"cached_tokens":63}}}"#,
                Some(
                    r#"{"id":"x","usage":{"prompt_tokens":64,"prompt_tokens_details":{"cached_tokens":48}}}"#,
                ),
            ),
            (
                Api::Completions,
                r#"{"usage":{"prompt_tokens":64}}"#,
                Some(r#"{"usage":{"prompt_tokens_details":{"cached_tokens":48},"prompt_tokens":64}}"#),
            ),
            (Api::ChatCompletions, r#"{"usage":null}"#, None),
            (Api::ChatCompletions, r#"{"choices":[]}"#, None),
            (
                Api::Responses,
                r#"{"usage":{"input_tokens_details":{"cached_tokens":63}}}"#,
                Some(r#"{"usage":{"input_tokens_details":{"cached_tokens":48}}}"#),
            ),
            (
                Api::Responses,
                r#"{"type":"response.completed","response":{"usage":{"input_tokens_details":{"cached_tokens":63}}}}"#,
                Some(
                    r#"{"type":"response.completed","response":{"usage":{"input_tokens_details":{"cached_tokens":48}}}}"#,
                ),
            ),
            (Api::Responses, r#"{"usage":{"input_tokens":5}}"#, None),
            (Api::Messages, r#"{"usage":{"input_tokens":5}}"#, None),
        ] {
            assert_eq!(edit(api, json).as_deref(), expected, "{json}");
        }
    }

    #[test]
    fn the_token_that_an_answer_goes_on_from_is_the_answers() {
        let edit = UsageEdit::new(Api::Completions, 2).unwrap().resumed();
        let apply =
            |json: &str| edit.apply(json.as_bytes()).map(|json| String::from_utf8(json.to_vec()).unwrap());
        assert_eq!(
            apply(r#"{"usage":{"prompt_tokens":65,"total_tokens":72,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":64}}}"#)
                .as_deref(),
            Some(r#"{"usage":{"prompt_tokens":64,"total_tokens":72,"completion_tokens":8,"prompt_tokens_details":{"cached_tokens":2}}}"#)
        );
        assert_eq!(apply(r#"{"usage":null}"#), None);
    }
}
