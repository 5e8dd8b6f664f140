//! The first token as prefill answered it: the event that tells the client of it, and the request that goes on from it.
//!
//! What prefill computed is the answer's first token only if it computed the whole prompt. For models with a recurrent
//! state vLLM stops prefill short of the prompt's end and leaves the rest to decode; the token such an answer holds is a
//! guess at the prompt's own last ones. The handle says how many tokens the KV covers, so an answer without that number,
//! or with another than the prompt's, is not forwarded. Neither is one that ended with this token (it is complete, and
//! the ordinary path tells it best), or whose text is empty or broken: a character may be spread over two tokens.

use bytes::Bytes;
use kvferry_splice::{Chunks, Edits, scan, scan_chunks};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Dialect, Plan, Said, Seam};
use crate::request::Asked;

/// What decoders put where bytes are no text.
const BROKEN: char = '\u{FFFD}';

/// A first token that may be sent to the client before decode has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstToken {
    plan: Plan,
    event: Bytes,
    said: Said,
    /// The prompt and the token behind it, as a JSON array.
    tokens: Bytes,
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    request_id: Option<&'a RawValue>,
    #[serde(borrow)]
    created: Option<&'a RawValue>,
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    choices: [Choice<'a>; 1],
    usage: Usage,
    kv_transfer_params: Handle,
}

#[derive(Deserialize)]
struct Choice<'a> {
    text: Option<String>,
    finish_reason: String,
    token_ids: [u32; 1],
    #[serde(borrow)]
    prompt_token_ids: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
}

#[derive(Deserialize)]
struct Handle {
    remote_num_tokens: u64,
}

impl FirstToken {
    /// What `answer`, prefill's, says of it. `None`: it is not to be forwarded.
    pub fn read(plan: Plan, asked: &Asked, answer: &[u8]) -> Option<Self> {
        let prompt = match plan.dialect {
            Dialect::Text => Bytes::new(),
            Dialect::Ids => asked.intake.body.gather(value_of(&asked.intake.body, "token_ids")?),
        };
        Self::from_parts(plan, &prompt, answer)
    }

    /// `prompt`: the tokens that the client itself gave, if it gave tokens.
    fn from_parts(plan: Plan, prompt: &[u8], answer: &[u8]) -> Option<Self> {
        let Answer { id, request_id, created, model, choices: [choice], usage, kv_transfer_params: kv } =
            serde_json::from_slice(answer).ok()?;
        if choice.finish_reason != "length"
            || usage.completion_tokens != 1
            || kv.remote_num_tokens != usage.prompt_tokens
        {
            return None;
        }
        let [token] = choice.token_ids;
        let (said, event, prompt) = match plan.dialect {
            Dialect::Text => {
                let text = choice.text.filter(|text| !text.is_empty() && !text.contains(BROKEN))?;
                let said = Said::Text(text);
                let event = format!(
                    r#"{{"id":{},"object":"text_completion","created":{},"model":{},"choices":[{{"index":0,"text":{},"logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,"token_ids":null}}]}}"#,
                    id?,
                    created?,
                    model?,
                    said.json()
                );
                (said, event, choice.prompt_token_ids?.get().as_bytes())
            }
            Dialect::Ids => {
                let said = Said::Ids(vec![token]);
                let event = format!(
                    r#"{{"request_id":{},"usage":null,"output_mode":"tokens","choices":[{{"index":0,"finish_reason":null,"stop_reason":null,"token_ids":{},"routed_experts":null,"sampling_mask":null,"weight_versions":null,"logprobs":null}}]}}"#,
                    request_id?,
                    said.json()
                );
                (said, event, prompt)
            }
        };
        let mut tokens = prompt.strip_suffix(b"]")?.to_vec();
        tokens.extend_from_slice(format!(",{token}]").as_bytes());
        Some(Self { plan, event: format!("data: {event}\n\n").into(), said, tokens: tokens.into() })
    }

    /// The event for the client.
    pub fn event(&self) -> Bytes {
        self.event.clone()
    }

    /// Looks for it at the beginning of the decode engine's answer.
    pub fn seam(&self) -> Seam {
        Seam::new(self.said.clone())
    }

    /// The body of a decode leg that goes on behind it without KV from elsewhere. Its engine has the prompt's blocks:
    /// it pulled them for the leg that began otherwise.
    pub fn resume(&self, asked: &Asked) -> Option<Chunks> {
        const TEXT: [&str; 3] = ["prompt", "max_tokens", "kv_transfer_params"];
        const IDS: [&str; 3] = ["token_ids", "sampling_params", "kv_transfer_params"];
        let body = &asked.intake.body;
        let left = (self.plan.max_tokens - 1).to_string();
        let (watch, edits) = match self.plan.dialect {
            Dialect::Text => (&TEXT, Edits::new().set("prompt", self.tokens.clone()).set("max_tokens", left)),
            Dialect::Ids => {
                let sampling = body.gather(value_of(body, "sampling_params")?);
                let document = scan(&sampling, &["max_tokens"]).ok()?;
                let edited = Edits::new().set("max_tokens", left).apply(&document, &sampling.clone().into());
                let edits = Edits::new().set("token_ids", self.tokens.clone());
                (&IDS, edits.set("sampling_params", edited.to_bytes()))
            }
        };
        let document = scan_chunks(body, watch).ok()?;
        Some(edits.remove("kv_transfer_params").apply(&document, body))
    }
}

fn value_of(body: &Chunks, name: &'static str) -> Option<std::ops::Range<usize>> {
    scan_chunks(body, &[name]).ok()?.value(name)
}

#[cfg(test)]
mod tests {
    use kvferry_splice::Scanner;

    use super::*;
    use crate::request::intake::Intake;
    use crate::request::route::Api;

    const TEXT: Plan = Plan { dialect: Dialect::Text, max_tokens: 8 };
    const IDS: Plan = Plan { dialect: Dialect::Ids, max_tokens: 8 };

    fn completion(text: &str, finish: &str, covered: &str) -> String {
        format!(
            r#"{{"id":"cmpl-7","object":"text_completion","created":1763726400,"model":"m","choices":[{{"index":0,"text":{text},"logprobs":null,"finish_reason":"{finish}","stop_reason":null,"token_ids":[42],"prompt_token_ids":[5, 6,7]}}],"usage":{{"prompt_tokens":3,"total_tokens":4,"completion_tokens":1}},"kv_transfer_params":{{"remote_num_tokens":{covered}}}}}"#
        )
    }

    fn asked(api: Api, body: &str) -> Asked {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let mut scanner = Scanner::new(&["stream"]);
        scanner.feed(&body).unwrap();
        let intake = Intake { document: scanner.finish().unwrap(), body: body.into() };
        Asked {
            api,
            intake,
            headers: http::HeaderMap::new(),
            id: http::HeaderValue::from_static("7"),
            kv_source: None,
            port: 0,
        }
    }

    #[test]
    fn the_event_has_the_engines_shape_and_the_answer_can_go_on_behind_it() {
        let asked = asked(
            Api::Completions,
            r#"{"prompt":"five six seven","max_tokens":8,"temperature":0,"stream":true,"z":1.50}"#,
        );
        let answer = completion(r#"" \"caf\u00e9\"""#, "length", "3");
        let first = FirstToken::read(TEXT, &asked, answer.as_bytes()).unwrap();
        assert_eq!(
            first.event(),
            "data: {\"id\":\"cmpl-7\",\"object\":\"text_completion\",\"created\":1763726400,\"model\":\"m\",\"choices\":[{\"index\":0,\"text\":\" \\\"café\\\"\",\"logprobs\":null,\"finish_reason\":null,\"stop_reason\":null,\"prompt_token_ids\":null,\"token_ids\":null}]}\n\n"
        );
        assert_eq!(
            first.resume(&asked).unwrap().to_bytes(),
            r#"{"prompt":[5, 6,7,42],"max_tokens":7,"temperature":0,"stream":true,"z":1.50}"#
        );
    }

    #[test]
    fn tokens_that_the_client_gave_are_what_the_answer_goes_on_from() {
        let asked = asked(
            Api::VllmGenerate,
            r#"{"token_ids":[5,6,7],"sampling_params":{"temperature":0,"max_tokens":8},"kv_transfer_params":null,"stream":true}"#,
        );
        let answer = r#"{"request_id":"g-7","choices":[{"index":0,"finish_reason":"length","token_ids":[42]}],"usage":{"prompt_tokens":3,"completion_tokens":1},"kv_transfer_params":{"remote_num_tokens":3}}"#;
        let first = FirstToken::read(IDS, &asked, answer.as_bytes()).unwrap();
        assert!(first.event().starts_with(br#"data: {"request_id":"g-7","#));
        assert_eq!(
            first.resume(&asked).unwrap().to_bytes(),
            r#"{"token_ids":[5,6,7,42],"sampling_params":{"temperature":0,"max_tokens":7},"stream":true}"#
        );
    }

    #[test]
    fn what_is_not_surely_the_first_token_of_a_longer_answer_is_not_forwarded() {
        let read = |answer: &str| FirstToken::from_parts(TEXT, b"", answer.as_bytes());
        assert!(read(&completion(r#"" a""#, "length", "3")).is_some());
        for (text, finish, covered) in [
            // The answer is complete.
            (r#"" a""#, "stop", "3"),
            (r#"" a""#, "abort", "3"),
            // Half a character, or a token without text.
            (r#""""#, "length", "3"),
            ("\"\u{FFFD}\"", "length", "3"),
            ("\"a\u{FFFD}\"", "length", "3"),
            ("null", "length", "3"),
            // Prefill stopped short of the prompt's end, or does not say.
            (r#"" a""#, "length", "2"),
            (r#"" a""#, "length", "null"),
        ] {
            assert_eq!(read(&completion(text, finish, covered)), None, "{text} {finish} {covered}");
        }
        let good = completion(r#"" a""#, "length", "3");
        for (from, to) in [
            (r#","prompt_token_ids":[5, 6,7]"#, ""),
            (r#""token_ids":[42]"#, r#""token_ids":null"#),
            (r#""token_ids":[42]"#, r#""token_ids":[42,43]"#),
            (r#""completion_tokens":1"#, r#""completion_tokens":2"#),
            (r#""remote_num_tokens":3"#, r#""other":3"#),
            (r#""id":"cmpl-7","#, ""),
            ("{\"id\"", "[\"id\""),
        ] {
            assert_ne!(good.replace(from, to), good);
            assert_eq!(read(&good.replace(from, to)), None, "{from}");
        }
    }
}
