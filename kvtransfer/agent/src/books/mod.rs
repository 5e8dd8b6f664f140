//! What this side has: regions and leases, each known to several fabrics under numbers of their own. Callers and the agent's
//! thread both look here, behind locks that are held only to look something up or to tell a fabric, which never waits.

mod grants;
mod regions;

pub(crate) use grants::Grants;
pub(crate) use regions::Regions;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks it. What is behind these locks is whole between any two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
