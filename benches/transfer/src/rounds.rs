//! A group of sides on the same works: opened together, measured by turns, closed. A machine that slows down slows all of
//! them down; a side that cannot be opened is left out, with its reason, and the others go on.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use kvferry_bench_common::Result;
use kvferry_bench_common::num::median;

use crate::figures::Sample;
use crate::place::Where;
use crate::progress::Progress;
use crate::session::{Cold, Fan, Session};
use crate::side::{Kind, Side};
use crate::work::{Pace, Work};

/// A work and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// As tables and files name it.
    pub name: String,
    /// What is done.
    pub work: Work,
}

/// Sides and cells that are measured together.
#[derive(Debug, Clone)]
pub struct Group {
    /// The sides.
    pub sides: Vec<Side>,
    /// The cells.
    pub cells: Vec<Cell>,
    /// How often and how long.
    pub pace: Pace,
    /// How many ends a side has.
    pub fan: Fan,
    /// Whether every byte is verified, before and after the rounds.
    pub verify: bool,
    /// Whether one byte is changed on purpose.
    pub flip: bool,
    /// How long all sides are left alone once to see what they cost then.
    pub idle: Option<Duration>,
}

/// What came of all groups.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was done, in this order, each name once.
    pub cells: Vec<Cell>,
    /// Which ceiling a side is held against.
    pub against: BTreeMap<String, &'static str>,
    /// Every window.
    pub samples: Vec<Sample>,
    /// What came before the first transfer of each side.
    pub cold: Vec<(String, Cold)>,
    /// CPU seconds of each side for each second that it was left alone.
    pub idle: Vec<(String, f64)>,
    /// Bytes that were verified.
    pub verified: u64,
    /// What was left out, and why; also other engines that failed under way.
    pub missing: Vec<String>,
    /// Wrong bytes, and fabrics of ours that failed under way.
    pub failures: Vec<String>,
}

/// Windows of the first work that make its warm median.
const WARM_PASSES: usize = 5;

/// Measures a group. What cannot be opened or fails is written down in `outcome`.
///
/// # Errors
/// When a work is none.
pub fn measure(group: &Group, place: &Where, progress: &Progress, outcome: &mut Outcome) -> Result<()> {
    let mut bytes = (0, 0);
    for cell in &group.cells {
        let pieces = cell.work.pieces().map_err(|error| format!("{}: {error}", cell.name))?;
        bytes = (bytes.0.max(pieces.local_extent), bytes.1.max(pieces.remote_extent));
    }
    for cell in &group.cells {
        if outcome.cells.iter().all(|known| known.name != cell.name) {
            outcome.cells.push(cell.clone());
        }
    }
    let mut open = Vec::new();
    for side in &group.sides {
        outcome.against.extend(side.held_against().map(|ceiling| (side.name.clone(), ceiling)));
        progress.now(&format!("{}: opening", side.name));
        match Session::open(side, place, group.fan, bytes) {
            Ok(mut session) => {
                session.rest(true);
                open.push(session);
            }
            Err(error) => outcome.missing.push(format!("{}: {error}", side.name)),
        }
    }
    for (number, cell) in group.cells.iter().enumerate() {
        measure_cell(group, cell, number == 0, &mut open, progress, outcome);
    }
    if let Some(span) = group.idle {
        idle(&mut open, span, progress, outcome);
    }
    outcome.cold.extend(open.into_iter().map(|session| (session.side.name.clone(), session.cold)));
    Ok(())
}

fn measure_cell(
    group: &Group,
    cell: &Cell,
    first: bool,
    open: &mut Vec<Session>,
    progress: &Progress,
    outcome: &mut Outcome,
) {
    let ready = |session: &mut Session, outcome: &mut Outcome| -> Result<()> {
        session.prepare(&cell.work)?;
        if first {
            cold(session)?;
        }
        if group.verify {
            progress.now(&format!("{} {}: verifying", cell.name, session.side.name));
            outcome.verified += session.verify(group.flip)?;
        }
        Ok(())
    };
    keep_good(open, cell, outcome, ready);
    for round in 0..=group.pace.rounds {
        // Backwards in every other round, so that nobody always comes after the same neighbour.
        if round > 0 {
            open.reverse();
        }
        let run = |session: &mut Session, outcome: &mut Outcome| -> Result<()> {
            progress.now(&format!("{} {}", cell.name, session.side.name));
            let window = session.run(group.pace.window)?;
            progress.step();
            // The first one warms up: pages, caches, the windows of TCP.
            if round > 0 {
                let (cell, side) = (cell.name.clone(), session.side.name.clone());
                outcome.samples.push(Sample { cell, side, round, window });
            }
            Ok(())
        };
        keep_good(open, cell, outcome, run);
    }
    if group.pace.rounds % 2 == 1 {
        open.reverse();
    }
    if group.verify {
        keep_good(open, cell, outcome, |session, outcome| {
            outcome.verified += session.verify(false)?;
            Ok(())
        });
    }
}

/// Does something with every session; one that fails is not used again.
fn keep_good(
    open: &mut Vec<Session>,
    cell: &Cell,
    outcome: &mut Outcome,
    mut act: impl FnMut(&mut Session, &mut Outcome) -> Result<()>,
) {
    open.retain_mut(|session| match awake(session, |session| act(session, outcome)) {
        Ok(()) => true,
        Err(error) => {
            let words = format!("{} in {}: {error}", session.side.name, cell.name);
            // What goes wrong in another engine is told, but is not this run's failure.
            let ours = matches!(session.side.kind, Kind::Fabric { .. } | Kind::Ceiling(_));
            if ours { &mut outcome.failures } else { &mut outcome.missing }.push(words);
            let (side, failed) = (session.side.name.as_str(), cell.name.as_str());
            outcome.samples.retain(|sample| sample.side != side || sample.cell != failed);
            false
        }
    });
}

/// Does something with a session that may be held still while it is not its turn.
fn awake<T>(session: &mut Session, act: impl FnOnce(&mut Session) -> T) -> T {
    session.rest(false);
    let done = act(session);
    session.rest(true);
    done
}

/// The first pass after the handshake beside later ones.
fn cold(session: &mut Session) -> Result<()> {
    if !session.side.can_verify() {
        return Ok(());
    }
    let mut pass = || Ok::<f64, kvferry_bench_common::Error>(session.run(Duration::ZERO)?.ran.seconds * 1e3);
    let first = pass()?;
    let warm = (0..WARM_PASSES).map(|_| pass()).collect::<Result<Vec<f64>>>()?;
    (session.cold.first_ms, session.cold.warm_ms) = (Some(first), median(warm));
    Ok(())
}

fn idle(open: &mut [Session], span: Duration, progress: &Progress, outcome: &mut Outcome) {
    // All that sleep by themselves at once; each of the others alone.
    let (mut restless, mut quiet): (Vec<_>, Vec<_>) =
        open.iter_mut().partition(|session| session.side.is_restless());
    progress.now("leaving all sides alone");
    leave_alone(&mut quiet, span, outcome);
    for session in restless.chunks_mut(1) {
        progress.now(&format!("leaving {} alone", session[0].side.name));
        session[0].rest(false);
        leave_alone(session, span, outcome);
        session[0].rest(true);
    }
}

fn leave_alone(some: &mut [&mut Session], span: Duration, outcome: &mut Outcome) {
    let cpu = |session: &mut Session| session.cpu().ok().flatten();
    let before: Vec<_> = some.iter_mut().map(|session| cpu(session)).collect();
    thread::sleep(span);
    for (session, before) in some.iter_mut().zip(before) {
        if let (Some(before), Some(after)) = (before, cpu(session)) {
            outcome.idle.push((session.side.name.clone(), (after - before) / span.as_secs_f64()));
        }
    }
}
