//! Everything that can go wrong with a request, each with whose fault it is, whether another try may help, the HTTP
//! status and a stable code. `respond.rs` alone turns these into responses.

use std::fmt;

use http::StatusCode;
use kvferry_contract::EndpointError;
use kvferry_handoff::Leg;
use kvferry_splice::Malformed;

/// Whose fault an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Who sent the request.
    Client,
    /// Who chose the targets: the scheduler, the gateway, or a client that forged their headers.
    Router,
    /// The prefill engine, or the way to it.
    Prefill,
    /// The decode engine next to us.
    Decode,
    /// An encoder, or the way to it.
    Encode,
    /// This sidecar, or what it depends on.
    Us,
}

impl Fault {
    /// The word in logs and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Router => "router",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::Encode => "encode",
            Self::Us => "sidecar",
        }
    }
}

/// How an upstream exchange broke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broken {
    /// The name did not resolve.
    Resolve(String),
    /// The connection was refused.
    Refused,
    /// No connection within the connect timeout.
    ConnectTimeout,
    /// The connection could not be made for another reason.
    Connect(String),
    /// No TLS connection came about. Says why and what to do.
    Tls(String),
    /// The connection was closed or reset before the answer was complete.
    Closed,
    /// What came is not HTTP.
    NotHttp(String),
    /// It answered with a success, and told of an error inside it.
    Told(String),
    /// Anything else.
    Other(String),
}

impl Broken {
    /// Whether no connection came about.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Resolve(_) | Self::Refused | Self::ConnectTimeout | Self::Connect(_))
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve(detail) => write!(f, "its name does not resolve ({detail})"),
            Self::Refused => f.write_str("connection refused"),
            Self::ConnectTimeout => f.write_str("no connection within the connect timeout"),
            Self::Connect(detail) => write!(f, "cannot connect ({detail})"),
            Self::Closed => f.write_str("it closed the connection before its answer was complete"),
            Self::NotHttp(detail) => write!(f, "its answer is not HTTP ({detail})"),
            Self::Told(detail) => write!(f, "it told of an error in its answer: {detail}"),
            Self::Tls(detail) | Self::Other(detail) => f.write_str(detail),
        }
    }
}

/// Why a request gets an error of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The body is no JSON object.
    MalformedBody(Malformed),
    /// The body exceeds the limit, in bytes.
    BodyTooLarge {
        /// The limit.
        limit: usize,
    },
    /// The client stopped sending its body.
    BodyStalled,
    /// The client's body broke off or its framing is wrong.
    BodyBroken(String),
    /// The body asks for something that cannot be served across engines.
    UnsupportedField {
        /// The member's name.
        field: &'static str,
    },
    /// A routing header names a target that is not allowed.
    TargetDenied {
        /// The target.
        target: String,
    },
    /// Whether a target is allowed cannot be known yet.
    AllowlistUnknown {
        /// Why not.
        reason: String,
    },
    /// The data-parallel header names no rank of this pod.
    UnknownRank {
        /// What it holds.
        value: String,
    },
    /// The prefill pod did not say what must be known before the legs can be sent.
    PrefillUnknown {
        /// The prefill engine's address.
        target: String,
        /// What is wrong.
        detail: String,
    },
    /// Every way to recover from failed prefills was used up.
    PrefillExhausted {
        /// How the last attempt failed.
        last: String,
    },
    /// The decode engine sent nothing for too long.
    DecodeStalled {
        /// The limit, in milliseconds.
        limit_ms: u128,
    },
    /// A part of the prompt could not be encoded.
    EncodeFailed {
        /// How.
        detail: String,
    },
    /// The encoders did not finish in time.
    EncodeTimeout {
        /// The limit, in milliseconds.
        limit_ms: u128,
    },
    /// The prefill header holds no usable target.
    BadTarget {
        /// What it holds.
        value: String,
        /// What is wrong with it.
        reason: EndpointError,
    },
    /// No usable exchange with a leg's engine.
    LegBroken {
        /// Which leg.
        leg: Leg,
        /// Its engine's address.
        target: String,
        /// How it broke.
        how: Broken,
    },
    /// Prefill answered 2xx with something that is no JSON object.
    PrefillNotJson {
        /// The prefill engine's address.
        target: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Prefill answered 2xx, and told of an error in its answer.
    PrefillTold {
        /// The prefill engine's address.
        target: String,
        /// What it told.
        detail: String,
    },
    /// Prefill's answer exceeds the limit, in bytes.
    PrefillTooLarge {
        /// The limit.
        limit: usize,
    },
    /// The prefill leg's own limit passed.
    PrefillTimeout {
        /// The prefill engine's address.
        target: String,
        /// The limit, in milliseconds.
        limit_ms: u128,
        /// The words by which scripts know it, if there are any.
        known_as: Option<&'static str>,
    },
    /// The limit of both legs together passed.
    RequestTimeout {
        /// During which leg.
        leg: Leg,
        /// The limit, in milliseconds.
        limit_ms: u128,
    },
}

impl Error {
    /// Every code there is.
    pub const CODES: [&'static str; 25] = [
        "allowlist_unavailable",
        "bad_prefill_target",
        "body_broken",
        "body_stalled",
        "body_too_large",
        "decode_broke",
        "decode_stalled",
        "decode_tls",
        "decode_unreachable",
        "encode_failed",
        "encode_timeout",
        "malformed_body",
        "prefill_answer_invalid",
        "prefill_answer_too_large",
        "prefill_bootstrap_failed",
        "prefill_broke",
        "prefill_error_in_answer",
        "prefill_exhausted",
        "prefill_timeout",
        "prefill_tls",
        "prefill_unreachable",
        "request_timeout",
        "target_denied",
        "unknown_rank",
        "unsupported_field",
    ];

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::MalformedBody(_)
            | Self::BodyTooLarge { .. }
            | Self::BodyStalled
            | Self::BodyBroken(_)
            | Self::UnsupportedField { .. } => Fault::Client,
            Self::BadTarget { .. } | Self::TargetDenied { .. } | Self::UnknownRank { .. } => Fault::Router,
            Self::AllowlistUnknown { .. } => Fault::Us,
            Self::PrefillNotJson { .. }
            | Self::PrefillTold { .. }
            | Self::PrefillTooLarge { .. }
            | Self::PrefillTimeout { .. }
            | Self::PrefillUnknown { .. }
            | Self::PrefillExhausted { .. } => Fault::Prefill,
            Self::EncodeFailed { .. } | Self::EncodeTimeout { .. } => Fault::Encode,
            Self::DecodeStalled { .. } => Fault::Decode,
            Self::LegBroken { leg, .. } | Self::RequestTimeout { leg, .. } => match leg {
                Leg::Prefill => Fault::Prefill,
                Leg::Decode => Fault::Decode,
            },
        }
    }

    /// Whether no connection to the leg's engine could be made.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::LegBroken { how, .. } if how.is_unreachable())
    }

    /// Whether the same request may succeed when sent again.
    pub fn may_retry(&self) -> bool {
        match self.fault() {
            Fault::Client | Fault::Router => matches!(self, Self::BodyStalled),
            Fault::Prefill | Fault::Decode | Fault::Encode | Fault::Us => true,
        }
    }

    /// The status of the response.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::MalformedBody(_)
            | Self::BodyBroken(_)
            | Self::UnsupportedField { .. }
            | Self::BadTarget { .. }
            | Self::UnknownRank { .. } => StatusCode::BAD_REQUEST,
            Self::TargetDenied { .. } => StatusCode::FORBIDDEN,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyStalled => StatusCode::REQUEST_TIMEOUT,
            Self::AllowlistUnknown { .. }
            | Self::PrefillExhausted { .. }
            | Self::LegBroken { leg: Leg::Decode, how: Broken::Refused, .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::LegBroken { .. }
            | Self::PrefillNotJson { .. }
            | Self::PrefillTold { .. }
            | Self::PrefillTooLarge { .. }
            | Self::PrefillUnknown { .. }
            | Self::EncodeFailed { .. } => StatusCode::BAD_GATEWAY,
            Self::PrefillTimeout { .. }
            | Self::RequestTimeout { .. }
            | Self::EncodeTimeout { .. }
            | Self::DecodeStalled { .. } => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// A code that never changes, for alerts and scripts; also the access log's outcome.
    pub fn code(&self) -> &'static str {
        match self {
            Self::MalformedBody(_) => "malformed_body",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::BodyStalled => "body_stalled",
            Self::BodyBroken(_) => "body_broken",
            Self::UnsupportedField { .. } => "unsupported_field",
            Self::BadTarget { .. } => "bad_prefill_target",
            Self::TargetDenied { .. } => "target_denied",
            Self::AllowlistUnknown { .. } => "allowlist_unavailable",
            Self::UnknownRank { .. } => "unknown_rank",
            Self::PrefillUnknown { .. } => "prefill_bootstrap_failed",
            Self::PrefillExhausted { .. } => "prefill_exhausted",
            Self::DecodeStalled { .. } => "decode_stalled",
            Self::EncodeFailed { .. } => "encode_failed",
            Self::EncodeTimeout { .. } => "encode_timeout",
            Self::LegBroken { leg: Leg::Prefill, how, .. } => match how {
                Broken::Resolve(_) | Broken::Refused | Broken::ConnectTimeout | Broken::Connect(_) => {
                    "prefill_unreachable"
                }
                Broken::Tls(_) => "prefill_tls",
                Broken::Closed | Broken::NotHttp(_) | Broken::Told(_) | Broken::Other(_) => "prefill_broke",
            },
            Self::LegBroken { leg: Leg::Decode, how, .. } => match how {
                Broken::Resolve(_) | Broken::Refused | Broken::ConnectTimeout | Broken::Connect(_) => {
                    "decode_unreachable"
                }
                Broken::Tls(_) => "decode_tls",
                Broken::Closed | Broken::NotHttp(_) | Broken::Told(_) | Broken::Other(_) => "decode_broke",
            },
            Self::PrefillNotJson { .. } => "prefill_answer_invalid",
            Self::PrefillTold { .. } => "prefill_error_in_answer",
            Self::PrefillTooLarge { .. } => "prefill_answer_too_large",
            Self::PrefillTimeout { .. } => "prefill_timeout",
            Self::RequestTimeout { .. } => "request_timeout",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MalformedBody(malformed) => write!(f, "invalid JSON: {malformed}"),
            Self::BodyTooLarge { limit } => {
                write!(f, "the request body is larger than {limit} bytes (raise --max-body-size to allow it)")
            }
            Self::BodyStalled => f.write_str("the request body stopped arriving; send it again"),
            Self::BodyBroken(detail) => write!(f, "the request body could not be read: {detail}"),
            Self::BadTarget { value, reason } => write!(
                f,
                "header {} holds {value:?}, which is no usable target: {reason}",
                kvferry_contract::headers::PREFILLER.old
            ),
            Self::UnsupportedField { field } => {
                write!(f, "field {field:?} is not supported by the router")
            }
            Self::TargetDenied { .. } => {
                f.write_str("Forbidden: prefill target not allowed by SSRF protection")
            }
            Self::AllowlistUnknown { reason } => {
                write!(f, "the list of allowed prefill targets is not available: {reason}")
            }
            Self::UnknownRank { value } => write!(
                f,
                "header {} holds {value:?}, which is no rank of this pod",
                kvferry_contract::headers::DATA_PARALLEL.old
            ),
            Self::PrefillUnknown { target, detail } => {
                write!(f, "prefill engine {target} could not be asked for its identity: {detail}")
            }
            Self::PrefillExhausted { last } => write!(
                f,
                "no prefill engine could serve this request and no local prefill is to be had; the last attempt: {last}"
            ),
            Self::DecodeStalled { limit_ms } => {
                write!(f, "the decode engine sent nothing for {limit_ms} ms (--decode-stall-timeout)")
            }
            Self::EncodeTimeout { limit_ms } => write!(
                f,
                "the encoders did not finish within {limit_ms} ms (--prefill-timeout, or what --request-timeout left)"
            ),
            Self::EncodeFailed { detail } => write!(f, "encoding a part of the prompt failed: {detail}"),
            // The wording that operators' scripts already match (spec 2.5).
            Self::LegBroken { leg: Leg::Decode, how: Broken::Refused, .. } => f.write_str(
                "The decode node is not ready. Please check that the vLLM service is running and the port \
                 configuration is correct.",
            ),
            Self::LegBroken { leg: Leg::Prefill, target, how } => write!(f, "prefill engine {target}: {how}"),
            Self::LegBroken { leg: Leg::Decode, target, how } => write!(f, "decode engine {target}: {how}"),
            Self::PrefillNotJson { target, detail } => {
                write!(f, "prefill engine {target} answered with something that is no JSON object: {detail}")
            }
            Self::PrefillTold { target, detail } => {
                write!(f, "prefill engine {target} told of an error inside its answer: {detail}")
            }
            Self::PrefillTooLarge { limit } => {
                write!(f, "the prefill engine's answer is larger than {limit} bytes")
            }
            Self::PrefillTimeout { target, limit_ms, known_as } => {
                if let Some(known_as) = known_as {
                    write!(f, "{known_as}: ")?;
                }
                write!(f, "prefill engine {target} did not answer within {limit_ms} ms (--prefill-timeout)")
            }
            Self::RequestTimeout { leg: Leg::Prefill, limit_ms } => {
                write!(
                    f,
                    "the request took longer than {limit_ms} ms (--request-timeout), waiting for prefill"
                )
            }
            Self::RequestTimeout { leg: Leg::Decode, limit_ms } => {
                write!(f, "the request took longer than {limit_ms} ms (--request-timeout), in decode")
            }
        }
    }
}

impl std::error::Error for Error {}

impl From<Malformed> for Error {
    fn from(malformed: Malformed) -> Self {
        Self::MalformedBody(malformed)
    }
}
