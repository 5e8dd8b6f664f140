//! What a UCX was built with, and what of it this machine has: the difference is what keeps RDMA from being used.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::raw::Context;
use super::{lanes, library};
use crate::Error;

/// A UCX, and what it has found here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// The file that was loaded.
    pub file: PathBuf,
    /// As it states it.
    pub version: String,
    /// What it was built with, or has found modules for, such as `tcp`, `cma`, `ib`, `cuda_copy`.
    pub components: Vec<String>,
    /// What it can use here.
    pub resources: Vec<Resource>,
}

/// A transport over a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Such as `tcp` or `rc_mlx5`.
    pub transport: String,
    /// Such as `eth0` or `mlx5_0:1`; `memory` for those between processes of one host.
    pub device: String,
}

impl Survey {
    /// Loads UCX, if this process has not yet, and asks it. The environment's settings (`UCX_...`) count.
    ///
    /// # Errors
    /// [`Error::Library`]: there is no UCX of use (with all that was tried), or it finds nothing to use.
    pub fn take(library: Option<&Path>) -> Result<Self, Error> {
        let ucx = library::load(library)?;
        let (file, version) = (ucx.file().to_owned(), ucx.version().to_string());
        let context = Context::open(Arc::clone(&ucx), &[]);
        let context = context.map_err(|why| Error::Library(format!("UCX in {}: {why}", file.display())))?;
        let (components, resources) = read(&context.describe());
        Ok(Self { file, version, components, resources })
    }

    /// Whether it was built with InfiniBand and RoCE.
    pub fn has_verbs(&self) -> bool {
        self.components.iter().any(|component| component == "ib" || component == "mlx5")
    }

    /// The transports that a device carries without either processor.
    pub fn rdma(&self) -> impl Iterator<Item = &Resource> {
        self.resources.iter().filter(|resource| resource.is_rdma())
    }
}

impl Resource {
    /// Whether a device moves the bytes.
    pub fn is_rdma(&self) -> bool {
        lanes::is_rdma(&self.transport)
    }
}

/// Reads what UCX prints of a context: lines such as `component 5 : ib`, and those of [`lanes::found`].
fn read(text: &str) -> (Vec<String>, Vec<Resource>) {
    let components = text.lines().filter_map(|line| {
        let (_, name) = line.trim_start_matches(['#', ' ']).strip_prefix("component ")?.split_once(':')?;
        Some(name.trim().to_owned())
    });
    let resources = lanes::found(text).into_iter().filter_map(|place| {
        let (transport, device) = place.split_once('/')?;
        Some(Resource { transport: transport.to_owned(), device: device.to_owned() })
    });
    (components.collect(), resources.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "#
# UCP context
#
#     component 0  :  self
#     component 5  :  ib
#
#            md 0  :  component 0  self
#
#      resource 0  :  md 0  dev 0  flags -- self/memory
#      resource 7  :  md 5  dev 3  flags -a rc_mlx5/mlx5_0:1
";

    #[test]
    fn what_ucx_prints_is_read_as_components_and_resources() {
        let (components, resources) = read(PRINTED);
        assert_eq!(components, ["self", "ib"]);
        let places: Vec<_> =
            resources.iter().map(|found| (found.transport.as_str(), found.device.as_str())).collect();
        assert_eq!(places, [("self", "memory"), ("rc_mlx5", "mlx5_0:1")]);
    }

    #[test]
    fn only_a_device_is_rdma() {
        let (_, resources) = read(PRINTED);
        assert_eq!(resources.iter().map(Resource::is_rdma).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn text_of_another_kind_is_nothing() {
        assert_eq!(read("resource\ncomponent\nresource 1 : x"), (vec![], vec![]));
    }
}
