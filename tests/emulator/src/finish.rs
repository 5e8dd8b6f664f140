//! Why an answer ended.

/// The reasons an emulated engine has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Finish {
    /// The output limit.
    #[default]
    Length,
    /// The model had said everything.
    Stop,
    /// Somebody asked for the end.
    Abort,
    /// Too little of the prompt was cached, and the request wanted it not to be computed.
    CacheThreshold,
}

impl Finish {
    /// `finish_reason` of the `OpenAI` routes.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::Stop => "stop",
            Self::Abort => "abort",
            Self::CacheThreshold => "cache_threshold",
        }
    }

    /// `stop_reason` of `/v1/messages`.
    pub(crate) fn anthropic(self) -> &'static str {
        match self {
            Self::Length => "max_tokens",
            Self::Stop => "end_turn",
            other => other.as_str(),
        }
    }

    /// `incomplete_details.reason` of `/v1/responses`, whose answers are incomplete unless they stopped by themselves.
    pub(crate) fn incomplete(self) -> Option<&'static str> {
        match self {
            Self::Stop => None,
            Self::Length => Some("max_output_tokens"),
            other => Some(other.as_str()),
        }
    }
}
