//! `kvferry-bench connectors`: what each connector costs beside `nixlv2` serial, and what metrics and traces cost beside
//! none, in CPU time of the sidecar for each request.
//!
//! Differences of some per cent are looked for on machines whose speed changes by more than that from one second to the
//! next. So a side is never compared with another moment: every client talks with the side and with its base in turn. And
//! a second process of the base itself tells what remains of noise.

mod aside;
mod chat;
mod collector;
mod engine;
mod fleet;
mod measure;
mod plot;
mod report;
mod rounds;
mod sides;

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use serde::Serialize;

use crate::Result;
use crate::cli::ConnectorsArgs;
use crate::procfs::{self, Machine};
use crate::proxy::Ratio;
use crate::proxy::{busy, write};
use crate::stamp;

use fleet::Fleet;
use rounds::{Cost, Pair};
use sides::{Side, Traces};

/// How long and how often is measured.
#[derive(Debug, Clone, Copy)]
struct Plan {
    /// How often all processes are started anew: two processes of the same program differ by a per cent or two, by where
    /// their memory happens to lie.
    lives: usize,
    /// Rounds in each life.
    rounds: usize,
    /// A window of a connector.
    connectors: Duration,
    /// A window of telemetry: whole seconds, which hold as many scrapes.
    telemetry: Duration,
}

/// Enough for medians to lie within a per cent or so of the next run's; under five minutes.
const FULL: Plan =
    Plan { lives: 5, rounds: 3, connectors: Duration::from_millis(500), telemetry: Duration::from_secs(1) };

/// A look.
const QUICK: Plan = Plan { lives: 1, ..FULL };

impl Plan {
    fn window(&self, side: &Side) -> Duration {
        if side.scraped || side.traces != Traces::Off { self.telemetry } else { self.connectors }
    }
}

/// What came of a side.
#[derive(Debug, Clone)]
struct Line {
    side: Side,
    cost: Cost,
}

/// What connectors.json holds.
#[derive(Debug, Serialize)]
struct Results<'a> {
    /// When the run began, UTC.
    date: String,
    quick: bool,
    /// What is measured.
    what: String,
    machine: Machine,
    ratios: BTreeMap<String, Ratio>,
    /// Ratios without a goal.
    besides: BTreeMap<String, f64>,
    notes: Vec<String>,
    /// Sides that answered wrongly, or did not do what they are there for.
    failures: &'a [String],
    costs: BTreeMap<&'static str, &'a Cost>,
}

/// Runs the bench.
///
/// # Errors
/// When a program cannot be started, an answer was wrong or missing, or a side did not do what it is there for.
pub async fn run(arguments: &ConnectorsArgs) -> Result<()> {
    let date = stamp::now();
    let logs = arguments.out.join("logs");
    fs::create_dir_all(&logs).map_err(|error| format!("--out {}: {error}", logs.display()))?;
    let plan = if arguments.quick { QUICK } else { FULL };
    let what = report::explain(plan);
    println!("{what}");
    let machine = procfs::machine();
    let notes: Vec<String> = busy(&machine).into_iter().collect();
    for note in &notes {
        println!("note: {note}");
    }
    let sides = sides::wanted(arguments.only.as_deref())?;
    let mut measured: Vec<(Side, Vec<Pair>)> = sides.iter().map(|side| (*side, Vec::new())).collect();
    let mut failures = Vec::new();
    for life in 0..plan.lives {
        println!("life {} of {}", life + 1, plan.lives);
        let fleet = Fleet::start(arguments, &sides, &logs).await?;
        for round in 0..plan.rounds {
            measure_round(&fleet, plan, round, &mut measured).await?;
        }
        failures.extend(fleet.unseen());
        fleet.stop().await;
    }
    let lines: Vec<Line> = measured
        .into_iter()
        .filter_map(|(side, pairs)| Some(Line { side, cost: Cost::of(&pairs)? }))
        .collect();
    print!("{}", report::table(&lines));
    let picture = plot::svg(&lines, &format!("{}, {} cores, {date}", machine.cpu, machine.cores));
    let results = Results {
        date,
        quick: arguments.quick,
        what,
        machine,
        ratios: lines.iter().filter_map(goal).collect(),
        besides: lines.iter().filter(|line| line.side.goal.is_none()).map(named).collect(),
        notes,
        failures: &failures,
        costs: lines.iter().map(|line| (line.side.name, &line.cost)).collect(),
    };
    write(&arguments.out.join("connectors.json"), &serde_json::to_string_pretty(&results)?)?;
    write(&arguments.out.join("connectors.svg"), &picture)?;
    if failures.is_empty() {
        Ok(())
    } else {
        Err(format!("these did not do what they are there for:\n  {}", failures.join("\n  ")).into())
    }
}

/// Every side once, in every other round backwards, so that nobody always comes after the same neighbour.
async fn measure_round(
    fleet: &Fleet,
    plan: Plan,
    round: usize,
    measured: &mut [(Side, Vec<Pair>)],
) -> Result<()> {
    let mut order: Vec<_> = measured.iter_mut().collect();
    if round % 2 == 1 {
        order.reverse();
    }
    for (side, pairs) in order {
        let sidecar = fleet.sidecars.iter().find(|sidecar| sidecar.side.name == side.name);
        let sidecar = sidecar.ok_or("every side has a sidecar")?;
        pairs.push(measure::pair(sidecar, plan.window(side)).await?);
    }
    Ok(())
}

fn named(line: &Line) -> (String, f64) {
    (format!("{}_cpu_vs_nixlv2", line.side.name), line.cost.ratio)
}

fn goal(line: &Line) -> Option<(String, Ratio)> {
    let (name, value) = named(line);
    Some((name, Ratio { value, goal: line.side.goal?, at_least: false }))
}
