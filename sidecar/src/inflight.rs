//! What is in flight, for `/debug/requests`: one entry for each intercepted request, in a table that its worker shares
//! with the operator's port.
//!
//! A worker writes to its own table only, so its lock is free but for the moment in which an operator looks.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use http::HeaderValue;
use kvferry_contract::Endpoint;
use kvferry_metrics::Place;

use crate::request::route::Api;

/// The requests of one worker. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Table(Arc<Mutex<Slots>>);

#[derive(Debug, Default)]
struct Slots {
    entries: Vec<Option<Arc<Entry>>>,
    free: Vec<usize>,
}

/// What an operator sees of one request.
#[derive(Debug)]
pub struct Entry {
    /// Its API.
    pub api: Api,
    /// When it came.
    pub started: Instant,
    place: AtomicU8,
    id: OnceLock<HeaderValue>,
    target: Mutex<Option<Arc<Endpoint>>>,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

impl Entry {
    /// The id that both legs carry, once it is known.
    pub fn id(&self) -> Option<&HeaderValue> {
        self.id.get()
    }

    /// Its prefill engine, if it has one.
    pub fn target(&self) -> Option<Arc<Endpoint>> {
        lock(&self.target).clone()
    }

    /// Where it is, as metrics call it.
    pub fn place(&self) -> Place {
        Place::ALL[usize::from(self.place.load(Ordering::Relaxed))]
    }

    /// The same as a word.
    pub fn stage(&self) -> &'static str {
        match self.place() {
            Place::Encode => "encode",
            Place::Prefill => "prefill",
            Place::Decode => "decode",
            Place::Passthrough => "passthrough",
            Place::Release => "release",
        }
    }

    /// Body bytes from and to the client so far.
    pub fn bytes(&self) -> (u64, u64) {
        (self.bytes_in.load(Ordering::Relaxed), self.bytes_out.load(Ordering::Relaxed))
    }
}

impl Table {
    /// A request came.
    pub fn enter(&self, api: Api, started: Instant, place: Place) -> Present {
        let entry = Arc::new(Entry {
            api,
            started,
            place: AtomicU8::new(number(place)),
            id: OnceLock::new(),
            target: Mutex::default(),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
        });
        let mut slots = lock(&self.0);
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.entries.push(None);
            slots.entries.len() - 1
        });
        slots.entries[slot] = Some(Arc::clone(&entry));
        drop(slots);
        Present { table: self.clone(), slot, entry }
    }

    /// What is in it now.
    pub fn entries(&self) -> Vec<Arc<Entry>> {
        lock(&self.0).entries.iter().flatten().cloned().collect()
    }
}

/// A request's presence in the table, until dropped.
#[derive(Debug)]
pub struct Present {
    table: Table,
    slot: usize,
    entry: Arc<Entry>,
}

impl Present {
    /// Its id is known now. The first one stays.
    pub fn id(&self, id: &HeaderValue) {
        let _ = self.entry.id.set(id.clone());
    }

    /// It goes to this prefill engine.
    pub fn target(&self, target: &Arc<Endpoint>) {
        *lock(&self.entry.target) = Some(Arc::clone(target));
    }

    /// It is there now.
    pub fn move_to(&self, place: Place) {
        self.entry.place.store(number(place), Ordering::Relaxed);
    }

    /// So many body bytes came and went in all.
    pub fn bytes(&self, bytes_in: u64, bytes_out: u64) {
        self.entry.bytes_in.store(bytes_in, Ordering::Relaxed);
        self.entry.bytes_out.store(bytes_out, Ordering::Relaxed);
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        let mut slots = lock(&self.table.0);
        slots.entries[self.slot] = None;
        slots.free.push(self.slot);
    }
}

fn number(place: Place) -> u8 {
    place as u8
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_listed_while_it_is_present_and_slots_are_used_again() {
        let table = Table::default();
        let enter = || table.enter(Api::Completions, Instant::now(), Place::Prefill);
        let (first, second) = (enter(), enter());
        first.id(&HeaderValue::from_static("one"));
        first.id(&HeaderValue::from_static("two"));
        first.move_to(Place::Decode);
        first.bytes(3, 4);
        let seen = table.entries();
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[0].id().unwrap(), "one");
        assert_eq!((seen[0].place(), seen[0].bytes()), (Place::Decode, (3, 4)));
        drop((first, second));
        assert!(table.entries().is_empty());
        let _third = enter();
        assert_eq!(lock(&table.0).entries.len(), 2);
    }
}
