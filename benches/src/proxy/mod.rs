//! `kvferry-bench proxy`: what a proxy in front of the engines costs, all sides in one run.
//!
//! Every cell goes round the sides several times and keeps medians, so that noise of the machine meets all of them. Wrong
//! answers fail the run; missed goals do not, they are printed.

mod figures;
pub(crate) mod fleet;
pub(crate) mod measure;
mod plan;
mod plot;
pub mod process;
pub mod ratios;
mod report;
mod sides;
mod stamp;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;

pub use figures::{Figures, Percentiles, figures};
pub use fleet::Fleet;
pub use kvferry_bench_common::Ratio;
pub use measure::{MemorySample, Sample};
pub use plan::{Arrivals, Cell, Streaming};
pub use sides::{Engines, Role, Side, job};

use crate::Result;
use crate::cli::ProxyArgs;
use crate::procfs::{self, Machine};

/// Open files the run needs: 2,000 streams with up to four sockets each in one process, and some air.
const OPEN_FILES: u64 = 10_000;

/// Load average up to which a machine counts as quiet: a build that ended half a minute ago still shows as this much.
const QUIET_LOAD: f64 = 0.7;

/// What proxy.json holds.
#[derive(Debug, Serialize)]
struct Results<'a> {
    /// When the run began, UTC.
    date: String,
    quick: bool,
    machine: Machine,
    /// Versions of what was compared.
    versions: BTreeMap<&'static str, String>,
    ratios: BTreeMap<&'static str, Ratio>,
    /// Comparisons without a goal.
    besides: BTreeMap<&'static str, f64>,
    /// What was left out, and why.
    notes: &'a [String],
    /// Wrong answers.
    failures: &'a [String],
    figures: &'a [Figures],
    memory: &'a [MemorySample],
    samples: &'a [Sample],
}

/// Runs the bench.
///
/// # Errors
/// When a program cannot be started, or an answer was wrong or missing.
pub async fn run(arguments: &ProxyArgs) -> Result<()> {
    let date = crate::stamp::now();
    let logs = arguments.out.join("logs");
    fs::create_dir_all(&logs).map_err(|error| format!("--out {}: {error}", logs.display()))?;
    raise_open_files()?;
    let cells = plan::cells(arguments.quick, arguments.only.as_deref());
    if cells.is_empty() {
        return Err("no cell's name contains what --only asks for".into());
    }
    let machine = procfs::machine();
    let mut fleet = Fleet::start(arguments, &logs).await?;
    fleet.notes.extend(busy(&machine));
    for note in &fleet.notes {
        println!("note: {note}");
    }

    let mut memory = measure_memory(&mut fleet).await;
    let mut samples = Vec::new();
    let mut all = Vec::new();
    for cell in &cells {
        measure_cell(&fleet, cell, &mut samples).await;
        let figures = cell_figures(&fleet, cell, &samples);
        print!("{}", report::cell(cell, &figures));
        all.extend(figures);
    }
    for sample in &mut memory {
        if let Some(pid) = fleet.sides.iter().find(|side| side.name == sample.side).and_then(|side| side.pid)
        {
            measure::memory_after(sample, pid)?;
        }
    }
    if all.iter().any(|figures| figures.cell == plan::FRAMES && figures.transit.is_none()) {
        fleet.notes.push("the engine's frames carry no time of emission: no frame delays".to_owned());
        println!("note: the engine's frames carry no time of emission: no frame delays");
    }
    let notes = std::mem::take(&mut fleet.notes);
    fleet.stop().await;

    let measured = ratios::Measured { figures: &all, memory: &memory };
    let (goals, missing) = ratios::ratios(measured);
    let besides = ratios::besides(measured);
    print!("{}{}", report::memory(&memory), report::ratios(&goals, &missing, &besides));
    let failures = report::failures(&samples);
    let picture = plot::svg(&all, &format!("{}, {} cores, {date}", machine.cpu, machine.cores));
    let results = Results {
        date,
        quick: arguments.quick,
        machine,
        versions: versions(arguments),
        ratios: goals,
        besides,
        notes: &notes,
        failures: &failures,
        figures: &all,
        memory: &memory,
        samples: &samples,
    };
    write(&arguments.out.join("proxy.json"), &serde_json::to_string_pretty(&results)?)?;
    write(&arguments.out.join("proxy.svg"), &picture)?;
    if failures.is_empty() {
        Ok(())
    } else {
        Err(format!("wrong answers:\n  {}", failures.join("\n  ")).into())
    }
}

/// Every side of a cell, in turns; every other round backwards, so that nobody always comes after the same neighbour.
async fn measure_cell(fleet: &Fleet, cell: &Cell, samples: &mut Vec<Sample>) {
    let sides: Vec<&Side> = fleet.sides.iter().filter(|side| cell.wants(side)).collect();
    for round in 0..cell.rounds {
        let mut order = sides.clone();
        if round % 2 == 1 {
            order.reverse();
        }
        for side in order {
            let sample = measure::sample(fleet, cell, side, round).await;
            samples.push(sample.unwrap_or_else(|error| measure::failed(cell, side, round, &error)));
        }
    }
}

fn cell_figures(fleet: &Fleet, cell: &Cell, samples: &[Sample]) -> Vec<Figures> {
    let direct = |side: &Side| if side.split { "direct-pd" } else { "direct" };
    fleet.sides.iter().filter_map(|side| figures(samples, &cell.name, &side.name, direct(side))).collect()
}

/// A warning when others use the machine: medians of alternating rounds bear some noise, tails do not.
pub(crate) fn busy(machine: &Machine) -> Option<String> {
    let load = machine.load_average;
    (load > QUIET_LOAD).then(|| {
        format!("load average {load} before the run: others disturb it; latencies, above all p99, say little")
    })
}

/// The memory of each proxy, before any other load.
async fn measure_memory(fleet: &mut Fleet) -> Vec<MemorySample> {
    let mut memory = Vec::new();
    let mut notes = Vec::new();
    for side in fleet.sides.iter().filter(|side| measure::has_memory(side)) {
        match measure::memory(fleet, side).await {
            Ok(sample) => memory.push(sample),
            Err(error) => notes.push(format!("no memory figures of {}: {error}", side.name)),
        }
    }
    for note in &notes {
        println!("note: {note}");
    }
    fleet.notes.extend(notes);
    memory
}

/// Lets this process and those it starts open as many files as the run needs.
fn raise_open_files() -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < OPEN_FILES.min(hard) {
        setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES.min(hard), hard)?;
    }
    if hard < OPEN_FILES {
        println!(
            "note: at most {hard} open files, {OPEN_FILES} are needed: run `ulimit -Hn {OPEN_FILES}` first"
        );
    }
    Ok(())
}

fn versions(arguments: &ProxyArgs) -> BTreeMap<&'static str, String> {
    let mut versions = BTreeMap::from([("kvferry", env!("CARGO_PKG_VERSION").to_owned())]);
    if let Some(version) = arguments.router.as_deref().and_then(stamp::python_package) {
        versions.insert("vllm-router", version);
    }
    versions
}

/// Writes a file and says so.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    println!("wrote {}", path.display());
    Ok(())
}
