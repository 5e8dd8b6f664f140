//! One side of a run, open: its processes at both ends, met and with memory, ready to do one work after another.

use std::path::PathBuf;
use std::time::Duration;

use kvferry_bench_common::Result;
use serde::Serialize;
use serde_json::Value;

use crate::asks::{self, Asks, LOOK_LIMIT, SETUP_LIMIT};
use crate::perftest::Perftest;
use crate::place::{self, Where};
use crate::protocol::{Ask, Connected, Opened, Prepared, Ran, Shift, Verified};
use crate::side::{Kind, Side};
use crate::work::{Op, Work};

/// What sources are filled with, and what destinations held before: neither is the other's at any place.
const SOURCE: u64 = 0x5eed_0000_0000_0001;
const STALE: u64 = 0x57a1_e000_0000_0002;

/// How long a window may take beyond its length before it counts as hung: 40 GiB at the slowest lane that was seen.
const WINDOW_LIMIT: Duration = Duration::from_secs(180);

/// How many ends a side has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fan {
    /// That drive.
    pub drivers: usize,
    /// That are driven.
    pub driven: usize,
}

/// One each.
pub const PAIR: Fan = Fan { drivers: 1, driven: 1 };

/// What came before the first transfer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cold {
    /// What was loaded.
    pub library: Option<String>,
    /// How peers are reached.
    pub lane: String,
    /// Opening the fabric took so long, ms.
    pub open_ms: f64,
    /// Registering a driver's memory took so long, ms.
    pub register_ms: f64,
    /// Meeting all peers took so long, ms.
    pub handshake_ms: f64,
    /// The first pass of the first work took so long, ms.
    pub first_ms: Option<f64>,
    /// Its later passes took so long, ms: the median.
    pub warm_ms: Option<f64>,
}

/// One window of a side.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// All drivers together; seconds are those of the slowest.
    pub ran: Ran,
    /// CPU time of the driven ends meanwhile.
    pub driven_cpu_s: f64,
}

/// A side whose processes run.
pub struct Session {
    /// What it is.
    pub side: Side,
    /// What came before the first transfer.
    pub cold: Cold,
    ends: Ends,
    work: Option<(Work, Prepared)>,
    scratch: PathBuf,
}

enum Ends {
    Workers { drivers: Vec<Box<dyn Asks>>, driven: Vec<Box<dyn Asks>> },
    Perftest(Perftest),
}

impl Session {
    /// Starts a side's processes with `bytes` (driver's, driven end's) of memory, and lets them meet.
    ///
    /// # Errors
    /// What any of them says.
    pub fn open(side: &Side, place: &Where, fan: Fan, bytes: (u64, u64)) -> Result<Self> {
        let mut cold = Cold {
            library: None,
            lane: String::new(),
            open_ms: 0.0,
            register_ms: 0.0,
            handshake_ms: 0.0,
            first_ms: None,
            warm_ms: None,
        };
        let scratch = place.scratch.clone();
        if let Kind::Perftest { transports } = &side.kind {
            let tool = Perftest::new(&place.programs, transports.as_deref())?;
            cold.library = Some(tool.describe());
            cold.lane = transports.clone().unwrap_or_else(|| "as UCX chooses".into());
            return Ok(Self { side: side.clone(), cold, ends: Ends::Perftest(tool), work: None, scratch });
        }
        if side.is_local_only() && !place.links.is_empty() {
            return Err(format!("{}: both of its ends must be on one host; use --local", side.name).into());
        }
        let driven_count = if side.is_alone() { 0 } else { fan.driven };
        let mut driven = (0..driven_count)
            .map(|number| place.driven_end(side, number))
            .collect::<Result<Vec<Box<dyn Asks>>>>()?;
        let mut drivers = (0..fan.drivers)
            .map(|_| Ok(Box::new(place.local(side)?) as Box<dyn Asks>))
            .collect::<Result<Vec<_>>>()?;
        let setup = |bytes| place.setup(side, bytes);
        // A peer that reads from several has a share of its memory for each, and one that is written to by several too.
        let (mine, theirs) = (bytes.0 * driven_count.max(1) as u64, bytes.1 * fan.drivers as u64);
        for worker in &mut driven {
            asks::ask::<Opened>(&mut **worker, &Ask::Open(setup(theirs)), SETUP_LIMIT)?;
        }
        for worker in &mut drivers {
            let opened: Opened = asks::ask(&mut **worker, &Ask::Open(setup(mine)), SETUP_LIMIT)?;
            cold.library = opened.library;
            (cold.open_ms, cold.register_ms) = (opened.open_s * 1e3, opened.register_s * 1e3);
        }
        let offers = driven
            .iter_mut()
            .map(|worker| asks::ask(&mut **worker, &Ask::Offer, LOOK_LIMIT))
            .collect::<Result<Vec<Value>>>()?;
        for worker in &mut drivers {
            let connect = Ask::Connect { offers: offers.clone() };
            let connected: Connected = asks::ask(&mut **worker, &connect, SETUP_LIMIT)?;
            cold.handshake_ms = connected.seconds * 1e3;
            cold.lane = connected.lanes.into_iter().next().unwrap_or_default();
        }
        Ok(Self { side: side.clone(), cold, ends: Ends::Workers { drivers, driven }, work: None, scratch })
    }

    /// Makes the side ready for a work.
    ///
    /// # Errors
    /// What its processes say.
    pub fn prepare(&mut self, work: &Work) -> Result<Prepared> {
        let file = if matches!(self.side.kind, Kind::Nixl(_) | Kind::Mooncake(_)) {
            Some(place::write_pieces(&self.scratch, work)?)
        } else {
            None
        };
        let mut all = Prepared { blocks: 0, bytes: 0, transfers: 0 };
        match &mut self.ends {
            Ends::Perftest(tool) => all = tool.prepare(work)?,
            Ends::Workers { drivers, .. } => {
                let extent = if drivers.len() > 1 { work.pieces()?.remote_extent } else { 0 };
                for (number, worker) in drivers.iter_mut().enumerate() {
                    let shift = Shift { local: 0, remote: extent * number as u64 };
                    let ask = Ask::Prepare { work: work.clone(), shift, pieces: file.clone() };
                    let one: Prepared = asks::ask(&mut **worker, &ask, SETUP_LIMIT)?;
                    all.blocks += one.blocks;
                    all.bytes += one.bytes;
                    all.transfers += one.transfers;
                }
            }
        }
        self.work = Some((work.clone(), all));
        Ok(all)
    }

    /// Does the prepared work for one window; one pass if it has no length.
    ///
    /// # Errors
    /// What its processes say, or that one is silent.
    pub fn run(&mut self, window: Duration) -> Result<Window> {
        let window_ms = u64::try_from(window.as_millis())?;
        match &mut self.ends {
            Ends::Perftest(tool) => tool.run(window),
            Ends::Workers { drivers, driven } => {
                let before = cpu(driven)?;
                for worker in drivers.iter_mut() {
                    worker.send(&Ask::Run { window_ms })?;
                }
                let mut all: Option<Ran> = None;
                for worker in drivers.iter_mut() {
                    let one: Ran = asks::receive(&mut **worker, window + WINDOW_LIMIT)?;
                    all = Some(match all {
                        None => one,
                        Some(sum) => together(sum, one),
                    });
                }
                let ran = all.ok_or("a side without a driver")?;
                Ok(Window { ran, driven_cpu_s: cpu(driven)? - before })
            }
        }
    }

    /// Fills sources, does one pass, and compares every byte of the destinations. `flip` changes one byte in between, to
    /// see that it is found. Returns how many bytes were right.
    ///
    /// # Errors
    /// Where a wrong byte lies; or what the processes say.
    pub fn verify(&mut self, flip: bool) -> Result<u64> {
        let (work, _) = self.work.clone().ok_or("no work is prepared")?;
        if !self.side.can_verify() {
            return Ok(0);
        }
        let pieces = work.pieces()?;
        let file = matches!(self.side.kind, Kind::Nixl(_) | Kind::Mooncake(_))
            .then(|| place::pieces_file(&self.scratch));
        self.each(&Ask::Fill { seed: if work.op == Op::Read { STALE } else { SOURCE } }, true)?;
        self.each(&Ask::Fill { seed: if work.op == Op::Read { SOURCE } else { STALE } }, false)?;
        let first = pieces.list.first().ok_or("a work of no pieces")?;
        if flip && work.op == Op::Write {
            self.each(&Ask::Flip { at: first.local }, true)?;
        }
        self.run(Duration::ZERO)?;
        if flip && work.op == Op::Read {
            self.each(&Ask::Flip { at: first.local }, true)?;
        }
        let Ends::Workers { drivers, driven } = &mut self.ends else { return Ok(0) };
        let many = drivers.len() > 1;
        let mut right = 0;
        for (mine, driver) in (0_u64..).zip(drivers.iter_mut()) {
            for (theirs, peer) in (0_u64..).zip(driven.iter_mut()) {
                let remote = if many { pieces.remote_extent * mine } else { 0 };
                let shift = Shift { local: pieces.local_extent * theirs, remote };
                let holder = if work.op == Op::Read { &mut *driver } else { peer };
                let ask = Ask::Verify { work: work.clone(), seed: SOURCE, shift, pieces: file.clone() };
                let found: Verified = asks::ask(&mut **holder, &ask, WINDOW_LIMIT)?;
                if let Some(wrong) = found.first_wrong {
                    return Err(format!(
                        "{}: WRONG BYTE at offset {wrong} of the destination, after {} right ones",
                        self.side.name, found.bytes
                    )
                    .into());
                }
                right += found.bytes;
            }
        }
        Ok(right)
    }

    /// CPU time of all processes so far, seconds; `None` where they run only while they work.
    ///
    /// # Errors
    /// When one is gone.
    pub fn cpu(&mut self) -> Result<Option<f64>> {
        match &mut self.ends {
            Ends::Perftest(_) => Ok(None),
            Ends::Workers { drivers, driven } => Ok(Some(cpu(drivers)? + cpu(driven)?)),
        }
    }

    /// Holds a side's processes still if they would not be so by themselves, or lets them go on.
    pub fn rest(&mut self, still: bool) {
        if let (true, Ends::Workers { drivers, driven }) = (self.side.is_restless(), &mut self.ends) {
            for worker in drivers.iter_mut().chain(driven) {
                worker.hold(still);
            }
        }
    }

    fn each(&mut self, ask: &Ask, drivers_only: bool) -> Result<()> {
        let Ends::Workers { drivers, driven } = &mut self.ends else { return Ok(()) };
        for worker in if drivers_only { drivers } else { driven } {
            asks::ask::<Value>(&mut **worker, ask, WINDOW_LIMIT)?;
        }
        Ok(())
    }
}

fn cpu(workers: &mut [Box<dyn Asks>]) -> Result<f64> {
    workers.iter_mut().map(|worker| asks::ask::<f64>(&mut **worker, &Ask::Cpu, LOOK_LIMIT)).sum()
}

fn together(mut sum: Ran, one: Ran) -> Ran {
    sum.seconds = sum.seconds.max(one.seconds);
    sum.bytes += one.bytes;
    sum.blocks += one.blocks;
    sum.transfers += one.transfers;
    sum.cpu_s += one.cpu_s;
    sum.submit_s += one.submit_s;
    sum.latencies.extend(one.latencies);
    sum
}
