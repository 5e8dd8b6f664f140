//! How long and how much: bounds of one request, and of what is kept between requests.

use std::num::NonZeroUsize;
use std::time::Duration;

use serde::Serialize;

use crate::exit::Invalid;
use crate::flag::{Flag, Group};
use crate::go;
use crate::values::Values;

const PREFILL_TIMEOUT: &str = "prefill-timeout";
const PREFILL_CANCEL_GRACE: &str = "prefill-cancel-grace";
const DECODE_STALL_TIMEOUT: &str = "decode-stall-timeout";
const REQUEST_TIMEOUT: &str = "request-timeout";
const CONNECT_TIMEOUT: &str = "connect-timeout";
const BODY_TIMEOUT: &str = "body-timeout";
const MAX_BODY_SIZE: &str = "max-body-size";
const MAX_IDLE: &str = "max-idle-conns-per-host";

/// Idle connections kept to each engine unless set: as many as a busy engine serves requests at once.
const DEFAULT_IDLE: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

pub(crate) const LIMITS: Group = Group {
    heading: "Limits",
    flags: &[
        // A prompt of a million tokens prefills in minutes; what takes longer than this hangs.
        Flag::duration(PREFILL_TIMEOUT, "10m", "How long the prefill leg may take; 0: no limit"),
        Flag::duration(
            PREFILL_CANCEL_GRACE,
            "2s",
            "How long a prefill leg goes on after its client left, before it is cancelled. A prefill that ends within \
             it is released for certain; one that is cancelled in the very moment it ends keeps its KV until the \
             engine's lease ends, since only its answer names the blocks",
        ),
        // Answers that are not streamed send nothing until their last token.
        Flag::duration(
            DECODE_STALL_TIMEOUT,
            "30m",
            "How long the decode engine may send nothing while its answer is waited for; 0: no limit",
        ),
        Flag::duration(
            REQUEST_TIMEOUT,
            "0s",
            "How long a disaggregated request may take, both legs together, to its last byte; 0: no limit",
        ),
        Flag::duration(CONNECT_TIMEOUT, "30s", "How long opening a connection to an engine may take"),
        Flag::duration(
            BODY_TIMEOUT,
            "60s",
            "How long a client may pause while it sends a body that has to be read",
        ),
        // 64 MiB: a few high-resolution images inline, or some million tokens of text.
        Flag::amount(
            MAX_BODY_SIZE,
            "67108864",
            "Largest body of a disaggregated request, in bytes; a larger one is answered 413",
        ),
        Flag::integer(MAX_IDLE, "1024", "Idle connections kept to each engine; 0 or less: 1024"),
    ],
};

/// How long and how much.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Limits {
    /// How long the prefill leg may take; `None`: no limit.
    #[serde(serialize_with = "go::serialize_limit")]
    pub prefill_timeout: Option<Duration>,
    /// How long a prefill leg goes on after its client left.
    #[serde(serialize_with = "go::serialize")]
    pub prefill_cancel_grace: Duration,
    /// How long the decode engine may send nothing; `None`: no limit.
    #[serde(serialize_with = "go::serialize_limit")]
    pub decode_stall_timeout: Option<Duration>,
    /// How long both legs together may take; `None`: no limit.
    #[serde(serialize_with = "go::serialize_limit")]
    pub request_timeout: Option<Duration>,
    /// How long opening a connection to an engine may take; above 0.
    #[serde(serialize_with = "go::serialize")]
    pub connect_timeout: Duration,
    /// How long a client may pause while it sends a body; above 0.
    #[serde(serialize_with = "go::serialize")]
    pub body_timeout: Duration,
    /// Largest body that is read, in bytes.
    pub max_body_size: NonZeroUsize,
    /// Idle connections kept to each engine.
    pub max_idle_conns_per_host: NonZeroUsize,
}

impl Limits {
    pub(crate) fn read(values: &Values) -> Result<Self, Invalid> {
        Ok(Self {
            prefill_timeout: values.limit(PREFILL_TIMEOUT)?,
            prefill_cancel_grace: values.duration(PREFILL_CANCEL_GRACE)?,
            decode_stall_timeout: values.limit(DECODE_STALL_TIMEOUT)?,
            request_timeout: values.limit(REQUEST_TIMEOUT)?,
            connect_timeout: values.positive_duration(CONNECT_TIMEOUT)?,
            body_timeout: values.positive_duration(BODY_TIMEOUT)?,
            max_body_size: values.size(MAX_BODY_SIZE)?,
            max_idle_conns_per_host: usize::try_from(values.integer(MAX_IDLE)?)
                .ok()
                .and_then(NonZeroUsize::new)
                .unwrap_or(DEFAULT_IDLE),
        })
    }
}
