//! What is not a usable UCX is refused with a reason; nothing ends the process.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kvferry_ucx_sys::{Candidate, Refusal, open, open_any};

use crate::CC;

/// Every function that a supported UCX must have, as the generated code asks for them.
fn required() -> BTreeSet<&'static str> {
    asked_for(include_str!("../../src/generated/ucp.rs"))
}

fn asked_for(generated: &'static str) -> BTreeSet<&'static str> {
    generated.split("get(b\"").skip(1).filter_map(|after| after.split("\\0").next()).collect()
}

/// A library that has these functions, all empty but the one that tells the version 1.`minor`.
fn look_alike(name: &str, minor: u32, functions: &BTreeSet<&str>) -> PathBuf {
    let version = format!(
        "void ucp_get_version(unsigned *major, unsigned *minor, unsigned *release) \
         {{ *major = 1; *minor = {minor}; *release = 0; }}\n"
    );
    let empty = functions
        .iter()
        .filter(|name| **name != "ucp_get_version")
        .map(|name| format!("void {name}() {{}}\n"));
    CC.shared_library(name, &(version + &empty.collect::<String>()))
}

fn refusal(file: &Path) -> Refusal {
    let mut error = open(file).unwrap_err();
    assert_eq!(error.tried.len(), 1, "{error}");
    error.tried.remove(0).1
}

#[test]
fn a_library_with_all_required_functions_of_a_supported_version_is_taken() {
    let mut functions = required();
    functions.insert("ucp_rkey_buffer_release");
    let file = look_alike("complete.so", 13, &functions);
    let ucx = open(&file).unwrap();
    assert_eq!(ucx.version().to_string(), "1.13.0");
    assert!(ucx.later().ucp_memh_pack.is_err());
    assert_eq!(ucx.file(), file.canonicalize().unwrap());
}

#[test]
fn a_version_before_1_13_is_refused() {
    let refused = refusal(&look_alike("old.so", 12, &required()));
    assert!(matches!(&refused, Refusal::Version { found, .. } if found == "1.12.0"), "{refused}");
}

#[test]
fn a_required_function_that_is_missing_is_named() {
    for missing in ["ucp_put_nbx", "ucp_init_version", "ucs_status_string"] {
        let mut functions = required();
        assert!(functions.remove(missing), "{missing} is not required");
        let refused = refusal(&look_alike(&format!("without-{missing}.so"), 22, &functions));
        assert!(matches!(&refused, Refusal::MissingSymbol(which) if which.contains(missing)), "{refused}");
    }
}

#[test]
fn a_library_that_cannot_free_a_packed_key_is_refused() {
    let refused = refusal(&look_alike("leaking.so", 22, &required()));
    assert!(
        matches!(&refused, Refusal::MissingSymbol(which) if which.contains("buffer_release")),
        "{refused}"
    );
}

#[test]
fn a_missing_file_and_a_file_that_is_no_library_are_told_apart() {
    let error = open_any(&[Candidate::File(CC.nothing("absent.so")), Candidate::File(CC.text("text.so"))])
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("absent.so") && text.contains("No such file"), "{text}");
    assert!(text.contains("text.so: file too short"), "{text}");
    assert!(text.contains("libucx0"), "it says how to get one: {text}");
}
