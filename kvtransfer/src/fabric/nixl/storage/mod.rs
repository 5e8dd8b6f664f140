//! Files and objects, beside the fabric: no peer is at the other end, and no lease guards what is this process' own.
//!
//! What is moved is named as in a transfer between peers: a [`Segment`]'s `local` is a place in registered memory, its
//! `remote` one in a file or an object; both are numbered by the same count. Completions are the same events, too:
//! [`Event::Done`] and [`Event::Failed`].

mod places;
mod worker;

use std::fs::{File, OpenOptions};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use self::places::Thing;
use self::worker::{Command, Shared, Worker};
use super::library;
use super::opening::{ClosesOnDrop, joined, opened, waited};
use super::raw::Threads;
use crate::fabric::common::{Doorbell, EventQueue, Inbox};
use crate::fabric::{Direction, Event, Limits, destinations_overlap};
use crate::memory::Region;
use crate::segment::Segment;
use crate::{Error, RegionId, TransferId};

/// What [`Storage::open`] is told. Begin with [`StorageOptions::new`] and change what differs.
#[derive(Debug, Clone)]
pub struct StorageOptions {
    /// The file of NIXL's C API. `None`: the first that is found. A process has one NIXL.
    pub library: Option<PathBuf>,
    /// The plugin, as NIXL calls it, such as `POSIX`, `GDS` or `OBJ`.
    pub plugin: String,
    /// Its parameters, of those that it tells of.
    pub params: Vec<(String, String)>,
}

impl StorageOptions {
    /// That plugin with its own parameters.
    pub fn new(plugin: &str) -> Self {
        Self { library: None, plugin: plugin.into(), params: Vec::new() }
    }
}

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Reading, of a file that is there.
    Read,
    /// Reading and writing, of a file that is made if it is not there.
    Write,
}

/// Files and objects over one plugin of NIXL: see the [module](self).
#[derive(Debug)]
pub struct Storage {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Storage {
    /// Loads NIXL, if this process has not yet, and creates the plugin's backend.
    ///
    /// # Errors
    /// [`Error::Library`]: there is no NIXL of use (with all that was tried), it has no such plugin (with those that it
    /// has), the plugin does not know a parameter (with those that it knows), or cannot be created.
    pub fn open(options: StorageOptions) -> Result<Self, Error> {
        let nixl = library::load(options.library.as_deref())?;
        let shared = Arc::new(Shared::new()?);
        let (answer, opening) = sync_channel(1);
        let state = Arc::clone(&shared);
        let run = move || {
            let _closes = ClosesOnDrop(|| state.inbox.close());
            let StorageOptions { plugin, params, .. } = options;
            // Nothing comes from outside, so nothing must be looked after but what this thread asks for.
            let threads = Threads { progress: false, every: 0 };
            match worker::known_params(&nixl, &plugin, &params)
                .and_then(|()| opened(&nixl, worker::NAME, &plugin, &params, threads, false))
            {
                Ok(agent) => {
                    // Whoever opens it waits for this, and nothing else.
                    drop(answer.send(Ok(())));
                    Worker::new(&state, agent, plugin).run();
                }
                Err(error) => drop(answer.send(Err(error))),
            }
        };
        let thread = Builder::new().name("kv-nixl-storage".into()).spawn(run);
        let thread = thread.map_err(|error| Error::system("starting a thread of NIXL's storage", &error))?;
        match opening.recv().unwrap_or(Err(Error::Closed)) {
            Ok(()) => Ok(Self { shared, thread: Mutex::new(Some(thread)) }),
            Err(error) => {
                joined(thread);
                Err(error)
            }
        }
    }

    /// Makes memory known, so that segments can name it.
    ///
    /// # Errors
    /// [`Error::MemoryKind`] if the plugin cannot reach it, [`Error::Full`], or [`Error::Library`]: what NIXL says.
    pub fn register(&self, region: Region) -> Result<RegionId, Error> {
        self.add(Thing::Memory(region))
    }

    /// Makes an open file known. What it is open for decides what may be done with it.
    ///
    /// # Errors
    /// [`Error::System`] if it is no file, [`Error::Full`], or [`Error::Library`]: what NIXL says.
    pub fn file(&self, file: File) -> Result<RegionId, Error> {
        let file: OwnedFd = file.into();
        let flags = fcntl(&file, FcntlArg::F_GETFL)
            .map_err(|errno| Error::System("asking what a file is open for", errno as i32))?;
        let access = OFlag::from_bits_truncate(flags) & OFlag::O_ACCMODE;
        let (read, write) = (access != OFlag::O_WRONLY, access != OFlag::O_RDONLY);
        self.add(Thing::File { file: file.into(), read, write })
    }

    /// Opens a file, and makes it known.
    ///
    /// # Errors
    /// [`Error::System`]: it is not there, or may not be opened so; else as [`file`](Self::file).
    pub fn open_file(&self, path: &Path, mode: Mode) -> Result<RegionId, Error> {
        let write = mode == Mode::Write;
        let file = OpenOptions::new().read(true).write(write).create(write).truncate(false).open(path);
        self.file(file.map_err(|error| Error::system("opening a file for NIXL", &error))?)
    }

    /// Makes an object of a store known, by its key; `len` is how many bytes of it can be named.
    ///
    /// # Errors
    /// [`Error::Full`], or [`Error::Library`]: what NIXL says.
    pub fn object(&self, key: &str, len: u64) -> Result<RegionId, Error> {
        self.add(Thing::Object { key: key.into(), len })
    }

    fn add(&self, thing: Thing) -> Result<RegionId, Error> {
        let (answer, added) = sync_channel(1);
        self.shared.order(|| Command::Add(thing, answer))?;
        waited(&added)?
    }

    /// Forgets memory, a file or an object.
    ///
    /// # Errors
    /// [`Error::UnknownRegion`], or [`Error::RegionBusy`] while transfers name it.
    pub fn forget(&self, id: RegionId) -> Result<(), Error> {
        let (answer, forgotten) = sync_channel(1);
        self.shared.order(|| Command::Forget(id, answer))?;
        waited(&forgotten)?
    }

    /// Begins to read (from files to memory) or to write. Exactly one of [`Event::Done`] and [`Event::Failed`] says how it
    /// ended; a file that was written is not synchronised with its disk.
    ///
    /// # Errors
    /// [`Error::UnknownRegion`]; [`Error::OutOfRegion`]: a range reaches out of memory or an object, or is read beyond a
    /// file's end; [`Error::System`]: the file is not open for that; [`Error::Overlap`], [`Error::Full`].
    pub fn submit(&self, direction: Direction, segments: Arc<[Segment]>) -> Result<TransferId, Error> {
        if segments.len() > Limits::MAX_SEGMENTS {
            return Err(Error::Full("segments of one transfer (2 Mi)"));
        }
        let destinations = segments.iter().map(|segment| match direction {
            Direction::Read => segment.here(),
            Direction::Write => segment.there(),
        });
        if destinations_overlap(destinations) {
            return Err(Error::Overlap);
        }
        let (answer, begun) = sync_channel(1);
        self.shared.order(|| Command::Submit(direction, segments, answer))?;
        waited(&begun)?
    }

    /// Ends a transfer early. Its event comes all the same.
    pub fn cancel(&self, transfer: TransferId) {
        self.shared.inbox.push(Command::Cancel(transfer));
    }

    /// Appends what has happened to `events`, in order; returns how much it was.
    pub fn poll(&self, events: &mut Vec<Event>) -> usize {
        self.shared.events.drain(events).count
    }

    /// Readable while there are events.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.shared.events.wake_fd()
    }

    /// Ends everything: what is under way is waited for, what is not begun fails with [`Error::Closed`]. Dropping it closes it.
    pub fn close(&self) {
        // Held until all is over, so that whoever else closes it meanwhile also finds it closed.
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(thread) = thread.take() else { return };
        self.shared.inbox.push(Command::Close);
        joined(thread);
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn new() -> Result<Self, Error> {
        Ok(Self { inbox: Inbox::new(Doorbell::new()?), events: EventQueue::new()? })
    }

    /// Orders something; once closed, whoever waits for the answer hears that nobody gives it.
    fn order(&self, command: impl FnOnce() -> Command) -> Result<(), Error> {
        if self.events.ends() >= Limits::MAX_TRANSFERS {
            return Err(Error::Full("transfers that ended and are not polled (16 Ki)"));
        }
        self.inbox.push(command());
        Ok(())
    }
}
