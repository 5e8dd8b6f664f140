//! Failures on demand: what `POST /emulator/faults` sets and how often it still applies.
//!
//! A set of faults replaces the one before; `{}` clears it. With `times`, the set acts on that many requests
//! and then clears itself. Which requests count: those to any path but `/emulator/*`, `/health`, `/metrics`,
//! `/v1/models` and the bootstrap server's (name one of the latter in `path` to hit it); for `drop_kv_params` the prefills
//! that would carry params, for `corrupt_kv` the reads of KV.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// What to do wrong. Absent members are off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is an independent switch of the wire format")]
pub struct Faults {
    /// Requests this set still applies to; absent = until replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// Only requests whose path starts with this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Wait this long before anything else, in milliseconds.
    #[serde(skip_serializing_if = "is_default")]
    pub delay_ms: u64,
    /// Answer with this status instead of working.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Body for `status`; absent = an error in vLLM's shape.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Headers added to the answer.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Never answer; the connection stays open until the client leaves.
    #[serde(skip_serializing_if = "is_default")]
    pub hang: bool,
    /// Reset the connection before the first byte of an answer.
    #[serde(skip_serializing_if = "is_default")]
    pub reset_before: bool,
    /// Reset the connection after this many bytes of the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset_after_bytes: Option<usize>,
    /// Answer with bytes that are not HTTP, then close.
    #[serde(skip_serializing_if = "is_default")]
    pub garbage: bool,
    /// Answer 200 with text instead of JSON.
    #[serde(skip_serializing_if = "is_default")]
    pub not_json: bool,
    /// Compress the body.
    #[serde(skip_serializing_if = "is_default")]
    pub gzip: bool,
    /// Send the body one byte at a time with this pause between bytes, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drip_ms: Option<u64>,
    /// End the process (the binary, exit code 1) or the server (the library) at once.
    #[serde(skip_serializing_if = "is_default")]
    pub crash: bool,
    /// Send a 103 before the answer.
    #[serde(skip_serializing_if = "is_default")]
    pub early_hints: bool,
    /// Send the trailer `x-emulator-trailer: done` after a chunked body. To a client that did not say
    /// `te: trailers` the answer is sent in one piece and the connection closed.
    #[serde(skip_serializing_if = "is_default")]
    pub trailers: bool,
    /// Leave `kv_transfer_params` out of prefill answers. The blocks stay leased.
    #[serde(skip_serializing_if = "is_default")]
    pub drop_kv_params: bool,
    /// Flip one bit in the KV served to a reader.
    #[serde(skip_serializing_if = "is_default")]
    pub corrupt_kv: bool,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Paths that only a fault naming them touches, so that probes and scrapes do not use up a `times`.
const SPARED: &[&str] = &["/health", "/metrics", "/v1/models", "/query", "/route"];

impl Faults {
    fn acts_on_http(&self) -> bool {
        let kv_only = Faults {
            times: self.times,
            path: self.path.clone(),
            drop_kv_params: self.drop_kv_params,
            corrupt_kv: self.corrupt_kv,
            ..Faults::default()
        };
        *self != kv_only
    }

    fn matches(&self, path: &str) -> bool {
        match &self.path {
            Some(prefix) => path.starts_with(prefix),
            None => !SPARED.contains(&path),
        }
    }
}

/// The set in force.
#[derive(Default)]
pub(crate) struct FaultCell(Mutex<Faults>);

impl FaultCell {
    pub(crate) fn set(&self, faults: Faults) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    pub(crate) fn get(&self) -> Faults {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The faults for one HTTP request, using up one of `times` if there are any.
    pub(crate) fn take_for(&self, path: &str) -> Faults {
        self.take(|faults| faults.acts_on_http() && faults.matches(path)).unwrap_or_default()
    }

    /// Whether this prefill answer must lose its params.
    pub(crate) fn take_drop_kv_params(&self) -> bool {
        self.take(|faults| faults.drop_kv_params).is_some()
    }

    /// Whether this read must be corrupted.
    pub(crate) fn take_corrupt_kv(&self) -> bool {
        self.take(|faults| faults.corrupt_kv).is_some()
    }

    fn take(&self, applies: impl FnOnce(&Faults) -> bool) -> Option<Faults> {
        let mut faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if faults.times == Some(0) || !applies(&faults) {
            return None;
        }
        let taken = faults.clone();
        if let Some(times) = &mut faults.times {
            *times -= 1;
            if *times == 0 {
                *faults = Faults::default();
            }
        }
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_counts_matching_requests_and_then_clears() {
        let cell = FaultCell::default();
        cell.set(Faults { status: Some(503), times: Some(2), ..Faults::default() });
        assert_eq!(cell.take_for("/health").status, None);
        assert_eq!(cell.take_for("/v1/completions").status, Some(503));
        assert_eq!(cell.take_for("/v1/messages").status, Some(503));
        assert_eq!(cell.take_for("/v1/completions").status, None);
        assert_eq!(cell.get(), Faults::default());
    }

    #[test]
    fn a_path_narrows_and_reaches_the_spared_paths() {
        let cell = FaultCell::default();
        cell.set(Faults { hang: true, path: Some("/health".into()), ..Faults::default() });
        assert!(!cell.take_for("/v1/completions").hang);
        assert!(cell.take_for("/health").hang);
    }

    #[test]
    fn kv_faults_are_not_used_up_by_http_requests() {
        let cell = FaultCell::default();
        cell.set(Faults { corrupt_kv: true, times: Some(1), ..Faults::default() });
        cell.take_for("/v1/completions");
        assert!(cell.take_corrupt_kv());
        assert!(!cell.take_corrupt_kv());
    }

    #[test]
    fn a_misspelt_fault_is_an_error_not_silence() {
        assert!(serde_json::from_str::<Faults>(r#"{"statsu":503}"#).is_err());
    }
}
