//! The rows: everything that goes wrong, and when a client notices at the latest.

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    PrefillRefuses,
    PrefillFails,
    PrefillIsAway,
    PrefillBreaksOff,
    PrefillTalksNonsense,
    PrefillHangs,
    BootstrapFails,
    DecodeIsAway,
    DecodeFails,
    DecodeBreaksOff,
    DecodeHangs,
    WholeAnswerBreaksOff,
    StreamBreaksOff,
    StreamHangs,
    ReleaseIsRefused,
    RequestTakesTooLong,
    ClientLeavesInPrefill,
    ClientLeavesAsPrefillEnds,
    ClientLeavesBetween,
    ClientLeavesInDecode,
    ClientLeavesInStream,
    MalformedJson,
    HugeBody,
}

impl Event {
    /// The heading in the document.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::PrefillRefuses => "Prefill answers 4xx",
            Self::PrefillFails => "Prefill answers 5xx",
            Self::PrefillIsAway => "Prefill cannot be reached",
            Self::PrefillBreaksOff => "Prefill dies in its answer",
            Self::PrefillTalksNonsense => "Prefill answers 200 with garbage",
            Self::PrefillHangs => "Prefill hangs",
            Self::BootstrapFails => "The bootstrap server of prefill fails",
            Self::DecodeIsAway => "Decode cannot be reached",
            Self::DecodeFails => "Decode answers 5xx",
            Self::DecodeBreaksOff => "Decode dies before its answer",
            Self::DecodeHangs => "Decode hangs before its answer",
            Self::WholeAnswerBreaksOff => "Decode dies in an answer that is one JSON text",
            Self::StreamBreaksOff => "Decode dies in its stream",
            Self::StreamHangs => "Decode hangs in its stream",
            Self::ReleaseIsRefused => "Decode fails, and the release after it too",
            Self::RequestTakesTooLong => "Both legs take longer than the request may",
            Self::ClientLeavesInPrefill => "The client leaves while prefill computes",
            Self::ClientLeavesAsPrefillEnds => "The client leaves, and prefill ends soon after",
            Self::ClientLeavesBetween => "The client leaves around the moment in which prefill answers",
            Self::ClientLeavesInDecode => "The client leaves before decode answers",
            Self::ClientLeavesInStream => "The client leaves in its stream",
            Self::MalformedJson => "The body is no JSON object",
            Self::HugeBody => "The body is too large",
        }
    }

    /// When the client has its answer at the latest, and other things worth knowing. `{flag}` stands for the flag and its
    /// default.
    pub(crate) fn when(self) -> &'static str {
        match self {
            Self::PrefillRefuses => {
                "At once. The same for every 4xx: what the client did wrong is wrong everywhere, so no policy tries it elsewhere."
            }
            Self::PrefillFails => {
                "At once, unless {prefill-max-retries} or {prefill-failure-policy} allow more."
            }
            Self::PrefillIsAway => "At once if the connection is refused, else after {connect-timeout}.",
            Self::PrefillTalksNonsense => {
                "At once, but with `sglang`, whose prefill answers may be anything: there the decode engine's own wait for KV is the bound \
                 (SGLang: 300 s), or {decode-stall-timeout}."
            }
            Self::PrefillHangs => {
                "After {prefill-timeout}, and sooner where a decode engine waits beside it: `sglang` 300 s, `mooncake` and push 480 s, MoRI-IO \
                 parallel {moriio-parallel-decode-wait-timeout}."
            }
            Self::BootstrapFails => {
                "At once; one that hangs is given up after 5 s. SGLang's is asked by the decode engine, which tells of it in its answer."
            }
            Self::DecodeIsAway => "At once: the decode engine is in the same pod, so its port refuses.",
            Self::PrefillBreaksOff | Self::DecodeFails | Self::DecodeBreaksOff | Self::StreamBreaksOff => {
                "At once."
            }
            Self::DecodeHangs => {
                "After {decode-stall-timeout}, counted from when decode depends on nobody else. An SGLang prefill answers only when decode has \
                 fetched its KV, so there the limit of prefill ends both."
            }
            Self::WholeAnswerBreaksOff => {
                "At once. Where the sidecar has a number to correct in it, or decode was sent beside prefill, the answer is held until it is \
                 whole, and becomes an error; else it flows, and is cut."
            }
            Self::StreamHangs => "After {decode-stall-timeout} without a byte.",
            Self::ReleaseIsRefused => "At once. The release is tried 4 times, and nobody waits for it.",
            Self::RequestTakesTooLong => "After {request-timeout}.",
            Self::ClientLeavesInPrefill => {
                "Prefill is cancelled after {prefill-cancel-grace}: so long it may still end, since only its answer names the KV. Where the KV has a \
                 name from the start it is cancelled at once."
            }
            Self::ClientLeavesAsPrefillEnds => "Within {prefill-cancel-grace}.",
            Self::ClientLeavesBetween => "At any microsecond of it, in many attempts.",
            Self::ClientLeavesInDecode | Self::ClientLeavesInStream => "Decode is cancelled at once.",
            Self::MalformedJson => "At once; the message names the byte.",
            Self::HugeBody => "As soon as {max-body-size} are exceeded; no more than that is ever held.",
        }
    }

    /// Whether it is the decode engine that is asked first which it happens to, where one is.
    pub(crate) fn is_for_first(self) -> bool {
        matches!(
            self,
            Self::DecodeIsAway
                | Self::DecodeFails
                | Self::DecodeBreaksOff
                | Self::DecodeHangs
                | Self::WholeAnswerBreaksOff
                | Self::StreamBreaksOff
                | Self::StreamHangs
                | Self::ReleaseIsRefused
                | Self::RequestTakesTooLong
                | Self::ClientLeavesInDecode
                | Self::ClientLeavesInStream
        )
    }
}
