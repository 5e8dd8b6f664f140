//! A library that cannot be used is an error that says why, and the next candidate is tried.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

use std::ffi::{CStr, c_int};
use std::path::Path;

use kvferry_dynlib::{Binding, Candidate, Handles, Refusal, files_under, open_any, python_folders};
use kvferry_ffi_testing::C;

const CC: C<'_> = C { folder: concat!(env!("CARGO_TARGET_TMPDIR"), "/", env!("CARGO_PKG_NAME")) };

#[derive(Debug)]
struct Answer {
    answer: c_int,
}

impl Binding for Answer {
    const LIBRARY: &'static str = "the answering machine";
    const REMEDY: &'static str = "buy one";
    const MARK: &'static CStr = c"answering_machine";

    fn bind(handles: &Handles) -> Result<Self, Refusal> {
        let library = handles.library()?;
        // SAFETY: only the library that this test compiles has the mark, and its function has this type.
        let answer = unsafe { library.get::<unsafe extern "C" fn() -> c_int>(b"answer\0") };
        let function = answer.map_err(|error| Refusal::missing(&error))?;
        // SAFETY: returns a constant.
        let answer = unsafe { function() };
        if answer < 0 {
            return Err(Refusal::Version { found: answer.to_string(), wanted: "positive" });
        }
        Ok(Self { answer })
    }
}

fn refusal(candidate: &Path) -> Refusal {
    let mut error = open_any::<Answer>(&[Candidate::from(candidate)]).unwrap_err();
    assert_eq!(error.tried.len(), 1);
    error.tried.remove(0).1
}

#[test]
fn the_first_candidate_that_can_be_used_is_taken_and_its_file_is_known() {
    let good = CC.shared_library("answers.so", "int answering_machine; int answer(void) { return 42; }");
    let candidates = [
        Candidate::File(CC.nothing("absent.so")),
        Candidate::Name("libabsent.so.7"),
        Candidate::File(good.clone()),
    ];
    let bound = open_any::<Answer>(&candidates).unwrap();
    assert_eq!(bound.answer, 42);
    assert_eq!(bound.file(), good.canonicalize().unwrap());
}

#[test]
fn a_missing_file_is_said_to_be_missing() {
    let Refusal::Unloadable(why) = refusal(&CC.nothing("absent.so")) else { panic!("another refusal") };
    assert!(why.contains("absent.so") && why.contains("No such file"), "{why}");
}

#[test]
fn a_file_that_is_no_library_is_said_to_be_none() {
    let Refusal::Unloadable(why) = refusal(&CC.text("text.so")) else { panic!("another refusal") };
    assert!(why.contains("text.so"), "{why}");
}

#[test]
fn another_library_is_told_by_the_lack_of_the_mark() {
    let other = CC.shared_library("other.so", "int answer(void) { return 42; }");
    let Refusal::MissingSymbol(which) = refusal(&other) else { panic!("another refusal") };
    assert!(which.contains("answering_machine"), "{which}");
}

#[test]
fn a_missing_function_is_named() {
    let broken = CC.shared_library("broken.so", "int answering_machine;");
    let Refusal::MissingSymbol(which) = refusal(&broken) else { panic!("another refusal") };
    assert!(which.contains("answer"), "{which}");
}

#[test]
fn the_error_lists_all_that_was_tried_and_what_to_do() {
    let old = CC.shared_library("old.so", "int answering_machine; int answer(void) { return -1; }");
    let absent = CC.nothing("absent.so");
    let candidates =
        [Candidate::File(absent.clone()), Candidate::Name("libabsent.so.7"), Candidate::File(old.clone())];
    let text = open_any::<Answer>(&candidates).unwrap_err().to_string();
    for part in [
        "no usable the answering machine on this machine",
        &format!("{} cannot be loaded", absent.display()),
        "libabsent.so.7 (by the loader's search) cannot be loaded",
        &format!("{} is version -1; supported is positive", old.display()),
        "buy one",
    ] {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[test]
fn the_active_environment_of_python_is_looked_through_first_and_newer_pythons_before_older() {
    let root = Path::new(CC.folder).join("python");
    let packages = |python: &str| root.join("lib").join(python).join("site-packages");
    for python in ["python3.9", "python3.12"] {
        std::fs::create_dir_all(packages(python)).unwrap();
    }
    let folders = python_folders(|name| (name == "VIRTUAL_ENV").then(|| root.clone().into_os_string()));
    assert_eq!(folders[..2], [packages("python3.12"), packages("python3.9")]);
}

#[test]
fn a_folder_that_is_not_there_holds_nothing() {
    assert!(files_under(&CC.nothing("no-folder"), |_| true).is_empty());
}
