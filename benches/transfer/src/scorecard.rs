//! The fixed list: what this project promises of its data plane, each beside what it is promised against.

use std::time::Duration;

use kvferry_bench_common::Result;

use crate::model::{Rankage, Sequence};
use crate::pattern::{Order, Pattern, Raw};
use crate::place::Where;
use crate::plan::{NIXL, NIXL_BEST, NIXL_TCP, nixl_plain, nixl_sides, perftest};
use crate::progress::Progress;
use crate::ratios::{Goal, Measure};
use crate::rounds::{self, Cell, Group, Outcome};
use crate::session::PAIR;
use crate::side::Side;
use crate::sweep;
use crate::work::{Op, Pace, Work};
use crate::worker::{MEMCPY, SOCKETS};

/// How long sides are left alone.
const IDLE: Duration = Duration::from_secs(3);

/// CPU seconds a second that count as none: a timer that looks a hundred times a second, as NIXL's does.
const IDLE_BOUND: f64 = 0.01;

/// Bytes that stay in the caches of one core and its neighbours, as `ucx_perftest`'s one buffer does.
const HOT: u64 = 2 << 20;

/// How large everything is.
#[derive(Debug, Clone, Copy)]
struct Scale {
    pace: Pace,
    tokens: u64,
    ops: &'static [Op],
}

const FULL: Scale = Scale {
    pace: Pace { rounds: 9, window: Duration::from_millis(200) },
    tokens: 8192,
    ops: &[Op::Read, Op::Write],
};

const QUICK: Scale =
    Scale { pace: Pace { rounds: 3, window: Duration::from_millis(100) }, tokens: 1024, ops: &[Op::Read] };

fn raw(name: &str, op: Op, raw: Raw, depth: usize) -> Cell {
    let work = Work { op, pattern: Pattern::Raw(raw), batch: 0, depth, checksum: false };
    Cell { name: format!("{}-{name}", op.name()), work }
}

fn scattered(op: Op, kib: u64) -> Cell {
    raw(&format!("2048x{kib}KiB"), op, Raw { count: 2048, size: kib << 10, order: Order::Strided }, 1)
}

fn large(op: Op) -> Cell {
    raw("128x1MiB", op, Raw { count: 128, size: 1 << 20, order: Order::Backwards }, 1)
}

fn single() -> Cell {
    raw("one-16KiB", Op::Read, Raw { count: 1, size: 16 << 10, order: Order::Contiguous }, 1)
}

fn fabric(spelled: &str) -> Side {
    Side::fabric(spelled, 1, 2).expect("a backend of the table")
}

/// Runs it: what is measured is added to `outcome`, and the goals that it is for are returned.
///
/// # Errors
/// When a work is none.
pub fn run(quick: bool, place: &Where, outcome: &mut Outcome) -> Result<Vec<Goal>> {
    let scale = if quick { QUICK } else { FULL };
    let progress = Progress::new(0, true);
    let mut goals = Vec::new();
    let parts: [(&str, Part); 6] = [
        ("shared memory beside memcpy", shared_memory),
        ("single blocks, and doing nothing", single_blocks),
        ("scattered blocks over TCP, beside other engines", over_tcp),
        ("UCX beside ucx_perftest", beside_perftest),
        ("NIXL beside its Python agent", beside_python),
        ("a sequence of uncoalesced blocks", uncoalesced),
    ];
    for (number, (what, part)) in parts.iter().enumerate() {
        eprintln!("{} of {}: {what}", number + 1, parts.len());
        goals.extend(part(scale, quick, place, &progress, outcome)?);
    }
    Ok(goals)
}

type Part = fn(Scale, bool, &Where, &Progress, &mut Outcome) -> Result<Vec<Goal>>;

fn group(sides: Vec<Side>, cells: Vec<Cell>, pace: Pace) -> Group {
    Group { sides, cells, pace, fan: PAIR, verify: true, flip: false, idle: None }
}

fn goal(name: String, cell: &Cell, side: &str, beside: &[&str], measure: Measure, bound: f64) -> Goal {
    let at_least = !matches!(measure, Measure::Submit | Measure::Latency | Measure::Cpu | Measure::Idle);
    let beside = beside.iter().map(|&name| name.to_owned()).collect();
    Goal {
        name,
        cell: cell.name.clone(),
        side: side.to_owned(),
        beside,
        measure,
        bound: Some(bound),
        at_least,
    }
}

fn besides(goal: Goal) -> Goal {
    Goal { bound: None, ..goal }
}

fn shared_memory(
    scale: Scale,
    _quick: bool,
    place: &Where,
    progress: &Progress,
    outcome: &mut Outcome,
) -> Result<Vec<Goal>> {
    let of = |op| [scattered(op, 16), scattered(op, 64), large(op)];
    let cells: Vec<Cell> = scale.ops.iter().flat_map(|op| of(*op)).collect();
    let sides = vec![fabric("shm"), Side::ceiling(MEMCPY, 1, 1)];
    let goals = cells.iter().map(|cell| {
        goal(format!("shm_{}_vs_memcpy", cell.name), cell, "shm", &[MEMCPY], Measure::Speed, 0.9)
    });
    let goals = goals.collect();
    rounds::measure(&group(sides, cells, scale.pace), place, progress, outcome)?;
    Ok(goals)
}

fn single_blocks(
    scale: Scale,
    _quick: bool,
    place: &Where,
    progress: &Progress,
    outcome: &mut Outcome,
) -> Result<Vec<Goal>> {
    let sides =
        vec![fabric("tcp"), Side::ceiling(SOCKETS, 1, 2), fabric("shm"), fabric("ucx"), fabric("nixl")];
    let cell = single();
    let names = ["tcp", "shm", "ucx", "nixl"];
    let mut goals = vec![goal(
        "tcp_one_16kib_read_p50_vs_round_trip".into(),
        &cell,
        "tcp",
        &[SOCKETS],
        Measure::Latency,
        1.3,
    )];
    goals.extend(
        names.map(|side| goal(format!("idle_cpu_{side}"), &cell, side, &[], Measure::Idle, IDLE_BOUND)),
    );
    let group = Group { idle: Some(IDLE), ..group(sides, vec![cell], scale.pace) };
    rounds::measure(&group, place, progress, outcome)?;
    Ok(goals)
}

fn over_tcp(
    scale: Scale,
    quick: bool,
    place: &Where,
    progress: &Progress,
    outcome: &mut Outcome,
) -> Result<Vec<Goal>> {
    let mut cells: Vec<Cell> =
        scale.ops.iter().flat_map(|op| [scattered(*op, 16), scattered(*op, 64)]).collect();
    let mooncake = sweep::best_of_mooncake(quick, &cells, place, progress, outcome)?;
    let names: Vec<&str> = mooncake.iter().map(|side| side.name.as_str()).collect();
    let mut goals = Vec::new();
    for (cell, bounds) in cells.iter().zip([[5.0, 2.0, 5.0], [4.0, 1.3, 2.5]].into_iter().cycle()) {
        let against = [
            ("nixl_default", vec![NIXL_TCP]),
            ("nixl_best", vec![NIXL_TCP, NIXL_BEST]),
            ("mooncake_swept", names.clone()),
        ];
        for ((word, beside), bound) in against.into_iter().zip(bounds) {
            let one =
                goal(format!("tcp_{}_vs_{word}", cell.name), cell, "tcp", &beside, Measure::Speed, bound);
            // What is promised is promised for reads, which is how vLLM moves blocks.
            goals.push(if cell.work.op == Op::Read { one } else { besides(one) });
        }
    }
    cells.extend(scale.ops.iter().map(|op| large(*op)));
    for cell in cells.iter().filter(|cell| cell.name.ends_with("MiB")) {
        let name = format!("tcp_{}_vs_sockets", cell.name);
        goals.push(goal(name, cell, "tcp", &[SOCKETS], Measure::Speed, 0.9));
    }
    let mut sides = vec![fabric("tcp"), Side::ceiling(SOCKETS, 1, 2)];
    sides.extend(nixl_sides().into_iter().filter(|side| side.name != NIXL));
    sides.extend(mooncake);
    rounds::measure(&group(sides, cells, scale.pace), place, progress, outcome)?;
    Ok(goals)
}

fn beside_perftest(
    scale: Scale,
    quick: bool,
    place: &Where,
    progress: &Progress,
    outcome: &mut Outcome,
) -> Result<Vec<Goal>> {
    let small: &[u64] = if quick { &[16] } else { &[4, 16, 64] };
    let mut goals = Vec::new();
    for transports in ["cma,tcp", "tcp"] {
        let mut cells = Vec::new();
        for &op in scale.ops {
            for &kib in small {
                let hot = Raw { count: HOT / (kib << 10), size: kib << 10, order: Order::Backwards };
                cells.push(raw(&format!("hot-{kib}KiB"), op, hot, 4));
            }
            cells.push(raw("hot-16MiB", op, Raw { count: 1, size: 16 << 20, order: Order::Contiguous }, 4));
        }
        // The same for both. CMA needs TCP beside it, for what the two processes have to say.
        let ours = format!("ucx:{}", transports.replace(',', "+"));
        let other = perftest(Some(transports));
        let lane = &transports[..3];
        for cell in &cells {
            let (measure, bound) =
                if cell.name.ends_with("16MiB") { (Measure::Speed, 0.97) } else { (Measure::Rate, 0.9) };
            let name = format!("ucx_{lane}_{}_vs_perftest", cell.name);
            goals.push(goal(name, cell, &ours, &[other.name.as_str()], measure, bound));
        }
        rounds::measure(&group(vec![fabric(&ours), other], cells, scale.pace), place, progress, outcome)?;
    }
    Ok(goals)
}

fn beside_python(
    scale: Scale,
    _quick: bool,
    place: &Where,
    progress: &Progress,
    outcome: &mut Outcome,
) -> Result<Vec<Goal>> {
    let mut goals = Vec::new();
    for tls in [None, Some("tcp")] {
        let ours = tls.map_or_else(|| "nixl".to_owned(), |tls| format!("nixl:{tls}"));
        let other = nixl_plain(tls);
        let beside = [other.name.as_str()];
        let many =
            raw("10000x4KiB", Op::Read, Raw { count: 10_000, size: 4 << 10, order: Order::Strided }, 1);
        let mut cells = vec![many];
        cells.extend(scale.ops.iter().flat_map(|op| [scattered(*op, 16), scattered(*op, 64)]));
        let word = ours.replace(':', "_");
        for cell in &cells[1..] {
            let name = format!("{word}_{}_vs_python", cell.name);
            goals.push(goal(name, cell, &ours, &beside, Measure::Speed, 0.97));
        }
        let submit = format!("{word}_submit_10000_vs_python");
        goals.push(goal(submit, &cells[0], &ours, &beside, Measure::Submit, 0.5));
        // A fabric's own thread does the rest of what a submission costs: here is the whole of it.
        let whole =
            goal(format!("{word}_10000x4KiB_vs_python"), &cells[0], &ours, &beside, Measure::Speed, 1.0);
        goals.push(besides(whole));
        rounds::measure(&group(vec![fabric(&ours), other], cells, scale.pace), place, progress, outcome)?;
    }
    Ok(goals)
}

fn uncoalesced(
    scale: Scale,
    _quick: bool,
    place: &Where,
    progress: &Progress,
    outcome: &mut Outcome,
) -> Result<Vec<Goal>> {
    let whole = Rankage { size: 1, rank: 0 };
    let sequence = Sequence {
        model: "llama-3.1-70b".into(),
        fp8: false,
        tokens: scale.tokens,
        block_size: (16, 16),
        layout: ("hnd".into(), "hnd".into()),
        tp: (whole, whole),
        order: Order::Backwards,
    };
    let blocks = sequence.pieces(true)?.list.len();
    let work = Work { op: Op::Read, pattern: Pattern::Model(sequence), batch: 0, depth: 1, checksum: false };
    let cell = Cell { name: format!("read-{blocks}x32KiB"), work };
    let goals = vec![
        goal("cpu_per_block_tcp_vs_nixl".into(), &cell, "tcp", &[NIXL_TCP, NIXL_BEST], Measure::Cpu, 1.0),
        goal("cpu_per_block_shm_vs_nixl".into(), &cell, "shm", &[NIXL], Measure::Cpu, 1.0),
        besides(goal("cpu_per_block_ucx_vs_nixl".into(), &cell, "ucx", &[NIXL], Measure::Cpu, 1.0)),
    ];
    let mut sides = vec![fabric("tcp"), fabric("shm"), fabric("ucx")];
    sides.extend(nixl_sides());
    // One pass a round, and one side after the other: each has twice the sequence in memory, and CPU time repeats well.
    let pace = Pace { rounds: scale.pace.rounds.min(3), window: Duration::ZERO };
    for side in sides {
        let alone = Group { verify: false, ..group(vec![side], vec![cell.clone()], pace) };
        rounds::measure(&alone, place, progress, outcome)?;
    }
    Ok(goals)
}

/// In a JSON file beside the figures: what the whole list took, in words that stay true.
pub fn explain() -> &'static str {
    "The fixed list of goals. A ratio is the median of the ratios of rounds that were taken side by side, in turns; \
     against several others, the least favourable one. 2048 blocks lie with holes of their own size. `hot` cells are for \
     ucx_perftest, which moves one buffer over and over. nixl-py is NIXL's Python agent as vLLM sets it up, `tcp-best` \
     without its progress thread and with segments of 256 KiB; Mooncake is shown with the settings that a sweep found \
     fastest."
}
