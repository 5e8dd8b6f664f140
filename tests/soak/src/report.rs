//! What a person sees at the end.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::checks::Check;
use crate::record::Record;

/// The run as a table: what became of the requests, what the sidecar says, and the checks.
pub(crate) fn table(record: &Record, checks: &[Check]) -> String {
    let mut out = String::new();
    let mut line = |text: String| writeln!(out, "{text}").expect("a string takes every line");
    line(format!("{:<34}{:>10}{:>10}", "what became of a request", "storm", "calm"));
    let labels: BTreeSet<&String> = record.storm.outcomes.keys().chain(record.calm.outcomes.keys()).collect();
    let of =
        |outcomes: &std::collections::BTreeMap<String, u64>, label| outcomes.get(label).copied().unwrap_or(0);
    for label in labels {
        let (storm, calm) = (of(&record.storm.outcomes, label), of(&record.calm.outcomes, label));
        line(format!("  {label:<32}{storm:>10}{calm:>10}"));
    }
    line(format!("  {:<32}{:>10}{:>10}", "all", record.storm.requests, record.calm.requests));
    line(format!("\nengines had {} lives; load average {:.1}", record.lives, record.load_average));
    line("by the sidecar's log:".to_owned());
    for (outcome, count) in &record.sidecar.said.outcomes {
        line(format!("  {outcome:<32}{count:>10}"));
    }
    for (complaint, count) in &record.sidecar.said.complaints {
        let complaint: String = complaint.chars().take(90).collect();
        line(format!("  {count:>8} times: {complaint}"));
    }
    line(format!("\nchecks (seed {})", record.seed));
    for check in checks {
        let verdict = if check.passed { "ok  " } else { "FAIL" };
        line(format!("  {verdict} {:<42} {}", check.name, check.detail));
    }
    for (name, part) in [("storm", &record.storm), ("calm", &record.calm)] {
        for example in &part.examples {
            line(format!("\n{name}: {example}"));
        }
    }
    out
}
