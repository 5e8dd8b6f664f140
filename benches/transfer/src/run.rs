//! A run from begin to end: what is measured, told and written.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use kvferry_bench_common::procfs::{self, Machine};
use kvferry_bench_common::{Ratio, Result, num, stamp};
use serde::Serialize;

use crate::cli::{self, Compared, TransferArgs};
use crate::control::client::Link;
use crate::figures::{self, Figures, figures};
use crate::peers;
use crate::place::Where;
use crate::progress::Progress;
use crate::ratios::{self, Goal, Measure, Stand};
use crate::rounds::{self, Cell, Group, Outcome};
use crate::session::Cold;
use crate::side::Side;
use crate::{plan, plot, report, scorecard, sweep};

/// What transfer.json holds.
#[derive(Debug, Serialize)]
struct Results<'a> {
    /// When the run began, UTC.
    date: String,
    quick: bool,
    what: &'a str,
    machine: Machine,
    ratios: &'a BTreeMap<String, Ratio>,
    /// What one should know before believing the figures.
    notes: Vec<String>,
    /// Comparisons without a goal.
    besides: &'a BTreeMap<String, f64>,
    missing_ratios: &'a [String],
    /// Sides that could not be opened, and why.
    missing: &'a [String],
    /// Sides that failed, or moved a wrong byte.
    failures: &'a [String],
    verified_bytes: u64,
    cold: BTreeMap<&'a str, &'a Cold>,
    /// CPU seconds a second of sides that are left alone.
    idle: BTreeMap<&'a str, f64>,
    cells: &'a [Figures],
}

/// A folder that goes with the run.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("kvferry-bench-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A leftover in the temporary folder harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Drives a run.
///
/// # Errors
/// When something that was asked for cannot be, a byte was wrong, a side failed, or nothing was measured.
pub fn drive(arguments: &TransferArgs) -> Result<()> {
    let date = stamp::now();
    let machine = procfs::machine();
    fs::create_dir_all(&arguments.out)
        .map_err(|error| format!("--out {}: {error}", arguments.out.display()))?;
    let scratch = Scratch::new()?;
    let secret = cli::secret(arguments.secret_file.as_ref())?;
    let links = arguments.connect.iter().map(|address| Link::open(address, secret.as_ref()));
    let links = links.collect::<Result<Vec<_>>>()?;
    let place = Where { links, secret, programs: arguments.programs()?, scratch: scratch.0.clone() };
    let mut outcome = Outcome::default();
    let (goals, what) = if arguments.scorecard {
        if !arguments.local {
            return Err("--scorecard needs --local: it runs other engines at both ends".into());
        }
        let goals = scorecard::run(arguments.quick, &place, &mut outcome)?;
        (goals, scorecard::explain())
    } else {
        let mut group = plan::group(arguments)?;
        add_mooncake(arguments, &place, &mut group, &mut outcome)?;
        rounds_of(arguments, &group, &place, &mut outcome)?;
        (besides(&group), GENERAL)
    };
    for link in &place.links {
        link.bye()?;
    }
    let stand = ratios::stand(&goals, &outcome);
    let results = Results {
        date: date.clone(),
        quick: arguments.quick,
        what,
        machine: machine.clone(),
        ratios: &stand.ratios,
        notes: notes(&machine),
        besides: &stand.besides,
        missing_ratios: &stand.missing,
        missing: &outcome.missing,
        failures: &outcome.failures,
        verified_bytes: outcome.verified,
        cold: outcome.cold.iter().map(|(side, cold)| (side.as_str(), cold)).collect(),
        idle: outcome.idle.iter().map(|(side, share)| (side.as_str(), *share)).collect(),
        cells: &[],
    };
    tell(arguments, &outcome, &stand, results)
}

const GENERAL: &str = "GB/s of sides that were measured by turns, medians over rounds; a part of a ceiling is the median \
                       of the parts of rounds that were taken side by side.";

fn rounds_of(arguments: &TransferArgs, group: &Group, place: &Where, outcome: &mut Outcome) -> Result<()> {
    let steps = group.sides.len() * group.cells.len() * (group.pace.rounds + 1);
    let progress = Progress::new(steps, arguments.quiet);
    let measured = rounds::measure(group, place, &progress, outcome);
    progress.clear();
    measured
}

fn add_mooncake(
    arguments: &TransferArgs,
    place: &Where,
    group: &mut Group,
    outcome: &mut Outcome,
) -> Result<()> {
    let python = place.programs.python.as_deref();
    if arguments.compare.contains(&Compared::NixlPython) {
        peers::has(python, "nixl")?;
    }
    if arguments.compare.contains(&Compared::Mooncake) {
        peers::has(python, "mooncake")?;
        let progress = Progress::new(0, true);
        let best = sweep::best_of_mooncake(arguments.quick, &group.cells, place, &progress, outcome)?;
        group.sides.extend(best);
    }
    Ok(())
}

fn notes(machine: &Machine) -> Vec<String> {
    let quiet = machine.load_average < num::float_len(machine.cores) / 2.0;
    let load = machine.load_average;
    let busy = format!(
        "load average {load} on {} cores before the run: others disturb it; ratios of rounds are what is left to compare",
        machine.cores
    );
    (!quiet).then_some(busy).into_iter().collect()
}

/// Each side beside its ceiling.
fn besides(group: &Group) -> Vec<Goal> {
    let goal = |cell: &Cell, side: &Side, ceiling: &str| Goal {
        name: format!("{}_{}_vs_{ceiling}", side.name, cell.name),
        cell: cell.name.clone(),
        side: side.name.clone(),
        beside: vec![ceiling.to_owned()],
        measure: Measure::Speed,
        bound: None,
        at_least: true,
    };
    let measured = |name: &&str| group.sides.iter().any(|side| side.name == *name);
    let held = group.sides.iter().filter_map(|side| Some((side, side.held_against().filter(measured)?)));
    held.flat_map(|(side, ceiling)| group.cells.iter().map(move |cell| goal(cell, side, ceiling))).collect()
}

/// The sides that were measured in a cell, by name.
fn sides_of(outcome: &Outcome, cell: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for sample in outcome.samples.iter().filter(|sample| sample.cell == cell) {
        if !names.contains(&sample.side) {
            names.push(sample.side.clone());
        }
    }
    names.sort();
    names
}

fn tell(arguments: &TransferArgs, outcome: &Outcome, stand: &Stand, results: Results<'_>) -> Result<()> {
    let mut tables = String::new();
    let mut by_cell = Vec::new();
    for cell in &outcome.cells {
        let name = &cell.name;
        let lines: Vec<Figures> =
            sides_of(outcome, name).iter().filter_map(|side| figures(&outcome.samples, name, side)).collect();
        if lines.is_empty() {
            continue;
        }
        let of_ceiling =
            |side: &str| figures::of_rounds(&outcome.samples, name, side, outcome.against.get(side)?);
        tables += &report::cell(cell, &lines, &of_ceiling);
        by_cell.push((name.clone(), lines));
    }
    tables += &report::cold(outcome);
    tables += &report::goals(stand);
    print!("{tables}");
    if outcome.verified > 0 {
        println!("\n{:.1} MB verified, byte for byte", num::float(outcome.verified) / 1e6);
    }
    for missing in &outcome.missing {
        println!("left out: {missing}");
    }
    for note in &results.notes {
        println!("note: {note}");
    }
    let machine = &results.machine;
    let words =
        format!("{}, {} cores, Linux {}, {}", machine.cpu, machine.cores, machine.kernel, results.date);
    let flat: Vec<Figures> = by_cell.iter().flat_map(|(_, lines)| lines.clone()).collect();
    let picture = plot::svg(&by_cell, &words);
    let out = |name: &str| arguments.out.join(name);
    write(&out("transfer.svg"), &picture)?;
    write(&out("transfer.html"), &plot::html(&picture, &tables, &results.date))?;
    write(&out("transfer.csv"), &report::csv(&flat))?;
    write(&out("transfer.json"), &serde_json::to_string_pretty(&Results { cells: &flat, ..results })?)?;
    if !outcome.failures.is_empty() {
        return Err(format!("these failed:\n  {}", outcome.failures.join("\n  ")).into());
    }
    if outcome.samples.is_empty() {
        return Err(format!("nothing could be measured:\n  {}", outcome.missing.join("\n  ")).into());
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    println!("wrote {}", path.display());
    Ok(())
}
