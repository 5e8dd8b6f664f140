//! The course of a run: answers computed, a storm, rest, a calm, rest, and everything taken down while it is watched.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::Result;
use crate::args::Args;
use crate::expect::Expected;
use crate::fleet::{Fleet, LEASE};
use crate::gauges;
use crate::load::Load;
use crate::outcome::Tally;
use crate::plan::Phase;
use crate::ports::Ports;
use crate::process::{descriptors, load_average, rss_kib};
use crate::record::{Part, Record, Sample};
use crate::sidecar::Sidecar;

/// Part of the load time in which engines fail; the rest is calm.
const STORM_PERCENT: u64 = 75;

/// Between two readings.
const SAMPLE: Duration = Duration::from_secs(1);

/// How long the last lease of a storm may take to end: prolonged once, and what a crowded machine adds.
const REST: Duration = Duration::from_secs(LEASE.as_secs() * 2 + 20);

/// Between two looks for rest.
const LOOK: Duration = Duration::from_millis(100);

/// Looks in a row that must find everything empty: the sidecar may be between two steps of one request.
const STEADY: u32 = 5;

/// The allocator gives memory back within half a second or so, and kept connections are closed after 4 s.
const SETTLE: Duration = Duration::from_secs(6);

/// How long descriptors may take to be closed when both sides are gone.
const CLOSE: Duration = Duration::from_secs(20);

/// Descriptors of this process for each stream: the client's, an engine's for each leg, and both ends of a KV transfer.
const DESCRIPTORS_PER_STREAM: u64 = 5;

/// And for everything else.
const DESCRIPTORS: u64 = 500;

/// Runs it all.
///
/// # Errors
/// It could not be run; what it shows is in the record.
pub(crate) async fn run(args: &Args, seed: u64) -> Result<Record> {
    enough_descriptors(args.streams)?;
    std::fs::create_dir_all(&args.out)?;
    eprintln!("soak: computing the right answers");
    let expected = Expected::compute().await?;
    let mut ports = Ports::new();
    let fleet = Fleet::start(args.prefills, &mut ports).await?;
    let sidecar = Sidecar::start(args, &fleet, &mut ports)?;
    let load = Arc::new(Load {
        seed,
        sidecar: sidecar.address,
        prefills: fleet.prefills.iter().map(|engine| engine.address.to_string()).collect(),
        nobody: format!("127.0.0.1:{}", ports.next()?),
        expected,
        in_flight: AtomicU64::new(0),
    });
    // The probe that found it listening must be gone from its descriptors.
    sleep(SAMPLE).await;
    let before = descriptors(sidecar.pid())?;

    let storm_time = Duration::from_secs(args.seconds * STORM_PERCENT / 100);
    let calm_time = Duration::from_secs(args.seconds).saturating_sub(storm_time);
    let mut samples = Vec::new();
    let watch = Watch { pid: sidecar.pid(), metrics: sidecar.metrics, load: &load, fleet: &fleet };
    eprintln!("soak: {} streams, storm for {} s", args.streams, storm_time.as_secs());
    let storm = watch.phase(Phase::Storm, args.streams, storm_time, &mut samples).await?;
    let expired = fleet.expired();
    eprintln!("soak: calm for {} s", calm_time.as_secs());
    let calm = watch.phase(Phase::Calm, args.streams, calm_time, &mut samples).await?;
    // An engine that died in the calm has forgotten its count, but is reported as down.
    let expired_in_calm = fleet.expired().saturating_sub(expired);

    let load_average = load_average();

    eprintln!("soak: taking everything down");
    let (stalls, lives) =
        fleet.all().fold((0, 0), |(s, l), engine| (s + engine.stalls(), l + engine.lives()));
    fleet.stop().await?;
    let left = descriptors_left(sidecar.pid(), before.len()).await?;
    let ended = tokio::task::spawn_blocking(move || sidecar.stop()).await??;
    Ok(Record {
        seed,
        connector: args.connector.clone(),
        streams: args.streams,
        prefills: args.prefills,
        storm,
        calm,
        stalls,
        lives,
        load_average,
        expired_in_calm,
        samples,
        descriptors_before: before.len() as u64,
        descriptors_left: left,
        sidecar: ended,
    })
}

fn enough_descriptors(streams: u64) -> Result<()> {
    let wanted = streams * DESCRIPTORS_PER_STREAM + DESCRIPTORS;
    let got = rlimit::increase_nofile_limit(wanted)?;
    if got < wanted {
        return Err(format!(
            "{streams} streams need {wanted} open files and the hard limit is {got}: raise it (ulimit -Hn) or set \
             SOAK_STREAMS lower"
        )
        .into());
    }
    Ok(())
}

/// What is watched during a phase.
struct Watch<'w> {
    pid: u32,
    metrics: SocketAddr,
    load: &'w Arc<Load>,
    fleet: &'w Fleet,
}

impl Watch<'_> {
    /// Load for so long, in a storm with failing engines; then rest.
    async fn phase(
        &self,
        phase: Phase,
        streams: u64,
        lasts: Duration,
        samples: &mut Vec<Sample>,
    ) -> Result<Part> {
        let began = Instant::now();
        let mut suffering = JoinSet::new();
        if phase == Phase::Storm {
            for (index, engine) in self.fleet.all().enumerate() {
                suffering.spawn(Arc::clone(engine).suffer(self.load.seed, index as u64, began + lasts));
            }
        }
        let stopped = AtomicBool::new(false);
        let load = async {
            let tally = self.load.run(phase, streams, lasts).await;
            stopped.store(true, Ordering::Relaxed);
            tally
        };
        let readings = async {
            while !stopped.load(Ordering::Relaxed) {
                sleep(SAMPLE).await;
                // While the last requests end the load is another, and so is what it takes.
                if began.elapsed() < lasts {
                    samples.push(self.sample(phase, began)?);
                }
            }
            Result::<()>::Ok(())
        };
        let (tally, readings) = tokio::join!(load, readings);
        readings?;
        while let Some(end) = suffering.join_next().await {
            end??;
        }
        let mut part = part(tally?);
        eprintln!("soak: {} requests; waiting for rest", part.requests);
        self.rest(&mut part).await?;
        sleep(SETTLE).await;
        part.rss_at_rest_kib = rss_kib(self.pid)?;
        Ok(part)
    }

    fn sample(&self, phase: Phase, began: Instant) -> Result<Sample> {
        Ok(Sample {
            at_s: began.elapsed().as_secs_f64(),
            phase,
            rss_kib: rss_kib(self.pid)?,
            descriptors: descriptors(self.pid)?.len() as u64,
            in_flight: self.load.in_flight.load(Ordering::Relaxed),
        })
    }

    /// Waits until neither the sidecar nor an engine holds or does anything.
    async fn rest(&self, part: &mut Part) -> Result<()> {
        let began = Instant::now();
        let mut steady = 0;
        while steady < STEADY {
            sleep(LOOK).await;
            let own = gauges::holdings(self.metrics).await?;
            let holdings =
                self.fleet.holdings().into_iter().chain(own).reduce(|all, own| format!("{all}; {own}"));
            steady = if holdings.is_none() { steady + 1 } else { 0 };
            if began.elapsed() > REST {
                part.left = holdings.or_else(|| Some("something, now and then".to_owned()));
                return Ok(());
            }
        }
        part.rest_after_s = Some(began.elapsed().as_secs_f64());
        Ok(())
    }
}

fn part(tally: Tally) -> Part {
    Part {
        outcomes: tally.counts,
        requests: tally.total,
        never: tally.never,
        unwell: tally.unwell,
        gave_up: tally.gave_up,
        examples: tally.examples,
        ..Part::default()
    }
}

/// Waits until the sidecar has no more descriptors than before; those it has if it still has more.
async fn descriptors_left(pid: u32, before: usize) -> Result<Vec<String>> {
    let deadline = Instant::now() + CLOSE;
    loop {
        let now = descriptors(pid)?;
        if now.len() <= before {
            return Ok(Vec::new());
        }
        if Instant::now() >= deadline {
            return Ok(now);
        }
        sleep(LOOK).await;
    }
}
