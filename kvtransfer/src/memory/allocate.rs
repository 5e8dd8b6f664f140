//! From a kind of memory to what opens it: the one place that a further kind is added to.

use std::num::NonZeroUsize;

use super::cuda::Cuda;
use super::{Arena, Kind, Region};
use crate::Error;

/// Memory of `len` bytes, of that kind. [`Arena`] and [`Cuda`] can be asked for more than that.
///
/// # Errors
/// [`Error::Library`] or [`Error::Limit`] that says why it cannot be had and what to do: there is no driver, no such device,
/// not so much memory, or no support for that kind of device.
pub fn allocate(kind: Kind, len: NonZeroUsize) -> Result<Region, Error> {
    match kind {
        Kind::Host => Arena::create("kvferry", len),
        Kind::Cuda(device) => Ok(Cuda::open(None)?.device(device)?.allocate(len)?),
        Kind::Rocm(_) | Kind::Xpu(_) | Kind::Tpu(_) => Err(unsupported(kind)),
    }
}

/// What this build has no way to open. Regions of these kinds can be made of memory that an engine has allocated
/// ([`Region::foreign`]), and go to fabrics that reach them.
fn unsupported(kind: Kind) -> Error {
    let reached = match kind {
        Kind::Rocm(_) | Kind::Xpu(_) => {
            "the ucx fabric moves what an engine has allocated there, with a UCX built for it; else "
        }
        _ => "",
    };
    Error::Limit(format!(
        "{kind} memory cannot be allocated here: supported are host, and cuda with NVIDIA's driver; {reached}let the engine \
         stage its blocks in host memory"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Device;

    #[test]
    fn a_kind_that_nothing_opens_is_refused_with_what_is_supported() {
        let len = NonZeroUsize::new(4096).unwrap();
        for kind in [Kind::Rocm(Device(0)), Kind::Xpu(Device(1)), Kind::Tpu(Device(2))] {
            let error = allocate(kind, len).unwrap_err();
            let text = error.to_string();
            assert!(
                text.starts_with(&kind.to_string()) && text.contains("supported are host, and cuda"),
                "{text}"
            );
            assert_eq!((error.code(), error.may_retry()), ("limit", false));
        }
    }
}
