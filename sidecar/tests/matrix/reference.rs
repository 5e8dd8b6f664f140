//! `docs/reference-tests.md` names a test of ours for every row of the contract's list of tests; here it is made sure that
//! each of them exists.

use std::path::Path;

/// The rows of the contract's list (chapter 11): files of the sidecar that is replaced.
const ROWS: [&str; 22] = [
    "proxy_test",
    "chat_completions_test",
    "connector_test",
    "connector_nixlv2_test",
    "connector_nixlv2_parallel_commit_test",
    "connector_nixlv2_p2p_test",
    "connector_p2p_test",
    "connector_p2p_source_test",
    "connector_sglang_test",
    "connector_mooncake_test",
    "connector_ec_nixl_test",
    "connector_ec_shared_storage_test",
    "decode_test",
    "data_parallel_test",
    "dp_rank_test",
    "options_test",
    "allowlist_test",
    "resolver_test",
    "cached_tokens_usage_rewriter_test",
    "transport_test",
    "pkg/common/request",
    "test/sidecar/e2e",
];

/// What the contract says was never tested there.
const UNTESTED: [&str; 11] = [
    "client disconnect at each phase",
    "SIGTERM drain",
    "TLS reload",
    "body byte fidelity",
    "big integers",
    "gzip",
    "HTTP/2",
    "huge bodies",
    "slow clients",
    "IPv6",
    "header injection",
];

/// `path::name` of every test in backquotes.
fn named(page: &str) -> Vec<(&str, &str)> {
    let quoted = page.split('`').skip(1).step_by(2);
    quoted.filter_map(|text| text.split_once("::")).collect()
}

#[test]
fn every_row_has_tests_and_every_test_exists() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let page = std::fs::read_to_string(root.join("docs/reference-tests.md")).unwrap();
    for topic in ROWS.iter().chain(&UNTESTED) {
        let row = page.lines().find(|line| line.split('|').nth(1).is_some_and(|cell| cell.contains(topic)));
        let row = row.unwrap_or_else(|| panic!("no row for {topic}"));
        assert!(!named(row).is_empty(), "{topic}: no test is named");
    }
    let mut missing = Vec::new();
    for (file, name) in named(&page) {
        let source = std::fs::read_to_string(root.join(file)).unwrap_or_default();
        let is_python = Path::new(file).extension().is_some_and(|extension| extension == "py");
        let define = if is_python { format!("def {name}(") } else { format!("fn {name}(") };
        // Tests that a macro makes are named in its list.
        if !source.contains(&define) && !source.contains(&format!("    {name}: ")) {
            missing.push(format!("{file}::{name}"));
        }
    }
    assert!(missing.is_empty(), "named, but not there: {missing:#?}");
}
