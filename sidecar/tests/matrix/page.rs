//! `docs/failure-matrix.md` between its two marks: the matrix in words, with the program's own limits.

use std::fmt::Write;
use std::time::Duration;

use kvferry_config::{GROUPS, World};
use kvferry_handoff::Limits;
use kvferry_sidecar::assemble;

use crate::column::Column;
use crate::encoders;
use crate::expect::Sees;
use crate::table::{MATRIX, Row};

const BEGIN: &str = "<!-- begin: written by KVFERRY_WRITE_DOCS=1 cargo test -p kvferry-sidecar --test matrix; edit sidecar/tests/matrix/ instead -->\n";
const END: &str = "<!-- end -->\n";

/// Everything between the marks.
fn page() -> String {
    let world = World { variable: &|_| None, ..World::of_process() };
    let options =
        kvferry_config::parse(["--secure-serving=false"], &assemble::known(), &world).unwrap().options;
    let mut page = times(&assemble::settings(&options).unwrap().limits);
    page += &overview();
    page += "## Row by row\n\n";
    for row in MATRIX {
        page += &in_detail(row);
    }
    page += &encoder_stage();
    page
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

fn times(limits: &Limits) -> String {
    format!(
        "## In how much time\n\n| what | how long |\n|---|---|\n\
        | a leg that nobody waits for is cancelled | at once; prefill, where only its answer names the KV: {} |\n\
        | the release of KV, after the decode leg has ended | {}, so that it cannot overtake the leg |\n\
        | the release of KV for which no decode leg was sent | at once |\n\
        | one attempt to release; the pause after it | {}; {} |\n\
        | attempts | {} |\n\
        | all of that, if every attempt times out | {} |\n\
        | the limit of the prefill leg | {} |\n\
        | the silence of decode | {} |\n\
        | the whole request | {} |\n\n",
        flag("prefill-cancel-grace"),
        seconds(limits.release_grace),
        seconds(limits.release_attempt),
        seconds(limits.release_pause),
        limits.release_attempts,
        seconds(limits.longest_release()),
        flag("prefill-timeout"),
        flag("decode-stall-timeout"),
        flag("request-timeout"),
    )
}

/// A flag with its default.
fn flag(name: &str) -> String {
    let mut flags = GROUPS.iter().flat_map(|group| group.flags);
    let flag = flags.find(|flag| flag.name == name).unwrap_or_else(|| panic!("there is no flag --{name}"));
    match flag.default {
        "0s" => format!("`--{name}` (no limit unless set)"),
        default => format!("`--{name}` ({default})"),
    }
}

/// `text` with every `{flag}` replaced.
fn with_flags(text: &str) -> String {
    let mut parts = text.split(['{', '}']);
    let mut whole = parts.next().unwrap_or_default().to_owned();
    while let (Some(name), Some(rest)) = (parts.next(), parts.next()) {
        whole += &flag(name);
        whole += rest;
    }
    whole
}

fn overview() -> String {
    let mut page = "## What the client sees\n\n| |".to_owned();
    for column in Column::ALL {
        write!(page, " {} |", column.name()).unwrap();
    }
    page += "\n|---|";
    page += &"---|".repeat(Column::ALL.len());
    page.push('\n');
    for row in MATRIX {
        write!(page, "| {} |", row.event.title()).unwrap();
        for column in Column::ALL {
            let cell = row.cells.iter().find(|cell| cell.columns.contains(&column));
            match cell.map(|cell| cell.sees) {
                None => page += " – |",
                Some(Sees::Nothing) => page += " (left) |",
                Some(sees) => write!(page, " {sees} |").unwrap(),
            }
        }
        page.push('\n');
    }
    page.push('\n');
    page
}

fn in_detail(row: &Row) -> String {
    let mut page = format!("### {}\n\n{}\n\n", row.event.title(), with_flags(row.event.when()));
    page += "| with | the client sees | prefill leg | decode leg | what engines are left holding |\n|---|---|---|---|---|\n";
    for cell in row.cells {
        let names: Vec<&str> = cell.columns.iter().map(|column| column.name()).collect();
        let names = if cell.columns.len() == Column::ALL.len() { "all".to_owned() } else { names.join("; ") };
        writeln!(
            page,
            "| {names} | {} | {} | {} | {} |",
            cell.sees,
            cell.prefill.words(),
            cell.decode.words(),
            cell.end.words
        )
        .unwrap();
    }
    page.push('\n');
    page
}

fn encoder_stage() -> String {
    let mut page = format!(
        "## The encoder stage\n\nBefore any of the above, with every connector. All encoders of a request end with the first that fails; together \
        they may take as long as a prefill, {}.\n\n\
        | | with | the client sees | prefill leg | decode leg | what engines are left holding |\n|---|---|---|---|---|---|\n",
        flag("prefill-timeout")
    );
    for cell in encoders::MATRIX {
        let names: Vec<&str> = cell.columns.iter().map(|column| column.name()).collect();
        writeln!(
            page,
            "| {} | {} | {} | {} | {} | {} |",
            cell.event.title(),
            names.join("; "),
            cell.sees,
            cell.prefill.words(),
            cell.decode.words(),
            cell.kept.words()
        )
        .unwrap();
    }
    page.push('\n');
    page
}

#[test]
fn the_page_says_what_the_tests_expect() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/failure-matrix.md");
    let written = std::fs::read_to_string(path).unwrap();
    let (before, rest) = written.split_once(BEGIN).expect("the page has its first mark");
    let (_, after) = rest.split_once(END).expect("the page has its second mark");
    let right = [before, BEGIN, &page(), END, after].concat();
    if std::env::var_os("KVFERRY_WRITE_DOCS").is_some() {
        std::fs::write(path, &right).unwrap();
        return;
    }
    assert!(written == right, "docs/failure-matrix.md is out of date: run with KVFERRY_WRITE_DOCS=1");
}

#[test]
fn no_cell_says_what_none_may_say() {
    let page = page().to_lowercase().replace("for every", "");
    for word in ["forever", "for ever", "crash", "pinned", "panic"] {
        assert!(!page.contains(word), "{word}");
    }
}
