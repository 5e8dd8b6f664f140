//! Frames: everything that is said after the magic.

use bytes::Bytes;
use kvferry_transfer::{Access, RegionId, Span, Token};

use super::hello::Hello;
use super::wire::{Reader, Writer};
use crate::Error;
use crate::limits::{CHUNK_SEGMENTS, MAX_MESSAGE};

const GREETING: u8 = 1;
const PROOF: u8 = 2;
const HELLO: u8 = 3;
const REFUSE: u8 = 4;
const TABLE: u8 = 5;
const NOTIFY: u8 = 6;
const HEARD: u8 = 7;
const CHECK: u8 = 8;
const CHECKED: u8 = 9;
const UNCHECKED: u8 = 10;
const PING: u8 = 11;
const BYE: u8 = 12;

/// Bytes of a reason: some sentences.
const MAX_WORDS: usize = 512;

/// Bytes of an error's code.
const MAX_CODE: usize = 64;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// A [`Greeting`](super::Greeting), still to be understood.
    Greeting(Bytes),
    /// Proof of the secret.
    Proof(Bytes),
    /// What the sender offers.
    Hello(Box<Hello>),
    /// The sender does not talk to the receiver: an error's code, and words.
    Refuse(String, String),
    /// What the sender offers now.
    Table(Box<Hello>),
    /// A message of the caller's.
    Notify(Bytes),
    /// So many messages were taken, of so many bytes.
    Heard(u64, u64),
    /// Checksums of these ranges are wanted, under that lease.
    Check { number: u64, token: Token, access: Access, spans: Vec<Span> },
    /// They are these, one for each range.
    Checked { number: u64, sums: Vec<u32> },
    /// They are not to be had: an error's code, and words.
    Unchecked { number: u64, code: String, words: String },
    /// The sender is there.
    Ping,
    /// The sender parts: why.
    Bye(String),
}

impl Frame {
    /// With its length in front.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = vec![0; 4];
        self.write(&mut out);
        let len = u32::try_from(out.len() - 4).expect("frames are bounded far below 4 GiB");
        out[..4].copy_from_slice(&len.to_le_bytes());
        out.into()
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Greeting(bytes) => {
                out.put_u8(GREETING);
                out.put(bytes);
            }
            Self::Proof(bytes) => {
                out.put_u8(PROOF);
                out.put(bytes);
            }
            Self::Hello(hello) => {
                out.put_u8(HELLO);
                hello.write(out);
            }
            Self::Refuse(code, words) => {
                out.put_u8(REFUSE);
                put_words(out, code, words);
            }
            Self::Table(hello) => {
                out.put_u8(TABLE);
                hello.write(out);
            }
            Self::Notify(message) => {
                out.put_u8(NOTIFY);
                out.put(message);
            }
            Self::Heard(messages, bytes) => {
                out.put_u8(HEARD);
                out.put_u64(*messages);
                out.put_u64(*bytes);
            }
            Self::Check { number, token, access, spans } => {
                out.put_u8(CHECK);
                out.put_u64(*number);
                out.put(&token.0);
                out.put_u8(matches!(access, Access::Write).into());
                out.put_count(spans.len());
                for span in spans {
                    out.put_u32(span.at.region.0);
                    out.put_u64(span.at.offset);
                    out.put_u64(span.len);
                }
            }
            Self::Checked { number, sums } => {
                out.put_u8(CHECKED);
                out.put_u64(*number);
                out.put_count(sums.len());
                for sum in sums {
                    out.put_u32(*sum);
                }
            }
            Self::Unchecked { number, code, words } => {
                out.put_u8(UNCHECKED);
                out.put_u64(*number);
                put_words(out, code, words);
            }
            Self::Ping => out.put_u8(PING),
            Self::Bye(words) => {
                out.put_u8(BYE);
                out.put_counted(cut(words, MAX_WORDS).as_bytes());
            }
        }
    }

    /// What a frame's bytes say, without its length.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes);
        let frame = match reader.u8()? {
            GREETING => Self::Greeting(bytes.slice_ref(reader.rest())),
            PROOF => Self::Proof(bytes.slice_ref(reader.rest())),
            HELLO => Self::Hello(Box::new(Hello::read(&mut reader)?)),
            TABLE => Self::Table(Box::new(Hello::read(&mut reader)?)),
            REFUSE => {
                let (code, words) = read_words(&mut reader)?;
                Self::Refuse(code, words)
            }
            NOTIFY => {
                let message = bytes.slice_ref(reader.rest());
                if message.len() > MAX_MESSAGE {
                    return Err(Error::Malformed("a notification is longer than 64 KiB"));
                }
                Self::Notify(message)
            }
            HEARD => Self::Heard(reader.u64()?, reader.u64()?),
            CHECK => read_check(&mut reader)?,
            CHECKED => {
                let number = reader.u64()?;
                let count = reader.count(CHUNK_SEGMENTS, "more than 2048 checksums")?;
                let sums = (0..count).map(|_| reader.u32()).collect::<Result<_, _>>()?;
                Self::Checked { number, sums }
            }
            UNCHECKED => {
                let number = reader.u64()?;
                let (code, words) = read_words(&mut reader)?;
                Self::Unchecked { number, code, words }
            }
            PING => Self::Ping,
            BYE => Self::Bye(reader.text(MAX_WORDS, "a goodbye is too long or no text")?.into()),
            _ => return Err(Error::Malformed("it is of no known kind")),
        };
        reader.end()?;
        Ok(frame)
    }
}

fn read_check(reader: &mut Reader<'_>) -> Result<Frame, Error> {
    let (number, token) = (reader.u64()?, Token(reader.array()?));
    let access = match reader.u8()? {
        0 => Access::Read,
        1 => Access::Write,
        _ => return Err(Error::Malformed("a lease of no known direction")),
    };
    let count = reader.count(CHUNK_SEGMENTS, "checksums of more than 2048 ranges")?;
    let mut spans = Vec::with_capacity(count);
    for _ in 0..count {
        spans.push(Span::new(RegionId(reader.u32()?), reader.u64()?, reader.u64()?));
    }
    Ok(Frame::Check { number, token, access, spans })
}

fn put_words(out: &mut Vec<u8>, code: &str, words: &str) {
    out.put_counted(cut(code, MAX_CODE).as_bytes());
    out.put_counted(cut(words, MAX_WORDS).as_bytes());
}

fn read_words(reader: &mut Reader<'_>) -> Result<(String, String), Error> {
    let code = reader.text(MAX_CODE, "a code is too long or no text")?.into();
    Ok((code, reader.text(MAX_WORDS, "a reason is too long or no text")?.into()))
}

/// The first bytes of some text, and whole characters only.
fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}
