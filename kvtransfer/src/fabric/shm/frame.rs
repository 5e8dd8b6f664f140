//! What two sides of a connection say to each other. Pure: bytes in, frames out. A peer is another process, so nothing
//! here believes a count: every length is checked, and what does not fit is a [`Violation`], which ends the connection.

use crate::error::Error;
use crate::fabric::Limits;
use crate::fabric::common::{Identity, Reader, Writer};
use crate::lease::Refused;
use crate::memory::cuda::Export;
use crate::segment::{Place, Segment, Span};
use crate::{Epoch, RegionId, Token};

/// A peer that does not keep to the protocol: what it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Violation(pub(super) &'static str);

/// Ranges in one frame. Longer lists come in several, so that neither side ever holds a frame of more than
/// [`MAX_FRAME`] bytes, and a short request slips in between the parts of a long one.
pub(super) const MAX_PART: usize = 2048;

/// Bytes of a frame: its longest message, a full part, and what names them.
pub(super) const MAX_FRAME: usize = HEAD + Limits::MAX_MESSAGE + MAX_PART * Pair::LEN + 64;

/// Length and kind.
const HEAD: usize = 5;

/// How a `Hello` begins, in this and every later version.
const MAGIC: [u8; 4] = *b"KVFs";

/// A text that says why something failed is cut off here: it is for a log line.
const MAX_TEXT: usize = 512;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    /// The first, from the side that knocked: who it is, and whom it expects.
    Hello { from: Identity, to: Identity },
    /// The first, of another version.
    Foreign(u16),
    /// The answer: come in.
    Welcome,
    /// The answer: go.
    Turned(Turned),
    /// The file of a region comes along.
    File { region: RegionId },
    /// Where a region without a file lies in the sender's memory.
    Memory { region: RegionId, base: u64, len: u64 },
    /// What names a region on a device. A file comes along, to be held while it is mapped.
    Device { region: RegionId, export: Export },
    /// The sender has let a region go.
    Forget(RegionId),
    /// May I take these bytes of yours? The first part of `count` ranges.
    Read { id: u64, token: Token, count: usize, part: Part<'a, Range> },
    /// Take these bytes of mine. The first part of `count` pairs.
    Write {
        id: u64,
        token: Token,
        count: usize,
        compare: bool,
        message: Option<&'a [u8]>,
        part: Part<'a, Pair>,
    },
    /// More ranges of a read.
    MoreRanges { id: u64, part: Part<'a, Range> },
    /// More pairs of a write.
    MorePairs { id: u64, part: Part<'a, Pair> },
    /// To the reader: go ahead.
    Go(u64),
    /// To the reader: stop, and say when you have.
    Stop(u64, Reason),
    /// From the reader: I touch your bytes no more.
    Over(u64),
    /// To the writer: your bytes are here.
    Wrote(u64),
    /// To whoever asked: it is not done, and nothing is written any more.
    No(u64, Reason),
    /// From whoever asked: never mind.
    Cancel(u64),
    /// A message.
    Notify(&'a [u8]),
}

/// Why somebody who knocked is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turned {
    /// This side is of another version.
    Version(u16),
    /// Another agent, or another life of the one that was expected, listens here.
    Stale(Epoch),
    /// The two have met already, or meet on the connection that this side has opened.
    Met,
    /// This side has as many peers as it may.
    Full,
    /// Whoever knocked is not known.
    Stranger,
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reason {
    Refused(Refused),
    Cancelled,
    Corrupt(RegionId, u64),
    Machine(String),
}

impl Reason {
    /// What is said about an error of this side.
    pub(super) fn of(error: &Error) -> Self {
        match error {
            Error::Refused(refused) => Self::Refused(*refused),
            Error::Cancelled => Self::Cancelled,
            Error::Corrupt(region, offset) => Self::Corrupt(*region, *offset),
            other => Self::Machine(other.to_string()),
        }
    }

    /// What it is to the side that asked.
    pub(super) fn error(self) -> Error {
        match self {
            Self::Refused(refused) => Error::Refused(refused),
            Self::Cancelled => Error::Cancelled,
            Self::Corrupt(region, offset) => Error::Corrupt(region, offset),
            Self::Machine(text) => Error::Limit(format!("the peer could not copy: {text}")),
        }
    }
}

/// Something of which a frame has many, each of the same length.
pub(super) trait Item: Sized {
    const LEN: usize;
    fn read(from: &mut Reader<'_>) -> Option<Self>;
    fn write(&self, out: &mut Vec<u8>);
}

/// A range of the receiver's memory.
pub(super) type Range = Span;

impl Item for Range {
    const LEN: usize = 20;

    fn read(from: &mut Reader<'_>) -> Option<Self> {
        Some(Span::new(RegionId(from.u32()?), from.u64()?, from.u64()?))
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.put_u32(self.at.region.0);
        out.put_u64(self.at.offset);
        out.put_u64(self.len);
    }
}

/// A range of the sender's memory, and where it goes in the receiver's: `local` is the sender's.
pub(super) type Pair = Segment;

impl Item for Pair {
    const LEN: usize = 32;

    fn read(from: &mut Reader<'_>) -> Option<Self> {
        let mut place = || Some(Place { region: RegionId(from.u32()?), offset: from.u64()? });
        let (local, remote) = (place()?, place()?);
        Some(Segment { local, remote, len: from.u64()? })
    }

    fn write(&self, out: &mut Vec<u8>) {
        for place in [self.local, self.remote] {
            out.put_u32(place.region.0);
            out.put_u64(place.offset);
        }
        out.put_u64(self.len);
    }
}

/// Items as they came, at most [`MAX_PART`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part<'a, T> {
    bytes: &'a [u8],
    item: std::marker::PhantomData<T>,
}

impl<'a, T: Item> Part<'a, T> {
    fn read(from: &mut Reader<'a>) -> Option<Self> {
        let bytes = from.rest();
        let fits = bytes.len().is_multiple_of(T::LEN) && bytes.len() / T::LEN <= MAX_PART;
        fits.then_some(Self { bytes, item: std::marker::PhantomData })
    }

    /// Them.
    pub(super) fn items(&self) -> impl Iterator<Item = T> + use<'a, T> {
        self.bytes.chunks_exact(T::LEN).filter_map(|bytes| T::read(&mut Reader::new(bytes)))
    }
}

mod kind {
    pub(super) const HELLO: u8 = 0;
    pub(super) const WELCOME: u8 = 1;
    pub(super) const TURNED: u8 = 2;
    pub(super) const FILE: u8 = 3;
    pub(super) const MEMORY: u8 = 4;
    pub(super) const FORGET: u8 = 5;
    pub(super) const READ: u8 = 6;
    pub(super) const WRITE: u8 = 7;
    pub(super) const MORE_RANGES: u8 = 8;
    pub(super) const MORE_PAIRS: u8 = 9;
    pub(super) const GO: u8 = 10;
    pub(super) const STOP: u8 = 11;
    pub(super) const OVER: u8 = 12;
    pub(super) const WROTE: u8 = 13;
    pub(super) const NO: u8 = 14;
    pub(super) const CANCEL: u8 = 15;
    pub(super) const NOTIFY: u8 = 16;
    pub(super) const DEVICE: u8 = 17;
}

/// Appends frames to some bytes.
pub(super) trait Put {
    /// A frame of `kind` with what `body` appends.
    fn frame(&mut self, kind: u8, body: impl FnOnce(&mut Vec<u8>));

    fn hello(&mut self, from: &Identity, to: &Identity) {
        self.frame(kind::HELLO, |out| {
            out.put(&MAGIC);
            out.put_u16(super::metadata::VERSION);
            from.write(out);
            to.write(out);
        });
    }
    fn welcome(&mut self) {
        self.frame(kind::WELCOME, |_| ());
    }
    fn turned(&mut self, why: Turned) {
        self.frame(kind::TURNED, |out| {
            let (code, detail) = match why {
                Turned::Version(version) => (0, version.into()),
                Turned::Stale(epoch) => (1, epoch.0),
                Turned::Met => (2, 0),
                Turned::Full => (3, 0),
                Turned::Stranger => (4, 0),
            };
            out.put_u8(code);
            out.put_u64(detail);
        });
    }
    fn file(&mut self, region: RegionId) {
        self.frame(kind::FILE, |out| out.put_u32(region.0));
    }
    fn memory(&mut self, region: RegionId, base: u64, len: u64) {
        self.frame(kind::MEMORY, |out| {
            out.put_u32(region.0);
            out.put_u64(base);
            out.put_u64(len);
        });
    }
    fn device(&mut self, region: RegionId, export: &Export) {
        self.frame(kind::DEVICE, |out| {
            out.put_u32(region.0);
            out.put(&export.to_bytes());
        });
    }
    fn forget(&mut self, region: RegionId) {
        self.frame(kind::FORGET, |out| out.put_u32(region.0));
    }
    /// `segments` is the first part; `count` is of all.
    fn read(&mut self, id: u64, token: Token, count: usize, segments: &[Segment]) {
        self.frame(kind::READ, |out| {
            out.put_u64(id);
            out.put(&token.0);
            out.put_u64(count as u64);
            put_all(out, segments.iter().map(Segment::there));
        });
    }
    /// As [`read`](Self::read).
    fn write(
        &mut self,
        id: u64,
        token: Token,
        count: usize,
        compare: bool,
        message: Option<&[u8]>,
        segments: &[Segment],
    ) {
        self.frame(kind::WRITE, |out| {
            out.put_u64(id);
            out.put(&token.0);
            out.put_u64(count as u64);
            out.put_u8(u8::from(compare) | u8::from(message.is_some()) << 1);
            if let Some(message) = message {
                out.put_u32(u32::try_from(message.len()).expect("a message has at most 64 KiB"));
                out.put(message);
            }
            put_all(out, segments.iter().copied());
        });
    }
    fn more_ranges(&mut self, id: u64, segments: &[Segment]) {
        self.frame(kind::MORE_RANGES, |out| {
            out.put_u64(id);
            put_all(out, segments.iter().map(Segment::there));
        });
    }
    fn more_pairs(&mut self, id: u64, segments: &[Segment]) {
        self.frame(kind::MORE_PAIRS, |out| {
            out.put_u64(id);
            put_all(out, segments.iter().copied());
        });
    }
    fn go(&mut self, id: u64) {
        self.frame(kind::GO, |out| out.put_u64(id));
    }
    fn stop(&mut self, id: u64, reason: &Reason) {
        self.frame(kind::STOP, |out| put_reason(out, id, reason));
    }
    fn over(&mut self, id: u64) {
        self.frame(kind::OVER, |out| out.put_u64(id));
    }
    fn wrote(&mut self, id: u64) {
        self.frame(kind::WROTE, |out| out.put_u64(id));
    }
    fn no(&mut self, id: u64, reason: &Reason) {
        self.frame(kind::NO, |out| put_reason(out, id, reason));
    }
    fn cancel(&mut self, id: u64) {
        self.frame(kind::CANCEL, |out| out.put_u64(id));
    }
    fn notify(&mut self, message: &[u8]) {
        self.frame(kind::NOTIFY, |out| out.put(message));
    }
}

impl Put for Vec<u8> {
    fn frame(&mut self, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
        let start = self.len();
        self.put_u32(0);
        self.put_u8(kind);
        body(self);
        let len = u32::try_from(self.len() - start).expect("a frame has at most MAX_FRAME bytes");
        self[start..start + 4].copy_from_slice(&len.to_le_bytes());
    }
}

fn put_all<T: Item>(out: &mut Vec<u8>, items: impl Iterator<Item = T>) {
    for item in items {
        item.write(out);
    }
}

const REFUSED: [Refused; 4] = [Refused::NoLease, Refused::Expired, Refused::Direction, Refused::Outside];
const CANCELLED: u8 = 4;
const CORRUPT: u8 = 5;
const MACHINE: u8 = 6;

fn put_reason(out: &mut Vec<u8>, id: u64, reason: &Reason) {
    out.put_u64(id);
    match reason {
        Reason::Refused(refused) => {
            let code = REFUSED.iter().position(|other| other == refused).expect("all four are listed");
            out.put_u8(u8::try_from(code).expect("four fit into a byte"));
        }
        Reason::Cancelled => out.put_u8(CANCELLED),
        Reason::Corrupt(region, offset) => {
            out.put_u8(CORRUPT);
            out.put_u32(region.0);
            out.put_u64(*offset);
        }
        Reason::Machine(text) => {
            out.put_u8(MACHINE);
            out.put(&text.as_bytes()[..text.len().min(MAX_TEXT)]);
        }
    }
}

fn read_reason(from: &mut Reader<'_>) -> Option<Reason> {
    Some(match from.u8()? {
        code @ 0..4 => Reason::Refused(REFUSED[usize::from(code)]),
        CANCELLED => Reason::Cancelled,
        CORRUPT => Reason::Corrupt(RegionId(from.u32()?), from.u64()?),
        MACHINE => {
            let text = from.rest();
            (text.len() <= MAX_TEXT).then(|| Reason::Machine(String::from_utf8_lossy(text).into_owned()))?
        }
        _ => return None,
    })
}

/// The first frame of `bytes` and its length, if all of it is there.
///
/// # Errors
/// If there can be no such frame.
pub(super) fn decode(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, Violation> {
    let Some((len, _)) = bytes.split_first_chunk() else { return Ok(None) };
    let len = u32::from_le_bytes(*len) as usize;
    if !(HEAD..=MAX_FRAME).contains(&len) {
        return Err(Violation("a frame that is too long or too short"));
    }
    let Some(frame) = bytes.get(4..len) else { return Ok(None) };
    let mut body = Reader::new(&frame[1..]);
    match read_frame(frame[0], &mut body) {
        Some(read) if body.is_empty() || matches!(read, Frame::Foreign(_)) => Ok(Some((read, len))),
        Some(_) => Err(Violation("a frame that is longer than what it says")),
        None => Err(Violation("a frame that says nothing this side knows")),
    }
}

fn read_frame<'a>(kind: u8, from: &mut Reader<'a>) -> Option<Frame<'a>> {
    Some(match kind {
        kind::HELLO => {
            (from.array()? == MAGIC).then_some(())?;
            match from.u16()? {
                super::metadata::VERSION => {
                    Frame::Hello { from: Identity::read(from)?, to: Identity::read(from)? }
                }
                foreign => Frame::Foreign(foreign),
            }
        }
        kind::WELCOME => Frame::Welcome,
        kind::TURNED => {
            let (code, detail) = (from.u8()?, from.u64()?);
            Frame::Turned(match code {
                0 => Turned::Version(u16::try_from(detail).ok()?),
                1 => Turned::Stale(Epoch(detail)),
                2 => Turned::Met,
                3 => Turned::Full,
                4 => Turned::Stranger,
                _ => return None,
            })
        }
        kind::FILE => Frame::File { region: RegionId(from.u32()?) },
        kind::MEMORY => Frame::Memory { region: RegionId(from.u32()?), base: from.u64()?, len: from.u64()? },
        kind::DEVICE => {
            Frame::Device { region: RegionId(from.u32()?), export: Export::from_bytes(from.rest()).ok()? }
        }
        kind::FORGET => Frame::Forget(RegionId(from.u32()?)),
        kind::READ => {
            let (id, token, count) = (from.u64()?, Token(from.array()?), read_count(from)?);
            Frame::Read { id, token, count, part: Part::read(from)? }
        }
        kind::WRITE => {
            let (id, token, count) = (from.u64()?, Token(from.array()?), read_count(from)?);
            let flags = from.u8()?;
            let message = if flags & 2 == 0 { None } else { Some(read_message(from)?) };
            Frame::Write { id, token, count, compare: flags & 1 != 0, message, part: Part::read(from)? }
        }
        kind::MORE_RANGES => Frame::MoreRanges { id: from.u64()?, part: Part::read(from)? },
        kind::MORE_PAIRS => Frame::MorePairs { id: from.u64()?, part: Part::read(from)? },
        kind::GO => Frame::Go(from.u64()?),
        kind::STOP => Frame::Stop(from.u64()?, read_reason(from)?),
        kind::OVER => Frame::Over(from.u64()?),
        kind::WROTE => Frame::Wrote(from.u64()?),
        kind::NO => Frame::No(from.u64()?, read_reason(from)?),
        kind::CANCEL => Frame::Cancel(from.u64()?),
        kind::NOTIFY => {
            let message = from.rest();
            (message.len() <= Limits::MAX_MESSAGE).then_some(Frame::Notify(message))?
        }
        _ => return None,
    })
}

fn read_count(from: &mut Reader<'_>) -> Option<usize> {
    usize::try_from(from.u64()?).ok().filter(|count| *count <= Limits::MAX_SEGMENTS)
}

fn read_message<'a>(from: &mut Reader<'a>) -> Option<&'a [u8]> {
    let len = usize::try_from(from.u32()?).ok().filter(|len| *len <= Limits::MAX_MESSAGE)?;
    from.bytes(len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AgentName;

    fn identity(name: &str) -> Identity {
        Identity { name: AgentName::new(name).unwrap(), epoch: Epoch(3) }
    }

    fn segments(count: usize) -> Vec<Segment> {
        let place = |region, offset: usize| Place { region: RegionId(region), offset: offset as u64 };
        (0..count).map(|at| Segment { local: place(1, at * 8), remote: place(2, at * 9), len: 8 }).collect()
    }

    type Frames = Box<dyn Fn(&mut Vec<u8>)>;

    /// One of each kind.
    fn all() -> Vec<Vec<u8>> {
        let frames: Vec<Frames> = vec![
            Box::new(|out| out.hello(&identity("a"), &identity("b"))),
            Box::new(Vec::welcome),
            Box::new(|out| out.turned(Turned::Stale(Epoch(9)))),
            Box::new(|out| out.file(RegionId(4))),
            Box::new(|out| out.memory(RegionId(4), 1, 2)),
            Box::new(|out| out.forget(RegionId(4))),
            Box::new(|out| out.read(1, Token([1; 16]), 3, &segments(3))),
            Box::new(|out| out.write(1, Token([1; 16]), 3, true, Some(b"hello"), &segments(3))),
            Box::new(|out| out.more_ranges(1, &segments(2))),
            Box::new(|out| out.more_pairs(1, &segments(2))),
            Box::new(|out| out.go(1)),
            Box::new(|out| out.stop(1, &Reason::Refused(Refused::Outside))),
            Box::new(|out| out.over(1)),
            Box::new(|out| out.wrote(1)),
            Box::new(|out| out.no(1, &Reason::Corrupt(RegionId(1), 5))),
            Box::new(|out| out.cancel(1)),
            Box::new(|out| out.notify(b"hello")),
            Box::new(|out| {
                out.device(RegionId(4), &Export { uuid: [1; 16], offset: 2, len: 3, handle: [4; 64] });
            }),
        ];
        frames
            .iter()
            .map(|put| {
                let mut out = Vec::new();
                put(&mut out);
                out
            })
            .collect()
    }

    #[test]
    fn what_is_put_is_read_one_frame_after_the_other() {
        let bytes = all().concat();
        let (mut at, mut read) = (0, Vec::new());
        while let Some((frame, len)) = decode(&bytes[at..]).unwrap() {
            read.push(frame);
            at += len;
        }
        assert_eq!((at, read.len()), (bytes.len(), all().len()));
        assert_eq!(read[0], Frame::Hello { from: identity("a"), to: identity("b") });
        let Frame::Write { count: 3, compare: true, message: Some(b"hello"), part, .. } = &read[7] else {
            panic!("{:?}", read[7])
        };
        assert_eq!(part.items().collect::<Vec<_>>(), segments(3));
        let Frame::MoreRanges { part, .. } = &read[8] else { panic!("{:?}", read[8]) };
        assert_eq!(part.items().nth(1), Some(segments(2)[1].there()));
        assert_eq!(read[14], Frame::No(1, Reason::Corrupt(RegionId(1), 5)));
    }

    #[test]
    fn half_a_frame_is_waited_for_and_one_that_says_it_is_whole_is_read_or_a_violation() {
        for bytes in all() {
            for len in 0..bytes.len() {
                assert_eq!(decode(&bytes[..len]), Ok(None), "{bytes:?} {len}");
                if len >= HEAD {
                    let mut cut = bytes[..len].to_vec();
                    cut[..4].copy_from_slice(&u32::try_from(len).unwrap().to_le_bytes());
                    let read = decode(&cut).map(|read| read.map(|(_, read)| read));
                    assert!(read.is_err() || read == Ok(Some(len)), "{cut:?} {read:?}");
                }
            }
        }
    }

    #[test]
    fn a_frame_of_any_bytes_is_read_or_a_violation_and_never_a_panic() {
        let mut state = 1u64;
        for round in 0..if cfg!(miri) { 200 } else { 20_000 } {
            let mut bytes = all()[round % 18].clone();
            for _ in 0..3 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = 4 + (state >> 33) as usize % (bytes.len() - 4);
                bytes[at] = (state >> 56) as u8;
            }
            if let Ok(read) = decode(&bytes) {
                assert!(read.is_none_or(|(_, len)| len == bytes.len()));
            }
        }
    }

    #[test]
    fn counts_beyond_the_limits_are_violations() {
        let mut bytes = Vec::new();
        bytes.read(1, Token([0; 16]), Limits::MAX_SEGMENTS + 1, &[]);
        assert!(decode(&bytes).is_err());
        let mut bytes = Vec::new();
        bytes.more_pairs(1, &segments(MAX_PART + 1));
        assert!(decode(&bytes).is_err());
        let mut bytes = Vec::new();
        bytes.notify(&vec![0; Limits::MAX_MESSAGE + 1]);
        assert!(decode(&bytes).is_err());
        let mut bytes = Vec::new();
        bytes.write(
            1,
            Token([0; 16]),
            MAX_PART,
            true,
            Some(&vec![0; Limits::MAX_MESSAGE]),
            &segments(MAX_PART),
        );
        assert!(decode(&bytes).is_ok() && bytes.len() <= MAX_FRAME);
    }

    #[test]
    fn a_hello_of_another_version_is_told_whatever_follows() {
        let mut bytes = Vec::new();
        bytes.hello(&identity("a"), &identity("b"));
        bytes[9] = 77;
        assert!(matches!(decode(&bytes), Ok(Some((Frame::Foreign(version), _))) if version != 1));
    }
}
