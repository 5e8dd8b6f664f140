//! Everything that runs for the comparison: the engines, a sidecar for each side, and what stands around them.

use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;

use super::chat;
use super::collector::Collector;
use super::engine::{Engine, Kind};
use super::sides::{BASE, BIDIRECTIONAL, Behind, MOONCAKE, PUSH, Side, Traces};
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
    /// The process of the base in front of the same engines.
    pub(super) base_pid: u32,
    /// What each client sends, to this one and to its base.
    pub(super) jobs: Vec<Rc<Job>>,
    /// Where its metrics are.
    pub(super) metrics: Option<SocketAddr>,
    collector: Option<Collector>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Fleet {
    processes: Vec<Process>,
    /// The sides, by the engines they stand in front of.
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
    /// Starts the engines and the sidecars.
    ///
    /// # Errors
    /// When one of them cannot be started; the others are ended.
    pub(super) async fn start(arguments: &ConnectorsArgs, sides: &[Side], logs: &Path) -> Result<Self> {
        let mut processes = Vec::new();
        let emulators = Pair {
            prefill: emulator("prefill", &arguments.emulator, 0, logs, &mut processes).await?,
            decode: emulator("decode", &arguments.emulator, 0, logs, &mut processes).await?,
        };
        let (pushes, offers) = (Engine::start(Kind::Pushes)?, Engine::start(Kind::Offers)?);
        let own = Pair { prefill: pushes.address, decode: offers.address };
        let bootstrap = Engine::start(Kind::Bootstrap)?;
        let mut sidecars = Vec::new();
        let pairs = [(Behind::Emulators, "base", emulators), (Behind::Own, "base-of-own-engines", own)];
        for (behind, name, engines) in pairs {
            let sides = sides.iter().filter(|side| side.behind == behind);
            if sides.clone().next().is_none() {
                continue;
            }
            let start = Start { arguments, engines, bootstrap: bootstrap.address, logs };
            let base = start.run(Side { name, ..BASE }, vec![], &[], &mut processes).await?;
            for side in sides {
                sidecars.push(start.side(*side, base, &mut processes).await?);
            }
        }
        Ok(Self { processes, sidecars, pushes, offers, bootstrap })
    }

    /// Sides of which the engines, and what stands around them, have not seen what they are there for. A figure of a side
    /// that did something else says nothing.
    pub(super) fn unseen(&self) -> Vec<String> {
        let unseen = |sidecar: &Sidecar| {
            let (seen, what) = match sidecar.side.name {
                MOONCAKE => (self.bootstrap.counted(), "no question came to the bootstrap server"),
                PUSH => (self.offers.counted(), "no decode leg came before prefill had answered"),
                BIDIRECTIONAL => (self.pushes.counted(), "no prefill leg carried what decode had offered"),
                _ => (sidecar.collector.as_ref()?.taken(), "no span came to the collector"),
            };
            (seen == 0).then(|| format!("{}: {what}", sidecar.side.name))
        };
        self.sidecars.iter().filter_map(unseen).collect()
    }

    /// Ends everything, the sidecars before the engines.
    pub(super) async fn stop(self) {
        for process in self.processes.into_iter().rev() {
            process.stop().await;
        }
    }
}

/// What all sidecars in front of a pair of engines are started with.
struct Start<'a> {
    arguments: &'a ConnectorsArgs,
    engines: Pair,
    bootstrap: SocketAddr,
    logs: &'a Path,
}

impl Start<'_> {
    /// A side, and what stands around it.
    async fn side(
        &self,
        side: Side,
        (base, base_pid): (SocketAddr, u32),
        processes: &mut Vec<Process>,
    ) -> Result<Sidecar> {
        let metrics =
            if side.scraped { Some(SocketAddr::from(([127, 0, 0, 1], free_port()?))) } else { None };
        let mut flags: Vec<String> =
            metrics.iter().map(|metrics| format!("--metrics-port={}", metrics.port())).collect();
        let collector = if side.traces == Traces::Otlp { Some(Collector::start()?) } else { None };
        let mut environment = Vec::new();
        if side.traces != Traces::Off {
            flags.push("--tracing".to_owned());
            environment.push(("OTEL_TRACES_SAMPLER_ARG", "0.1".to_owned()));
            let exporter = if collector.is_some() { "otlp" } else { "console" };
            environment.push(("OTEL_TRACES_EXPORTER", exporter.to_owned()));
        }
        if let Some(collector) = &collector {
            environment.push(("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", collector.address)));
        }
        let (address, pid) = self.run(side, flags, &environment, processes).await?;
        let job = |client| Rc::new(chat::job(client, [base, address], self.engines.prefill));
        Ok(Sidecar { side, pid, base_pid, jobs: (0..CLIENTS).map(job).collect(), metrics, collector })
    }

    /// Starts a sidecar with the flags of `side` and some more; returns where it listens and its process.
    async fn run(
        &self,
        side: Side,
        more: Vec<String>,
        environment: &[(&str, String)],
        processes: &mut Vec<Process>,
    ) -> Result<(SocketAddr, u32)> {
        let port = free_port()?;
        let mut flags = vec![
            format!("--port={port}"),
            format!("--model-server-port={}", self.engines.decode.port()),
            format!("--mooncake-bootstrap-port={}", self.bootstrap.port()),
            "--secure-serving=false".to_owned(),
        ];
        flags.extend(side.flags.iter().map(|flag| (*flag).to_owned()));
        flags.extend(more);
        flags.extend(self.arguments.sidecar_args.iter().cloned());
        let program = &self.arguments.sidecar;
        let mut process = Process::start_in(environment, side.name, program, &flags, false, self.logs)?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        process.healthy(address).await?;
        let pid = process.pid;
        processes.push(process);
        Ok((address, pid))
    }
}
