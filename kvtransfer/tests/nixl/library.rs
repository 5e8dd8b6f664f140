//! One NIXL of a process and one plugin of a fabric, or an error that says what to do.

use std::path::PathBuf;
use std::sync::Arc;

use kvferry_transfer::Error;
use kvferry_transfer::fabric::nixl::{NixlFabric, NixlOptions, Storage, StorageOptions};
use kvferry_transfer::fabric::{Copying, Fabric};
use kvferry_transfer::memory::{Device, Kind, Region};

use crate::support::{BYTES, met, open, options, region, with_each};

#[test]
fn a_missing_library_is_an_error_that_says_what_was_tried_and_what_to_do() {
    let nowhere = PathBuf::from("/nowhere/libnixl_capi.so");
    let storage = StorageOptions { library: Some(nowhere.clone()), ..StorageOptions::new("POSIX") };
    for error in [NixlFabric::open(options("a", nowhere)).map(drop), Storage::open(storage).map(drop)]
        .map(Result::unwrap_err)
    {
        let text = error.to_string();
        assert_eq!(error.code(), "library");
        assert!(text.contains("/nowhere/libnixl_capi.so") && text.contains("install"), "{text}");
    }
}

#[test]
fn a_process_has_one_nixl_and_shows_which() {
    with_each("library::a_process_has_one_nixl_and_shows_which", |library| {
        let first = open("a", library);
        println!("{} {}", first.library().display(), first.version());
        assert_eq!(first.library(), library.canonicalize().unwrap());
        assert!(first.version().starts_with("1."));
        // Whichever is loaded.
        NixlFabric::open(NixlOptions { library: None, ..options("b", "") }).unwrap();
        let text = NixlFabric::open(options("c", "/elsewhere/libnixl_capi.so")).unwrap_err().to_string();
        assert!(
            text.contains("/elsewhere/libnixl_capi.so") && text.contains(first.library().to_str().unwrap()),
            "{text}"
        );
    });
}

#[test]
fn a_plugin_that_is_not_there_is_an_error_that_lists_those_that_are() {
    with_each("library::a_plugin_that_is_not_there_is_an_error_that_lists_those_that_are", |library| {
        for plugin in ["PIGEON", "ucx", "../UCX", ""] {
            let refused = NixlFabric::open(NixlOptions { plugin: plugin.into(), ..options("a", library) });
            let (error, of_the_name) = (refused.unwrap_err(), plugin.is_empty() || plugin.contains('/'));
            let text = error.to_string();
            println!("{text}");
            assert_eq!(error.code(), "library");
            assert!(
                of_the_name || (text.contains(plugin) && text.contains("POSIX") && text.contains("UCX")),
                "{text}"
            );
        }
    });
}

#[test]
fn a_plugin_that_is_listed_and_of_no_use_is_told_apart() {
    with_each("library::a_plugin_that_is_listed_and_of_no_use_is_told_apart", |library| {
        // It wants devices that no machine has by itself.
        let refused = NixlFabric::open(NixlOptions { plugin: "GUSLI".into(), ..options("a", library) });
        let text = refused.unwrap_err().to_string();
        println!("{text}");
        assert!(text.contains("lists its plugin GUSLI") && !text.contains("has no plugin"), "{text}");
    });
}

#[test]
fn a_plugin_of_files_is_no_fabric_and_the_error_says_what_it_is() {
    with_each("library::a_plugin_of_files_is_no_fabric_and_the_error_says_what_it_is", |library| {
        let refused = NixlFabric::open(NixlOptions { plugin: "POSIX".into(), ..options("a", library) });
        let text = refused.unwrap_err().to_string();
        assert!(text.contains("POSIX") && text.contains("Storage"), "{text}");
    });
}

#[test]
fn parameters_reach_the_plugin_and_bad_ones_are_an_error() {
    with_each("library::parameters_reach_the_plugin_and_bad_ones_are_an_error", |library| {
        let with = |key: &str, value: &str| {
            NixlFabric::open(NixlOptions {
                params: vec![(key.into(), value.into())],
                ..options("a", library)
            })
        };
        let error = with("ucx_error_handling_mode", "sometimes").unwrap_err();
        assert_eq!(error.code(), "library", "{error}");
        assert_eq!(with("", "1").unwrap_err().code(), "library");
        assert!(with("num_workers", "2").is_ok());
    });
}

#[test]
fn memory_that_nixl_has_no_word_for_is_refused_and_a_closed_fabric_says_so() {
    with_each(
        "library::memory_that_nixl_has_no_word_for_is_refused_and_a_closed_fabric_says_so",
        |library| {
            let fabric = open("a", library);
            let host = region(BYTES);
            #[expect(unsafe_code, reason = "memory that says that it is another kind")]
            // SAFETY: it is kept by itself, and nobody but the fabric, which refuses it, is given it.
            let strange = unsafe {
                let (base, keep) = (host.address(0, 0).unwrap(), Arc::new(host.clone()));
                Region::foreign(base, host.len(), Kind::Tpu(Device(0)), keep)
            };
            assert_eq!(fabric.register(strange), Err(Error::MemoryKind("tpu")));
            let id = fabric.register(host).unwrap();
            for len in [0, (4 << 20) + 1] {
                assert_eq!(fabric.blocks(id, len).unwrap_err().code(), "limit");
            }
            fabric.close();
            assert_eq!(fabric.metadata(), Err(Error::Closed));
            assert_eq!(fabric.blocks(id, 4096), Err(Error::Closed));
            assert_eq!(fabric.register(region(BYTES)), Err(Error::Closed));
        },
    );
}

#[test]
fn the_lane_names_the_plugin_and_claims_nothing_more() {
    with_each("library::the_lane_names_the_plugin_and_claims_nothing_more", |library| {
        let (a, b) = (open("a", library), open("b", library));
        let lane = a.lane(met(&a, &b)).unwrap();
        assert_eq!((lane.transport.as_str(), lane.copying), ("nixl/UCX", Copying::Untold));
    });
}
