//! How the prefill leg is kept to one token that is not streamed (spec/sidecar.md 3 and 12.3): the members to set and to
//! remove, per API. All connectors use this one rule.

use bytes::Bytes;
use kvferry_splice::{Chunks, Edits, scan};

use crate::request::Asked;
use crate::request::route::Api;

/// Members that [`PrefillLimits::apply`] needs to find.
pub(super) const WATCH: [&str; 9] = [
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "min_tokens",
    "sampling_params",
    "store",
    "n",
];

/// Members that [`never_stopping`] needs to find besides.
pub(super) const NEVER_STOPPING_WATCH: [&str; 2] = [IGNORE_EOS, STOP_TOKEN_IDS];
const IGNORE_EOS: &str = "ignore_eos";
const STOP_TOKEN_IDS: &str = "stop_token_ids";

/// Which limits a prefill leg carries (`--prefill-limits`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PrefillLimits {
    /// Each API's own members; `min_tokens` is removed.
    #[default]
    PerApi,
    /// As llm-d 0.10 sent them: `max_tokens`, `max_completion_tokens` and `min_tokens` on all of chat, completions and
    /// messages, `min_tokens` set to 1.
    Compat,
}

/// Adds to `edits` what makes `asked` a prefill of one sample whose one token never ends it by itself, be it an end of
/// sequence or a stop token: only its length limit does. vLLM's `min_tokens` masks such tokens. Its Responses API has no
/// such member, but can be told to go on behind them. Its Messages API has neither.
pub(super) fn never_stopping<'n>(edits: Edits<'n>, asked: &Asked) -> Edits<'n> {
    if asked.api == Api::Responses {
        let edits = PrefillLimits::PerApi.apply(edits, asked);
        return edits.set(IGNORE_EOS, "true").set(STOP_TOKEN_IDS, "[]");
    }
    PrefillLimits::Compat.apply(edits, asked)
}

impl PrefillLimits {
    /// Adds to `edits` what makes `asked` a prefill of one sample.
    pub(crate) fn apply<'n>(self, edits: Edits<'n>, asked: &Asked) -> Edits<'n> {
        let edits = self.apply_to_samples(edits, asked);
        // Each of n samples would keep the prompt's KV under an id of its own, and only one id comes back.
        let samples = matches!(asked.api, Api::ChatCompletions | Api::Completions);
        if samples && asked.intake.document.value("n").is_some() { edits.set("n", "1") } else { edits }
    }

    /// Adds to `edits` what makes `asked` a prefill, of as many samples as it asks for.
    pub(crate) fn apply_to_samples<'n>(self, edits: Edits<'n>, asked: &Asked) -> Edits<'n> {
        let mut edits = edits.set("stream", "false").remove("stream_options");
        if self == Self::PerApi {
            edits = edits.remove("min_tokens");
        }
        edits = match (asked.api, self) {
            // Nothing of this leg may be found again by its id.
            (Api::Responses, Self::PerApi) => edits.set("max_output_tokens", "1").set("store", "false"),
            (Api::Responses, Self::Compat) => edits.set("max_output_tokens", "1"),
            (Api::VllmGenerate | Api::SglangGenerate, limits) => match limits.sampling(asked) {
                Some(sampling) => edits.set("sampling_params", sampling),
                None => edits,
            },
            (Api::ChatCompletions, Self::PerApi) => {
                edits.set("max_tokens", "1").set("max_completion_tokens", "1")
            }
            (Api::Completions | Api::Messages, Self::PerApi) => edits.set("max_tokens", "1"),
            (Api::ChatCompletions | Api::Completions | Api::Messages, Self::Compat) => {
                edits.set("max_tokens", "1").set("max_completion_tokens", "1").set("min_tokens", "1")
            }
        };
        edits
    }

    /// `sampling_params` with one token to produce. `None` leaves it to the engine to refuse what is no object.
    fn sampling(self, asked: &Asked) -> Option<Bytes> {
        const SGLANG: [&str; 2] = ["max_new_tokens", "min_new_tokens"];
        const VLLM: [&str; 2] = ["max_tokens", "min_tokens"];
        let names = if asked.api == Api::SglangGenerate { &SGLANG } else { &VLLM };
        let [max, min] = *names;
        let only_cap = || match self {
            Self::PerApi => Bytes::from(format!("{{\"{max}\":1}}")),
            Self::Compat => Bytes::from(format!("{{\"{max}\":1,\"{min}\":1}}")),
        };
        let Some(range) = asked.intake.document.value("sampling_params") else {
            return Some(only_cap());
        };
        let sampling = asked.intake.body.gather(range);
        if &sampling[..] == b"null" {
            return Some(only_cap());
        }
        let document = scan(&sampling, names).ok()?;
        let edits = Edits::new().set(max, "1");
        let edits = match self {
            Self::PerApi => edits.remove(min),
            Self::Compat => edits.set(min, "1"),
        };
        Some(edits.apply(&document, &Chunks::from(sampling)).to_bytes())
    }
}
