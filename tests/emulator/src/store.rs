//! A store that several emulators share: KV blocks that one engine computed and another loads, or the outputs of
//! encoders. In memory for engines of one process, in a folder for several.
//!
//! Whatever an engine loads is what somebody stored: a store whose bytes were changed changes the answers.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

/// Most bytes kept in memory, oldest out first. A folder is as large as its disk.
const KEPT_BYTES: usize = 256 << 20;

/// How the names of files begin that are still written.
const DRAFT: &str = ".draft-";

/// A handle to a shared store; clones are the same store.
#[derive(Clone)]
pub struct SharedStore(Arc<Place>);

enum Place {
    Memory(Mutex<Kept>),
    Folder(PathBuf),
}

#[derive(Default)]
struct Kept {
    entries: HashMap<String, Arc<[u8]>>,
    order: VecDeque<String>,
    bytes: usize,
}

impl SharedStore {
    /// An empty store for emulators of this process.
    #[must_use]
    pub fn in_memory() -> Self {
        Self(Arc::new(Place::Memory(Mutex::default())))
    }

    /// The store in a folder, which is made if it is missing.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn in_folder(folder: impl Into<PathBuf>) -> io::Result<Self> {
        let folder = folder.into();
        std::fs::create_dir_all(&folder)?;
        Ok(Self(Arc::new(Place::Folder(folder))))
    }

    /// Names stored.
    #[must_use]
    pub fn len(&self) -> usize {
        match &*self.0 {
            Place::Memory(kept) => lock(kept).entries.len(),
            Place::Folder(_) => self.names().len(),
        }
    }

    /// Whether nothing is stored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Flips the first bit of everything stored: what loads it must show.
    pub fn corrupt(&self) {
        for name in self.names() {
            if let Some(mut bytes) = self.get(&name)
                && let Some(first) = bytes.first_mut()
            {
                *first ^= 1;
                self.put(&name, &bytes);
            }
        }
    }

    fn names(&self) -> Vec<String> {
        match &*self.0 {
            Place::Memory(kept) => lock(kept).entries.keys().cloned().collect(),
            Place::Folder(folder) => {
                let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
                let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
                names.filter(|name| !name.starts_with(DRAFT)).collect()
            }
        }
    }

    /// Whether something is stored under this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        match &*self.0 {
            Place::Memory(kept) => lock(kept).entries.contains_key(name),
            Place::Folder(folder) => folder.join(name).exists(),
        }
    }

    /// What is stored under this name.
    pub(crate) fn get(&self, name: &str) -> Option<Vec<u8>> {
        match &*self.0 {
            Place::Memory(kept) => lock(kept).entries.get(name).map(|bytes| bytes.to_vec()),
            Place::Folder(folder) => std::fs::read(folder.join(name)).ok(),
        }
    }

    /// Stores under this name, in place of what was there. Names are ours: letters, digits and dashes. A folder
    /// that cannot be written to stores nothing, which shows as misses.
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        match &*self.0 {
            Place::Memory(kept) => lock(kept).put(name, bytes),
            Place::Folder(folder) => {
                // Under another name first, so that no reader sees half of it.
                let draft = folder.join(format!("{DRAFT}{}", Uuid::new_v4()));
                let done =
                    std::fs::write(&draft, bytes).and_then(|()| std::fs::rename(&draft, folder.join(name)));
                if done.is_err() {
                    let _ = std::fs::remove_file(&draft);
                }
            }
        }
    }
}

impl Kept {
    fn put(&mut self, name: &str, bytes: &[u8]) {
        self.bytes += bytes.len();
        if let Some(old) = self.entries.insert(name.to_owned(), bytes.into()) {
            self.bytes -= old.len();
            return;
        }
        self.order.push_back(name.to_owned());
        while self.bytes > KEPT_BYTES {
            let Some(old) = self.order.pop_front().and_then(|oldest| self.entries.remove(&oldest)) else {
                return;
            };
            self.bytes -= old.len();
        }
    }
}

impl fmt::Debug for SharedStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Place::Memory(_) => formatter.write_str("SharedStore(in memory)"),
            Place::Folder(folder) => write!(formatter, "SharedStore({})", folder.display()),
        }
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_and_memory_keep_the_same_and_show_corruption() {
        let folder = std::env::temp_dir().join(format!("kvferry-store-{}", Uuid::new_v4()));
        for store in [SharedStore::in_memory(), SharedStore::in_folder(&folder).unwrap()] {
            assert!(store.is_empty() && store.get("a").is_none() && !store.has("a"));
            store.put("a", &[1, 2]);
            store.put("b", &[3]);
            store.clone().put("a", &[4, 5]);
            assert_eq!((store.len(), store.get("a")), (2, Some(vec![4, 5])));
            store.corrupt();
            assert_eq!((store.get("a"), store.get("b")), (Some(vec![5, 5]), Some(vec![2])));
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn memory_forgets_the_oldest() {
        let mut kept = Kept::default();
        for name in ["a", "b", "c"] {
            kept.put(name, &vec![0; KEPT_BYTES / 2]);
        }
        assert!(!kept.entries.contains_key("a") && kept.entries.len() == 2);
        assert_eq!(kept.bytes, KEPT_BYTES / 2 * 2);
    }
}
