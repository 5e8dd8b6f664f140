//! What a person reads: each cell with a line for each side, what came before the first transfer, and the goals.

use std::fmt::Write as _;

use crate::figures::Figures;
use crate::ratios::Stand;
use crate::rounds::{Cell, Outcome};

const INFALLIBLE: &str = "writing to a String cannot fail";

fn optional(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

/// One cell. `of_ceiling` says which part of its ceiling a side reaches.
pub fn cell(cell: &Cell, figures: &[Figures], of_ceiling: &dyn Fn(&str) -> Option<f64>) -> String {
    let work = &cell.work;
    let mut text = format!("\n{}  ({}", cell.name, work.pattern.describe());
    if work.batch > 0 {
        write!(text, ", {} in a transfer", work.batch).expect(INFALLIBLE);
    }
    writeln!(text, ", {} in flight)", work.depth).expect(INFALLIBLE);
    writeln!(
        text,
        "  {:<18}{:>8}{:>15}{:>9}{:>11}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}",
        "side",
        "GB/s",
        "half of rounds",
        "ceiling",
        "us CPU/blk",
        "GB/CPU-s",
        "submit us",
        "us: p50",
        "p90",
        "p99",
        "p99.9",
        "max",
        "transfers"
    )
    .expect(INFALLIBLE);
    for line in figures {
        let [low, high] = line.quartiles;
        let latency =
            |value: fn(&crate::figures::Latency) -> f64| optional(line.latency.as_ref().map(value), 1);
        writeln!(
            text,
            "  {:<18}{:>8.2}{:>15}{:>9}{:>11}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}",
            line.side,
            line.gb_per_s,
            format!("{low:.2} to {high:.2}"),
            optional(of_ceiling(&line.side), 2),
            optional(line.cpu_us_per_block, 2),
            optional(line.gb_per_cpu_s, 2),
            optional(line.submit_us, 1),
            latency(|l| l.p50_us),
            latency(|l| l.p90_us),
            latency(|l| l.p99_us),
            latency(|l| l.p999_us),
            latency(|l| l.max_us),
            line.transfers,
        )
        .expect(INFALLIBLE);
    }
    text
}

/// What came before the first transfer, and what sides cost when nothing is asked of them.
pub fn cold(outcome: &Outcome) -> String {
    let mut text = String::from("\nbefore the first transfer, ms\n");
    writeln!(
        text,
        "  {:<18}{:>9}{:>10}{:>11}{:>12}{:>12}  lane",
        "side", "open", "register", "handshake", "first pass", "warm pass"
    )
    .expect(INFALLIBLE);
    for (side, cold) in &outcome.cold {
        let library = cold.library.as_ref().map_or_else(String::new, |library| format!("; {library}"));
        writeln!(
            text,
            "  {side:<18}{:>9.2}{:>10.2}{:>11.2}{:>12}{:>12}  {}{library}",
            cold.open_ms,
            cold.register_ms,
            cold.handshake_ms,
            optional(cold.first_ms, 2),
            optional(cold.warm_ms, 2),
            cold.lane,
        )
        .expect(INFALLIBLE);
    }
    if !outcome.idle.is_empty() {
        text.push_str("\nCPU seconds a second when left alone, all processes of the side\n");
        for (side, share) in &outcome.idle {
            writeln!(text, "  {side:<18}{share:>9.4}").expect(INFALLIBLE);
        }
    }
    text
}

/// The goals.
pub fn goals(stand: &Stand) -> String {
    let mut text = String::new();
    if !stand.ratios.is_empty() {
        text.push_str("\ngoals\n");
    }
    for (name, ratio) in &stand.ratios {
        let verdict = if ratio.passes() { "PASS" } else { "MISS" };
        let bound = if ratio.at_least { "at least" } else { "at most" };
        writeln!(text, "  {verdict}  {name:<48} {:>8.3}   ({bound} {})", ratio.value, ratio.goal)
            .expect(INFALLIBLE);
    }
    for name in &stand.missing {
        writeln!(text, "  left out: {name} (a side was not measured)").expect(INFALLIBLE);
    }
    if !stand.besides.is_empty() {
        text.push_str("besides\n");
    }
    for (name, value) in &stand.besides {
        writeln!(text, "        {name:<48} {value:>8.3}").expect(INFALLIBLE);
    }
    text
}

/// One line for each cell and side, for spreadsheets.
pub fn csv(figures: &[Figures]) -> String {
    let mut text = String::from(
        "cell,side,gb_per_s,gb_per_s_low,gb_per_s_high,blocks_per_s,cpu_us_per_block,gb_per_cpu_s,submit_us,p50_us,p90_us,p99_us,p999_us,max_us,transfers\n",
    );
    for line in figures {
        let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.6}"));
        let latency = |value: fn(&crate::figures::Latency) -> f64| number(line.latency.as_ref().map(value));
        let [low, high] = line.quartiles;
        let fields = [
            quoted(&line.cell),
            quoted(&line.side),
            number(Some(line.gb_per_s)),
            number(Some(low)),
            number(Some(high)),
            number(Some(line.blocks_per_s)),
            number(line.cpu_us_per_block),
            number(line.gb_per_cpu_s),
            number(line.submit_us),
            latency(|l| l.p50_us),
            latency(|l| l.p90_us),
            latency(|l| l.p99_us),
            latency(|l| l.p999_us),
            latency(|l| l.max_us),
            line.transfers.to_string(),
        ];
        writeln!(text, "{}", fields.join(",")).expect(INFALLIBLE);
    }
    text
}

/// A field that holds a comma or a quote stands in quotes.
fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::figures;
    use crate::figures::tests::sample;
    use crate::work::tests::work;

    fn lines() -> Vec<Figures> {
        let mut silent = sample("c", "a,b", 1, 2);
        silent.window.ran.latencies.clear();
        let samples = [sample("c", "tcp", 1, 4), silent];
        ["tcp", "a,b"].iter().filter_map(|side| figures(&samples, "c", side)).collect()
    }

    #[test]
    fn the_table_has_a_line_for_each_side_and_a_dash_for_what_is_not_known() {
        let text =
            cell(&Cell { name: "c".into(), work: work() }, &lines(), &|side| (side == "tcp").then_some(0.5));
        let tcp = text.lines().find(|line| line.trim_start().starts_with("tcp")).unwrap();
        assert!(tcp.contains("4.00") && tcp.contains("0.50"), "{tcp}");
        assert!(text.lines().last().unwrap().contains(" - "), "{text}");
    }

    #[test]
    fn every_csv_line_has_as_many_fields_as_the_head() {
        let text = csv(&lines());
        let mut rows = text.lines();
        let fields = rows.next().unwrap().split(',').count();
        assert_eq!(rows.next().unwrap().split(',').count(), fields);
        let quoted = rows.next().unwrap();
        assert!(quoted.starts_with("c,\"a,b\",2.000000"), "{quoted}");
        assert_eq!(quoted.split(',').count(), fields + 1, "the comma in the name");
    }
}
