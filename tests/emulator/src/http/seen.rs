//! The requests an emulator received, as they came: what tests compare with what was sent.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::request::Parts;
use serde::{Deserialize, Serialize};

/// Requests kept. A test looks at the last few; this bounds the memory of a long run.
const KEPT: usize = 256;

/// Largest body kept as text, in bytes.
const KEPT_BODY: usize = 1 << 20;

/// One request as it arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenRequest {
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Header lines in order, repeated names included; names in lower case.
    pub headers: Vec<(String, String)>,
    /// Length of the body in bytes.
    pub body_len: usize,
    /// The body, unless it has 1 MiB or more; invalid UTF-8 is replaced.
    pub body: Option<String>,
}

impl SeenRequest {
    pub(crate) fn new(parts: &Parts, body: &Bytes) -> Self {
        let headers = parts
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        Self {
            method: parts.method.to_string(),
            path: parts.uri.path_and_query().map_or_else(|| parts.uri.to_string(), ToString::to_string),
            headers,
            body_len: body.len(),
            body: (body.len() < KEPT_BODY).then(|| String::from_utf8_lossy(body).into_owned()),
        }
    }

    /// All values of a header, in order. `name` in lower case.
    #[must_use]
    pub fn header_values(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    }
}

/// The last [`KEPT`] requests.
#[derive(Default)]
pub(crate) struct SeenRing(Mutex<VecDeque<SeenRequest>>);

impl SeenRing {
    pub(crate) fn push(&self, request: SeenRequest) {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.len() == KEPT {
            ring.pop_front();
        }
        ring.push_back(request);
    }

    /// The last `count`, oldest first.
    pub(crate) fn last(&self, count: usize) -> Vec<SeenRequest> {
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.iter().skip(ring.len().saturating_sub(count)).cloned().collect()
    }

    pub(crate) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
