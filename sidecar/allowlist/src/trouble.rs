//! What can go wrong between here and the API server, and what to do about it: the words that an operator reads
//! in the readiness answer.

use std::error::Error;
use std::fmt;

use http::StatusCode;

use crate::collection::Collection;

/// Which of the two calls failed; printed as the RBAC verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    List,
    Watch,
}

/// Why a call failed.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The version or page token is too old (410). Ordinary: list again.
    Expired,
    /// No answer: no connection, or one that broke.
    Unreachable(String),
    /// No answer in time.
    Silent,
    /// An answer other than success.
    Refused { status: StatusCode, message: String },
    /// An answer that does not parse.
    Garbage(String),
    /// More than is taken in.
    TooMuch(&'static str),
}

impl Trouble {
    /// No answer, in the words of the error and of its causes.
    pub(crate) fn unreachable(error: &(dyn Error + 'static)) -> Self {
        Self::Unreachable(chain(error))
    }

    /// Whether changes may have been missed, so that only a new listing helps. After the others a watch goes on
    /// where it was. A refused watch (403) is listed again too: at the pace of the retries that is a poll, and
    /// better than a list that stands still.
    pub(crate) fn needs_listing(&self) -> bool {
        match self {
            Self::Expired | Self::Garbage(_) | Self::TooMuch(_) => true,
            Self::Refused { status, .. } => {
                status.is_client_error()
                    && !matches!(*status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
            }
            Self::Unreachable(_) | Self::Silent => false,
        }
    }

    /// What an operator should read, with what to do; none for what is ordinary.
    pub(crate) fn advice(&self, verb: Verb, what: &Collection) -> Option<String> {
        let (plural, namespace) = (what.plural, &what.namespace);
        let text = match self {
            Self::Expired => return None,
            Self::Unreachable(error) => {
                format!(
                    "cannot reach the Kubernetes API server to {verb} {plural} in namespace {namespace}: {error}"
                )
            }
            Self::Silent => format!(
                "the Kubernetes API server does not answer in time to {verb} {plural} in namespace {namespace}"
            ),
            Self::Refused { status: StatusCode::FORBIDDEN, message } => format!(
                "the Kubernetes API server forbids to {verb} {plural} in namespace {namespace}: bind a Role with get, \
                 list and watch on {plural} (API group {:?}) there to this pod's service account ({message})",
                what.group.map_or("", |(group, _)| group)
            ),
            Self::Refused { status: StatusCode::UNAUTHORIZED, message } => format!(
                "the Kubernetes API server does not accept our credentials to {verb} {plural}: check that the service \
                 account's token is mounted and valid ({message})"
            ),
            Self::Refused { status: StatusCode::NOT_FOUND, message } => match what.group {
                Some((group, version)) => format!(
                    "the Kubernetes API server does not know {plural} in API group {group}/{version}: install the \
                     InferencePool CRD, or correct --pool-group ({message})"
                ),
                None => format!("the Kubernetes API server does not know {plural} ({message})"),
            },
            Self::Refused { status, message } => format!(
                "the Kubernetes API server answered {} to {verb} {plural} in namespace {namespace} ({message})",
                status.as_u16()
            ),
            Self::Garbage(error) => format!(
                "the Kubernetes API server's answer to {verb} {plural} in namespace {namespace} does not parse: {error}"
            ),
            Self::TooMuch(bound) => format!(
                "the Kubernetes API server's answer to {verb} {plural} in namespace {namespace} is more than {bound}; \
                 narrow the pool's selector"
            ),
        };
        Some(text)
    }
}

/// An error with its causes, leaving out what an outer one already says.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut inner = error.source();
    while let Some(error) = inner {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        inner = error.source();
    }
    text
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::List => "list",
            Self::Watch => "watch",
        })
    }
}
