//! Which requests may have their first token forwarded: those of which every member is known to keep it exact.
//!
//! The table allows, it does not forbid: a member that nobody has thought about keeps a request on the ordinary path, and
//! so does one given twice. Two things are asked of a member. What the engines say for it in each event must be known here
//! (so no log-probabilities, no token ids beside the text), and an answer that goes on from the first token as a request
//! of its own must be the same answer (so nothing that counts or remembers from the answer's beginning: penalties, minimum
//! lengths, grammars, stop strings). Only greedy sampling makes two engines compute the same token.
//!
//! Chat is not among the APIs. What becomes of a token there is decided by parsers for reasoning and tools that an engine
//! is started with; they cannot be seen from here, may differ between the two engines, and read a whole answer with other
//! code than a streamed one.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Dialect, RETURN_TOKEN_IDS};
use crate::request::Asked;
use crate::request::route::Api;

/// Which values of a member keep a request exact. `null` always does: it is the same as no member.
#[derive(Debug, Clone, Copy)]
enum Allowed {
    Any,
    /// One of these, as JSON text.
    Only(&'static [&'static str]),
    /// The member is read by name.
    Read,
}

use Allowed::{Any, Only, Read};

/// Members of a request to `/v1/completions`.
const COMPLETIONS: &[(&str, Allowed)] = &[
    ("model", Any),
    ("prompt", Read),
    ("max_tokens", Read),
    ("stream", Only(&["true"])),
    ("stream_options", Read),
    ("temperature", Read),
    ("top_k", Read),
    // Greedy sampling does not look at these.
    ("top_p", Any),
    ("min_p", Any),
    ("seed", Any),
    // Per token, whatever came before.
    ("logit_bias", Any),
    ("allowed_token_ids", Any),
    ("stop_token_ids", Any),
    ("ignore_eos", Any),
    // About the prompt, or about who asks.
    ("add_special_tokens", Any),
    ("cache_salt", Any),
    ("priority", Any),
    ("user", Any),
    ("n", Only(&["1"])),
    ("best_of", Only(&["1"])),
    ("use_beam_search", Only(&["false"])),
    ("echo", Only(&["false"])),
    (RETURN_TOKEN_IDS, Only(&["false"])),
    ("stop", Only(&["[]"])),
    ("bad_words", Only(&["[]"])),
    ("min_tokens", Only(&["0"])),
    ("frequency_penalty", Only(&["0", "0.0"])),
    ("presence_penalty", Only(&["0", "0.0"])),
    ("repetition_penalty", Only(&["1", "1.0"])),
    ("skip_special_tokens", Only(&["true"])),
    ("spaces_between_special_tokens", Only(&["true"])),
    ("response_format", Only(&[r#"{"type":"text"}"#, r#"{"type": "text"}"#])),
    // Without any value: to be there is enough to change the events.
    ("logprobs", Only(&[])),
    ("prompt_logprobs", Only(&[])),
    ("suffix", Only(&[])),
    ("truncate_prompt_tokens", Only(&[])),
    ("structured_outputs", Only(&[])),
    ("kv_transfer_params", Only(&[])),
];

/// Members of a request to `/inference/v1/generate`.
const GENERATE: &[(&str, Allowed)] = &[
    ("model", Any),
    ("token_ids", Read),
    ("sampling_params", Read),
    ("stream", Only(&["true"])),
    ("stream_options", Read),
    ("output_mode", Only(&[r#""tokens""#])),
    ("cache_salt", Any),
    ("priority", Any),
    (RETURN_TOKEN_IDS, Only(&["false"])),
    ("features", Only(&[])),
    ("content_parts", Only(&[])),
    ("kv_transfer_params", Only(&[])),
];

/// Members of its `sampling_params`.
const SAMPLING: &[(&str, Allowed)] = &[
    ("max_tokens", Read),
    ("temperature", Read),
    ("top_k", Read),
    ("top_p", Any),
    ("min_p", Any),
    ("seed", Any),
    ("logit_bias", Any),
    ("allowed_token_ids", Any),
    ("stop_token_ids", Any),
    ("ignore_eos", Any),
    ("detokenize", Any),
    ("n", Only(&["1"])),
    ("min_tokens", Only(&["0"])),
    ("stop", Only(&["[]"])),
    ("frequency_penalty", Only(&["0", "0.0"])),
    ("presence_penalty", Only(&["0", "0.0"])),
    ("repetition_penalty", Only(&["1", "1.0"])),
    ("logprobs", Only(&[])),
    ("prompt_logprobs", Only(&[])),
];

/// Members of `stream_options`.
const STREAM_OPTIONS: &[(&str, Allowed)] =
    &[("include_usage", Any), ("continuous_usage_stats", Only(&["false"]))];

/// A request whose first token may be forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    pub(super) dialect: Dialect,
    /// Tokens of the whole answer; at least 2.
    pub(super) max_tokens: u64,
}

impl Plan {
    /// `None`: this request takes the ordinary path.
    pub fn of(asked: &Asked) -> Option<Self> {
        let intake = &asked.intake;
        // Most requests end here, before their body is put together.
        let stream = intake.body.gather(intake.document.value("stream")?);
        if &stream[..] != b"true" {
            return None;
        }
        Self::of_body(asked.api, &intake.body.to_bytes())
    }

    fn of_body(api: Api, body: &[u8]) -> Option<Self> {
        let (dialect, members) = match api {
            Api::Completions => (Dialect::Text, Members::read(body, COMPLETIONS)?),
            Api::VllmGenerate => (Dialect::Ids, Members::read(body, GENERATE)?),
            Api::ChatCompletions | Api::Messages | Api::Responses | Api::SglangGenerate => return None,
        };
        members.get("stream")?;
        if let Some(options) = members.get("stream_options") {
            Members::read(options.as_bytes(), STREAM_OPTIONS)?;
        }
        let sampling = match dialect {
            Dialect::Text => {
                serde_json::from_str::<OnePrompt>(members.get("prompt")?).ok()?;
                members
            }
            Dialect::Ids => {
                serde_json::from_str::<TokenIds>(members.get("token_ids")?).ok()?;
                Members::read(members.get("sampling_params")?.as_bytes(), SAMPLING)?
            }
        };
        let greedy = sampling.get("temperature").and_then(|text| text.parse::<f64>().ok()) == Some(0.0)
            || sampling.get("top_k") == Some("1");
        let max_tokens = sampling.get("max_tokens")?.parse().ok().filter(|tokens| *tokens > 1)?;
        greedy.then_some(Self { dialect, max_tokens })
    }

    /// Whether prefill must be asked for the ids of the tokens.
    pub fn needs_token_ids(&self) -> bool {
        self.dialect == Dialect::Text
    }
}

/// The members of an object, all of them allowed.
struct Members<'a>(Vec<(&'static str, &'a str)>);

impl<'a> Members<'a> {
    fn read(object: &'a [u8], table: &'static [(&'static str, Allowed)]) -> Option<Self> {
        let mut deserializer = serde_json::Deserializer::from_slice(object);
        let members = deserializer.deserialize_map(Reader(table)).ok()?;
        deserializer.end().ok().map(|()| members)
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }
}

struct Reader(&'static [(&'static str, Allowed)]);

impl<'de> Visitor<'de> for Reader {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of which every member keeps the first token exact")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut seen = vec![false; self.0.len()];
        let mut members = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            let known = self.0.iter().position(|(known, _)| *known == name);
            let Some(index) = known.filter(|index| !std::mem::replace(&mut seen[*index], true)) else {
                return Err(A::Error::custom("unknown, or given twice"));
            };
            let value = map.next_value::<&RawValue>()?.get();
            let (name, allowed) = self.0[index];
            if value == "null" {
                continue;
            }
            if let Only(values) = allowed
                && !values.contains(&value)
            {
                return Err(A::Error::custom("not exact with this value"));
            }
            members.push((name, value));
        }
        Ok(Members(members))
    }
}

/// One prompt: text, or token ids; not a list of several.
struct OnePrompt;

impl<'de> Deserialize<'de> for OnePrompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PromptReader { text: true }).map(|()| Self)
    }
}

/// Token ids.
struct TokenIds;

impl<'de> Deserialize<'de> for TokenIds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PromptReader { text: false }).map(|()| Self)
    }
}

struct PromptReader {
    text: bool,
}

impl<'de> Visitor<'de> for PromptReader {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("one prompt")
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<(), E> {
        if self.text { Ok(()) } else { Err(E::custom("text")) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut ids: A) -> Result<(), A::Error> {
        if ids.next_element::<u32>()?.is_none() {
            return Err(A::Error::custom("no token"));
        }
        while ids.next_element::<u32>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Err(A::Error::custom("an object"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completion(members: &str) -> Option<Plan> {
        let body = format!(r#"{{"model":"m","stream":true{members}}}"#);
        Plan::of_body(Api::Completions, body.as_bytes())
    }

    fn generate(sampling: &str, members: &str) -> Option<Plan> {
        let body = format!(r#"{{"token_ids":[1,2],"sampling_params":{sampling},"stream":true{members}}}"#);
        Plan::of_body(Api::VllmGenerate, body.as_bytes())
    }

    #[test]
    fn a_greedy_completion_in_events_is_exact() {
        const GREEDY: &str = r#","prompt":"x","max_tokens":8,"temperature":0"#;
        for more in [
            "",
            r#","n":1,"stop":[],"best_of":1"#,
            r#","stream_options":{"include_usage":true}"#,
            r#","stream_options":null,"logprobs":null,"top_p":0.5,"seed":7,"user":"u","logit_bias":{"5":1.5}"#,
            r#","stop_token_ids":[5],"ignore_eos":true,"frequency_penalty":0,"presence_penalty":0.0"#,
            r#","response_format":{"type":"text"},"echo":false,"return_token_ids":false,"min_tokens":0"#,
        ] {
            assert_eq!(
                completion(&format!("{GREEDY}{more}")),
                Some(Plan { dialect: Dialect::Text, max_tokens: 8 }),
                "{more}"
            );
        }
        for prompt in [r#""""#, "[1]", "[1,2,3]"] {
            let members = format!(r#","prompt":{prompt},"max_tokens":2,"temperature":0.0"#);
            assert!(completion(&members).is_some(), "{prompt}");
        }
        assert!(completion(r#","prompt":"x","max_tokens":2,"temperature":0.9,"top_k":1"#).is_some());
    }

    #[test]
    fn whatever_may_tell_the_two_ways_apart_keeps_a_request_on_the_ordinary_one() {
        const GREEDY: &str = r#","prompt":"x","max_tokens":8,"temperature":0"#;
        for more in [
            r#","n":2"#,
            r#","best_of":2"#,
            r#","use_beam_search":true"#,
            r#","logprobs":0"#,
            r#","prompt_logprobs":0"#,
            r#","echo":true"#,
            r#","return_token_ids":true"#,
            r#","return_tokens_as_token_ids":true"#,
            r#","stop":"\n""#,
            r#","stop":["a"]"#,
            r#","bad_words":["a"]"#,
            r#","min_tokens":1"#,
            r#","frequency_penalty":0.1"#,
            r#","presence_penalty":-1"#,
            r#","repetition_penalty":1.1"#,
            r#","response_format":{"type":"json_object"}"#,
            r#","structured_outputs":{"regex":"a"}"#,
            r#","guided_json":{}"#,
            r#","skip_special_tokens":false"#,
            r#","truncate_prompt_tokens":5"#,
            r#","suffix":"x""#,
            r#","stream_options":{"continuous_usage_stats":true}"#,
            r#","stream_options":{"include_usage":true,"new":1}"#,
            r#","stream_options":[]"#,
            r#","kv_transfer_params":{}"#,
            // Nobody has thought about it.
            r#","invented_tomorrow":1"#,
            r#","vllm_xargs":{"a":1}"#,
            r#","temperature":0"#,
            r#","stream":true"#,
        ] {
            assert_eq!(completion(&format!("{GREEDY}{more}")), None, "{more}");
        }
        for members in [
            r#","prompt":"x","max_tokens":8"#,
            r#","prompt":"x","max_tokens":8,"temperature":null"#,
            r#","prompt":"x","max_tokens":8,"temperature":0.1"#,
            r#","prompt":"x","max_tokens":8,"temperature":1,"top_k":2"#,
            r#","prompt":"x","max_tokens":8,"temperature":"0""#,
            r#","prompt":"x","temperature":0"#,
            r#","prompt":"x","max_tokens":1,"temperature":0"#,
            r#","prompt":"x","max_tokens":null,"temperature":0"#,
            r#","prompt":"x","max_tokens":8.0,"temperature":0"#,
            r#","max_tokens":8,"temperature":0"#,
            r#","prompt":null,"max_tokens":8,"temperature":0"#,
            r#","prompt":[],"max_tokens":8,"temperature":0"#,
            r#","prompt":["x"],"max_tokens":8,"temperature":0"#,
            r#","prompt":[[1]],"max_tokens":8,"temperature":0"#,
            r#","prompt":[-1],"max_tokens":8,"temperature":0"#,
            r#","prompt":{"a":1},"max_tokens":8,"temperature":0"#,
        ] {
            assert_eq!(completion(members), None, "{members}");
        }
    }

    #[test]
    fn a_greedy_generation_of_tokens_is_exact() {
        const GREEDY: &str = r#"{"max_tokens":8,"temperature":0}"#;
        let plan = Some(Plan { dialect: Dialect::Ids, max_tokens: 8 });
        assert_eq!(generate(GREEDY, ""), plan);
        assert_eq!(
            generate(GREEDY, r#","stream_options":{"include_usage":true},"output_mode":"tokens""#),
            plan
        );
        assert_eq!(generate(r#"{"max_tokens":8,"top_k":1,"stop_token_ids":[1]}"#, ""), plan);
        for sampling in [
            "{}",
            "null",
            r#"{"temperature":0}"#,
            r#"{"max_tokens":8}"#,
            r#"{"max_tokens":1,"temperature":0}"#,
            r#"{"max_tokens":8,"temperature":0,"logprobs":0}"#,
            r#"{"max_tokens":8,"temperature":0,"stop":["a"]}"#,
            r#"{"max_tokens":8,"temperature":0,"invented_tomorrow":1}"#,
        ] {
            assert_eq!(generate(sampling, ""), None, "{sampling}");
        }
        assert_eq!(generate(GREEDY, r#","output_mode":"text""#), None);
        assert_eq!(generate(GREEDY, r#","features":{}"#), None);
        assert_eq!(generate(GREEDY, r#","return_token_ids":true"#), None);
    }

    #[test]
    fn only_events_and_only_these_apis() {
        let body = br#"{"stream":true,"prompt":"x","max_tokens":8,"temperature":0}"#;
        assert!(Plan::of_body(Api::Completions, body).is_some());
        for api in [Api::ChatCompletions, Api::Messages, Api::Responses, Api::SglangGenerate] {
            assert_eq!(Plan::of_body(api, body), None);
        }
        for stream in [r#""stream":false,"#, r#""stream":null,"#, ""] {
            let body = format!(r#"{{{stream}"prompt":"x","max_tokens":8,"temperature":0}}"#);
            assert_eq!(Plan::of_body(Api::Completions, body.as_bytes()), None, "{stream}");
        }
    }
}
