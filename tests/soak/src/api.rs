//! The intercepted APIs as a client sees them: what a request looks like, and what an answer says.

use serde_json::{Value, json};

/// An intercepted API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Api {
    Chat,
    Completions,
    Messages,
    Responses,
    Generate,
}

/// What a client wants generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Wish {
    pub(crate) api: Api,
    /// Which of the prompts.
    pub(crate) prompt: u64,
    /// Output tokens.
    pub(crate) tokens: u64,
}

/// What an answer says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// The text of each choice, in order; token ids for `generate`.
    pub(crate) choices: Vec<String>,
    /// The error inside a stream that had begun well.
    pub(crate) error: Option<String>,
    /// Whether a stream came to its end marker, or a whole answer to its last brace.
    pub(crate) ended: bool,
}

impl Api {
    pub(crate) const ALL: [Self; 5] =
        [Self::Chat, Self::Completions, Self::Messages, Self::Responses, Self::Generate];

    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Messages => "/v1/messages",
            Self::Responses => "/v1/responses",
            Self::Generate => "/inference/v1/generate",
        }
    }

    /// Whether `n` asks for several choices.
    pub(crate) fn has_choices(self) -> bool {
        matches!(self, Self::Chat | Self::Completions)
    }

    fn delta(self, frame: &Value) -> Option<(usize, String)> {
        let choice = &frame["choices"][0];
        let index = || usize::try_from(choice["index"].as_u64()?).ok();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        match self {
            Self::Chat => Some((index()?, text(&choice["delta"]["content"])?)),
            Self::Completions => Some((index()?, text(&choice["text"])?)),
            Self::Messages => Some((0, text(&frame["delta"]["text"])?)),
            Self::Responses if frame["type"] == "response.output_text.delta" => {
                Some((0, text(&frame["delta"])?))
            }
            Self::Responses => None,
            Self::Generate => Some((index()?, ids(&choice["token_ids"])?)),
        }
    }

    /// The type of the last event, for the APIs that have no `[DONE]`.
    fn last_event(self) -> Option<&'static str> {
        match self {
            Self::Messages => Some("message_stop"),
            Self::Responses => Some("response.completed"),
            Self::Chat | Self::Completions | Self::Generate => None,
        }
    }

    /// Reads a stream. What is not an event stream of this API is an error in words.
    pub(crate) fn read_stream(self, body: &[u8]) -> Result<Said, String> {
        let text = std::str::from_utf8(body).map_err(|_| "a stream that is not UTF-8")?;
        let mut said = Said::default();
        for line in text.lines() {
            let Some(payload) = line.strip_prefix("data: ") else {
                if line.is_empty() || line.starts_with(':') || line.starts_with("event: ") {
                    continue;
                }
                return Err(format!("no line of an event stream: {line:?}"));
            };
            if payload == "[DONE]" {
                // Behind an error it ends nothing.
                said.ended = said.error.is_none() && self.last_event().is_none();
                continue;
            }
            if said.ended {
                return Err(format!("data behind the end: {payload:?}"));
            }
            let frame: Value =
                serde_json::from_str(payload).map_err(|_| format!("a frame that is no JSON: {payload:?}"))?;
            if !frame["error"].is_null() {
                said.error = Some(frame["error"]["message"].as_str().unwrap_or_default().to_owned());
            }
            said.ended |= self.last_event().is_some_and(|last| frame["type"] == last);
            if let Some((choice, delta)) = self.delta(&frame) {
                if said.choices.len() <= choice {
                    said.choices.resize(choice + 1, String::new());
                }
                said.choices[choice] += &delta;
            }
        }
        Ok(said)
    }

    /// Reads a whole answer.
    pub(crate) fn read_whole(self, body: &[u8]) -> Result<Said, String> {
        let answer: Value = serde_json::from_slice(body).map_err(|_| {
            format!("an answer that is no JSON: {:?}", String::from_utf8_lossy(&body[..body.len().min(200)]))
        })?;
        let list = |value: &Value, read: &dyn Fn(&Value) -> Option<String>| -> Option<Vec<String>> {
            value.as_array()?.iter().map(read).collect()
        };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let choices = match self {
            Self::Chat => list(&answer["choices"], &|choice| text(&choice["message"]["content"])),
            Self::Completions => list(&answer["choices"], &|choice| text(&choice["text"])),
            Self::Messages => list(&answer["content"], &|part| text(&part["text"])),
            Self::Responses => list(&answer["output"], &|item| text(&item["content"][0]["text"])),
            Self::Generate => list(&answer["choices"], &|choice| ids(&choice["token_ids"])),
        };
        let choices = choices.ok_or_else(|| format!("an answer without its output: {answer}"))?;
        Ok(Said { choices, error: None, ended: true })
    }
}

impl Wish {
    /// The request's body. `choices`: for the APIs that have them.
    pub(crate) fn body(&self, stream: bool, choices: u64) -> String {
        let (text, tokens) = (prompt(self.prompt), self.tokens);
        let mut body = match self.api {
            Api::Chat => json!({"model": "tiny", "max_tokens": tokens,
                "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": text}]}),
            Api::Completions => json!({"model": "tiny", "prompt": text, "max_tokens": tokens}),
            Api::Messages => json!({"model": "tiny", "max_tokens": tokens, "system": "be brief",
                "messages": [{"role": "user", "content": text}]}),
            Api::Responses => json!({"model": "tiny", "input": text, "max_output_tokens": tokens}),
            Api::Generate => {
                // About as many tokens as the text is for the other APIs, and its number, which may be skipped there.
                let ids: Vec<u64> = text.bytes().step_by(5).map(u64::from).chain([self.prompt]).collect();
                json!({"token_ids": ids, "sampling_params": {"max_tokens": tokens}})
            }
        };
        if stream {
            body["stream"] = true.into();
            // Makes the sidecar rewrite a frame.
            body["stream_options"] = json!({"include_usage": true});
        }
        if choices > 1 {
            body["n"] = choices.into();
        }
        body.to_string()
    }
}

/// Prompts of very different lengths; several share their beginning, as turns of a conversation do.
fn prompt(number: u64) -> String {
    const LENGTHS: [u64; 6] = [1, 7, 40, 130, 400, 1000];
    let length = LENGTHS[usize::try_from(number % 6).expect("a remainder below 6 fits usize")];
    let topic = number / 6 % 3;
    (0..length).fold(format!("topic{topic}"), |text, word| text + " w" + &word.to_string())
        + &format!(" q{number}")
}

/// Token ids as text, each with a comma behind it, so that the pieces of a stream can be joined.
fn ids(value: &Value) -> Option<String> {
    value.as_array()?.iter().map(|id| Some(format!("{},", id.as_u64()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_and_a_whole_answer_say_the_same() {
        let stream = "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n\
            : ping\n\n\
            data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" ba\"}}]}\n\n\
            data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" do\"}}]}\n\n\
            data: {\"choices\":[],\"usage\":{}}\n\ndata: [DONE]\n\n";
        let whole = r#"{"choices":[{"message":{"content":" ba do"}}]}"#;
        let said = Api::Chat.read_stream(stream.as_bytes()).unwrap();
        assert_eq!(said, Api::Chat.read_whole(whole.as_bytes()).unwrap());
        assert_eq!(said, Said { choices: vec![" ba do".to_owned()], error: None, ended: true });
    }

    #[test]
    fn a_stream_that_stops_short_has_not_ended() {
        let cut = b"data: {\"choices\":[{\"index\":1,\"token_ids\":[4,5]}]}\n\n";
        let said = Api::Generate.read_stream(cut).unwrap();
        assert_eq!((said.choices, said.ended), (vec![String::new(), "4,5,".to_owned()], false));
        let error = b"event: error\ndata: {\"type\":\"error\",\"error\":{\"message\":\"no KV\"}}\n\n";
        assert_eq!(Api::Messages.read_stream(error).unwrap().error.as_deref(), Some("no KV"));
        let error = b"data: {\"error\":{\"message\":\"no KV\"}}\n\ndata: [DONE]\n\n";
        assert!(!Api::Chat.read_stream(error).unwrap().ended);
    }

    #[test]
    fn what_is_no_answer_is_said_in_words() {
        for stream in ["data: {\"cho", "hello", "data: [DONE]\n\ndata: {}\n\n"] {
            assert!(Api::Completions.read_stream(stream.as_bytes()).is_err(), "{stream}");
        }
        for whole in ["", "{}", "{\"choices\":[{}]}"] {
            assert!(Api::Completions.read_whole(whole.as_bytes()).is_err(), "{whole}");
        }
    }

    #[test]
    fn prompts_differ_and_share_their_beginning() {
        let (one, other) = (prompt(4), prompt(22));
        assert_ne!(one, other);
        assert_eq!(one[..500], other[..500]);
    }
}
