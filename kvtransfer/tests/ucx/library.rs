//! One UCX of a process, or an error that says what to do.

use std::path::PathBuf;

use kvferry_transfer::Error;
use kvferry_transfer::fabric::Fabric;
use kvferry_transfer::fabric::ucx::{UcxFabric, UcxOptions};
use kvferry_transfer::memory::{Device, Kind, Region};

use crate::support::{options, region, with_each};

#[test]
fn a_missing_library_is_an_error_that_says_what_was_tried_and_what_to_do() {
    let error = UcxFabric::open(options("a", Some(PathBuf::from("/nowhere/libucp.so.0")))).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.code(), "library");
    assert!(text.contains("/nowhere/libucp.so.0") && text.contains("install"), "{text}");
}

#[test]
fn a_process_has_one_ucx_and_shows_which() {
    with_each("library::a_process_has_one_ucx_and_shows_which", |library| {
        let first = UcxFabric::open(options("a", library.clone())).unwrap();
        println!("{} {}", first.library().display(), first.version());
        assert!(first.library().is_absolute() && first.version().starts_with("1."));
        // Again, by its name, and whichever is loaded.
        UcxFabric::open(options("b", Some(first.library().to_path_buf()))).unwrap();
        UcxFabric::open(options("c", None)).unwrap();
        let other = UcxFabric::open(options("d", Some(PathBuf::from("/elsewhere/libucp.so.0"))));
        let text = other.unwrap_err().to_string();
        assert!(
            text.contains("/elsewhere/libucp.so.0") && text.contains(first.library().to_str().unwrap()),
            "{text}"
        );
    });
}

#[test]
fn settings_that_leave_no_transport_are_an_error_that_names_the_library() {
    with_each("library::settings_that_leave_no_transport_are_an_error_that_names_the_library", |library| {
        let error =
            UcxFabric::open(UcxOptions { transports: Some("pigeon".into()), ..options("a", library) });
        let error = error.unwrap_err();
        assert!(matches!(&error, Error::Library(text) if text.contains("libucp")), "{error}");
    });
}

#[test]
fn memory_that_this_ucx_cannot_reach_is_refused() {
    with_each("library::memory_that_this_ucx_cannot_reach_is_refused", |library| {
        let fabric = UcxFabric::open(options("a", library)).unwrap();
        let host = region();
        #[expect(unsafe_code, reason = "memory that says that it is another kind")]
        // SAFETY: it is kept by itself, and nobody but the fabric, which refuses it, is given it.
        let strange = unsafe {
            Region::foreign(
                host.address(0, 0).unwrap(),
                host.len(),
                Kind::Tpu(Device(0)),
                std::sync::Arc::new(host.clone()),
            )
        };
        assert_eq!(fabric.register(strange), Err(Error::MemoryKind("tpu")));
        assert!(fabric.register(host).is_ok());
        fabric.close();
        assert_eq!(fabric.metadata(), Err(Error::Closed));
        assert_eq!(fabric.register(region()), Err(Error::Closed));
    });
}
