//! What a person reads: one table a cell while the run goes on, then memory and the goals. The JSON holds the rest.

use std::fmt::Write as _;

use super::Ratio;
use super::figures::{Figures, Percentiles};
use super::measure::{IDLE_STREAMS, MemorySample, Sample};
use super::plan::{Arrivals, Cell};
use crate::num::float;

/// One cell: a line for each side.
pub(super) fn cell(cell: &Cell, figures: &[Figures]) -> String {
    let mut text = format!("\n{}  ({})\n", cell.name, describe(cell));
    let paced = matches!(cell.arrivals, Arrivals::Streams(_));
    if paced {
        let heads =
            ["first byte us: p50", "p99", "added p50", "p99", "frame us: p50", "p99", "added p50", "p99"];
        head(&mut text, &["streams", "errors", "tokens/CPU-s"], &heads);
    } else {
        let heads = ["us: p50", "p90", "p99", "added p50", "p90", "p99", "", ""];
        head(&mut text, &["req/s", "req/CPU-s", "tokens/CPU-s"], &heads[..6]);
    }
    for line in figures {
        if paced {
            paced_line(&mut text, line);
        } else {
            plain_line(&mut text, line);
        }
    }
    text
}

fn describe(cell: &Cell) -> String {
    let load = match cell.arrivals {
        Arrivals::Closed(connections) => format!("closed loop, {connections} connections"),
        Arrivals::Open(rate) => format!("open loop, {rate} requests/s, latency from the scheduled time"),
        Arrivals::Streams(streams) => format!("{streams} streams open"),
    };
    let answer = cell.streaming.map_or_else(
        || "answer in one piece".to_owned(),
        |streaming| match streaming.pace_us {
            0 => format!("{} SSE frames at once", streaming.frames),
            pace => format!("{} SSE frames, one every {} ms", streaming.frames, float(pace) / 1e3),
        },
    );
    format!("{load}, body {} KB, {answer}, {} rounds", cell.body_bytes / 1024, cell.rounds)
}

fn head(text: &mut String, counts: &[&str], latencies: &[&str]) {
    write!(text, "  {:<14}", "side").expect(INFALLIBLE);
    for count in counts {
        write!(text, "{count:>13}").expect(INFALLIBLE);
    }
    for latency in latencies {
        write!(text, "{latency:>width$}", width = latency.len().max(8) + 1).expect(INFALLIBLE);
    }
    text.push('\n');
}

const INFALLIBLE: &str = "writing to a String cannot fail";

fn plain_line(text: &mut String, line: &Figures) {
    let added = line.total_added;
    let p = |value: fn(&Percentiles) -> f64| optional(added.as_ref().map(value), 0);
    writeln!(
        text,
        "  {:<14}{:>13.0}{:>13}{:>13}{:>9.0}{:>9.0}{:>9.0}{:>10}{:>9}{:>9}{}",
        line.side,
        line.per_second,
        optional(line.requests_per_cpu_s, 0),
        optional(line.frames_per_cpu_s, 0),
        line.total.p50_us,
        line.total.p90_us,
        line.total.p99_us,
        p(|added| added.p50_us),
        p(|added| added.p90_us),
        p(|added| added.p99_us),
        errors(line),
    )
    .expect(INFALLIBLE);
}

fn paced_line(text: &mut String, line: &Figures) {
    let p = |percentiles: Option<Percentiles>, value: fn(&Percentiles) -> f64| {
        optional(percentiles.as_ref().map(value), 0)
    };
    writeln!(
        text,
        "  {:<14}{:>13}{:>13}{:>13}{:>19.0}{:>9.0}{:>10}{:>9}{:>14}{:>9}{:>10}{:>9}  joined {:.2} %, max {:.1} ms{}",
        line.side,
        line.requests,
        line.errors,
        optional(line.frames_per_cpu_s, 0),
        line.first_byte.p50_us,
        line.first_byte.p99_us,
        p(line.first_byte_added, |added| added.p50_us),
        p(line.first_byte_added, |added| added.p99_us),
        p(line.transit, |transit| transit.p50_us),
        p(line.transit, |transit| transit.p99_us),
        p(line.transit_added, |added| added.p50_us),
        p(line.transit_added, |added| added.p99_us),
        line.joined_share * 100.0,
        line.transit_max_us / 1e3,
        errors(line),
    )
    .expect(INFALLIBLE);
}

fn errors(line: &Figures) -> String {
    if line.errors == 0 { String::new() } else { format!("   FAILED: {} errors", line.errors) }
}

fn optional(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

/// Memory of all proxies.
pub(super) fn memory(samples: &[MemorySample]) -> String {
    let mut text = String::from("\nresident memory\n");
    let streams = format!("{IDLE_STREAMS} idle streams");
    writeln!(
        text,
        "  {:<14}{:>12}{:>20}{:>16}{:>12}{:>12}",
        "side", "idle MiB", streams, "KiB a stream", "after MiB", "peak MiB"
    )
    .expect(INFALLIBLE);
    for sample in samples {
        let mib = |kib: u64| float(kib) / 1024.0;
        writeln!(
            text,
            "  {:<14}{:>12.1}{:>20.1}{:>16.1}{:>12.1}{:>12.1}",
            sample.side,
            mib(sample.idle_kib),
            mib(sample.streams_kib),
            sample.per_stream_kib,
            mib(sample.after_kib),
            mib(sample.peak_kib),
        )
        .expect(INFALLIBLE);
    }
    text
}

/// The goals.
pub(super) fn ratios<'a>(
    ratios: impl IntoIterator<Item = (&'a &'static str, &'a Ratio)>,
    missing: &[&str],
    besides: impl IntoIterator<Item = (&'a &'static str, &'a f64)>,
) -> String {
    let mut text = String::from("\ngoals\n");
    for (name, ratio) in ratios {
        let verdict = if ratio.passes() { "PASS" } else { "MISS" };
        let bound = if ratio.at_least { "at least" } else { "at most" };
        writeln!(text, "  {verdict}  {name:<44} {:>9.3}   ({bound} {})", ratio.value, ratio.goal)
            .expect(INFALLIBLE);
    }
    for name in missing {
        writeln!(
            text,
            "  left out: {name} (a side was not measured or gave wrong answers, or noise hid the difference)"
        )
        .expect(INFALLIBLE);
    }
    text.push_str("besides\n");
    for (name, value) in besides {
        writeln!(text, "        {name:<50} {value:>9.3}").expect(INFALLIBLE);
    }
    text
}

/// One line for each sample with wrong answers.
pub(super) fn failures(samples: &[Sample]) -> Vec<String> {
    let failed = samples.iter().filter(|sample| sample.summary.errors > 0);
    failed
        .map(|sample| {
            let first = sample.summary.first_error.as_deref().unwrap_or("unknown");
            let (cell, side, round) = (&sample.cell, &sample.side, sample.round);
            format!("{cell}, {side}, round {round}: {} errors, the first: {first}", sample.summary.errors)
        })
        .collect()
}
