//! What two agents say to each other over the control connection, which brings it whole and in order. Pure: bytes in,
//! messages out. A peer is another process, so nothing here believes a count: every length is checked, and what does not fit
//! is a [`Violation`], which ends the connection.

use super::limits::{ASK_PART, MAX_BLOB, PROTOCOL, SUM_PART};
use crate::fabric::common::{Identity, Ranges, Reader, Sums, Writer};
use crate::fabric::{Direction, Limits};
use crate::lease::Refused;
use crate::{Error, RegionId, Token};

/// A peer that does not keep to the protocol: what it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Violation(pub(super) &'static str);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// Who the sender is, the metadata of its control connection, its plugin, and where that is reached.
    Hello { from: Identity, control: &'a [u8], plugin: &'a str, info: &'a [u8] },
    /// This came from you through NIXL: the way from there to here stands.
    Proven(Proof),
    /// The way from here to there stands, and I am ready.
    Ready,
    /// May I move bytes under this lease? The first part of `count` ranges.
    Ask { id: u64, direction: Direction, token: Token, checksum: bool, count: usize, part: Ranges<'a> },
    /// More of its ranges.
    More { id: u64, part: Ranges<'a> },
    /// Never mind: the rest of an ask does not come.
    Never(u64),
    /// A region of the sender's: where and what it is, and what opens it.
    Key { region: RegionId, at: At, key: &'a [u8] },
    /// It is no more.
    Forget(RegionId),
    /// Go ahead.
    Go(u64),
    /// It is not allowed, or cannot be.
    No(u64, Reason),
    /// To whoever moves bytes: stop, and say when you have.
    Stop(u64, Reason),
    /// From whoever moved bytes: I touch yours no more. `done` if all have moved; then the message counts.
    Over { id: u64, done: bool, message: Option<&'a [u8]> },
    /// Checksums of the ranges that were asked for, as the side has them that they come from: of a read the owner, of a
    /// write the writer.
    Sums { id: u64, direction: Direction, part: Sums<'a> },
    /// Whether the bytes written are those that the sums are of; if not, which range is wrong.
    Verdict { id: u64, wrong: Option<u32> },
    /// A message of the callers'.
    Notify(&'a [u8]),
    /// So much of what messages weigh was polled.
    Credit(u64),
    /// The sender parts: end what is under way.
    Part,
    /// Nothing of the sender's is under way any more, and nothing follows.
    Bye,
}

/// What one side sends the other through NIXL itself, to see whether it arrives: any bytes, zeroes among them.
pub(super) type Proof = [u8; 16];

/// Where a region lies at its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct At {
    pub(super) base: u64,
    pub(super) len: u64,
    /// NIXL's number for its kind of memory, and its device.
    pub(super) kind: u32,
    pub(super) device: u64,
}

impl At {
    /// Whether NIXL could take a byte of the one for one of the other.
    pub(super) const fn overlaps(&self, other: &Self) -> bool {
        let alike = self.kind == other.kind && self.device == other.device;
        alike && self.base < other.base + other.len && other.base < self.base + self.len
    }
}

/// Why something is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reason {
    Refused(Refused),
    Machine(String),
}

impl Reason {
    /// What it is to the side that asked.
    pub(super) fn error(self) -> Error {
        match self {
            Self::Refused(refused) => Error::Refused(refused),
            Self::Machine(text) => Error::Limit(format!("the peer could not serve it: {text}")),
        }
    }
}

/// A text that says why something failed is cut off here: it is for a log line.
const MAX_TEXT: usize = 512;

/// Bytes of any message: a caller's, with what is around it.
pub(super) const MAX_WHOLE: usize = Limits::MAX_MESSAGE + 64;

const HELLO: u8 = 1;
const PROVEN: u8 = 2;
const READY: u8 = 3;
const ASK: u8 = 4;
const MORE: u8 = 5;
const NEVER: u8 = 6;
const KEY: u8 = 7;
const FORGET: u8 = 8;
const GO: u8 = 9;
const NO: u8 = 10;
const STOP: u8 = 11;
const OVER: u8 = 12;
const SUMS: u8 = 13;
const VERDICT: u8 = 14;
const NOTIFY: u8 = 15;
const CREDIT: u8 = 16;
const PART: u8 = 17;
const BYE: u8 = 18;

impl Message<'_> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        match self {
            Self::Hello { from, control, plugin, info } => {
                out.put_u8(HELLO);
                out.put_u16(PROTOCOL);
                from.write(&mut out);
                out.put_counted(control);
                out.put_counted(plugin.as_bytes());
                out.put_counted(info);
            }
            Self::Proven(proof) => {
                out.put_u8(PROVEN);
                out.put(proof);
            }
            Self::Ready => out.put_u8(READY),
            Self::Ask { id, direction, token, checksum, count, part } => {
                named(&mut out, ASK, *id);
                out.put_u8(u8::from(*direction == Direction::Write) | u8::from(*checksum) << 1);
                out.put(&token.0);
                out.put_u32(u32::try_from(*count).expect("a request has at most 2 Mi segments"));
                out.put(part.bytes());
            }
            Self::More { id, part } => {
                named(&mut out, MORE, *id);
                out.put(part.bytes());
            }
            Self::Never(id) => named(&mut out, NEVER, *id),
            Self::Key { region, at, key } => {
                out.put_u8(KEY);
                out.put_u32(region.0);
                out.put_u64(at.base);
                out.put_u64(at.len);
                out.put_u32(at.kind);
                out.put_u64(at.device);
                out.put_counted(key);
            }
            Self::Forget(region) => {
                out.put_u8(FORGET);
                out.put_u32(region.0);
            }
            Self::Go(id) => named(&mut out, GO, *id),
            Self::No(id, reason) => {
                named(&mut out, NO, *id);
                put_reason(&mut out, reason);
            }
            Self::Stop(id, reason) => {
                named(&mut out, STOP, *id);
                put_reason(&mut out, reason);
            }
            Self::Over { id, done, message } => {
                named(&mut out, OVER, *id);
                out.put_u8(u8::from(*done) | u8::from(message.is_some()) << 1);
                out.put(message.unwrap_or_default());
            }
            Self::Sums { id, direction, part } => {
                named(&mut out, SUMS, *id);
                out.put_u8(u8::from(*direction == Direction::Write));
                out.put(part.bytes());
            }
            Self::Verdict { id, wrong } => {
                named(&mut out, VERDICT, *id);
                out.put_u8(u8::from(wrong.is_some()));
                out.put_u32(wrong.unwrap_or_default());
            }
            Self::Notify(message) => {
                out.put_u8(NOTIFY);
                out.put(message);
            }
            Self::Credit(weight) => named(&mut out, CREDIT, *weight),
            Self::Part => out.put_u8(PART),
            Self::Bye => out.put_u8(BYE),
        }
        out
    }
}

impl<'a> Message<'a> {
    pub(super) fn decode(bytes: &'a [u8]) -> Result<Self, Violation> {
        let mut reader = Reader::new(bytes);
        let message = Self::read(&mut reader).ok_or(Violation("a message that cannot be read"))?;
        if reader.is_empty() { Ok(message) } else { Err(Violation("a message with more than belongs to it")) }
    }

    fn read(reader: &mut Reader<'a>) -> Option<Self> {
        let blob = |bytes: &'a [u8]| (1..=MAX_BLOB).contains(&bytes.len()).then_some(bytes);
        Some(match reader.u8()? {
            HELLO => {
                reader.u16().filter(|version| *version == PROTOCOL)?;
                let (from, control) = (Identity::read(reader)?, reader.counted().and_then(blob)?);
                let plugin = std::str::from_utf8(reader.counted()?).ok()?;
                Self::Hello { from, control, plugin, info: reader.counted().and_then(blob)? }
            }
            PROVEN => Self::Proven(reader.array()?),
            READY => Self::Ready,
            ASK => {
                let (id, flags) = (reader.u64()?, reader.u8().filter(|flags| *flags < 4)?);
                let direction = if flags & 1 == 0 { Direction::Read } else { Direction::Write };
                let (token, count) = (Token(reader.array()?), usize::try_from(reader.u32()?).ok()?);
                let part = Ranges::read(reader, ASK_PART)?;
                let fits = count <= Limits::MAX_SEGMENTS && part.len() == count.min(ASK_PART);
                fits.then_some(Self::Ask { id, direction, token, checksum: flags & 2 != 0, count, part })?
            }
            MORE => {
                let (id, part) = (reader.u64()?, Ranges::read(reader, ASK_PART)?);
                (part.len() > 0).then_some(Self::More { id, part })?
            }
            NEVER => Self::Never(reader.u64()?),
            KEY => {
                let region = RegionId(reader.u32()?);
                let (base, len, kind, device) = (reader.u64()?, reader.u64()?, reader.u32()?, reader.u64()?);
                base.checked_add(len)?;
                Self::Key {
                    region,
                    at: At { base, len, kind, device },
                    key: reader.counted().and_then(blob)?,
                }
            }
            FORGET => Self::Forget(RegionId(reader.u32()?)),
            GO => Self::Go(reader.u64()?),
            NO => Self::No(reader.u64()?, read_reason(reader)?),
            STOP => Self::Stop(reader.u64()?, read_reason(reader)?),
            OVER => {
                let (id, flags) = (reader.u64()?, reader.u8().filter(|flags| *flags < 4)?);
                let text = reader.rest();
                let message = (flags & 2 != 0).then_some(text);
                let fits = text.len() <= Limits::MAX_MESSAGE && (message.is_some() || text.is_empty());
                fits.then_some(Self::Over { id, done: flags & 1 != 0, message })?
            }
            SUMS => {
                let (id, flag) = (reader.u64()?, reader.u8().filter(|flag| *flag < 2)?);
                let direction = if flag == 0 { Direction::Read } else { Direction::Write };
                Self::Sums { id, direction, part: Sums::read(reader, SUM_PART)? }
            }
            VERDICT => {
                let (id, flag) = (reader.u64()?, reader.u8().filter(|flag| *flag < 2)?);
                let range = reader.u32()?;
                Self::Verdict { id, wrong: (flag != 0).then_some(range) }
            }
            NOTIFY => Self::Notify(Some(reader.rest()).filter(|text| text.len() <= Limits::MAX_MESSAGE)?),
            CREDIT => Self::Credit(reader.u64()?),
            PART => Self::Part,
            BYE => Self::Bye,
            _ => return None,
        })
    }
}

fn named(out: &mut Vec<u8>, kind: u8, number: u64) {
    out.put_u8(kind);
    out.put_u64(number);
}

fn put_reason(out: &mut Vec<u8>, reason: &Reason) {
    match reason {
        Reason::Refused(refused) => out.put_u8(match refused {
            Refused::NoLease => 0,
            Refused::Expired => 1,
            Refused::Direction => 2,
            Refused::Outside => 3,
        }),
        Reason::Machine(text) => {
            out.put_u8(4);
            let end = (0..=MAX_TEXT.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
            out.put_counted(&text.as_bytes()[..end.unwrap_or(0)]);
        }
    }
}

fn read_reason(reader: &mut Reader<'_>) -> Option<Reason> {
    Some(match reader.u8()? {
        0 => Reason::Refused(Refused::NoLease),
        1 => Reason::Refused(Refused::Expired),
        2 => Reason::Refused(Refused::Direction),
        3 => Reason::Refused(Refused::Outside),
        4 => {
            let text = reader.counted().filter(|text| text.len() <= MAX_TEXT)?;
            Reason::Machine(String::from_utf8_lossy(text).into_owned())
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AgentName, Epoch, Span};

    fn each(test: impl Fn(&Message<'_>)) {
        let spans = [Span::new(RegionId(1), 2, 3), Span::new(RegionId(4), u64::MAX, u64::MAX)];
        let (ranges, sums) = (Ranges::encode(&spans), Sums::encode(&[1, u32::MAX]));
        let part = Ranges::of(&ranges);
        let token = Token([5; 16]);
        let from = Identity { name: AgentName::new("a").unwrap(), epoch: Epoch(9) };
        let at = At { base: 1 << 40, len: 1 << 30, kind: 1, device: 3 };
        for message in [
            Message::Hello { from, control: b"where", plugin: "UCX", info: b"how" },
            Message::Proven([0; 16]),
            Message::Ready,
            Message::Ask { id: 1, direction: Direction::Read, token, checksum: false, count: 2, part },
            Message::Ask { id: 1, direction: Direction::Write, token, checksum: true, count: 2, part },
            Message::More { id: 2, part },
            Message::Never(3),
            Message::Key { region: RegionId(8), at, key: b"key" },
            Message::Forget(RegionId(8)),
            Message::Go(4),
            Message::No(5, Reason::Refused(Refused::Outside)),
            Message::No(5, Reason::Machine("no memory".into())),
            Message::Stop(6, Reason::Refused(Refused::Expired)),
            Message::Over { id: 7, done: true, message: Some(b"") },
            Message::Over { id: 7, done: false, message: None },
            Message::Sums { id: 8, direction: Direction::Write, part: Sums::of(&sums) },
            Message::Verdict { id: 9, wrong: Some(0) },
            Message::Verdict { id: 9, wrong: None },
            Message::Notify(b"kv"),
            Message::Credit(10),
            Message::Part,
            Message::Bye,
        ] {
            test(&message);
        }
    }

    #[test]
    fn what_is_said_is_heard() {
        each(|said| assert_eq!(Message::decode(&said.encode()).as_ref(), Ok(said)));
    }

    #[test]
    fn what_is_cut_off_is_no_message_or_another_whole_one_and_never_more_than_was_said() {
        each(|said| {
            let bytes = said.encode();
            for len in 0..bytes.len() {
                match (Message::decode(&bytes[..len]), said) {
                    // These end where the message does.
                    (
                        Ok(
                            Message::Notify(_)
                            | Message::Over { .. }
                            | Message::More { .. }
                            | Message::Sums { .. },
                        ),
                        Message::Notify(_)
                        | Message::Over { .. }
                        | Message::More { .. }
                        | Message::Sums { .. },
                    )
                    | (Err(_), _) => {}
                    (heard, said) => panic!("{said:?} cut at {len} is {heard:?}"),
                }
            }
        });
    }

    #[test]
    fn more_than_there_may_be_is_no_message() {
        let spans = vec![Span::new(RegionId(0), 0, 1); ASK_PART + 1];
        let ranges = Ranges::encode(&spans);
        assert!(Message::decode(&Message::More { id: 0, part: Ranges::of(&ranges) }.encode()).is_err());
        let one = Ranges::encode(&spans[..1]);
        for count in [0, 2, Limits::MAX_SEGMENTS + 1] {
            let (direction, token, part) = (Direction::Read, Token([0; 16]), Ranges::of(&one));
            let ask = Message::Ask { id: 0, direction, token, checksum: false, count, part };
            assert!(Message::decode(&ask.encode()).is_err(), "{count}");
        }
        let long = vec![0; Limits::MAX_MESSAGE + 1];
        assert!(Message::decode(&Message::Notify(&long).encode()).is_err());
        assert!(Message::decode(&[99]).is_err());
        assert!(Message::decode(&[BYE, 0]).is_err());
        let at = At { base: u64::MAX, len: 1, kind: 0, device: 0 };
        assert!(Message::decode(&Message::Key { region: RegionId(0), at, key: b"k" }.encode()).is_err());
    }

    #[test]
    fn another_version_of_the_protocol_is_no_message() {
        let from = Identity { name: AgentName::new("a").unwrap(), epoch: Epoch(9) };
        let mut bytes = Message::Hello { from, control: b"c", plugin: "UCX", info: b"i" }.encode();
        bytes[1] ^= 2;
        assert!(Message::decode(&bytes).is_err());
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        let bytes = Message::No(1, Reason::Machine("ä".repeat(MAX_TEXT))).encode();
        let Ok(Message::No(1, Reason::Machine(text))) = Message::decode(&bytes) else { panic!() };
        assert_eq!(text, "ä".repeat(MAX_TEXT / 2));
    }
}
