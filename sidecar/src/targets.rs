//! Which engines a request's routing headers name, once they are parsed, allowed and put in order.

use std::sync::Arc;

use kvferry_allowlist::Verdict;
use kvferry_contract::Endpoint;

use crate::error::Error;
use crate::worker::{Rank, Worker};

/// The prefill candidates of a request, the one to try first in front. Empty: no prefill is asked for.
///
/// # Errors
/// The first is no `host:port`, or is not allowed. Others of which that is true are left out.
pub fn prefill(worker: &Worker, candidates: &[String]) -> Result<Vec<Arc<Endpoint>>, Error> {
    let settings = &worker.settings;
    let primary = if settings.sample_prefiller { any_of(candidates) } else { 0 };
    let Some(first) = candidates.get(primary).filter(|first| !first.is_empty()) else {
        return Ok(Vec::new());
    };
    let first: Endpoint =
        first.parse().map_err(|reason| Error::BadTarget { value: first.clone(), reason })?;
    allowed(worker, &first)?;
    let mut targets = vec![Arc::new(first)];
    if settings.failover.uses_others() {
        let others = candidates.iter().enumerate().filter(|(index, _)| *index != primary);
        targets.extend(others.filter_map(|(_, other)| usable(worker, other)));
        settings.failover.order(&mut targets, worker.now());
    }
    if let Some(warm_up) = &settings.warm_up {
        for target in &targets {
            warm_up.seen(worker, target);
        }
    }
    Ok(targets)
}

/// The rank that the data-parallel header asks for, if it does and the request came in through rank 0.
///
/// # Errors
/// It names none of this pod's ranks.
pub fn rank(worker: &Worker, came_for: &Rank, value: Option<&str>) -> Result<Option<Arc<Rank>>, Error> {
    let ranks = &worker.settings.ranks;
    let Some(value) = value.filter(|_| came_for.index == 0 && ranks.len() > 1) else {
        return Ok(None);
    };
    let pod_ip = worker.settings.pod_ip.as_deref();
    let ours = |named: &Endpoint| pod_ip.is_none_or(|ip| ip == named.host());
    let named: Option<Endpoint> = value.parse().ok().filter(ours);
    let rank = named.and_then(|named| ranks.iter().find(|rank| rank.port == named.port()));
    rank.cloned().map(Some).ok_or_else(|| Error::UnknownRank { value: value.to_owned() })
}

/// The encoders that may be used; those that are none, or not allowed, are left out.
pub fn encoders(worker: &Worker, candidates: &[String]) -> Vec<Arc<Endpoint>> {
    candidates.iter().filter_map(|candidate| usable(worker, candidate)).collect()
}

/// The engine that may hold KV of this prompt. Naming none, or one that is not allowed, is no error: the prompt is computed.
pub fn kv_source(worker: &Worker, value: Option<&str>) -> Option<Arc<Endpoint>> {
    value.and_then(|value| usable(worker, value))
}

fn usable(worker: &Worker, value: &str) -> Option<Arc<Endpoint>> {
    let endpoint = value.parse().ok()?;
    allowed(worker, &endpoint).is_ok().then(|| Arc::new(endpoint))
}

fn allowed(worker: &Worker, target: &Endpoint) -> Result<(), Error> {
    match worker.settings.allowlist.check(target) {
        Verdict::Allowed => Ok(()),
        Verdict::Denied => Err(Error::TargetDenied { target: target.to_string() }),
        Verdict::Unknown(reason) => Err(Error::AllowlistUnknown { reason: reason.to_string() }),
    }
}

fn any_of(candidates: &[String]) -> usize {
    let dice = uuid::Uuid::new_v4().as_u128();
    usize::try_from(dice % candidates.len().max(1) as u128).unwrap_or(0)
}
