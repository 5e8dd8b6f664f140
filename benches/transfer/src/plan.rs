//! From the command line to groups of sides and cells.

use std::time::Duration;

use kvferry_bench_common::Result;

use crate::cli::{Compared, Ops, TransferArgs};
use crate::model::{Rankage, Sequence};
use crate::pattern::{Pattern, Raw};
use crate::peers::Nixl;
use crate::rounds::{Cell, Group};
use crate::session::Fan;
use crate::side::{Kind, Side};
use crate::size;
use crate::work::{Op, Work};

/// Bytes that a raw cell moves in a pass, if the count is not said: larger than caches, and a pass takes some ten ms.
const RAW_BYTES: u64 = 128 << 20;

/// Raw blocks at most, if the count is not said: those of 8K tokens of a model with few layers.
const RAW_COUNT: u64 = 2048;

/// The most ends of a side: what a machine can start, and a page can show.
const MAX_ENDS: usize = 16;

/// The one group of a run.
///
/// # Errors
/// When something that was asked for cannot be.
pub fn group(arguments: &TransferArgs) -> Result<Group> {
    if !(1..=MAX_ENDS).contains(&arguments.peers) || !(1..=MAX_ENDS).contains(&arguments.drivers) {
        return Err(format!("--peers and --drivers must be 1 to {MAX_ENDS}").into());
    }
    let fan = Fan { drivers: arguments.drivers, driven: arguments.peers.max(arguments.connect.len()) };
    let idle = (arguments.idle > 0).then(|| Duration::from_secs(arguments.idle));
    Ok(Group {
        sides: sides(arguments, fan)?,
        cells: cells(arguments)?,
        pace: arguments.pace(),
        fan,
        verify: arguments.verify,
        flip: arguments.flip,
        idle,
    })
}

fn sides(arguments: &TransferArgs, fan: Fan) -> Result<Vec<Side>> {
    let (threads, streams) = (arguments.threads, arguments.streams);
    let fabrics = arguments
        .backends
        .iter()
        .map(|spelled| Side::fabric(spelled, threads, streams))
        .collect::<Result<Vec<_>>>()?;
    let mut sides = Vec::new();
    for side in fabrics {
        let ceiling = side.held_against().filter(|_| !arguments.no_ceilings);
        sides.push(side);
        if let Some(ceiling) = ceiling.map(|name| Side::ceiling(name, threads, streams))
            && !sides.contains(&ceiling)
            && (!ceiling.is_local_only() || arguments.connect.is_empty())
        {
            sides.push(ceiling);
        }
    }
    if !arguments.compare.is_empty() && (!arguments.local || fan.drivers * fan.driven > 1) {
        return Err(
            "--compare needs --local and one peer: other engines are driven from here, at both ends".into()
        );
    }
    for compared in &arguments.compare {
        sides.extend(others(*compared, &sides));
    }
    Ok(sides)
}

/// Other engines. Mooncake is here with its own settings; the sweep comes before the run.
fn others(compared: Compared, sides: &[Side]) -> Vec<Side> {
    match compared {
        Compared::NixlPython => nixl_sides().to_vec(),
        Compared::Mooncake => Vec::new(),
        Compared::UcxPerftest => {
            let mut found: Vec<Option<&str>> = Vec::new();
            for side in sides {
                if let Kind::Fabric { backend, transports, .. } = &side.kind
                    && backend == "ucx"
                    && !found.contains(&transports.as_deref())
                {
                    found.push(transports.as_deref());
                }
            }
            if found.is_empty() { vec![perftest(None)] } else { found.into_iter().map(perftest).collect() }
        }
    }
}

/// UCX's tool over certain transports. It polls, as it does by default: told to sleep, nothing wakes it in some tests.
pub fn perftest(transports: Option<&str>) -> Side {
    let words =
        transports.map_or_else(String::new, |transports| format!(":{}", transports.replace(',', "+")));
    Side::of(format!("perftest{words}"), Kind::Perftest { transports: transports.map(str::to_owned) })
}

/// NIXL as vLLM sets it up.
pub const NIXL: &str = "nixl-py";
/// The same over TCP.
pub const NIXL_TCP: &str = "nixl-py:tcp";
/// The best that was found over TCP.
pub const NIXL_BEST: &str = "nixl-py:tcp-best";

/// NIXL with its agent's own settings, which are those of our fabric over it.
pub fn nixl_plain(tls: Option<&str>) -> Side {
    let name = tls.map_or_else(|| "nixl-py-plain".to_owned(), |tls| format!("nixl-py-plain:{tls}"));
    Side::of(name, Kind::Nixl(Nixl { threads: 0, ..Nixl::as_in_vllm(tls.map(str::to_owned)) }))
}

/// NIXL's Python agent in the three ways above.
pub fn nixl_sides() -> [Side; 3] {
    [
        Side::of(NIXL, Kind::Nixl(Nixl::as_in_vllm(None))),
        Side::of(NIXL_TCP, Kind::Nixl(Nixl::as_in_vllm(Some("tcp".into())))),
        Side::of(NIXL_BEST, Kind::Nixl(Nixl::best_over_tcp())),
    ]
}

fn cells(arguments: &TransferArgs) -> Result<Vec<Cell>> {
    let patterns = if let Some(model) = &arguments.model {
        vec![(format!("{model}-{}", arguments.tokens), Pattern::Model(sequence(arguments, model)?))]
    } else {
        let sizes = if arguments.block_bytes.is_empty() {
            vec![16 << 10, 64 << 10]
        } else {
            let swept = arguments.block_bytes.iter().map(|text| size::sweep(text));
            swept.collect::<Result<Vec<_>>>()?.concat()
        };
        sizes.into_iter().map(|size| raw(arguments, size)).collect()
    };
    let ops: &[Op] = match arguments.op {
        Ops::Read => &[Op::Read],
        Ops::Write => &[Op::Write],
        Ops::Both => &[Op::Read, Op::Write],
    };
    let mut cells = Vec::new();
    for (name, pattern) in &patterns {
        for &op in ops {
            let (batch, depth, checksum) = (arguments.batch, arguments.depth, arguments.checksum);
            let work = Work { op, pattern: pattern.clone(), batch, depth, checksum };
            cells.push(Cell { name: format!("{}-{name}", op.name()), work });
        }
    }
    Ok(cells)
}

fn raw(arguments: &TransferArgs, size: u64) -> (String, Pattern) {
    let count = arguments.count.unwrap_or_else(|| (RAW_BYTES / size).clamp(1, RAW_COUNT));
    let name = format!("{count}x{}", size::show(size).replace(' ', ""));
    (name, Pattern::Raw(Raw { count, size, order: arguments.order }))
}

fn sequence(arguments: &TransferArgs, model: &str) -> Result<Sequence> {
    let both = |text: &str| {
        let (one, other) = text.split_once(':').unwrap_or((text, text));
        (one.to_owned(), other.to_owned())
    };
    let number = |what: &str, text: &str| -> Result<u32> {
        text.parse().map_err(|_| format!("{what}: {text:?} is no number").into())
    };
    let rank = |text: &str| -> Result<Rankage> {
        let (size, rank) = text.split_once('/').unwrap_or((text, "0"));
        Ok(Rankage { size: number("--tp", size)?, rank: number("--tp", rank)? })
    };
    let (sizes, ranks) = (both(&arguments.block_size), both(&arguments.tp));
    Ok(Sequence {
        model: model.to_owned(),
        fp8: arguments.fp8,
        tokens: arguments.tokens,
        block_size: (number("--block-size", &sizes.0)?, number("--block-size", &sizes.1)?),
        layout: both(&arguments.layout),
        tp: (rank(&ranks.0)?, rank(&ranks.1)?),
        order: arguments.order,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: TransferArgs,
    }

    fn parsed(words: &str) -> std::result::Result<TransferArgs, clap::Error> {
        Line::try_parse_from(std::iter::once("x").chain(words.split_whitespace())).map(|line| line.arguments)
    }

    fn planned(words: &str) -> Group {
        group(&parsed(words).unwrap()).unwrap()
    }

    fn refused(words: &str) -> String {
        group(&parsed(words).unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn exactly_one_role_is_taken() {
        assert!(parsed("").is_err() && parsed("--local --serve 127.0.0.1:1").is_err());
        assert!(parsed("--local").is_ok() && parsed("--serve 127.0.0.1:1").is_ok());
        assert_eq!(parsed("--connect a:1,b:2").unwrap().connect, ["a:1", "b:2"]);
        assert!(parsed("--connect a:1 --scorecard").is_err());
    }

    #[test]
    fn every_fabric_stands_beside_its_ceiling_once() {
        let names =
            |words: &str| -> Vec<String> { planned(words).sides.into_iter().map(|side| side.name).collect() };
        assert_eq!(
            names("--local --backend shm,tcp,ucx:tcp"),
            ["shm", "memcpy", "tcp", "sockets", "ucx:tcp"]
        );
        assert_eq!(names("--local --backend tcp --no-ceilings"), ["tcp"]);
        assert_eq!(
            names("--local --backend ucx:tcp,ucx:tcp! --compare ucx_perftest --no-ceilings")[2..],
            ["perftest:tcp"]
        );
        assert_eq!(names("--local --backend tcp --compare nixl-python").len(), 5);
    }

    #[test]
    fn a_sweep_has_a_cell_for_each_size_and_way_and_bounded_bytes() {
        let cells = planned("--local --block-bytes 4KiB-1GiB --op both").cells;
        assert_eq!(cells.len(), 20);
        assert_eq!((cells[0].name.as_str(), cells[1].name.as_str()), ("read-2048x4KiB", "write-2048x4KiB"));
        let bytes = |cell: &Cell| cell.work.pieces().unwrap().bytes();
        assert!(cells.iter().all(|cell| bytes(cell) <= 1 << 30));
        assert_eq!(cells[19].name, "write-1x1GiB");
    }

    #[test]
    fn a_model_is_one_cell_and_sides_that_differ_are_said_with_a_colon() {
        let cells =
            planned("--local --model llama-3.1-8b --tokens 1024 --block-size 64:16 --tp 2/1:4/2").cells;
        let Pattern::Model(sequence) = &cells[0].work.pattern else { panic!("another pattern") };
        assert_eq!((sequence.block_size, sequence.tp.0.rank, sequence.tp.1.size), ((64, 16), 1, 4));
        assert_eq!(cells[0].name, "read-llama-3.1-8b-1024");
        assert!(refused("--local --model llama-3.1-8b --tp x").contains("--tp"));
    }

    #[test]
    fn what_cannot_be_is_refused_in_words() {
        assert!(refused("--local --backend rdma").contains("known: shm"));
        assert!(refused("--connect a:1 --compare mooncake").contains("--local"));
        assert!(refused("--local --peers 17").contains("1 to 16"));
        assert!(parsed("--local --peers 2 --drivers 2").is_err());
        assert!(parsed("--local --flip").is_err(), "nothing would look for the byte");
        assert!(parsed("--local --rounds 0").is_err());
    }
}
