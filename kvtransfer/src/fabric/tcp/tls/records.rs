//! What rustls has to say about a stream, one step at a time, and what is done about it: the same for both ends.

use std::io;

use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic};

use super::super::inbuf::InBuf;
use super::super::places::{Gather, Scatter};
use super::TlsProblem;

/// Plain bytes of a record, at most (RFC 8446, 5.1).
pub(super) const RECORD: usize = 16 << 10;
/// What a record has besides, at most: header, nonce, padding and tag of any suite (RFC 5246, 6.2.3, allows 2 KiB and
/// those that are left use some thirty bytes), and one message about new keys before it.
pub(super) const AROUND: usize = 256;
/// Records that are made or taken at once: as much as the second cache holds.
pub(super) const BATCH: usize = 15;
/// Bytes read at once, at least: a whole record.
pub(super) const READ_LEAST: usize = RECORD + AROUND;

/// What came of a look at what has come.
pub(super) enum Step {
    /// There may be more.
    On,
    /// Nothing, before more comes.
    Rest,
}

pub(super) fn problem(error: impl Into<TlsProblem>) -> io::Error {
    io::Error::other(error.into())
}

/// Where what comes of looking goes.
pub(super) struct Out<'a, 'b> {
    pub(super) places: &'a mut Scatter<'b>,
    pub(super) plain: &'a mut InBuf,
    pub(super) outgoing: &'a mut InBuf,
    pub(super) open: &'a mut bool,
    pub(super) ended: &'a mut bool,
}

impl Out<'_, '_> {
    /// How much of what has come is dealt with, and whether there may be more.
    pub(super) fn act<Data>(&mut self, status: UnbufferedStatus<'_, '_, Data>) -> (usize, io::Result<Step>) {
        let mut discard = status.discard;
        let step = match status.state {
            Err(error) => Err(problem(error)),
            Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                match traffic.next_record() {
                    None => break Ok(Step::On),
                    Some(Err(error)) => break Err(problem(error)),
                    Some(Ok(record)) => {
                        discard += record.discard;
                        let taken =
                            if self.plain.have().is_empty() { self.places.put(record.payload) } else { 0 };
                        append(self.plain, &record.payload[taken..]);
                    }
                }
            },
            Ok(ConnectionState::EncodeTlsData(mut words)) => {
                let mut room = READ_LEAST;
                loop {
                    match words.encode(self.outgoing.room(room)) {
                        Ok(count) => {
                            self.outgoing.came(count);
                            break Ok(Step::On);
                        }
                        Err(EncodeError::InsufficientSize(more)) => room = more.required_size,
                        Err(error) => break Err(problem(TlsProblem::Other(error.to_string()))),
                    }
                }
            }
            Ok(ConnectionState::TransmitTlsData(words)) => {
                // They are in line, and nothing overtakes them.
                words.done();
                Ok(Step::On)
            }
            Ok(ConnectionState::WriteTraffic(_)) => {
                *self.open = true;
                Ok(Step::Rest)
            }
            Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                *self.ended = true;
                Ok(Step::Rest)
            }
            Ok(ConnectionState::BlockedHandshake) => Ok(Step::Rest),
            // Early data can be sent twice by anybody who has seen it, so it is nothing for this fabric.
            Ok(_) => Err(problem(TlsProblem::Other("it sent early data, which is not taken".into()))),
        };
        (discard, step)
    }
}

/// Encrypts a batch, if that can be done now: how much of what has come is dealt with, and how many plain bytes are taken.
pub(super) fn make<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    parts: &mut Gather<'_>,
    outgoing: &mut InBuf,
) -> (usize, io::Result<usize>) {
    let made = match status.state {
        Ok(ConnectionState::WriteTraffic(mut traffic)) => records(&mut traffic, parts, outgoing),
        Ok(_) => Ok(0),
        Err(error) => Err(problem(error)),
    };
    (status.discard, made)
}

fn records<Data>(
    traffic: &mut WriteTraffic<'_, Data>,
    parts: &mut Gather<'_>,
    outgoing: &mut InBuf,
) -> io::Result<usize> {
    let (mut plain, mut taken) = ([0; RECORD], 0);
    for _ in 0..BATCH {
        let count = parts.take(&mut plain);
        if count == 0 {
            break;
        }
        taken += count;
        let mut room = READ_LEAST;
        let made = loop {
            match traffic.encrypt(&plain[..count], outgoing.room(room)) {
                Ok(made) => break made,
                Err(EncryptError::InsufficientSize(more)) => room = more.required_size,
                Err(error) => return Err(problem(TlsProblem::Other(error.to_string()))),
            }
        };
        outgoing.came(made);
        if count < RECORD {
            break;
        }
    }
    Ok(taken)
}

fn append(buffer: &mut InBuf, bytes: &[u8]) {
    if !bytes.is_empty() {
        buffer.room(bytes.len()).copy_from_slice(bytes);
        buffer.came(bytes.len());
    }
}
