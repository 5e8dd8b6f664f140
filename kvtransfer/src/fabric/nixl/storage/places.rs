//! What is registered with a storage: memory, files and objects, by number, and what may be done with each.

use std::collections::HashMap;
use std::fs::File;
use std::rc::Rc;

use nix::errno::Errno;

use crate::fabric::Direction;
use crate::fabric::nixl::raw::{Agent, Registered, memory_of};
use crate::memory::{MAX_REGIONS, Region};
use crate::segment::Segment;
use crate::{Error, RegionId};

/// Bytes of a file that can be named: its length changes, and NIXL takes only what lies in what was registered. More than
/// any file system has.
const LONGEST_FILE: usize = 1 << 60;

/// Something to register.
#[derive(Debug)]
pub(super) enum Thing {
    Memory(Region),
    File { file: File, read: bool, write: bool },
    Object { key: String, len: u64 },
}

#[derive(Debug)]
struct Place {
    registered: Rc<Registered>,
    what: What,
    /// Segments under way that name it.
    uses: usize,
}

#[derive(Debug)]
enum What {
    Memory(u64),
    /// A second descriptor of the file, to ask for its length.
    File {
        file: File,
        read: bool,
        write: bool,
    },
    Object(u64),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Places {
    agent: Agent,
    plugin: String,
    known: HashMap<RegionId, Place>,
    next: u32,
}

impl Places {
    pub(super) fn new(agent: Agent, plugin: String) -> Self {
        Self { agent, plugin, known: HashMap::new(), next: 0 }
    }

    pub(super) fn plugin(&self) -> &str {
        &self.plugin
    }

    pub(super) fn agent(&self) -> &Agent {
        &self.agent
    }

    /// As [`Storage::register`](super::Storage::register) and its like.
    pub(super) fn add(&mut self, thing: Thing) -> Result<RegionId, Error> {
        if self.known.len() >= MAX_REGIONS {
            return Err(Error::Full("regions and files registered at a time (1024)"));
        }
        let id = RegionId(self.next);
        let refused = |what: &str, status| {
            Error::Library(format!("NIXL's plugin {} cannot take {what}: {status}", self.plugin))
        };
        let (registered, what) = match thing {
            Thing::Memory(region) => {
                let kind = region.kind().name();
                let memory = memory_of(region.kind(), id).ok_or(Error::MemoryKind(kind))?;
                if region.is_empty() {
                    return Err(Error::OutOfRegion(id, 0));
                }
                let registered = Registered::region(&self.agent, &region, memory);
                (registered.map_err(|status| refused(kind, status))?, What::Memory(region.len()))
            }
            Thing::File { file, read, write } => {
                let own = file
                    .try_clone()
                    .map_err(|error| Error::system("another descriptor of a file", &error))?;
                let registered = Registered::file(&self.agent, file.into(), LONGEST_FILE);
                let what = What::File { file: own, read, write };
                (registered.map_err(|status| refused("the file", status))?, what)
            }
            Thing::Object { key, len } => {
                let bytes = usize::try_from(len).map_err(|_| Error::OutOfRegion(id, len))?;
                let registered = Registered::object(&self.agent, key, id.0.into(), bytes);
                (registered.map_err(|status| refused("the object", status))?, What::Object(len))
            }
        };
        self.next = self.next.checked_add(1).ok_or(Error::Full("region numbers of one storage"))?;
        self.known.insert(id, Place { registered: Rc::new(registered), what, uses: 0 });
        Ok(id)
    }

    /// As [`Storage::forget`](super::Storage::forget).
    pub(super) fn forget(&mut self, id: RegionId) -> Result<(), Error> {
        match self.known.get(&id).map(|place| place.uses) {
            None => Err(Error::UnknownRegion(id)),
            Some(0) => {
                self.known.remove(&id);
                Ok(())
            }
            Some(_) => Err(Error::RegionBusy(id)),
        }
    }

    pub(super) fn registered(&self, id: RegionId) -> Option<&Rc<Registered>> {
        self.known.get(&id).map(|place| &place.registered)
    }

    /// Counts segments that name places, or counts them no more.
    pub(super) fn uses(&mut self, segments: &[Segment], change: impl Fn(&mut usize)) {
        for id in segments.iter().flat_map(|segment| [segment.local.region, segment.remote.region]) {
            if let Some(place) = self.known.get_mut(&id) {
                change(&mut place.uses);
            }
        }
    }

    /// Whether all segments can be moved in that direction.
    ///
    /// # Errors
    /// As [`Storage::submit`](super::Storage::submit).
    pub(super) fn check(&self, direction: Direction, segments: &[Segment]) -> Result<(), Error> {
        // A file's length is asked for once.
        let mut lens = HashMap::new();
        for segment in segments {
            let (here, there) = (segment.here(), segment.there());
            let id = here.at.region;
            match self.known.get(&id).map(|place| &place.what) {
                Some(What::Memory(len)) if here.end().is_some_and(|end| end <= *len) => {}
                Some(What::Memory(len)) => return Err(Error::OutOfRegion(id, *len)),
                _ => return Err(Error::UnknownRegion(id)),
            }
            let id = there.at.region;
            let len = if let Some(len) = lens.get(&id) {
                *len
            } else {
                let what = self.known.get(&id).map(|place| &place.what);
                let len = what.and_then(|what| named(direction, what)).ok_or(Error::UnknownRegion(id))??;
                lens.insert(id, len);
                len
            };
            if there.end().is_none_or(|end| end > len) {
                return Err(Error::OutOfRegion(id, len));
            }
        }
        Ok(())
    }
}

/// Bytes of a file or an object that may be named in that direction; `None` if it is memory.
fn named(direction: Direction, what: &What) -> Option<Result<u64, Error>> {
    let not_open = |what| Some(Err(Error::System(what, Errno::EBADF as i32)));
    match (what, direction) {
        (What::Memory(_), _) => None,
        (What::Object(len), _) => Some(Ok(*len)),
        (What::File { read: false, .. }, Direction::Read) => {
            not_open("reading a file that is open for writing")
        }
        (What::File { write: false, .. }, Direction::Write) => {
            not_open("writing a file that is open for reading")
        }
        (What::File { file, .. }, Direction::Read) => {
            let metadata =
                file.metadata().map_err(|error| Error::system("asking for a file's length", &error));
            Some(metadata.map(|metadata| metadata.len()))
        }
        // It grows.
        (What::File { .. }, Direction::Write) => Some(Ok(LONGEST_FILE as u64)),
    }
}
