//! Why an answer ended.

/// The reasons an emulated engine has; it never stops by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Finish {
    /// The output limit.
    #[default]
    Length,
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
            Self::Abort => "abort",
            Self::CacheThreshold => "cache_threshold",
        }
    }

    /// `stop_reason` of `/v1/messages`.
    pub(crate) fn anthropic(self) -> &'static str {
        match self {
            Self::Length => "max_tokens",
            other => other.as_str(),
        }
    }

    /// `incomplete_details.reason` of `/v1/responses`.
    pub(crate) fn responses(self) -> &'static str {
        match self {
            Self::Length => "max_output_tokens",
            other => other.as_str(),
        }
    }
}
