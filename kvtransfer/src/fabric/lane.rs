//! What really carries the bytes to a peer. Nobody believes a configuration: the lane is asked for once it stands.

use std::fmt;

/// Who moves the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Copying {
    /// A device, or one side's processor, straight from and into final places.
    ZeroCopy,
    /// Both processors, through a socket.
    Socket,
    /// Both processors and a library's own messages: correct, and several times slower.
    Emulated,
    /// Whoever a library has chosen that does not say whom.
    Untold,
}

/// A way to a peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Lane {
    /// Such as `shm`, `cma`, `tcp`, `rc_mlx5`.
    pub transport: String,
    /// The device it goes over, such as `mlx5_0:1` or `lo`; empty if there is none.
    pub device: String,
    /// Who moves the bytes.
    pub copying: Copying,
    /// Whether bytes are encrypted on the way.
    pub encrypted: bool,
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.transport)?;
        if !self.device.is_empty() {
            write!(f, "/{}", self.device)?;
        }
        f.write_str(match self.copying {
            Copying::ZeroCopy => " (zero-copy)",
            Copying::Socket => " (socket)",
            Copying::Emulated => " (software emulation)",
            Copying::Untold => " (whatever was chosen)",
        })?;
        if self.encrypted { f.write_str(", encrypted") } else { Ok(()) }
    }
}
