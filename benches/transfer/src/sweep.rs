//! Mooncake's lanes and slices: what it is compared with is the best of them, not what it happens to come with.

use std::time::Duration;

use kvferry_bench_common::Result;

use crate::figures::figures;
use crate::peers::Mooncake;
use crate::place::Where;
use crate::progress::Progress;
use crate::rounds::{self, Cell, Group, Outcome};
use crate::session::PAIR;
use crate::side::{Kind, Side};
use crate::work::Pace;

/// Settings that are open at a time: their idle threads should not be what the others compete with.
const AT_A_TIME: usize = 4;

/// A look at each: they differ by more than rounds do.
const PACE: Pace = Pace { rounds: 2, window: Duration::from_millis(100) };

/// Mooncake with the settings that are fastest in each of the cells. What went wrong is written down in `outcome`.
///
/// # Errors
/// When a work is none.
pub fn best_of_mooncake(
    quick: bool,
    cells: &[Cell],
    place: &Where,
    progress: &Progress,
    outcome: &mut Outcome,
) -> Result<Vec<Side>> {
    let swept: Vec<Side> = Mooncake::sweep(quick)
        .into_iter()
        .map(|settings| Side::of(settings.label(), Kind::Mooncake(settings)))
        .collect();
    let mut found = Outcome::default();
    for some in swept.chunks(AT_A_TIME) {
        let look = Group {
            sides: some.to_vec(),
            cells: cells.to_vec(),
            pace: PACE,
            fan: PAIR,
            verify: false,
            flip: false,
            idle: None,
        };
        rounds::measure(&look, place, progress, &mut found)?;
    }
    outcome.missing.append(&mut found.missing);
    outcome.failures.append(&mut found.failures);
    let mut best: Vec<Side> = Vec::new();
    for cell in cells {
        let speed = |side: &Side| {
            figures(&found.samples, &cell.name, &side.name).map_or(0.0, |figures| figures.gb_per_s)
        };
        let fastest = swept.iter().max_by(|one, other| speed(one).total_cmp(&speed(other)));
        if let Some(side) = fastest.filter(|side| speed(side) > 0.0 && !best.contains(side)) {
            best.push(side.clone());
        }
    }
    Ok(best)
}
