//! Everything that runs for the comparison: the engines, a sidecar for each side, and what stands around them.

use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;

use super::chat;
use super::collector::Collector;
use super::engine::{Engine, Kind};
use super::sides::{BASE, BIDIRECTIONAL, Behind, MOONCAKE, PUSH, SIDES, Side, Traces};
use crate::Result;
use crate::cli::ConnectorsArgs;
use crate::load::Job;
use crate::proxy::fleet::emulator;
use crate::proxy::process::{Process, free_port};

/// Clients of the closed load, as in the proxy bench's throughput cells.
pub(super) const CLIENTS: usize = 32;

/// The sidecar of one side.
#[derive(Debug)]
pub(super) struct Sidecar {
    pub(super) side: Side,
    pub(super) pid: u32,
    /// What each client sends.
    pub(super) jobs: Vec<Rc<Job>>,
    /// Where its metrics are.
    pub(super) metrics: Option<SocketAddr>,
    collector: Option<Collector>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Fleet {
    processes: Vec<Process>,
    /// The base in front of each pair of engines that is needed.
    pub(super) bases: Vec<Sidecar>,
    /// The sides, in their order.
    pub(super) sidecars: Vec<Sidecar>,
    pushes: Engine,
    offers: Engine,
    bootstrap: Engine,
}

/// Addresses of a pair of engines.
#[derive(Debug, Clone, Copy)]
struct Pair {
    prefill: SocketAddr,
    decode: SocketAddr,
}

impl Fleet {
    /// Starts the engines, and the sidecars of the sides whose name contains what `--only` says.
    ///
    /// # Errors
    /// When one of them cannot be started; the others are ended.
    pub(super) async fn start(arguments: &ConnectorsArgs, logs: &Path) -> Result<Self> {
        let wanted = |side: &&Side| arguments.only.as_deref().is_none_or(|text| side.name.contains(text));
        let sides: Vec<Side> = SIDES.iter().filter(wanted).copied().collect();
        if sides.is_empty() {
            return Err("no side's name contains what --only asks for".into());
        }
        let mut processes = Vec::new();
        let emulators = Pair {
            prefill: emulator("prefill", &arguments.emulator, 0, logs, &mut processes).await?,
            decode: emulator("decode", &arguments.emulator, 0, logs, &mut processes).await?,
        };
        let (pushes, offers) = (Engine::start(Kind::Pushes)?, Engine::start(Kind::Offers)?);
        let own = Pair { prefill: pushes.address, decode: offers.address };
        let bootstrap = Engine::start(Kind::Bootstrap)?;
        let pair = |behind| match behind {
            Behind::Emulators => emulators,
            Behind::Own => own,
        };
        let (mut bases, mut sidecars) = (Vec::new(), Vec::new());
        for (behind, name) in [(Behind::Emulators, BASE.name), (Behind::Own, "nixlv2-own-engines")] {
            if sides.iter().any(|side| side.behind == behind) {
                let base = Side { name, behind, ..BASE };
                bases.push(
                    sidecar(arguments, base, pair(behind), bootstrap.address, logs, &mut processes).await?,
                );
            }
        }
        for side in sides {
            let pair = pair(side.behind);
            sidecars.push(sidecar(arguments, side, pair, bootstrap.address, logs, &mut processes).await?);
        }
        Ok(Self { processes, bases, sidecars, pushes, offers, bootstrap })
    }

    /// Whether the engines, and what stands around them, saw of a side what it is there for. A figure of a side that did
    /// something else says nothing.
    pub(super) fn seen(&self, sidecar: &Sidecar) -> std::result::Result<(), String> {
        let seen = match sidecar.side.name {
            MOONCAKE => self.bootstrap.counted(),
            PUSH => self.offers.counted(),
            BIDIRECTIONAL => self.pushes.counted(),
            _ => sidecar.collector.as_ref().map_or(1, Collector::taken),
        };
        if seen > 0 {
            return Ok(());
        }
        Err(match sidecar.side.name {
            MOONCAKE => "no question came to the bootstrap server".to_owned(),
            PUSH => "no decode leg came before prefill had answered".to_owned(),
            BIDIRECTIONAL => "no prefill leg carried what decode had offered".to_owned(),
            _ => "no span came to the collector".to_owned(),
        })
    }

    /// Ends everything, the sidecars before the engines.
    pub(super) async fn stop(self) {
        for process in self.processes.into_iter().rev() {
            process.stop().await;
        }
    }
}

async fn sidecar(
    arguments: &ConnectorsArgs,
    side: Side,
    engines: Pair,
    bootstrap: SocketAddr,
    logs: &Path,
    processes: &mut Vec<Process>,
) -> Result<Sidecar> {
    let port = free_port()?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut flags = vec![
        format!("--port={port}"),
        format!("--model-server-port={}", engines.decode.port()),
        format!("--mooncake-bootstrap-port={}", bootstrap.port()),
        "--secure-serving=false".to_owned(),
    ];
    flags.extend(side.flags.iter().map(|flag| (*flag).to_owned()));
    flags.extend(arguments.sidecar_args.iter().cloned());
    let metrics = if side.scraped { Some(SocketAddr::from(([127, 0, 0, 1], free_port()?))) } else { None };
    flags.extend(metrics.map(|metrics| format!("--metrics-port={}", metrics.port())));
    let collector = if side.traces == Traces::Otlp { Some(Collector::start()?) } else { None };
    let mut environment = Vec::new();
    if side.traces != Traces::Off {
        flags.push("--tracing".to_owned());
        environment.push(("OTEL_TRACES_SAMPLER_ARG", "0.1".to_owned()));
        environment.push(("OTEL_TRACES_EXPORTER", "console".to_owned()));
    }
    if let Some(collector) = &collector {
        environment.push(("OTEL_TRACES_EXPORTER", "otlp".to_owned()));
        environment.push(("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", collector.address)));
    }
    let mut process = Process::start_in(&environment, side.name, &arguments.sidecar, &flags, false, logs)?;
    process.healthy(address).await?;
    let pid = process.pid;
    processes.push(process);
    let jobs = (0..CLIENTS).map(|client| Rc::new(chat::job(client, address, engines.prefill))).collect();
    Ok(Sidecar { side, pid, jobs, metrics, collector })
}
