//! What waits to be sent on a stream: frames, some followed by data that goes straight from its region.

use std::collections::VecDeque;
use std::io;

use super::super::book::InUse;
use super::super::limits::MAX_UNSENT;
use super::super::memory::Ranges;
use super::super::places::Gather;
use super::super::socket::Socket;
use super::super::wire::Violation;

#[derive(Debug)]
struct Parcel {
    frame: Vec<u8>,
    /// Bytes of the frame that are sent.
    sent: usize,
    data: Option<Ranges>,
    /// The lease under which the data is touched.
    used: Option<InUse>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    parcels: VecDeque<Parcel>,
    left: u64,
}

/// How sending went.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) bytes: u64,
    /// The socket takes no more for now.
    pub(super) blocked: bool,
    /// Leases whose data is sent.
    pub(super) ended: Vec<InUse>,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.parcels.is_empty()
    }

    /// Bytes that are not sent.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// # Errors
    /// If so much waits as a peer that keeps to the protocol never makes.
    pub(super) fn push(&mut self, frame: Vec<u8>) -> Result<(), Violation> {
        self.push_data(frame, None, None)
    }

    /// A frame and its data. The use ends when they are sent.
    ///
    /// # Errors
    /// As above.
    pub(super) fn push_data(
        &mut self,
        frame: Vec<u8>,
        data: Option<Ranges>,
        used: Option<InUse>,
    ) -> Result<(), Violation> {
        self.left += frame.len() as u64 + data.as_ref().map_or(0, Ranges::left);
        self.parcels.push_back(Parcel { frame, sent: 0, data, used });
        if self.parcels.len() > MAX_UNSENT { Err(Violation("it asks and does not read")) } else { Ok(()) }
    }

    /// Sends what the socket takes, once.
    pub(super) fn send(&mut self, socket: &mut Socket) -> io::Result<Sent> {
        let mut gather = Gather::new();
        for parcel in &self.parcels {
            let fits = gather.push(&parcel.frame[parcel.sent..])
                && parcel.data.as_ref().is_none_or(|data| gather.push_ranges(data));
            if !fits {
                break;
            }
        }
        let asked = gather.bytes();
        match socket.send(&mut gather) {
            Ok(count) => {
                let count = count as u64;
                // A socket that takes nothing yet is not blocked: it does not say when it takes something.
                let blocked = socket.has_unsent() || (count < asked && socket.takes());
                Ok(Sent { bytes: count, blocked, ended: self.advance(count) })
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Ok(Sent { blocked: true, ..Sent::default() })
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Sent::default()),
            Err(error) => Err(error),
        }
    }

    fn advance(&mut self, mut count: u64) -> Vec<InUse> {
        let mut ended = Vec::new();
        self.left -= count;
        while let Some(parcel) = self.parcels.front_mut() {
            let frame = count.min((parcel.frame.len() - parcel.sent) as u64);
            parcel.sent += usize::try_from(frame).unwrap_or(0);
            count -= frame;
            if let Some(data) = &mut parcel.data {
                let part = count.min(data.left());
                data.advance(part);
                count -= part;
            }
            let left = parcel.data.as_ref().map_or(0, Ranges::left);
            if parcel.sent < parcel.frame.len() || left > 0 {
                break;
            }
            ended.extend(self.parcels.pop_front().and_then(|parcel| parcel.used));
        }
        ended
    }

    /// Drops it all; the uses that end by it.
    pub(super) fn clear(&mut self) -> Vec<InUse> {
        self.left = 0;
        self.parcels.drain(..).filter_map(|parcel| parcel.used).collect()
    }

    /// Uses that last.
    pub(super) fn uses(&self) -> impl Iterator<Item = &InUse> {
        self.parcels.iter().filter_map(|parcel| parcel.used.as_ref())
    }
}
