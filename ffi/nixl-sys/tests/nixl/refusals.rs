//! What is not a usable NIXL is refused with a reason; nothing ends the process.

use std::path::Path;

use kvferry_nixl_sys::{Candidate, Refusal, open, open_any};

use crate::CC;
use crate::look_alike::{look_alike, required};

pub fn refusal(file: &Path) -> Refusal {
    let mut error = open(file).unwrap_err();
    assert_eq!(error.tried.len(), 1, "{error}");
    error.tried.remove(0).1
}

#[test]
fn a_library_with_all_required_functions_is_taken_and_tells_what_it_lacks() {
    let file = look_alike("nixl-complete.so", false, &required());
    let nixl = open(&file).unwrap();
    assert!(nixl.later().nixl_capi_release_mem_view.is_err());
    assert_eq!(nixl.version().packaged, None);
    assert_eq!(nixl.file(), file.canonicalize().unwrap());
}

#[test]
fn a_stub_is_refused() {
    assert_eq!(refusal(&look_alike("nixl-stub.so", true, &required())), Refusal::Stub);
}

#[test]
fn a_required_function_that_is_missing_is_named() {
    for missing in ["nixl_capi_post_xfer_req", "nixl_capi_create_agent", "nixl_capi_notif_map_get_notif"] {
        let mut functions = required();
        assert!(functions.remove(missing), "{missing} is not required");
        let refused = refusal(&look_alike(&format!("without-{missing}.so"), false, &functions));
        assert!(matches!(&refused, Refusal::MissingSymbol(which) if which.contains(missing)), "{refused}");
    }
}

#[test]
fn a_missing_file_and_a_file_that_is_no_library_are_told_apart() {
    let candidates =
        [Candidate::File(CC.nothing("nixl-absent.so")), Candidate::File(CC.text("nixl-text.so"))];
    let text = open_any(&candidates).unwrap_err().to_string();
    assert!(text.contains("nixl-absent.so: cannot open") && text.contains("No such file"), "{text}");
    assert!(text.contains("nixl-text.so: file too short"), "{text}");
    assert!(text.contains("pip: nixl"), "it says how to get one: {text}");
}
