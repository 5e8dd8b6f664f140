//! What is not a usable driver is refused with a reason; nothing ends the process.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use kvferry_cuda_sys::{Candidate, OLDEST, Refusal, Version, open, open_any};

use crate::{CC, required};

const VERSION: &str = "cuDriverGetVersion";

/// A library with the driver's functions, without the one called `without`; its version function does `body`.
fn look_alike(name: &str, body: &str, without: &str) -> PathBuf {
    let functions = required().into_iter().map(|function| function.name);
    let mut code = format!("int {VERSION}(int *version) {{ {body} }}\n");
    for empty in functions.filter(|name| ![VERSION, without].contains(name)) {
        writeln!(code, "int {empty}() {{ return 999; }}").unwrap();
    }
    CC.shared_library(name, &code)
}

fn refusal(file: &Path) -> Refusal {
    let mut error = open(file).unwrap_err();
    assert_eq!(error.tried.len(), 1, "{error}");
    error.tried.remove(0).1
}

#[test]
fn a_driver_of_any_later_version_is_taken_and_tells_what_it_lacks() {
    for (number, version) in
        [(11000, Version { major: 11, minor: 0 }), (13020, Version { major: 13, minor: 2 })]
    {
        let file =
            look_alike(&format!("cuda-{number}.so"), &format!("*version = {number}; return 0;"), "nothing");
        let driver = open(&file).unwrap();
        assert_eq!(driver.version(), version);
        assert!(driver.later().cuDeviceGetUuid_v2.is_err());
        assert_eq!(driver.file(), file.canonicalize().unwrap());
    }
}

#[test]
fn a_result_that_the_driver_does_not_know_is_shown_as_a_number() {
    let file = look_alike("cuda-mute.so", "*version = 12000; return 0;", "nothing");
    let (name, text) = open(&file).unwrap().describe(719);
    assert_eq!((name.as_str(), text.as_str()), ("CUDA error 719", "no more is known"));
}

#[test]
fn a_driver_that_is_too_old_is_refused_with_both_versions() {
    let file = look_alike("cuda-old.so", "*version = 10020; return 0;", "nothing");
    assert_eq!(refusal(&file), Refusal::Version { found: "10.2".into(), wanted: "11.0 or later" });
    assert!(OLDEST > Version { major: 10, minor: 2 });
}

#[test]
fn the_toolkits_stub_is_refused() {
    assert_eq!(refusal(&look_alike("cuda-stub.so", "return 34;", "nothing")), Refusal::Stub);
}

#[test]
fn a_library_without_a_driver_behind_it_is_refused() {
    let refused = refusal(&look_alike("cuda-hollow.so", "return 999;", "nothing"));
    assert!(matches!(&refused, Refusal::Version { found, .. } if found.contains("999")), "{refused}");
}

#[test]
fn a_required_function_that_is_missing_is_named() {
    for missing in ["cuMemAlloc_v2", "cuIpcOpenMemHandle_v2", "cuEventQuery"] {
        let file = look_alike(&format!("without-{missing}.so"), "*version = 12000; return 0;", missing);
        let refused = refusal(&file);
        assert!(matches!(&refused, Refusal::MissingSymbol(which) if which.contains(missing)), "{refused}");
    }
}

#[test]
fn a_missing_file_and_a_file_that_is_no_library_are_told_apart_and_the_remedy_is_named() {
    let candidates =
        [Candidate::File(CC.nothing("cuda-absent.so")), Candidate::File(CC.text("cuda-text.so"))];
    let text = open_any(&candidates).unwrap_err().to_string();
    assert!(text.contains("cuda-absent.so: cannot open") && text.contains("No such file"), "{text}");
    assert!(text.contains("cuda-text.so: file too short"), "{text}");
    assert!(text.contains("NVIDIA container runtime"), "it says how to get one: {text}");
}
