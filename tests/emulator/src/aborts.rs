//! The requests in flight by name, so that one connection can end a request that another started.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// All names of one engine's requests. Names may repeat, as clients choose them: an abort ends all of a name.
#[derive(Default)]
pub(crate) struct Aborts(Mutex<HashMap<String, Vec<Arc<Notify>>>>);

impl Aborts {
    /// Makes a request known under `names` until the guard is dropped.
    pub(crate) fn enter(self: &Arc<Self>, names: Vec<String>) -> Abortable {
        let bell = Arc::new(Notify::new());
        let mut table = self.table();
        for name in &names {
            table.entry(name.clone()).or_default().push(Arc::clone(&bell));
        }
        drop(table);
        Abortable { table: Arc::clone(self), names, bell }
    }

    /// Ends the requests of this name; an unknown name ends none.
    pub(crate) fn abort(&self, name: &str) {
        for bell in self.table().get(name).into_iter().flatten() {
            bell.notify_one();
        }
    }

    /// Ends every request.
    pub(crate) fn abort_all(&self) {
        for bell in self.table().values().flatten() {
            bell.notify_one();
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, Vec<Arc<Notify>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request in flight.
pub(crate) struct Abortable {
    table: Arc<Aborts>,
    names: Vec<String>,
    bell: Arc<Notify>,
}

impl Abortable {
    /// Waits until somebody asks for its end.
    pub(crate) async fn asked(&self) {
        self.bell.notified().await;
    }
}

impl Drop for Abortable {
    fn drop(&mut self) {
        let mut table = self.table.table();
        for name in &self.names {
            if let Some(bells) = table.get_mut(name) {
                bells.retain(|bell| !Arc::ptr_eq(bell, &self.bell));
                if bells.is_empty() {
                    table.remove(name);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_abort_reaches_every_request_of_that_name_and_no_other() {
        let aborts = Arc::new(Aborts::default());
        let (one, two) = (aborts.enter(vec!["a".into(), "b".into()]), aborts.enter(vec!["a".into()]));
        let other = aborts.enter(vec!["c".into()]);
        aborts.abort("a");
        one.asked().await;
        two.asked().await;
        let silent = tokio::time::timeout(std::time::Duration::from_millis(5), other.asked()).await;
        assert!(silent.is_err());
        drop((one, two, other));
        assert!(aborts.table().is_empty());
    }
}
