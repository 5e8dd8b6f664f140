//! What an encoder made and somebody is to fetch.
//!
//! An output is pinned until it was fetched once or its time is up. It stays cached after that while there is
//! room, since the same part may be asked for again by a request that was answered from the same encoding.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Most outputs kept, oldest out first: 4 MiB at 4 KiB each.
const KEPT: usize = 1024;

/// The outputs of one engine.
#[derive(Default)]
pub(crate) struct Outputs(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    entries: HashMap<String, Output>,
    order: VecDeque<String>,
}

struct Output {
    bytes: Arc<[u8]>,
    pinned_until: Option<Instant>,
}

impl Outputs {
    /// Keeps an output, pinned for at most `length`.
    pub(crate) fn pin(&self, hash: &str, bytes: Vec<u8>, length: Duration) {
        let mut kept = self.kept();
        let output = Output { bytes: bytes.into(), pinned_until: Some(Instant::now() + length) };
        if kept.entries.insert(hash.to_owned(), output).is_none() {
            kept.order.push_back(hash.to_owned());
        }
        while kept.order.len() > KEPT {
            if let Some(oldest) = kept.order.pop_front() {
                kept.entries.remove(&oldest);
            }
        }
    }

    /// The bytes, no longer pinned.
    pub(crate) fn fetch(&self, hash: &str) -> Option<Arc<[u8]>> {
        let mut kept = self.kept();
        let output = kept.entries.get_mut(hash)?;
        output.pinned_until = None;
        Some(Arc::clone(&output.bytes))
    }

    /// Outputs that wait for their first reader.
    pub(crate) fn pinned(&self) -> usize {
        let now = Instant::now();
        let kept = self.kept();
        kept.entries.values().filter(|output| output.pinned_until.is_some_and(|until| until > now)).count()
    }

    /// All outputs that could be fetched.
    pub(crate) fn cached(&self) -> usize {
        self.kept().entries.len()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_output_is_pinned_until_it_was_fetched_or_its_time_is_up() {
        let outputs = Outputs::default();
        outputs.pin("a", vec![1], Duration::from_secs(30));
        outputs.pin("b", vec![2], Duration::from_secs(30));
        assert_eq!(outputs.pinned(), 2);
        assert_eq!(outputs.fetch("a").as_deref(), Some(&[1][..]));
        assert_eq!((outputs.pinned(), outputs.cached()), (1, 2));
        assert!(outputs.fetch("a").is_some() && outputs.fetch("c").is_none());
        tokio::time::sleep(Duration::from_secs(31)).await;
        assert_eq!(outputs.pinned(), 0);
    }

    #[test]
    fn the_oldest_outputs_leave_when_it_is_full() {
        let outputs = Outputs::default();
        for index in 0..=KEPT {
            outputs.pin(&index.to_string(), vec![0], Duration::from_secs(30));
        }
        assert!(outputs.fetch("0").is_none() && outputs.fetch("1").is_some());
    }
}
