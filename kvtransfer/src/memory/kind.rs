//! Kinds of memory. A fabric says which of them it can reach; callers do not change when one learns another.

use std::fmt;

/// A device's number, as its driver counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Device(pub u32);

/// What memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The machine's own.
    Host,
    /// An NVIDIA device's.
    Cuda(Device),
    /// An AMD device's.
    Rocm(Device),
    /// An Intel device's.
    Xpu(Device),
    /// A TPU's.
    Tpu(Device),
}

impl Kind {
    /// The kind's name, without the device.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Cuda(_) => "cuda",
            Self::Rocm(_) => "rocm",
            Self::Xpu(_) => "xpu",
            Self::Tpu(_) => "tpu",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str(self.name()),
            Self::Cuda(device) | Self::Rocm(device) | Self::Xpu(device) | Self::Tpu(device) => {
                write!(f, "{}:{}", self.name(), device.0)
            }
        }
    }
}
