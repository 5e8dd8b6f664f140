//! Device memory, on either end of a copy: the device's own engines do it, and the thread only asks whether it is over.
//! A peer's device memory is mapped when its first byte is needed, by a thread that copies: making a device's context takes
//! some hundred milliseconds, for which the event loop has no time.

#![expect(unsafe_code, reason = "copies whose ends are vouched for by jobs")]

use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::OnceLock;

use super::copy::{self, From};
use super::job::{Keep, Piece};
use super::source::Source;
use crate::Error;
use crate::memory::Region;
use crate::memory::cuda::{Copies, Cuda, CudaDevice, CudaMemory, Export};

/// Bytes of a slice: a millisecond of PCIe, for which a stopped job may go on; and so much that waiting for its end, some
/// microseconds, is no part of it.
pub(super) const SLICE: u64 = 16 << 20;

/// Bytes that are compared at a time, on the host.
const SCRATCH: u64 = 1 << 20;

/// Device memory of a peer.
#[derive(Debug)]
pub(super) struct Remote {
    export: Export,
    opened: OnceLock<Result<Region, Error>>,
    /// Closed after the mapping, which is before it here: its owner frees the memory then.
    _held: OwnedFd,
}

impl Remote {
    /// What its owner has sent.
    pub(super) const fn new(export: Export, held: OwnedFd) -> Self {
        Self { export, opened: OnceLock::new(), _held: held }
    }

    /// Bytes.
    pub(super) const fn len(&self) -> u64 {
        self.export.len
    }

    /// It, mapped here.
    fn memory(&self) -> Result<&CudaMemory, Error> {
        let opened = self.opened.get_or_init(|| Ok(Cuda::open(None)?.import(&self.export)?));
        opened.as_ref().map(memory).map_err(Error::clone)
    }
}

fn memory(region: &Region) -> &CudaMemory {
    region.cuda().expect("a device's region was looked at when it was registered or imported")
}

/// One end of a piece.
enum End<'a> {
    Host(NonNull<u8>),
    Device(&'a CudaMemory, u64),
}

/// Pieces on their way of which at least one end is on a device. Dropping it waits for them.
#[derive(Debug)]
pub(super) struct Moves<'a> {
    keep: &'a Keep,
    comparing: bool,
    copies: Vec<Copies>,
}

impl<'a> Moves<'a> {
    pub(super) const fn new(keep: &'a Keep, comparing: bool) -> Self {
        Self { keep, comparing, copies: Vec::new() }
    }

    /// Whether a device has an end of `piece`.
    pub(super) fn has(&self, piece: &Piece) -> bool {
        matches!(piece.from, From::Device { .. }) || self.keep.devices.contains_key(&piece.name.region)
    }

    /// Begins to copy `len` bytes of `piece` from `offset` on, or compares them.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if they are to be compared and differ, or why they cannot be copied.
    ///
    /// # Safety
    /// Both ends must be kept by what this borrows, and nobody else may copy to these bytes.
    pub(super) unsafe fn add(&mut self, piece: &Piece, offset: u64, len: u64) -> Result<(), Error> {
        let bytes = usize::try_from(len).expect("bytes of a slice can be counted");
        let from = self.from(piece, offset)?;
        let to = match self.keep.devices.get(&piece.name.region) {
            Some(region) => End::Device(memory(region), piece.name.offset + offset),
            None => End::Host(host(piece.to, offset)),
        };
        if self.comparing {
            return compare(&from, &to, len, piece, offset);
        }
        match (from, to) {
            (End::Device(from, at), End::Device(to, to_at)) => {
                let copies = self.on(to.device())?;
                // SAFETY: the caller vouches for both ends until this is finished or dropped.
                unsafe { copies.between((to, to_at), (from, at), len) }?;
            }
            (End::Device(from, at), End::Host(to)) => {
                let copies = self.on(from.device())?;
                // SAFETY: as above.
                unsafe { copies.to_host(from, at, to, bytes) }?;
            }
            (End::Host(from), End::Device(to, at)) => {
                let copies = self.on(to.device())?;
                // SAFETY: as above.
                unsafe { copies.from_host(to, at, from, bytes) }?;
            }
            (End::Host(_), End::Host(_)) => unreachable!("the caller asks `has` first"),
        }
        Ok(())
    }

    /// Where `piece` comes from.
    fn from(&self, piece: &Piece, offset: u64) -> Result<End<'a>, Error> {
        match piece.from {
            From::Mapped(from) => Ok(End::Host(host(from, offset))),
            From::Device { source, offset: at } => match &*self.keep.sources[source as usize] {
                Source::Device(remote) => Ok(End::Device(remote.memory()?, at + offset)),
                Source::Mapped(_) | Source::Process { .. } => unreachable!("the source that made the piece"),
            },
            From::Process(_) => Err(Error::Limit(
                "no device copies from memory of another process that is no arena: put the peer's region into an arena"
                    .into(),
            )),
        }
    }

    /// This job's stream on a device.
    fn on(&mut self, device: &CudaDevice) -> Result<&mut Copies, Error> {
        let number = device.info().device;
        let known = self.copies.iter().position(|copies| copies.device().info().device == number);
        if let Some(at) = known {
            return Ok(&mut self.copies[at]);
        }
        self.copies.push(device.copies()?);
        Ok(self.copies.last_mut().expect("it was pushed"))
    }

    /// Waits until all is copied.
    ///
    /// # Errors
    /// What the device says.
    pub(super) fn finish(mut self) -> Result<(), Error> {
        self.copies.iter_mut().try_for_each(|copies| Ok(copies.finish()?))
    }
}

fn host(base: NonNull<u8>, offset: u64) -> NonNull<u8> {
    let offset = usize::try_from(offset).expect("it is less than a length in memory");
    // SAFETY: `Moves::add`'s caller vouches for the piece, and asks for bytes of it.
    unsafe { base.add(offset) }
}

fn compare(from: &End<'_>, to: &End<'_>, len: u64, piece: &Piece, offset: u64) -> Result<(), Error> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < len {
        let count = SCRATCH.min(len - at);
        let from = at_host(from, at, count, &mut theirs)?;
        let to = at_host(to, at, count, &mut ours)?;
        let count = usize::try_from(count).expect("it is at most SCRATCH");
        // SAFETY: as many bytes are at both: in a scratch, or at an end that `Moves::add`'s caller vouches for.
        if let Some(within) = unsafe { copy::first_difference(from, to, count) } {
            let place = piece.name.offset + offset + at + within as u64;
            return Err(Error::Corrupt(piece.name.region, place));
        }
        at += count as u64;
    }
    Ok(())
}

/// `count` bytes of an end, as the host sees them.
fn at_host(end: &End<'_>, at: u64, count: u64, scratch: &mut Vec<u8>) -> Result<NonNull<u8>, Error> {
    match end {
        End::Host(base) => Ok(host(*base, at)),
        End::Device(memory, offset) => {
            scratch.resize(usize::try_from(count).expect("it is at most SCRATCH"), 0);
            memory.read(offset + at, scratch)?;
            Ok(NonNull::from(scratch.as_mut_slice()).cast())
        }
    }
}
