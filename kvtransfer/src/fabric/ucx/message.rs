//! What two agents say to each other. Pure: bytes in, messages out. A peer is another process, so nothing here believes a
//! count: every length is checked, and what does not fit is a [`Violation`], which ends the connection.
//!
//! Every message but the first begins with the number under which its receiver knows the connection (drawn at random, so
//! that nobody speaks for another) and with its place in the order.

use super::limits::{ASK_PART, MAX_ADDRESS, MAX_KEY, PROTOCOL, SUM_PART};
use crate::fabric::common::{Identity, Ranges, Reader, Sums, Writer};
use crate::fabric::{Direction, Limits};
use crate::lease::Refused;
use crate::{Epoch, Error, RegionId, Token};

/// A peer that does not keep to the protocol: what it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Violation(pub(super) &'static str);

/// A connection as its receiver numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Link(pub(super) u64);

impl Link {
    /// Where a stranger's first message goes.
    const NOBODY: Self = Self(0);
}

/// Says who is there, before the two know each other's numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) from: Identity,
    pub(super) to: Identity,
    /// Grows with each try of the sender's, so that an older one that comes late is known for what it is.
    pub(super) attempt: u32,
    pub(super) link: Link,
    pub(super) address: Vec<u8>,
}

/// What has come: to whom, and what is inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Envelope<'a> {
    Stranger(Hello),
    Peer { link: Link, number: u64, message: &'a [u8] },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// The sender's number for the connection: it knows the receiver's.
    Welcome(Link),
    /// The sender is another life of whom the receiver wanted to meet: that one.
    Stale(Epoch),
    /// May I move bytes under this lease? The first part of `count` ranges.
    Ask { id: u64, direction: Direction, token: Token, checksum: bool, count: usize, part: Ranges<'a> },
    /// More of its ranges.
    More { id: u64, part: Ranges<'a> },
    /// Never mind: the rest of an ask does not come.
    Never(u64),
    /// A region of the sender's: where it begins, how long it is, and what opens it.
    Key { region: RegionId, base: u64, len: u64, key: &'a [u8] },
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

const MAGIC: [u8; 4] = *b"KVFu";

/// A text that says why something failed is cut off here: it is for a log line.
const MAX_TEXT: usize = 512;

const WELCOME: u8 = 1;
const ASK: u8 = 2;
const MORE: u8 = 3;
const NEVER: u8 = 4;
const KEY: u8 = 5;
const FORGET: u8 = 6;
const GO: u8 = 7;
const NO: u8 = 8;
const STOP: u8 = 9;
const OVER: u8 = 10;
const SUMS: u8 = 11;
const VERDICT: u8 = 12;
const NOTIFY: u8 = 13;
const CREDIT: u8 = 14;
const PART: u8 = 15;
const BYE: u8 = 16;
const STALE: u8 = 17;

impl Hello {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u64(Link::NOBODY.0);
        out.put(&MAGIC);
        out.put_u16(PROTOCOL);
        self.from.write(&mut out);
        self.to.write(&mut out);
        out.put_u32(self.attempt);
        out.put_u64(self.link.0);
        out.put_counted(&self.address);
        out
    }

    fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        if reader.array()? != MAGIC || reader.u16()? != PROTOCOL {
            return None;
        }
        let (from, to) = (Identity::read(reader)?, Identity::read(reader)?);
        let (attempt, link) = (reader.u32()?, Link(reader.u64()?));
        let address = reader.counted()?;
        let fits = (1..=MAX_ADDRESS).contains(&address.len()) && link != Link::NOBODY && reader.is_empty();
        fits.then(|| Self { from, to, attempt, link, address: address.to_vec() })
    }
}

impl<'a> Envelope<'a> {
    /// `None` if it is nothing of ours.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        match Link(reader.u64()?) {
            Link::NOBODY => Hello::decode(&mut reader).map(Self::Stranger),
            link => Some(Self::Peer { link, number: reader.u64()?, message: reader.rest() }),
        }
    }
}

impl Message<'_> {
    /// To the peer that knows the connection by `link`.
    pub(super) fn encode(&self, link: Link, number: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        out.put_u64(link.0);
        out.put_u64(number);
        match self {
            Self::Welcome(link) => named(&mut out, WELCOME, link.0),
            Self::Stale(epoch) => named(&mut out, STALE, epoch.0),
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
            Self::Key { region, base, len, key } => {
                out.put_u8(KEY);
                out.put_u32(region.0);
                out.put_u64(*base);
                out.put_u64(*len);
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
    /// What is inside of an envelope.
    pub(super) fn decode(bytes: &'a [u8]) -> Result<Self, Violation> {
        let mut reader = Reader::new(bytes);
        let message = Self::read(&mut reader).ok_or(Violation("a message that cannot be read"))?;
        if reader.is_empty() { Ok(message) } else { Err(Violation("a message with more than belongs to it")) }
    }

    fn read(reader: &mut Reader<'a>) -> Option<Self> {
        Some(match reader.u8()? {
            WELCOME => Self::Welcome(Link(reader.u64().filter(|link| *link != Link::NOBODY.0)?)),
            ASK => {
                let (id, flags) = (reader.u64()?, reader.u8().filter(|flags| *flags < 4)?);
                let direction = if flags & 1 == 0 { Direction::Read } else { Direction::Write };
                let (token, count) = (Token(reader.array()?), usize::try_from(reader.u32()?).ok()?);
                let part = Ranges::read(reader, ASK_PART)?;
                let fits = count <= Limits::MAX_SEGMENTS && part.len() == count.min(ASK_PART);
                fits.then_some(Self::Ask { id, direction, token, checksum: flags & 2 != 0, count, part })?
            }
            MORE => Self::More {
                id: reader.u64()?,
                part: Ranges::read(reader, ASK_PART).filter(|part| part.len() > 0)?,
            },
            NEVER => Self::Never(reader.u64()?),
            KEY => {
                let region = RegionId(reader.u32()?);
                let (base, len) = (reader.u64()?, reader.u64()?);
                let key = reader.counted().filter(|key| (1..=MAX_KEY).contains(&key.len()))?;
                base.checked_add(len)?;
                Self::Key { region, base, len, key }
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
            STALE => Self::Stale(Epoch(reader.u64()?)),
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
            let cut = text.floor_char_boundary_at(MAX_TEXT);
            out.put_counted(cut.as_bytes());
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

/// The begin of a text that is no longer than so many bytes.
trait Cut {
    fn floor_char_boundary_at(&self, most: usize) -> &str;
}

impl Cut for str {
    fn floor_char_boundary_at(&self, most: usize) -> &str {
        let end = (0..=most.min(self.len())).rev().find(|end| self.is_char_boundary(*end)).unwrap_or(0);
        &self[..end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AgentName;
    use crate::segment::Span;

    fn hello() -> Hello {
        let identity = |name| Identity { name: AgentName::new(name).unwrap(), epoch: Epoch(9) };
        Hello { from: identity("a"), to: identity("b"), attempt: 3, link: Link(7), address: vec![1; 200] }
    }

    fn each(test: impl Fn(&Message<'_>)) {
        let spans = [Span::new(RegionId(1), 2, 3), Span::new(RegionId(4), u64::MAX, u64::MAX)];
        let (ranges, sums) = (Ranges::encode(&spans), Sums::encode(&[1, u32::MAX]));
        let part = Ranges::of(&ranges);
        let token = Token([5; 16]);
        for message in [
            Message::Welcome(Link(u64::MAX)),
            Message::Stale(Epoch(3)),
            Message::Ask { id: 1, direction: Direction::Read, token, checksum: false, count: 2, part },
            Message::Ask { id: 1, direction: Direction::Write, token, checksum: true, count: 2, part },
            Message::More { id: 2, part },
            Message::Never(3),
            Message::Key { region: RegionId(8), base: 1 << 40, len: 1 << 30, key: b"key" },
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
        assert_eq!(Envelope::decode(&hello().encode()), Some(Envelope::Stranger(hello())));
        each(|said| {
            let bytes = said.encode(Link(3), 4);
            let Some(Envelope::Peer { link: Link(3), number: 4, message }) = Envelope::decode(&bytes) else {
                panic!("{said:?}")
            };
            assert_eq!(Message::decode(message).as_ref(), Ok(said));
        });
    }

    #[test]
    fn what_is_cut_off_is_no_message_or_another_whole_one_and_never_more_than_was_said() {
        let bytes = hello().encode();
        for len in 0..bytes.len() {
            assert_eq!(Envelope::decode(&bytes[..len]), None, "{len}");
        }
        each(|said| {
            let bytes = &said.encode(Link(3), 4)[16..];
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
        let part = Ranges::of(&ranges);
        assert!(Message::decode(&Message::More { id: 0, part }.encode(Link(1), 0)[16..]).is_err());
        let one = Ranges::encode(&spans[..1]);
        for count in [0, 2, Limits::MAX_SEGMENTS + 1] {
            let part = Ranges::of(&one);
            let (direction, token) = (Direction::Read, Token([0; 16]));
            let ask = Message::Ask { id: 0, direction, token, checksum: false, count, part };
            assert!(Message::decode(&ask.encode(Link(1), 0)[16..]).is_err(), "{count}");
        }
        let long = vec![0; Limits::MAX_MESSAGE + 1];
        assert!(Message::decode(&Message::Notify(&long).encode(Link(1), 0)[16..]).is_err());
        assert!(Message::decode(&[99]).is_err());
        assert!(Message::decode(&[BYE, 0]).is_err());
        let wraps = Message::Key { region: RegionId(0), base: u64::MAX, len: 1, key: b"k" };
        assert!(Message::decode(&wraps.encode(Link(1), 0)[16..]).is_err());
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        let reason = Reason::Machine("ä".repeat(MAX_TEXT));
        let bytes = Message::No(1, reason).encode(Link(1), 0);
        let Ok(Message::No(1, Reason::Machine(text))) = Message::decode(&bytes[16..]) else { panic!() };
        assert_eq!(text, "ä".repeat(MAX_TEXT / 2));
    }
}
