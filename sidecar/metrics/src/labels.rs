//! Every label there is. A label is an enum, so a metric's series are all known, and its cell is found by an index.

use std::fmt;

use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};

/// The labels of one metric: a fixed number of combinations, each with an index.
pub trait Labels: Copy + fmt::Debug + Send + Sync + 'static {
    /// How many combinations there are.
    const COUNT: usize;

    /// Which one this is, below [`Self::COUNT`].
    fn index(self) -> usize;

    /// The one with this index.
    fn at(index: usize) -> Self;

    /// Shows each label's name and value.
    ///
    /// # Errors
    /// What `see` fails with.
    fn each(self, see: &mut dyn FnMut(&'static str, &'static str) -> fmt::Result) -> fmt::Result;
}

/// No labels: one series.
impl Labels for () {
    const COUNT: usize = 1;

    fn index(self) -> usize {
        0
    }

    fn at(_: usize) -> Self {}

    fn each(self, _: &mut dyn FnMut(&'static str, &'static str) -> fmt::Result) -> fmt::Result {
        Ok(())
    }
}

/// Two labels, in all combinations.
impl<A: Labels, B: Labels> Labels for (A, B) {
    const COUNT: usize = A::COUNT * B::COUNT;

    fn index(self) -> usize {
        self.0.index() * B::COUNT + self.1.index()
    }

    fn at(index: usize) -> Self {
        (A::at(index / B::COUNT), B::at(index % B::COUNT))
    }

    fn each(self, see: &mut dyn FnMut(&'static str, &'static str) -> fmt::Result) -> fmt::Result {
        self.0.each(see)?;
        self.1.each(see)
    }
}

/// Labels as the registry writes them.
pub(crate) struct Set<L>(pub(crate) L);

impl<L: Labels> EncodeLabelSet for Set<L> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        self.0.each(&mut |name, value| (name, value).encode(encoder.encode_label()))
    }
}

/// An enum whose variants are the values of one label or, with several names, of several that go together.
macro_rules! labels {
    (
        $(#[$doc:meta])*
        $type:ident($($name:literal),+) {
            $($(#[$variant_doc:meta])* $variant:ident = ($($value:literal),+),)+
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $type {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $type {
            /// All values.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            fn values(self) -> &'static [&'static str] {
                match self {
                    $(Self::$variant => &[$($value),+],)+
                }
            }
        }

        impl Labels for $type {
            const COUNT: usize = Self::ALL.len();

            fn index(self) -> usize {
                self as usize
            }

            fn at(index: usize) -> Self {
                Self::ALL[index]
            }

            fn each(self, see: &mut dyn FnMut(&'static str, &'static str) -> fmt::Result) -> fmt::Result {
                [$($name),+].into_iter().zip(self.values()).try_for_each(|(name, value)| see(name, value))
            }
        }
    };
}

labels! {
    /// The API of an intercepted request.
    Api("api_type") {
        /// `/v1/chat/completions`
        ChatCompletions = ("chat_completions"),
        /// `/v1/completions`
        Completions = ("completions"),
        /// `/v1/responses`
        Responses = ("responses"),
        /// `/v1/messages`
        Messages = ("messages"),
        /// vLLM's tokens in, tokens out.
        VllmGenerate = ("vllm_generate"),
        /// SGLang's own `/generate`.
        SglangGenerate = ("sglang_generate"),
    }
}

labels! {
    /// Which stages a request was spread over.
    Disaggregation("disagg_type") {
        /// Prefill, decode.
        PrefillDecode = ("p/d"),
        /// Encode, prefill, decode.
        EncodePrefillDecode = ("e/p/d"),
        /// Encode, then prefill and decode in one place.
        EncodeDecode = ("e/d"),
    }
}

labels! {
    /// A stage that is timed and may fail.
    Stage("stage") {
        /// Multimodal encoding, all encoders of the request together.
        Encode = ("encode"),
        /// The prefill leg.
        Prefill = ("prefill"),
        /// The decode leg.
        Decode = ("decode"),
    }
}

labels! {
    /// Where a request is while it is in flight.
    Place("stage") {
        /// Its encoders run.
        Encode = ("encode"),
        /// Its prefill leg runs.
        Prefill = ("prefill"),
        /// Its decode leg runs.
        Decode = ("decode"),
        /// It goes to the decode engine unread.
        Passthrough = ("passthrough"),
        /// Its client is served or gone; KV is being given back.
        Release = ("release"),
    }
}

labels! {
    /// One kind of upstream exchange.
    Leg("leg") {
        /// To an encoder.
        Encode = ("encode"),
        /// To a prefill engine.
        Prefill = ("prefill"),
        /// To the decode engine.
        Decode = ("decode"),
    }
}

labels! {
    /// What an open upstream connection does.
    Connection("state") {
        /// Kept for the next exchange.
        Idle = ("idle"),
        /// Carries one.
        InUse = ("in_use"),
    }
}

labels! {
    /// How a KV handle's account was closed.
    Settled("how") {
        /// Read by a decode engine.
        Consumed = ("consumed"),
        /// Given back to the prefill engine.
        Released = ("released"),
        /// Left to the engine's own lease.
        Expired = ("expired"),
    }
}

labels! {
    /// Why KV was given back unread.
    ReleaseReason("reason") {
        /// The client left.
        ClientLeft = ("client_left"),
        /// Decode failed before it had read the KV.
        DecodeFailed = ("decode_failed"),
        /// A time limit passed.
        Deadline = ("deadline"),
        /// Another prefill took this one's place.
        Superseded = ("superseded"),
        /// The process stops.
        Shutdown = ("shutdown"),
    }
}

labels! {
    /// Where a prefill was tried again.
    Retry("kind") {
        /// At the same engine.
        Same = ("same"),
        /// At another candidate.
        Other = ("other"),
        /// At the decode engine itself.
        Local = ("local"),
    }
}

labels! {
    /// How a request ended whose prefill failed while failover was on.
    Failover("outcome") {
        /// Another prefill engine served it.
        Other = ("other"),
        /// The decode engine computed the prompt itself.
        Local = ("local"),
        /// Local prefill would have exceeded its budget.
        OverBudget = ("over_budget"),
        /// Nothing helped.
        Failed = ("failed"),
    }
}

labels! {
    /// Which way body bytes went.
    Direction("direction") {
        /// From clients.
        In = ("in"),
        /// To clients.
        Out = ("out"),
        /// To prefill engines and encoders.
        ToPrefill = ("to_prefill"),
        /// From prefill engines and encoders; for disaggregation this is what no client sees.
        FromPrefill = ("from_prefill"),
    }
}

labels! {
    /// What is known of a prefill engine as our peer.
    PeerState("state") {
        /// Never exchanged KV with our decode engine: its handshake is still to come.
        New = ("new"),
        /// The handshake is being made.
        Warming = ("warming"),
        /// The handshake is made.
        Warm = ("warm"),
        /// It refuses connections and is left alone for a while.
        SetAside = ("set_aside"),
    }
}

labels! {
    /// How a pair's warm-up ended.
    WarmUp("outcome") {
        /// Both engines answered.
        Ok = ("ok"),
        /// One did not, or with an error.
        Failed = ("failed"),
        /// Not tried, because too many wait or the pair was warm already.
        Skipped = ("skipped"),
    }
}

labels! {
    /// What became of a chat's next turn that was to be prefilled ahead.
    Speculative("outcome") {
        /// Sent, and computed.
        Sent = ("sent"),
        /// Not sent: another one ran.
        SkippedBusy = ("skipped_busy"),
        /// Not sent: the answer before it was too long to be kept.
        SkippedLarge = ("skipped_large"),
        /// Sent, and refused, broken off, or cancelled as too slow or at the process's end.
        Failed = ("failed"),
    }
}

labels! {
    /// How an answer went on that began with prefill's first token.
    FirstToken("outcome") {
        /// Decode computed the same token, and its answer was joined to it.
        Joined = ("joined"),
        /// Decode computed another; a further request to it went on behind prefill's.
        Resumed = ("resumed"),
        /// It was broken off: no rest came from decode.
        Broken = ("broken"),
        /// The client left before its rest came.
        ClientLeft = ("client_left"),
    }
}

labels! {
    /// How a push-mode request was sent, and why so. All but [`Self::IdentityChanged`] are llm-d's own words.
    PushDispatch("mode", "reason") {
        /// Both legs at once.
        IdentityKnown = ("parallel", "cache_hit"),
        /// One after the other: nothing is known of the prefill engine yet.
        IdentityUnknown = ("serial", "cache_miss"),
        /// Sent again, one after the other: the engine was not the one it had been.
        IdentityChanged = ("serial", "identity_changed"),
        /// One after the other, because prefill had to be retried.
        PrefillRetried = ("serial", "prefill_retry"),
        /// One after the other: the engine's identity keeps changing.
        SerialOnly = ("serial", "serial_only"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn each_has_its_own_index_and_values<L: Labels>() {
        let mut seen = BTreeSet::new();
        for index in 0..L::COUNT {
            let labels = L::at(index);
            assert_eq!(labels.index(), index, "{labels:?}");
            let mut values = Vec::new();
            labels
                .each(&mut |name, value| {
                    values.push((name, value));
                    Ok(())
                })
                .unwrap();
            assert!(seen.insert(values), "{labels:?} has the labels of another");
        }
    }

    #[test]
    fn no_two_combinations_share_a_cell_or_a_series() {
        each_has_its_own_index_and_values::<()>();
        each_has_its_own_index_and_values::<Api>();
        each_has_its_own_index_and_values::<Place>();
        each_has_its_own_index_and_values::<PushDispatch>();
        each_has_its_own_index_and_values::<(Leg, Connection)>();
    }
}
