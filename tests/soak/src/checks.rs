//! What a run must show, judged from its record alone.

use serde::Serialize;

use crate::outcome::{CORRECT, HUNG, NO_ANSWER, UNTYPED, WRONG};
use crate::plan::Phase;
use crate::record::{Part, Record, Sample};

/// Growth that may be noise: allocators round.
const NOISE_PERCENT: u64 = 10;

/// And in absolute terms, KiB: some pages for each of the allocator's arenas, one per worker, whatever the load.
const NOISE_KIB: u64 = 8 * 1024;

/// Under load, for each stream, KiB: a stream that flows holds one engine connection's buffers more than one that has
/// just failed, and how many of either there are is decided by what befalls the engines in that third. Half of what a
/// stream was seen to take; what is lost for good shows at rest, where none of this is allowed for.
const NOISE_KIB_PER_STREAM: u64 = 32;

/// Connectors whose engines know no release: KV that nobody fetched stays until the engine's own limit. With offloading it
/// is an entry of a cache; of ATOM no such request is known.
const WITHOUT_RELEASE: [&str; 2] = ["atom", "offloading"];

/// Of the streams asked for, so many must have been under way at once; the others are between two requests.
const CONCURRENT_PERCENT: u64 = 90;

/// Fewest right answers in a hundred, so that a soak that only ever fails does not pass.
const RIGHT_PERCENT: u64 = 10;

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) passed: bool,
    pub(crate) detail: String,
}

/// Judges a run.
pub(crate) fn check(record: &Record) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut add = |name, passed, detail| checks.push(Check { name, passed, detail });
    for (name, part) in [("storm", &record.storm), ("calm", &record.calm)] {
        for (what, label) in [
            ("no wrong answer", WRONG),
            ("no error without an owner", UNTYPED),
            ("no connection without an answer", NO_ANSWER),
            ("no request hung", HUNG),
        ] {
            let count = part.outcomes.get(label).copied().unwrap_or_default();
            add(what, count == 0, format!("{name}: {count} of {}", part.requests));
        }
    }
    let correct = |part: &Part| part.outcomes.get(CORRECT).copied().unwrap_or_default();
    add(
        "right answers in the storm",
        correct(&record.storm) * 100 >= record.storm.requests * RIGHT_PERCENT && record.storm.requests > 0,
        format!("{} of {}, at least {RIGHT_PERCENT}%", correct(&record.storm), record.storm.requests),
    );
    add(
        "only right answers in the calm",
        record.calm.unwell == 0 && correct(&record.calm) > 0,
        format!(
            "{} right, {} neither right nor left by their client",
            correct(&record.calm),
            record.calm.unwell
        ),
    );
    add(
        "patience ends only what an engine stalls",
        record.storm.gave_up <= record.stalls,
        format!("{} gave up, {} requests were to be stalled", record.storm.gave_up, record.stalls),
    );
    for (name, part) in [("after the storm", &record.storm), ("after the calm", &record.calm)] {
        let detail = match (&part.left, part.rest_after_s) {
            (Some(left), _) => format!("{name}: {left}"),
            (None, after) => format!("{name}: at rest after {:.1} s", after.unwrap_or_default()),
        };
        add("nobody holds anything", part.rest_after_s.is_some() && part.left.is_none(), detail);
    }
    let lasts = WITHOUT_RELEASE.contains(&record.connector.as_str());
    let why = if lasts { "; this connector's KV has no release" } else { "" };
    add(
        "no lease runs out in the calm",
        record.expired_in_calm == 0 || lasts,
        format!("{} left to their end{why}", record.expired_in_calm),
    );
    checks.extend(of_the_process(record));
    checks
}

fn of_the_process(record: &Record) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut add = |name, passed, detail| checks.push(Check { name, passed, detail });
    let outstanding = record.sidecar.said.outstanding();
    let said = outstanding.map_or("it never said".to_owned(), |count| format!("{count} by its last word"));
    add("no KV outstanding in the ledger", outstanding == Some(0), said);
    let peak = record.samples.iter().map(|sample| sample.in_flight).max().unwrap_or_default();
    add(
        "the streams were concurrent",
        peak * 100 >= record.streams * CONCURRENT_PERCENT,
        format!("{peak} at once of {}", record.streams),
    );
    let (second, last) = thirds(&record.samples);
    let load_noise = record.streams * NOISE_KIB_PER_STREAM;
    add(
        "memory is flat under load",
        second.zip(last).is_some_and(|(second, last)| last <= bound(second) + load_noise),
        match (second, last) {
            (Some(second), Some(last)) => {
                format!("{} MiB in the storm's second third, {} MiB in its last", second / 1024, last / 1024)
            }
            _ => "too few readings; let it run for longer".to_owned(),
        },
    );
    let (storm, calm) = (record.storm.rss_at_rest_kib, record.calm.rss_at_rest_kib);
    add(
        "memory is flat at rest",
        calm <= bound(storm),
        format!("{} MiB after the storm, {} MiB after the calm", storm / 1024, calm / 1024),
    );
    add(
        "descriptors are back",
        record.descriptors_left.is_empty(),
        match &record.descriptors_left[..] {
            [] => format!("{} as before the first request", record.descriptors_before),
            left => format!("{} before, {} left: {}", record.descriptors_before, left.len(), summary(left)),
        },
    );
    add(
        "the sidecar stopped in order",
        record.sidecar.code == Some(0),
        record.sidecar.code.map_or("killed".to_owned(), |code| format!("exit code {code}")),
    );
    let (stderr, unreadable) = (&record.sidecar.stderr, &record.sidecar.said.unreadable);
    add(
        "it said nothing beside its log",
        stderr.is_empty() && unreadable.is_empty(),
        if stderr.is_empty() { unreadable.join(" | ") } else { stderr.chars().take(300).collect() },
    );
    checks
}

/// How much may be resident, KiB, where this much was before.
fn bound(before_kib: u64) -> u64 {
    before_kib + before_kib * NOISE_PERCENT / 100 + NOISE_KIB
}

/// Median memory, KiB, of the second and the last third of the storm. The first third is for warming up.
fn thirds(samples: &[Sample]) -> (Option<u64>, Option<u64>) {
    let storm: Vec<u64> =
        samples.iter().filter(|sample| sample.phase == Phase::Storm).map(|sample| sample.rss_kib).collect();
    let third = storm.len() / 3;
    (median(&storm[third..2 * third]), median(&storm[2 * third..]))
}

fn median(values: &[u64]) -> Option<u64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}

/// Descriptors by kind, as there may be thousands.
fn summary(descriptors: &[String]) -> String {
    let mut kinds = std::collections::BTreeMap::new();
    for descriptor in descriptors {
        *kinds.entry(descriptor.split(':').next().unwrap_or_default()).or_insert(0) += 1;
    }
    kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::sidecar::{Ended, Said};

    fn good() -> Record {
        let part = || Part {
            outcomes: BTreeMap::from([(CORRECT.to_owned(), 90), ("client left".to_owned(), 10)]),
            requests: 100,
            rest_after_s: Some(1.0),
            rss_at_rest_kib: 40_000,
            ..Part::default()
        };
        let sample = |at: u32| Sample {
            at_s: f64::from(at),
            phase: Phase::Storm,
            rss_kib: if at < 10 { 30_000 } else { 60_000 },
            descriptors: 9,
            in_flight: 100,
        };
        let said = Said { stopped: Some(serde_json::json!({"kv_outstanding": 0})), ..Said::default() };
        Record {
            seed: 1,
            connector: "nixlv2".to_owned(),
            streams: 100,
            prefills: 2,
            storm: part(),
            calm: part(),
            stalls: 5,
            lives: 3,
            load_average: 1.0,
            expired_in_calm: 0,
            samples: (0..30).map(sample).collect(),
            descriptors_before: 9,
            descriptors_left: Vec::new(),
            sidecar: Ended { code: Some(0), said, stderr: String::new() },
        }
    }

    fn failed(record: &Record) -> Vec<&'static str> {
        check(record).into_iter().filter(|check| !check.passed).map(|check| check.name).collect()
    }

    #[test]
    fn a_good_run_passes() {
        assert_eq!(failed(&good()), Vec::<&str>::new());
    }

    type Spoil = fn(&mut Record);

    fn happened(part: &mut Part, label: &str, count: u64) {
        part.outcomes.insert(label.to_owned(), count);
    }

    #[test]
    fn each_failing_is_noticed() {
        let cases: [(&str, Spoil); 15] = [
            ("no wrong answer", |record| happened(&mut record.storm, WRONG, 1)),
            ("no request hung", |record| happened(&mut record.calm, HUNG, 1)),
            ("no error without an owner", |r| happened(&mut r.storm, UNTYPED, 1)),
            ("no connection without an answer", |r| happened(&mut r.storm, NO_ANSWER, 1)),
            ("right answers in the storm", |record| happened(&mut record.storm, CORRECT, 9)),
            ("only right answers in the calm", |record| record.calm.unwell = 1),
            ("patience ends only what an engine stalls", |record| record.storm.gave_up = 6),
            ("nobody holds anything", |record| record.calm.left = Some("decode: 1 block".to_owned())),
            ("no lease runs out in the calm", |record| record.expired_in_calm = 1),
            ("no KV outstanding in the ledger", |record| record.sidecar.said.stopped = None),
            ("the streams were concurrent", |record| record.streams = 120),
            ("memory is flat under load", |r| r.samples[21..].iter_mut().for_each(|s| s.rss_kib = 90_000)),
            ("memory is flat at rest", |record| record.calm.rss_at_rest_kib = 60_000),
            ("descriptors are back", |record| record.descriptors_left = vec!["socket:[7]".to_owned()]),
            ("it said nothing beside its log", |record| record.sidecar.stderr = "panicked at".to_owned()),
        ];
        for (name, spoil) in cases {
            let mut record = good();
            spoil(&mut record);
            assert_eq!(failed(&record), [name]);
        }
    }

    #[test]
    fn engines_that_know_no_release_may_let_leases_run_out() {
        let mut record = Record { connector: "offloading".to_owned(), expired_in_calm: 1, ..good() };
        assert_eq!(failed(&record), Vec::<&str>::new());
        record.calm.left = Some("prefill 0: 3 blocks".to_owned());
        assert_eq!(failed(&record), ["nobody holds anything"]);
    }

    #[test]
    fn warming_up_is_not_growth_and_a_short_run_is_no_proof() {
        assert_eq!(thirds(&good().samples), (Some(60_000), Some(60_000)));
        let mut short = good();
        short.samples.truncate(1);
        assert!(failed(&short).contains(&"memory is flat under load"));
    }
}
