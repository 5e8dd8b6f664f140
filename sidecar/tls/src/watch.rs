//! Notices that files changed, and when they are worth a look.
//!
//! Polling instead of file events: Kubernetes swaps symbolic links above the files, secrets may lie on volumes that
//! send no events, and reading a few kilobytes once a second costs nothing worth saving.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use crate::error::TlsError;
use crate::files::{Contents, Sources};

/// Between two looks at the files. Certificates are renewed hours before they expire, so a second is soon enough.
pub const POLL: Duration = Duration::from_secs(1);

/// From a change to the second look that must find the same, so that a pair still being written is left alone. The
/// sidecar we replace waited as long.
pub const SETTLE: Duration = Duration::from_millis(250);

/// What was built of the files: always the last set that fits.
#[derive(Debug)]
pub(crate) struct Reloaded<T> {
    current: Arc<RwLock<Arc<T>>>,
    /// Dropped with the last owner, and the watching thread ends at once.
    _open: Option<mpsc::Sender<()>>,
}

impl<T: Send + Sync + 'static> Reloaded<T> {
    /// Builds from `sources` now and again whenever they have changed. What `build` refuses later is logged once and
    /// not tried again until it changes.
    pub(crate) fn start(
        sources: Sources,
        mut build: impl FnMut(&Contents) -> Result<T, TlsError> + Send + 'static,
    ) -> Result<Self, TlsError> {
        let contents = sources.read();
        let current = Arc::new(RwLock::new(Arc::new(build(&contents)?)));
        if sources.are_none() {
            return Ok(Self { current, _open: None });
        }
        let (open, closed) = mpsc::channel::<()>();
        let target = Arc::clone(&current);
        let watching = move || {
            watch(&sources, contents, &closed, |contents| {
                let built = Arc::new(build(contents)?);
                *target.write().unwrap_or_else(PoisonError::into_inner) = built;
                Ok(())
            });
        };
        thread::Builder::new()
            .name("tls-files".to_owned())
            .spawn(watching)
            .map_err(|error| TlsError::Watch { detail: error.to_string() })?;
        Ok(Self { current, _open: Some(open) })
    }
}

impl<T> Reloaded<T> {
    /// What is in force now. Who holds it may keep it beyond the next reload.
    pub(crate) fn get(&self) -> Arc<T> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Looks at `sources` until `closed`; `known` is in force already.
fn watch(
    sources: &Sources,
    known: Contents,
    closed: &mpsc::Receiver<()>,
    mut apply: impl FnMut(&Contents) -> Result<(), TlsError>,
) {
    let mut settling = Settling::new(known);
    let mut pause = POLL;
    while closed.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        pause = POLL;
        match settling.observe(sources.read()) {
            Observed::Same => {}
            Observed::Changing => pause = SETTLE,
            Observed::Settled(contents) => match apply(contents) {
                Ok(()) => tracing::info!(from = %sources, "TLS files reloaded"),
                Err(error) => {
                    tracing::warn!(from = %sources, %error, "TLS files not reloaded, the previous ones stay in force");
                }
            },
        }
    }
}

/// Tells a new content from one that is still being written. Never judges the same content twice in a row.
struct Settling {
    judged: Contents,
    changing: Option<Contents>,
}

enum Observed<'a> {
    Same,
    Changing,
    Settled(&'a Contents),
}

impl Settling {
    fn new(judged: Contents) -> Self {
        Self { judged, changing: None }
    }

    fn observe(&mut self, seen: Contents) -> Observed<'_> {
        if seen == self.judged {
            self.changing = None;
            return Observed::Same;
        }
        if self.changing.as_ref() != Some(&seen) {
            self.changing = Some(seen);
            return Observed::Changing;
        }
        self.changing = None;
        self.judged = seen;
        Observed::Settled(&self.judged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A content that differs from others by `path` alone.
    fn content(path: &str) -> Contents {
        Sources { pair: Some(path.into()), authorities: None }.read()
    }

    fn settled(settling: &mut Settling, path: &str) -> bool {
        matches!(settling.observe(content(path)), Observed::Settled(_))
    }

    #[test]
    fn a_new_content_settles_when_it_is_seen_twice_and_only_once() {
        let mut settling = Settling::new(content("absent/old"));
        assert!(!settled(&mut settling, "absent/old"));
        assert!(!settled(&mut settling, "absent/new"));
        assert!(settled(&mut settling, "absent/new"));
        assert!(!settled(&mut settling, "absent/new"));
        assert!(!settled(&mut settling, "absent/new"));
    }

    #[test]
    fn a_content_still_being_written_never_settles() {
        let mut settling = Settling::new(content("absent/old"));
        for part in ["absent/1", "absent/2", "absent/3"] {
            assert!(!settled(&mut settling, part));
        }
        assert!(settled(&mut settling, "absent/3"));
    }

    #[test]
    fn a_change_taken_back_is_no_change() {
        let mut settling = Settling::new(content("absent/old"));
        assert!(!settled(&mut settling, "absent/new"));
        assert!(!settled(&mut settling, "absent/old"));
        assert!(!settled(&mut settling, "absent/new"));
    }
}
