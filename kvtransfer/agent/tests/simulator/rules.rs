//! What must hold, checked at every command of the core.

use std::collections::{BTreeMap, BTreeSet};

use kvferry_agent::core::{ChunkNo, LaneNo, Pace, PeerNo, Piece, TransferNo};
use kvferry_agent::limits::MAX_ATTEMPTS;
use kvferry_agent::{Failure, Report};

/// A chunk that has not ended.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Chunk {
    pub lane: LaneNo,
    pub transfer: TransferNo,
    pub piece: Piece,
    pub checking: bool,
    pub stopped: bool,
    /// The fabric will never say that it has ended.
    pub dropped: bool,
    /// Its lane is being left: whether it is waited for depends on how long that takes.
    pub left: bool,
}

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Wanted {
    pub peer: PeerNo,
    pub bytes: u64,
    pub notify: bool,
    pub verify: bool,
    told: bool,
    ended: bool,
    /// Where each piece that arrived begins, and its bytes.
    arrived: BTreeMap<(usize, u64), u64>,
    /// How often each piece was begun, but for those times when a fabric was full.
    tries: BTreeMap<(usize, u64), u8>,
}

#[derive(Debug, Default)]
pub struct Rules {
    pub chunks: BTreeMap<ChunkNo, Chunk>,
    pub transfers: BTreeMap<TransferNo, Wanted>,
    used: BTreeSet<ChunkNo>,
}

impl Rules {
    pub fn begun(&mut self, no: TransferNo, peer: PeerNo, bytes: u64, notify: bool, verify: bool) {
        let wanted = Wanted {
            peer,
            bytes,
            notify,
            verify,
            told: false,
            ended: false,
            arrived: BTreeMap::new(),
            tries: BTreeMap::new(),
        };
        assert!(self.transfers.insert(no, wanted).is_none(), "{no:?} is used twice");
    }

    pub fn moves(&mut self, chunk: ChunkNo, lane: LaneNo, no: TransferNo, piece: Piece, pace: &Pace) {
        let of = self.transfers.get_mut(&no).expect("a transfer that was begun");
        assert!(!of.ended, "{chunk:?} begins after the end of {no:?}");
        assert_eq!(lane.peer, of.peer);
        assert!(self.used.insert(chunk), "{chunk:?} is used twice");
        let key = (piece.first, piece.skip);
        assert!(!of.arrived.contains_key(&key), "{piece:?} of {no:?} has arrived already");
        let tries = of.tries.entry(key).or_default();
        *tries += 1;
        assert!(*tries <= MAX_ATTEMPTS, "{piece:?} of {no:?} is tried too often");
        // Of those that are being checked, some are not waited for any more; what moves is known.
        let moving = || self.chunks.values().filter(|chunk| !chunk.checking && !chunk.left);
        let same = |other: &&Chunk| other.transfer == no && (other.piece.first, other.piece.skip) == key;
        assert_eq!(moving().find(same).map(|chunk| chunk.piece), None, "under way already");
        let on_lane = || moving().filter(|chunk| chunk.lane == lane);
        assert!(on_lane().count() < pace.lane_chunks, "the lane's window of chunks is exceeded");
        assert!(
            on_lane().map(|chunk| chunk.piece.bytes).sum::<u64>() < pace.lane_bytes,
            "the lane's window of bytes is exceeded"
        );
        assert!(moving().count() < pace.chunks, "the window of all lanes is exceeded");
        assert!(piece.bytes <= pace.chunk_bytes && piece.count <= pace.chunk_segments);
        let new =
            Chunk { lane, transfer: no, piece, checking: false, stopped: false, dropped: false, left: false };
        self.chunks.insert(chunk, new);
    }

    /// That attempt does not count: the fabric was full.
    pub fn was_full(&mut self, chunk: &Chunk) {
        let of = self.transfers.get_mut(&chunk.transfer).unwrap();
        *of.tries.get_mut(&(chunk.piece.first, chunk.piece.skip)).unwrap() -= 1;
    }

    /// The core has heard that a chunk arrived, and was right if it was to be checked.
    pub fn arrived(&mut self, chunk: &Chunk) {
        let of = self.transfers.get_mut(&chunk.transfer).unwrap();
        let key = (chunk.piece.first, chunk.piece.skip);
        assert_eq!(of.arrived.insert(key, chunk.piece.bytes), None, "a piece arrives once");
    }

    /// Nobody waits for a check any more.
    pub fn forgotten(&mut self, chunk: ChunkNo) {
        let of = self.chunks.remove(&chunk);
        assert!(of.is_some_and(|of| of.checking), "{chunk:?} was not being checked");
    }

    pub fn told(&mut self, no: TransferNo) {
        let of = self.transfers.get_mut(&no).unwrap();
        assert!(of.notify && !of.told && !of.ended, "{no:?} is told once, before its end, if at all");
        of.told = true;
    }

    pub fn ends(&mut self, no: TransferNo, result: &Result<Report, Box<Failure>>) {
        let of = self.transfers.get_mut(&no).expect("only what was begun ends");
        assert!(!of.ended, "{no:?} ends twice");
        of.ended = true;
        let report = result.as_ref().unwrap_or_else(|failure| &failure.report);
        let sum: u64 = of.arrived.values().sum();
        assert_eq!(report.bytes, sum, "what is reported is what arrived");
        assert_eq!(report.lanes.iter().map(|lane| lane.bytes).sum::<u64>(), sum);
        if result.is_ok() {
            assert_eq!(sum, of.bytes, "all has arrived");
            assert_eq!(of.told, of.notify);
            assert_eq!(report.verified, of.verify);
        } else {
            assert!(!of.told, "nobody is told of what has not arrived");
        }
        let unasked = self.chunks.values().any(|chunk| chunk.transfer == no && chunk.checking);
        assert!(!unasked, "{no:?} ends, and nobody was told that its checks are not waited for");
        let left = self.chunks.values().any(|chunk| chunk.transfer == no && !chunk.checking);
        assert!(!left || !report.settled, "{no:?} ends while chunks of it move, and says otherwise");
    }

    pub fn open(&self) -> Vec<TransferNo> {
        self.transfers.iter().filter(|(_, of)| !of.ended).map(|(no, _)| *no).collect()
    }

    pub fn gone(&self, peer: PeerNo) {
        let left = self.transfers.values().any(|of| of.peer == peer && !of.ended);
        assert!(!left, "{peer:?} is gone before its transfers have ended");
    }
}
