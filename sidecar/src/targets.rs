//! Which engines a request's routing headers name, once they are parsed, allowed and put in order.

use std::sync::Arc;

use kvferry_contract::Endpoint;

use crate::error::Error;
use crate::worker::{Rank, Worker};

/// The prefill candidates of a request, the one to try first in front. Empty: no prefill is asked for.
///
/// # Errors
/// The first is no `host:port`. Others that are none are left out.
pub fn prefill(worker: &Worker, candidates: &[String]) -> Result<Vec<Arc<Endpoint>>, Error> {
    let settings = &worker.settings;
    let primary = if settings.sample_prefiller { any_of(candidates) } else { 0 };
    let Some(first) = candidates.get(primary).filter(|first| !first.is_empty()) else {
        return Ok(Vec::new());
    };
    let first: Endpoint =
        first.parse().map_err(|reason| Error::BadTarget { value: first.clone(), reason })?;
    let mut targets = vec![Arc::new(first)];
    if settings.failover.uses_others() {
        let others = candidates.iter().enumerate().filter(|(index, _)| *index != primary);
        targets.extend(others.filter_map(|(_, other)| other.parse().ok().map(Arc::new)));
        settings.failover.order(&mut targets, worker.now());
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
    let port = value.parse::<Endpoint>().ok().map(|endpoint| endpoint.port());
    match ranks.iter().find(|rank| Some(rank.port) == port) {
        Some(rank) => Ok(Some(Arc::clone(rank))),
        None => Err(Error::UnknownRank { value: value.to_owned() }),
    }
}

fn any_of(candidates: &[String]) -> usize {
    let dice = uuid::Uuid::new_v4().as_u128();
    usize::try_from(dice % candidates.len().max(1) as u128).unwrap_or(0)
}
