//! `nixlv2` in push mode (spec/sidecar.md 12.4): vLLM's NixlPushConnector, whose prefill engine writes KV to a decode engine
//! that has registered with it.
//!
//! A prefill engine that is met for the first time is served serially; its answer says who it is. From then on both legs
//! start at once, and prefill's answer is compared with what decode was told: if the engine has become another, decode is
//! sent anew. So a stale identity costs time and never an answer.
//!
//! Both legs carry a transfer id and a request id of this attempt alone. vLLM 0.32 pairs the two by the request id: a
//! registration left behind by an attempt that failed would draw the KV of the next one into blocks that belong to
//! somebody else by then. The client's id stays in front of it, for logs.
//!
//! When prefill fails after decode was sent beside it, decode's engine may wait with its blocks held, for as long as it lives
//! (vLLM 0.32). Only a prefill under the same request id ends that, so the release of such an attempt is its prefill once
//! more. That costs the engine a prompt that nobody wants, so an engine that has failed it twice, the second time with an
//! error of its own or by not being there, is not asked again: it will not get well within the seconds of a release. One
//! that was only too slow is, since what it has computed meanwhile is in its cache.

mod identity;
mod known;

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use kvferry_contract::Endpoint;
use kvferry_contract::headers::REQUEST_ID;
use kvferry_metrics::{Metrics, PushDispatch};
use kvferry_splice::{Chunks, Edits, Malformed, scan};
use lru::LruCache;

use super::nixlv2::{KEEP_FOR_REMOTE, KV, cached_tokens, returned_kv};
use super::source::{self, Tier};
use super::{
    Accepted, Attempt, Connector, Options, Outgoing, PrefillLimits, Refusals, ReleaseRequest, Unusable,
    fresh, release,
};
use crate::request::Asked;
use crate::request::headers::unshared;
use crate::request::route::Api;

use identity::Identity;
use known::{Choice, Known};

/// By this member vLLM names a response, whatever the request's header says.
const RESPONSE_ID: &str = "request_id";

/// Names one transfer to both engines.
const TRANSFER_ID: &str = "transfer_id";

/// How long prefill may take: by then (`push_registration_timeout`) the decode engine has given its registration up.
const PATIENCE: Duration = Duration::from_secs(480);

/// Requests remembered as sent with both legs at once, so that their next attempt is not. Far more than fail at a time.
const MAX_OVERLAPPED: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// The connector.
pub(super) fn connector(options: &Options) -> Arc<dyn Connector> {
    Arc::new(Push(Arc::new(Shared {
        limits: options.prefill_limits,
        tier: options.p2p_pull.then(|| Tier::new(options)),
        known: Mutex::default(),
        overlapped: Mutex::new(LruCache::new(MAX_OVERLAPPED)),
        metrics: options.metrics.clone(),
    })))
}

#[derive(Debug)]
struct Push(Arc<Shared>);

/// What all attempts share.
#[derive(Debug)]
struct Shared {
    limits: PrefillLimits,
    tier: Option<Tier>,
    known: Mutex<Known>,
    overlapped: Mutex<LruCache<HeaderValue, ()>>,
    metrics: Metrics,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Whom decode may be sent to beside prefill; `None`: it has to wait.
    fn choose(&self, asked: &Asked, target: &Endpoint) -> Option<Identity> {
        // The attempt before was one of both legs at once, and failed.
        if lock(&self.overlapped).pop(&asked.id).is_some() {
            self.metrics.push_dispatched(PushDispatch::PrefillRetried);
            return None;
        }
        let choice = lock(&self.known).choose(target, Instant::now());
        self.metrics.push_dispatched(match choice {
            Choice::Overlap(_) => PushDispatch::IdentityKnown,
            Choice::Unknown => PushDispatch::IdentityUnknown,
            Choice::SerialOnly => PushDispatch::SerialOnly,
        });
        let Choice::Overlap(identity) = choice else { return None };
        lock(&self.overlapped).put(unshared(&asked.id), ());
        Some(identity)
    }

    /// Prefill answered as `found`; decode was told that it is `used`. Whether decode has to be told anew.
    fn compare(&self, target: &Endpoint, used: Option<&Identity>, found: Option<Identity>) -> bool {
        let mut known = lock(&self.known);
        let Some(used) = used else {
            if let Some(found) = found {
                known.learn(target, found);
            }
            return false;
        };
        if found.as_ref() == Some(used) {
            known.right(target);
            return false;
        }
        self.metrics.push_identity_mismatched();
        self.metrics.push_dispatched(PushDispatch::IdentityChanged);
        if known.wrong(target, found, Instant::now()) {
            self.metrics.push_marked_serial_only();
            tracing::warn!(
                %target,
                "this prefill endpoint keeps answering as another engine; its requests are sent one leg after the other \
                 for a while (does one address stand for several engines?)"
            );
        }
        true
    }
}

impl Connector for Push {
    /// Every prompt registers with prefill under an id of its own.
    fn takes_several_prompts(&self) -> bool {
        true
    }

    fn watch(&self) -> &'static [&'static str] {
        &[KV, RESPONSE_ID]
    }

    fn patience(&self) -> Option<Duration> {
        Some(PATIENCE)
    }

    fn pulls_from_source(&self) -> bool {
        self.0.tier.is_some()
    }

    fn begin(
        &self,
        asked: &Asked,
        target: &Endpoint,
        _answer: Option<&Bytes>,
    ) -> Result<Box<dyn Attempt>, Unusable> {
        let shared = &self.0;
        let (id, transfer_id) = (fresh::id(), ["xfer-", &fresh::id()].concat());
        let used = shared.choose(asked, target);
        let early = used.as_ref().map(|identity| identity.params(&transfer_id, &id));
        let source = shared.tier.as_ref().and_then(|tier| tier.for_prefill(asked, target));
        let params = keep_as(&transfer_id);
        let mut attempt = Pushed {
            shared: Arc::clone(shared),
            target: target.clone(),
            request_id: own_id(&asked.id, &id),
            own: id,
            prefill: source::extend(params, source.as_ref()),
            transfer_id,
            used,
            early,
            again: None,
            refusals: Refusals::default(),
            returned: None,
        };
        if attempt.overlaps() {
            attempt.again = Some((asked.api, attempt.prefill(asked).body));
        }
        Ok(Box::new(attempt))
    }

    fn alone(&self, asked: &Asked) -> Option<Outgoing> {
        self.0.tier.as_ref()?.alone(asked)
    }

    fn forget(&self, target: &Endpoint) {
        if lock(&self.0.known).forget(target) {
            self.0.metrics.push_identity_dropped();
        }
    }
}

/// One attempt.
#[derive(Debug)]
struct Pushed {
    shared: Arc<Shared>,
    target: Endpoint,
    transfer_id: String,
    /// What is new in this attempt's ids.
    own: String,
    /// Both legs' request id.
    request_id: HeaderValue,
    /// The `kv_transfer_params` of the prefill leg.
    prefill: Bytes,
    /// Who the decode leg beside prefill was told to wait for, and how.
    used: Option<Identity>,
    early: Option<Bytes>,
    /// The prefill leg's body where decode is sent beside it: to be sent again if that prefill fails.
    again: Option<(Api, Chunks)>,
    /// Whether that was turned down.
    refusals: Refusals,
    /// What prefill returned.
    returned: Option<Bytes>,
}

impl Pushed {
    fn leg(&self, asked: &Asked, mut edits: Edits<'_>) -> Outgoing {
        if asked.api == Api::Responses {
            edits = edits.set(RESPONSE_ID, format!("\"resp_{}\"", self.own));
        }
        self.under_own_id(asked.edit(edits))
    }

    fn under_own_id(&self, mut leg: Outgoing) -> Outgoing {
        leg.headers.push((HeaderName::from_static(REQUEST_ID), self.request_id.clone()));
        leg
    }

    /// What prefill returned, with the transfer id.
    fn named_kv(&self) -> Option<Bytes> {
        self.returned.as_ref().map(|kv| with_transfer_id(kv, &self.transfer_id))
    }
}

impl Attempt for Pushed {
    fn prefill(&self, asked: &Asked) -> Outgoing {
        if let Some((_, body)) = &self.again {
            return self.under_own_id(body.clone().into());
        }
        // Every sample registers with prefill under an id of its own, so prefill needs as many.
        let edits = Edits::new().set(KV, self.prefill.clone());
        self.leg(asked, self.shared.limits.apply_to_samples(edits, asked))
    }

    fn overlaps(&self) -> bool {
        self.early.is_some()
    }

    fn beside(&self, asked: &Asked) -> Option<Outgoing> {
        Some(self.leg(asked, Edits::new().set(KV, self.early.clone()?)))
    }

    fn guesses(&self) -> bool {
        self.early.is_some()
    }

    fn named(&self) -> bool {
        self.early.is_some()
    }

    fn accept(&mut self, asked: &Asked, answer: &Bytes) -> Result<Accepted, Malformed> {
        let returned = returned_kv(answer)?;
        let found = returned.as_deref().and_then(Identity::read);
        let anew = self.shared.compare(&self.target, self.used.as_ref(), found);
        lock(&self.shared.overlapped).pop(&asked.id);
        self.returned = returned;
        Ok(Accepted {
            kv: self.returned.is_some(),
            cached_tokens: Some(cached_tokens(asked.api, answer)),
            anew,
        })
    }

    fn decode(&self, asked: &Asked) -> Outgoing {
        let kv = self.named_kv().unwrap_or(Bytes::from_static(b"null"));
        self.leg(asked, Edits::new().set(KV, kv))
    }

    fn release(&self) -> Option<ReleaseRequest> {
        if let Some(kv) = self.named_kv() {
            return Some(release::by_refused_decode(&kv));
        }
        // Prefill failed, and a decode engine may wait for it with its blocks held.
        let ((api, body), early) = (self.again.as_ref()?, self.early.as_deref()?);
        if self.refusals.any() {
            return None;
        }
        let (id, refusals) = (self.request_id.clone(), self.refusals.clone());
        Some(release::by_prefill_again(*api, body.clone(), id, early, refusals))
    }
}

/// The parameters of a prefill leg whose KV is kept for this transfer.
fn keep_as(transfer_id: &str) -> Bytes {
    let members = KEEP_FOR_REMOTE.strip_prefix(b"{").expect("the parameters are an object of ours");
    [br#"{"transfer_id":""#, transfer_id.as_bytes(), br#"","#, members].concat().into()
}

/// The object `params` with the transfer id; what is no object stays as it is.
fn with_transfer_id(params: &Bytes, transfer_id: &str) -> Bytes {
    match scan(params, &[TRANSFER_ID]) {
        Ok(document) => Edits::new()
            .set(TRANSFER_ID, format!("\"{transfer_id}\""))
            .apply(&document, &Chunks::from(params.clone()))
            .to_bytes(),
        Err(_) => params.clone(),
    }
}

/// The client's request id with `own` behind it.
fn own_id(client: &HeaderValue, own: &str) -> HeaderValue {
    let id = [client.as_bytes(), b"-", own.as_bytes()].concat();
    HeaderValue::from_bytes(&id).expect("a header value with a UUID behind it is a header value")
}
