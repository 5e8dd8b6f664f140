//! The copying of one transfer, in slices: so that several threads can share it, that it takes turns with others, and that
//! it can be stopped soon. A job is stopped by not beginning its next slice; it has ended when none is being copied.

#![expect(unsafe_code, reason = "addresses that are vouched for here, and used in `copy`")]

use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::copy::{Batch, From};
use super::device::{self, Moves};
use super::source::Source;
use crate::memory::Region;
use crate::{Error, PeerId, Place, RegionId, TransferId};

/// Bytes of a slice: some 100 µs of copying, which is how long a small transfer waits for a large one, and how long a
/// revoked lease is still touched.
const SLICE: u64 = 1 << 20;

/// Ranges of a slice: what one call of the kernel takes (`IOV_MAX`).
const SLICE_PIECES: usize = 1024;

/// Up to this many bytes are copied at once by whoever learns of them: the time of it is about that of waking a thread.
const SMALL: u64 = 64 << 10;

/// Up to this many ranges, likewise.
const SMALL_PIECES: usize = 64;

/// One range.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) from: From,
    pub(super) to: NonNull<u8>,
    /// What the destination is called, for errors.
    pub(super) name: Place,
    pub(super) len: u64,
}

/// For whom it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Purpose {
    /// A transfer of this side's: a read.
    Read(TransferId),
    /// The peer's transfer of that number: a write.
    Write(PeerId, u64),
}

/// What bytes must stay where they are until the job has ended.
#[derive(Debug, Default)]
pub(super) struct Keep {
    pub(super) sources: Vec<Arc<Source>>,
    pub(super) regions: Vec<Region>,
    /// Those of `regions` that are on a device.
    pub(super) devices: HashMap<RegionId, Region>,
}

impl Keep {
    fn has_devices(&self) -> bool {
        !self.devices.is_empty() || self.sources.iter().any(|source| matches!(**source, Source::Device(_)))
    }
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Everything is copied, and compared if that was asked for.
    Copied,
    /// It was stopped.
    Stopped,
    /// It could not be.
    Failed(Error),
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) purpose: Purpose,
    pieces: Vec<Piece>,
    bytes: u64,
    compare: bool,
    /// The peer's process, for pieces that the kernel copies.
    pid: i32,
    /// Whether a device has an end of some piece.
    devices: bool,
    stop: AtomicBool,
    state: Mutex<State>,
}

// SAFETY: pieces are addresses and counts. The bytes they name are only copied through raw pointers (`copy`), and `keep`
// holds what keeps them mapped until nothing is copied any more.
unsafe impl Send for Job {}
// SAFETY: as above.
unsafe impl Sync for Job {}

#[derive(Debug, Default)]
struct State {
    /// Whether everything is copied and now compared.
    comparing: bool,
    /// The first piece that this part has not given out wholly, and how many bytes of it are given out.
    piece: usize,
    offset: u64,
    /// `None` once it has ended, so that nothing stays mapped for whoever still looks at how it ended.
    keep: Option<Arc<Keep>>,
    /// Slices given out and not done.
    running: u32,
    ended: bool,
    failed: Option<Error>,
}

/// Bytes to copy, or to compare.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slice {
    piece: usize,
    offset: u64,
    pieces: usize,
    bytes: u64,
    comparing: bool,
}

/// What to do with a job whose turn it is.
#[derive(Debug)]
pub(super) enum Turn {
    /// This; and whether there is more that another thread can do meanwhile.
    Slice(Slice, bool),
    /// Nothing: other threads do the rest.
    Nothing,
    /// Report its end.
    Ended,
}

/// What to do when a slice is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// Nothing: the rest is given out, or still queued.
    Nothing,
    /// Queue the job again: its second part begins.
    Again,
    /// Report its end.
    Ended,
}

impl Job {
    /// A job for `pieces`, none of them empty.
    ///
    /// With `compare`, every byte is compared with its source once all are copied: a source that changed meanwhile, or a
    /// byte that memory did not store, does not go unseen.
    ///
    /// # Safety
    /// Each piece must lie within what `keep` keeps: its destination mapped writable in this process, its source mapped
    /// readable or in another process, and no two destinations may overlap.
    pub(super) unsafe fn new(
        purpose: Purpose,
        pieces: Vec<Piece>,
        compare: bool,
        pid: i32,
        keep: Keep,
    ) -> Self {
        let bytes = pieces.iter().map(|piece| piece.len).sum();
        let compare = compare && !pieces.is_empty();
        let devices = keep.has_devices();
        let state = State { keep: Some(Arc::new(keep)), ..State::default() };
        let (stop, state) = (AtomicBool::new(false), Mutex::new(state));
        Self { purpose, pieces, bytes, compare, pid, devices, stop, state }
    }

    /// Ranges.
    pub(super) fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// Whether waking a thread for it would take longer than to copy it.
    pub(super) fn is_small(&self) -> bool {
        self.bytes <= SMALL && self.pieces.len() <= SMALL_PIECES && !self.devices
    }

    /// Begins no further slice.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Takes the next slice, if there is one.
    pub(super) fn take(&self) -> Turn {
        let mut state = self.state();
        if state.ended || state.running > 0 && self.part_is_out(&state) {
            return Turn::Nothing;
        }
        if self.is_over(&state) {
            let idle = state.running == 0;
            state.end_if(idle);
            return if state.ended { Turn::Ended } else { Turn::Nothing };
        }
        if self.part_is_out(&state) {
            state.begin_comparing();
        }
        let mut slice = Slice {
            piece: state.piece,
            offset: state.offset,
            pieces: 0,
            bytes: 0,
            comparing: state.comparing,
        };
        let most = if self.devices { device::SLICE } else { SLICE };
        while slice.bytes < most && slice.pieces < SLICE_PIECES && !self.part_is_out(&state) {
            let left = self.pieces[state.piece].len - state.offset;
            let taken = left.min(most - slice.bytes);
            slice.bytes += taken;
            slice.pieces += 1;
            state.offset += taken;
            if taken == left {
                (state.piece, state.offset) = (state.piece + 1, 0);
            }
        }
        state.running += 1;
        Turn::Slice(slice, !self.part_is_out(&state))
    }

    /// Does what [`take`](Self::take) gave.
    pub(super) fn copy(&self, slice: Slice) -> After {
        let result = self.try_copy(slice);
        let mut state = self.state();
        state.running -= 1;
        if let Err(error) = result {
            state.failed.get_or_insert(error);
        }
        if state.running > 0 {
            After::Nothing
        } else if self.is_over(&state) {
            state.end_if(true);
            After::Ended
        } else if self.part_is_out(&state) {
            After::Again
        } else {
            After::Nothing
        }
    }

    /// Whether nothing more is to be begun.
    fn is_over(&self, state: &State) -> bool {
        state.failed.is_some() || self.stop.load(Ordering::Relaxed) || self.is_done(state)
    }

    fn is_done(&self, state: &State) -> bool {
        self.part_is_out(state) && state.comparing == self.compare
    }

    fn part_is_out(&self, state: &State) -> bool {
        state.piece == self.pieces.len()
    }

    fn try_copy(&self, slice: Slice) -> Result<(), Error> {
        let keep = self.state().keep.clone().expect("a job ends after its last slice");
        let mut batch = Batch::new(self.pid, slice.comparing);
        let mut moves = self.devices.then(|| Moves::new(&keep, slice.comparing));
        let (mut offset, mut left) = (slice.offset, slice.bytes);
        for piece in &self.pieces[slice.piece..slice.piece + slice.pieces] {
            let len = (piece.len - offset).min(left);
            // `take` gives out each byte of each piece once in each part, so nobody else writes this one. Pieces are
            // in bounds and stay mapped: `new`'s caller vouches for that.
            match moves.as_mut().filter(|moves| moves.has(piece)) {
                // SAFETY: as above, and `keep` is what `new` was given.
                Some(moves) => unsafe { moves.add(piece, offset, len) },
                // SAFETY: as above.
                None => unsafe { batch.add(piece, offset, len) },
            }?;
            left -= len;
            offset = 0;
        }
        batch.finish()?;
        moves.map_or(Ok(()), Moves::finish)
    }

    /// How it ended: to be asked once it has.
    pub(super) fn outcome(&self) -> Outcome {
        let state = self.state();
        match &state.failed {
            Some(error) => Outcome::Failed(error.clone()),
            None if self.is_done(&state) => Outcome::Copied,
            None => Outcome::Stopped,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds a job's state")
    }
}

impl State {
    /// Lets go of what it kept, if it is the end.
    fn end_if(&mut self, ended: bool) {
        self.ended = ended;
        self.keep.take_if(|_| ended);
    }

    fn begin_comparing(&mut self) {
        (self.comparing, self.piece, self.offset) = (true, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::RegionId;
    use crate::memory::Arena;

    const LEN: usize = 5 << 20;

    struct Rig {
        from: Region,
        to: Region,
    }

    impl Rig {
        fn new() -> Self {
            let arena = || Arena::create("job", NonZeroUsize::new(LEN).unwrap()).unwrap();
            let rig = Self { from: arena(), to: arena() };
            let bytes: Vec<u8> = (0..=250).cycle().take(LEN).collect();
            assert!(rig.from.write_at(0, &bytes));
            rig
        }

        /// A job for everything, in pieces of `len` bytes.
        fn job(&self, len: u64, compare: bool) -> Job {
            let pieces = (0..LEN as u64).step_by(usize::try_from(len).unwrap()).map(|at| {
                let len = len.min(LEN as u64 - at);
                let name = Place { region: RegionId(3), offset: at };
                let from = From::Mapped(self.from.address(at, len).unwrap());
                Piece { from, to: self.to.address(at, len).unwrap(), name, len }
            });
            let regions = vec![self.from.clone(), self.to.clone()];
            let keep = Keep { regions, ..Keep::default() };
            // SAFETY: the regions have given these addresses, and destinations follow one another.
            unsafe { Job::new(Purpose::Read(TransferId(0)), pieces.collect(), compare, 0, keep) }
        }

        fn is_same(&self) -> bool {
            let read = |region: &Region| {
                let mut bytes = vec![0; LEN];
                assert!(region.read_at(0, &mut bytes));
                bytes
            };
            read(&self.from) == read(&self.to)
        }
    }

    /// Does all that is left; how often its end was reported.
    fn run(job: &Job) -> u32 {
        let mut ends = 0;
        loop {
            match job.take() {
                Turn::Slice(slice, _) => ends += u32::from(job.copy(slice) == After::Ended),
                Turn::Ended => ends += 1,
                Turn::Nothing => return ends,
            }
        }
    }

    #[test]
    fn every_byte_is_copied_whatever_the_pieces_and_the_end_is_reported_once() {
        for len in [1000, 4096, SLICE - 1, SLICE, SLICE + 1, LEN as u64] {
            for compare in [false, true] {
                let rig = Rig::new();
                let job = rig.job(len, compare);
                assert_eq!(run(&job), 1, "{len}");
                assert_eq!(job.outcome(), Outcome::Copied);
                assert!(rig.is_same());
            }
        }
    }

    #[test]
    fn several_threads_share_one_job() {
        let rig = Rig::new();
        let job = rig.job(3000, true);
        let ends = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while ends.load(Ordering::Relaxed) == 0 {
                        ends.fetch_add(run(&job), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(ends.into_inner(), 1);
        assert_eq!(job.outcome(), Outcome::Copied);
        assert!(rig.is_same());
    }

    #[test]
    fn a_job_that_is_stopped_begins_no_further_slice_and_ends_when_the_last_is_done() {
        let rig = Rig::new();
        let job = rig.job(4096, false);
        let Turn::Slice(slice, true) = job.take() else { panic!("there is more") };
        job.stop();
        assert!(matches!(job.take(), Turn::Nothing), "one is being copied");
        assert_eq!(job.copy(slice), After::Ended);
        assert!(matches!(job.take(), Turn::Nothing), "the end is reported once");
        assert_eq!(job.outcome(), Outcome::Stopped);
    }

    #[test]
    fn a_source_that_changes_meanwhile_is_seen_when_it_is_compared() {
        let rig = Rig::new();
        let job = rig.job(4096, true);
        let Turn::Slice(slice, true) = job.take() else { panic!("there is more") };
        job.copy(slice);
        assert!(rig.from.write_at(8192, b"another byte than before"));
        assert_eq!(run(&job), 1);
        assert_eq!(job.outcome(), Outcome::Failed(Error::Corrupt(RegionId(3), 8192)));
    }

    #[test]
    fn nothing_is_done_at_once() {
        // SAFETY: there are no pieces.
        let job = unsafe { Job::new(Purpose::Read(TransferId(0)), vec![], true, 0, Keep::default()) };
        assert_eq!((run(&job), job.outcome()), (1, Outcome::Copied));
    }
}
