//! Frames, as they go over a stream once it has begun. The initiator asks, the owner answers, in order of their kind:
//!
//! | frame | from | head's `bytes` | followed by |
//! |---|---|---|---|
//! | `Read` | initiator | of the data it wants | token, ranges |
//! | `Write` | initiator | of its data | token, ranges, message, data |
//! | `Mail` | initiator | | message |
//! | `Ping` | initiator | | |
//! | `Data` | owner | of its data; 0 if refused | data |
//! | `Written`, `Taken`, `Pong` | owner | | |
//! | `Credit` | owner | of messages polled since | |
//!
//! Whatever a frame announces is checked against its bound before anything is stored for it, and each frame but its data
//! bears a checksum, always: a turned bit in a range would move the wrong bytes, however well those are checked. Numbers
//! are little-endian.

use bytes::Bytes;

use super::digest::Digest;
use super::limits::{MAX_CHUNK_BYTES, MAX_CHUNK_RANGES};
use crate::fabric::Limits;
use crate::fabric::common::{Reader, Writer};
use crate::ids::{RegionId, Token};
use crate::lease::Refused;
use crate::segment::Span;

/// Bytes of a head.
pub(super) const HEAD: usize = 32;
/// Where the head holds the checksum of the rest of it and of the body.
const SEAL: usize = 28;
const TOKEN: usize = 16;
const RANGE: usize = 16;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Read = 1,
    Write = 2,
    Mail = 3,
    Ping = 4,
    Data = 0x81,
    Written = 0x82,
    Taken = 0x83,
    Pong = 0x84,
    Credit = 0x85,
}

/// How an owner answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Good,
    Refused(Refused),
    /// What arrived is not what was sent.
    Corrupt,
}

/// The fixed part of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    /// Whether `digest` counts.
    pub(super) checked: bool,
    pub(super) answer: Answer,
    /// Ranges that follow; for `Credit`: messages polled since.
    pub(super) ranges: u32,
    /// Bytes of the message that follows.
    pub(super) message: u32,
    pub(super) bytes: u32,
    /// Of a chunk or message; the answer has its question's.
    pub(super) id: u64,
    /// Of the data.
    pub(super) digest: u32,
}

/// What a peer did that no peer does. Its stream is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Violation(pub(super) &'static str);

const SHORT: Violation = Violation("a frame is cut short");

impl Head {
    /// A head without anything but its kind and number.
    pub(super) const fn new(kind: Kind, id: u64) -> Self {
        Self { kind, checked: false, answer: Answer::Good, ranges: 0, message: 0, bytes: 0, id, digest: 0 }
    }

    /// Of what is read as a whole before the frame is acted upon: everything but the data.
    pub(super) fn body(&self) -> usize {
        let asked = match self.kind {
            Kind::Read | Kind::Write => TOKEN + self.ranges as usize * RANGE,
            _ => 0,
        };
        asked + self.message as usize
    }

    /// As a frame without a body.
    pub(super) fn frame(&self) -> Vec<u8> {
        let mut out = self.encode().to_vec();
        seal(&mut out);
        out
    }

    fn encode(&self) -> [u8; HEAD] {
        let mut out = [0; HEAD];
        out[0] = self.kind as u8;
        out[1] = u8::from(self.checked);
        out[2] = code(self.answer);
        out[4..8].copy_from_slice(&self.ranges.to_le_bytes());
        out[8..12].copy_from_slice(&self.message.to_le_bytes());
        out[12..16].copy_from_slice(&self.bytes.to_le_bytes());
        out[16..24].copy_from_slice(&self.id.to_le_bytes());
        out[24..SEAL].copy_from_slice(&self.digest.to_le_bytes());
        out
    }

    /// # Errors
    /// If no side that keeps to the protocol sends such a head.
    pub(super) fn parse(bytes: [u8; HEAD]) -> Result<Self, Violation> {
        let mut reader = Reader::new(&bytes);
        let kind = match reader.u8().ok_or(SHORT)? {
            1 => Kind::Read,
            2 => Kind::Write,
            3 => Kind::Mail,
            4 => Kind::Ping,
            0x81 => Kind::Data,
            0x82 => Kind::Written,
            0x83 => Kind::Taken,
            0x84 => Kind::Pong,
            0x85 => Kind::Credit,
            _ => return Err(Violation("a frame of an unknown kind")),
        };
        let checked = match reader.u8().ok_or(SHORT)? {
            0 => false,
            1 => true,
            _ => return Err(Violation("unknown flags")),
        };
        let answer = answer(reader.u8().ok_or(SHORT)?)?;
        if reader.u8().ok_or(SHORT)? != 0 {
            return Err(Violation("unknown flags"));
        }
        let head = Self {
            kind,
            checked,
            answer,
            ranges: reader.u32().ok_or(SHORT)?,
            message: reader.u32().ok_or(SHORT)?,
            bytes: reader.u32().ok_or(SHORT)?,
            id: reader.u64().ok_or(SHORT)?,
            digest: reader.u32().ok_or(SHORT)?,
        };
        head.within_bounds()?;
        Ok(head)
    }

    fn within_bounds(&self) -> Result<(), Violation> {
        let (ranges, message, bytes) = match self.kind {
            Kind::Read => (MAX_CHUNK_RANGES, 0, MAX_CHUNK_BYTES),
            Kind::Write => (MAX_CHUNK_RANGES, Limits::MAX_MESSAGE, MAX_CHUNK_BYTES),
            Kind::Mail => (0, Limits::MAX_MESSAGE, 0),
            Kind::Data => (0, 0, MAX_CHUNK_BYTES),
            Kind::Credit => (u32::MAX, 0, u32::MAX),
            Kind::Ping | Kind::Written | Kind::Taken | Kind::Pong => (0, 0, 0),
        };
        if self.ranges > ranges || self.message as usize > message || self.bytes > bytes {
            return Err(Violation("a frame announces more than may be"));
        }
        let answers = matches!(self.kind, Kind::Data | Kind::Written);
        if self.answer != Answer::Good && (!answers || self.bytes > 0) {
            return Err(Violation("a refusal of what is none"));
        }
        Ok(())
    }
}

const fn code(answer: Answer) -> u8 {
    match answer {
        Answer::Good => 0,
        Answer::Refused(Refused::NoLease) => 1,
        Answer::Refused(Refused::Expired) => 2,
        Answer::Refused(Refused::Direction) => 3,
        Answer::Refused(Refused::Outside) => 4,
        Answer::Corrupt => 5,
    }
}

const fn answer(code: u8) -> Result<Answer, Violation> {
    Ok(match code {
        0 => Answer::Good,
        1 => Answer::Refused(Refused::NoLease),
        2 => Answer::Refused(Refused::Expired),
        3 => Answer::Refused(Refused::Direction),
        4 => Answer::Refused(Refused::Outside),
        5 => Answer::Corrupt,
        _ => return Err(Violation("an unknown answer")),
    })
}

/// A whole `Read` or `Write`, without data: its head, set to what follows, then token, ranges and message.
pub(super) fn ask(mut head: Head, token: Token, ranges: &[Span], message: &[u8]) -> Vec<u8> {
    head.ranges = u32::try_from(ranges.len()).expect("a chunk has few ranges");
    head.message = u32::try_from(message.len()).expect("a message is short");
    let mut out = Vec::with_capacity(HEAD + head.body());
    out.put(&head.encode());
    out.put(&token.0);
    for range in ranges {
        let len = u32::try_from(range.len).expect("a chunk is small");
        out.put_u32(range.at.region.0);
        out.put_u32(len);
        out.put_u64(range.at.offset);
    }
    out.put(message);
    seal(&mut out);
    out
}

/// A whole `Mail`.
pub(super) fn mail(id: u64, message: &[u8]) -> Vec<u8> {
    let mut head = Head::new(Kind::Mail, id);
    head.message = u32::try_from(message.len()).expect("a message is short");
    let mut out = [&head.encode()[..], message].concat();
    seal(&mut out);
    out
}

fn sum(frame: &[u8]) -> u32 {
    let mut digest = Digest::default();
    digest.add(&frame[..SEAL]);
    digest.add(&frame[HEAD..]);
    digest.value()
}

fn seal(frame: &mut [u8]) {
    let sum = sum(frame);
    frame[SEAL..HEAD].copy_from_slice(&sum.to_le_bytes());
}

/// # Errors
/// If a frame, but for its data, is not as it was sent.
pub(super) fn check(frame: &[u8]) -> Result<(), Violation> {
    if frame[SEAL..HEAD] == sum(frame).to_le_bytes() {
        Ok(())
    } else {
        Err(Violation("a frame was changed on its way"))
    }
}

/// What a `Read` or `Write` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) token: Token,
    /// None of them empty; together, the head's bytes.
    pub(super) ranges: Vec<Span>,
    pub(super) message: Bytes,
}

impl Asked {
    /// Reads the body that `head` announced.
    ///
    /// # Errors
    /// If it does not hold together.
    pub(super) fn parse(head: &Head, body: &[u8]) -> Result<Self, Violation> {
        let mut reader = Reader::new(body);
        let token = Token(reader.array().ok_or(SHORT)?);
        let mut ranges = Vec::with_capacity(head.ranges as usize);
        let mut sum = 0_u64;
        for _ in 0..head.ranges {
            let region = RegionId(reader.u32().ok_or(SHORT)?);
            let len = u64::from(reader.u32().ok_or(SHORT)?);
            let range = Span::new(region, reader.u64().ok_or(SHORT)?, len);
            // One that no region can hold is for the lease to refuse.
            if len == 0 {
                return Err(Violation("a range that is none"));
            }
            sum += len;
            ranges.push(range);
        }
        let message = Bytes::copy_from_slice(reader.bytes(head.message as usize).ok_or(SHORT)?);
        if sum != u64::from(head.bytes) || !reader.is_empty() {
            return Err(Violation("ranges and bytes of a frame do not agree"));
        }
        Ok(Self { token, ranges, message })
    }
}

#[cfg(test)]
mod tests {
    use crate::segment::joined;
    use proptest::prelude::*;

    use super::*;

    fn span(offset: u64, len: u64) -> Span {
        Span::new(RegionId(2), offset, len)
    }

    fn parsed(frame: &[u8]) -> (Head, Asked) {
        let head = Head::parse(frame[..HEAD].try_into().unwrap()).unwrap();
        assert_eq!((frame.len(), check(frame)), (HEAD + head.body(), Ok(())));
        (head, Asked::parse(&head, &frame[HEAD..]).unwrap())
    }

    #[test]
    fn a_question_is_read_as_it_was_asked() {
        let head = Head { bytes: 30, checked: true, digest: 5, ..Head::new(Kind::Write, 77) };
        let frame = ask(head, Token([9; 16]), &[span(1 << 40, 10), span(0, 20)], b"done");
        let (read, asked) = parsed(&frame);
        assert_eq!((read.id, read.bytes, read.checked, read.digest), (77, 30, true, 5));
        let ranges = vec![span(1 << 40, 10), span(0, 20)];
        assert_eq!(asked, Asked { token: Token([9; 16]), ranges, message: Bytes::from_static(b"done") });
    }

    #[test]
    fn no_bit_of_a_frame_can_be_turned_unnoticed() {
        let head = Head { bytes: 30, ..Head::new(Kind::Write, 77) };
        let frame = ask(head, Token([9; 16]), &[span(1 << 40, 10), span(0, 20)], b"done");
        for whole in [frame, mail(3, b"message"), Head::new(Kind::Taken, 4).frame()] {
            assert_eq!(check(&whole), Ok(()));
            for bit in 0..whole.len() * 8 {
                let mut turned = whole.clone();
                turned[bit / 8] ^= 1 << (bit % 8);
                assert!(check(&turned).is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn what_nobody_sends_is_a_violation() {
        let good = Head::new(Kind::Read, 1);
        for bad in [
            Head { bytes: MAX_CHUNK_BYTES + 1, ..good },
            Head { ranges: MAX_CHUNK_RANGES + 1, ..good },
            Head { message: 1, ..good },
            Head { answer: Answer::Corrupt, ..good },
            Head { message: (64 << 10) + 1, ..Head::new(Kind::Mail, 1) },
            Head { answer: Answer::Refused(Refused::NoLease), bytes: 1, ..Head::new(Kind::Data, 1) },
            Head { bytes: 1, ..Head::new(Kind::Ping, 1) },
        ] {
            assert!(Head::parse(bad.encode()).is_err(), "{bad:?}");
        }
        for (at, value) in [(0, 0), (0, 200), (1, 2), (2, 6), (3, 1)] {
            let mut bytes = good.encode();
            bytes[at] = value;
            assert!(Head::parse(bytes).is_err(), "byte {at} = {value}");
        }
    }

    #[test]
    fn ranges_that_do_not_agree_with_the_bytes_are_a_violation() {
        for (bytes, ranges) in [(9, vec![span(0, 10)]), (0, vec![span(0, 0)])] {
            let frame = ask(Head { bytes, ..Head::new(Kind::Read, 1) }, Token([0; 16]), &ranges, b"");
            let head = Head::parse(frame[..HEAD].try_into().unwrap()).unwrap();
            assert!(Asked::parse(&head, &frame[HEAD..]).is_err(), "{ranges:?}");
        }
    }

    #[test]
    fn neighbours_become_one_range() {
        let other = Span::new(RegionId(3), 20, 5);
        let joined = joined([span(0, 10), span(10, 10), other, span(30, 1)].into_iter());
        assert_eq!(joined, [span(0, 20), other, span(30, 1)]);
    }

    proptest! {
        #[test]
        fn a_head_from_anywhere_is_refused_or_is_exactly_what_would_be_written(bytes in any::<[u8; HEAD]>(), kind in 0_u8..8) {
            let mut bytes = bytes;
            bytes[0] = if kind < 5 { kind } else { 0x80 | kind };
            bytes[1] &= 1;
            bytes[2] &= 7;
            bytes[3] = 0;
            bytes[6] = 0;
            bytes[7] = 0;
            if let Ok(head) = Head::parse(bytes) {
                prop_assert_eq!(&head.encode()[..SEAL], &bytes[..SEAL]);
                prop_assert!(head.body() <= TOKEN + RANGE * MAX_CHUNK_RANGES as usize + Limits::MAX_MESSAGE);
            }
        }
    }
}
