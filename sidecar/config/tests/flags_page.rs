//! `docs/flags.md` is written from the tables of flags, so it cannot tell anything else than `--help`.
//!
//! `KVFERRY_WRITE_DOCS=1 cargo test -p kvferry-config --test flags_page` writes it anew.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

use std::fmt::Write;

use kvferry_config::{Flag, GROUPS};

fn page() -> String {
    let mut page = "# Flags\n\nWritten from the program's own tables; `kvferry-sidecar --help` says the same. Every flag is a key in YAML too \
        (`--configuration`, `--configuration-file`). A flag outranks YAML, which outranks the environment. Durations as in Go: \
        `300ms`, `30s`, `1m30s`.\n"
        .to_owned();
    for group in GROUPS {
        write!(page, "\n## {}\n\n| flag | default | meaning |\n|---|---|---|\n", group.heading).unwrap();
        for flag in group.flags {
            let Flag { name, value_name, default, env, help, instead, .. } = flag;
            let default = if default.is_empty() { String::new() } else { format!("`{default}`") };
            let env = env.map(|name| format!(" Environment: `{name}`.")).unwrap_or_default();
            let instead = instead.map(|other| format!(" Deprecated: use `--{other}`.")).unwrap_or_default();
            let help = help.replace('|', "\\|");
            writeln!(page, "| `--{name}` *{value_name}* | {default} | {help}.{env}{instead} |").unwrap();
        }
    }
    page
}

#[test]
fn the_page_of_flags_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/flags.md");
    if std::env::var_os("KVFERRY_WRITE_DOCS").is_some() {
        std::fs::write(path, page()).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == page(), "docs/flags.md is out of date: run with KVFERRY_WRITE_DOCS=1");
}
