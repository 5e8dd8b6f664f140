//! What the threads that call the fabric, and the progress threads among themselves, want done by the one progress
//! thread that owns a stream.

use std::net::SocketAddr;

use super::socket::Socket;
use crate::fabric::common::Identity;
use crate::{Error, PeerId, TransferId};

/// A stream. Numbers are not used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// The progress thread that owns it.
    pub(super) owner: usize,
    pub(super) number: u64,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Order {
    /// Connect a stream to a peer.
    Open { key: Key, peer: PeerId, to: Identity, address: SocketAddr },
    /// Serve a connection that has come in.
    Adopt { key: Key, socket: Socket },
    /// There is something to begin on this stream.
    Feed(Key),
    /// A transfer has ended early: what still comes for it is thrown away.
    Discard(Key, TransferId),
    /// Close it.
    Close(Key, Error),
    /// Tell the initiator that so many of its messages, of so many bytes, were polled.
    Credit(Key, u32, u32),
    /// Look at the clock again: something ends earlier than you think.
    Look,
}

impl Order {
    /// Which progress thread it is for.
    pub(super) fn owner(&self) -> usize {
        match self {
            Self::Open { key, .. }
            | Self::Adopt { key, .. }
            | Self::Feed(key)
            | Self::Discard(key, _)
            | Self::Close(key, _)
            | Self::Credit(key, ..) => key.owner,
            Self::Look => 0,
        }
    }
}
