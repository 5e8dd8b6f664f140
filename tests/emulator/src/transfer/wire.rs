//! The messages of the KV protocol and their framing.
//!
//! Every message names the engine life it is meant for, so that a handle from before a restart is refused
//! although it reaches the same port.

use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::handoff::key::Space;

/// Longest message in bytes: a read of two million block ids, far above any prompt that fits a pool.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// What a reader asks.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ask {
    pub(crate) engine_id: String,
    pub(crate) request_id: String,
    pub(crate) what: What,
}

/// The operations.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    /// Send these blocks, in this order.
    Read { block_ids: Vec<u32> },
    /// The blocks are no longer needed.
    Release,
    /// The blocks are still wanted.
    Heartbeat,
    /// Send the first `blocks` blocks of what is, or will be, on offer under this name; none ends the offer.
    Meet { space: Space, blocks: usize },
    /// Send the longest cached run of these prompt blocks, by their names.
    Cached { names: Vec<u64> },
    /// Send the encoder output of this name.
    Encoded,
}

/// The answer to an [`Ask`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// Done; for a read, that many blocks of that many bytes follow.
    Granted { block_bytes: usize, blocks: usize },
    /// Not done, and why.
    Refused { reason: String },
}

/// Sends one message.
pub(crate) async fn send<M: Serialize>(
    socket: &mut (impl AsyncWrite + Unpin),
    message: &M,
) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend_from_slice(&body);
    socket.write_all(&frame).await
}

/// Receives one message; `None` at a clean end of the connection.
pub(crate) async fn receive<M: DeserializeOwned>(
    socket: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<M>> {
    let mut length = [0; 4];
    match socket.read_exact(&mut length).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    };
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_MESSAGE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("message of {length} bytes")));
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await?;
    Ok(Some(serde_json::from_slice(&body)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_crosses_and_the_end_is_told_from_garbage() {
        let (mut near, mut far) = tokio::io::duplex(1 << 16);
        let ask =
            Ask { engine_id: "e".into(), request_id: "r".into(), what: What::Read { block_ids: vec![3] } };
        send(&mut near, &ask).await.unwrap();
        let back: Ask = receive(&mut far).await.unwrap().unwrap();
        assert!(matches!(back.what, What::Read { block_ids } if block_ids == [3]));

        near.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
        assert!(receive::<Ask>(&mut far).await.is_err());
        drop(near);
        assert!(receive::<Ask>(&mut far).await.unwrap().is_none());
    }
}
