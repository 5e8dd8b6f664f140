//! Where the ends of a run are, and how a process is started there.

use std::fs;
use std::path::{Path, PathBuf};

use kvferry_bench_common::Result;

use crate::asks::Asks;
use crate::child::ChildWorker;
use crate::control::Secret;
use crate::control::client::Link;
use crate::peers;
use crate::programs::Programs;
use crate::protocol::Setup;
use crate::side::{Kind, Side};
use crate::work::Work;

/// Where a side's ends are.
#[derive(Debug, Clone, Default)]
pub struct Where {
    /// Servers that drive nothing: an end at each, or all of them here if there are none.
    pub links: Vec<Link>,
    /// What both sides know.
    pub secret: Option<Secret>,
    /// What is started here.
    pub programs: Programs,
    /// Where files lie for programs that do not compute patterns.
    pub scratch: PathBuf,
}

impl Where {
    /// What a process of `side` is asked to open.
    pub fn setup(&self, side: &Side, bytes: u64) -> Setup {
        let (backend, transports, busy) = match &side.kind {
            Kind::Fabric { backend, transports, busy } => (backend.clone(), transports.clone(), *busy),
            Kind::Ceiling(name) => ((*name).to_owned(), None, false),
            // Those have been told by their environment.
            _ => (side.name.clone(), None, false),
        };
        Setup {
            backend,
            transports,
            threads: side.threads,
            streams: side.streams,
            busy,
            bytes,
            host: self.links.first().map(|link| link.from),
            secret: self.secret.as_ref().map(|secret| secret.words().to_owned()),
        }
    }

    /// Starts a process of `side` here.
    ///
    /// # Errors
    /// When this machine has not what it needs.
    pub fn local(&self, side: &Side) -> Result<ChildWorker> {
        let programs = &self.programs;
        let python = || {
            programs
                .python
                .as_deref()
                .ok_or("other engines are driven through Python; name one with --python")
        };
        let mut command = match &side.kind {
            Kind::Nixl(nixl) => {
                peers::has(programs.python.as_deref(), "nixl")?;
                peers::nixl(python()?, &self.scratch, nixl)?
            }
            Kind::Mooncake(mooncake) => {
                peers::has(programs.python.as_deref(), "mooncake")?;
                peers::mooncake(python()?, &self.scratch, mooncake)?
            }
            _ => programs.worker(side.tls())?,
        };
        ChildWorker::start(side.name.clone(), &mut command)
    }

    /// Starts a driven end of `side`: here, or at the server whose turn it is.
    ///
    /// # Errors
    /// As [`local`](Self::local), or what the server says.
    pub fn driven_end(&self, side: &Side, number: usize) -> Result<Box<dyn Asks>> {
        if self.links.is_empty() {
            return Ok(Box::new(self.local(side)?));
        }
        Ok(Box::new(self.links[number % self.links.len()].worker(side.tls().map(str::to_owned))?))
    }
}

/// Where [`write_pieces`] writes.
pub fn pieces_file(scratch: &Path) -> PathBuf {
    scratch.join("pieces.bin")
}

/// Writes the pieces of a work down, for programs that do not compute patterns: three little-endian u64 each.
///
/// # Errors
/// When the work is none, or the file cannot be written.
pub fn write_pieces(scratch: &Path, work: &Work) -> Result<PathBuf> {
    let pieces = work.pieces()?.list;
    let bytes: Vec<u8> = pieces
        .iter()
        .flat_map(|piece| [piece.local, piece.remote, piece.len])
        .flat_map(u64::to_le_bytes)
        .collect();
    let file = pieces_file(scratch);
    fs::write(&file, bytes).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(file)
}
