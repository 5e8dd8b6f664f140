//! One process' device memory in another.

use kvferry_transfer::memory::Device;
use kvferry_transfer::memory::cuda::{CudaProblem, Export};

use super::{bytes, cuda, fill, importer, memory, pattern, with_stand_in};
use crate::process::{from_hex, to_hex};

const LEN: usize = 3 << 20;

fn export(region: &kvferry_transfer::memory::Region) -> Export {
    region.cuda().unwrap().export().unwrap()
}

/// What both drivers do.
pub fn is_shared() {
    let region = memory(&cuda(), 0, LEN);
    fill(&region, &pattern(LEN, 1));
    let mut other = importer::start(&[]);
    let answer = other.ask(&format!("import {}", to_hex(&export(&region).to_bytes())));
    assert!(answer.starts_with("cuda:") && answer.ends_with(&format!(" {LEN}")), "{answer}");
    assert_eq!(other.ask("is 1"), "true", "it sees what is here");
    assert_eq!(other.ask("fill 2"), "filled");
    assert!(bytes(&region) == pattern(LEN, 2), "and this side sees what it has written");
    assert_eq!(other.ask("let go"), "gone");
    other.end();
}

#[test]
fn what_either_process_writes_the_other_reads() {
    with_stand_in("cuda::sharing::what_either_process_writes_the_other_reads", &[], is_shared);
}

#[test]
fn a_device_is_found_by_what_it_is_and_not_by_its_number() {
    with_stand_in("cuda::sharing::a_device_is_found_by_what_it_is_and_not_by_its_number", &[], || {
        let region = memory(&cuda(), 0, LEN);
        fill(&region, &pattern(LEN, 1));
        let mut other = importer::start(&[("STAND_IN_VISIBLE", "2,1,0")]);
        let answer = other.ask(&format!("import {}", to_hex(&export(&region).to_bytes())));
        assert_eq!(answer, format!("cuda:2 {LEN}"));
        assert_eq!(other.ask("is 1"), "true");
        other.end();
    });
}

#[test]
fn a_region_inside_an_allocation_is_imported_where_it_lies() {
    with_stand_in("cuda::sharing::a_region_inside_an_allocation_is_imported_where_it_lies", &[], || {
        let cuda = cuda();
        let whole = memory(&cuda, 1, LEN);
        fill(&whole, &pattern(LEN, 0));
        let device = cuda.device(Device(1)).unwrap();
        let base = whole.address(1000, 0).unwrap();
        #[expect(unsafe_code, reason = "memory of somebody else")]
        // SAFETY: the keep holds the allocation.
        let part = unsafe { device.adopt(base, 5000, std::sync::Arc::new(whole.clone())) }.unwrap();
        let export = export(&part);
        assert_eq!((export.offset, export.len), (1000, 5000));
        let mut other = importer::start(&[]);
        assert_eq!(other.ask(&format!("import {}", to_hex(&export.to_bytes()))), "cuda:1 5000");
        assert_eq!(other.ask("is 1000"), "true");
        other.end();
    });
}

#[test]
fn a_handle_that_is_imported_twice_stays_until_both_are_let_go() {
    with_stand_in("cuda::sharing::a_handle_that_is_imported_twice_stays_until_both_are_let_go", &[], || {
        let region = memory(&cuda(), 0, LEN);
        fill(&region, &pattern(LEN, 1));
        let mut other = importer::start(&[]);
        let read = other.ask(&format!("twice {}", to_hex(&export(&region).to_bytes())));
        assert_eq!(from_hex(&read), pattern(8, 1));
        other.end();
    });
}

#[test]
fn what_cannot_be_imported_is_refused_and_says_why() {
    with_stand_in("cuda::sharing::what_cannot_be_imported_is_refused_and_says_why", &[], || {
        let region = memory(&cuda(), 1, LEN);
        let export = export(&region);
        assert_eq!(cuda().import(&export).unwrap_err(), CudaProblem::OwnExport);
        let ask = |variables: &[(&str, &str)], export: &Export| {
            let mut other = importer::start(variables);
            let answer = other.ask(&format!("import {}", to_hex(&export.to_bytes())));
            other.end();
            answer
        };
        let hidden = ask(&[("STAND_IN_VISIBLE", "0")], &export);
        assert!(
            hidden.starts_with("cuda_not_visible") && hidden.contains("NVIDIA_VISIBLE_DEVICES"),
            "{hidden}"
        );
        assert!(hidden.contains("GPU-a0a0a0a0-a0a0-a0a0-a0a0-a0a0a0a0a001"), "{hidden}");
        let denied = ask(&[("STAND_IN_FAIL", "cuIpcOpenMemHandle_v2=205")], &export);
        assert!(denied.starts_with("cuda_denied") && denied.contains("CUDA_ERROR_MAP_FAILED"), "{denied}");
        assert!(denied.contains("hostIPC") && denied.contains("shareProcessNamespace"), "{denied}");
        for longer in [
            Export { len: export.len + 1, ..export },
            Export { offset: 1, ..export },
            Export { offset: u64::MAX - export.len, ..export },
        ] {
            let answer = ask(&[], &longer);
            assert!(answer.starts_with("cuda_shorter") && answer.contains(&LEN.to_string()), "{answer}");
        }
        let other_handle = Export { handle: [9; 64], ..export };
        assert!(ask(&[], &other_handle).starts_with("cuda_gone"));
        drop(region);
        let gone = ask(&[], &export);
        assert!(gone.starts_with("cuda_gone") && gone.contains("connect again"), "{gone}");
    });
}

#[test]
fn memory_that_the_driver_cannot_name_is_not_exported() {
    with_stand_in(
        "cuda::sharing::memory_that_the_driver_cannot_name_is_not_exported",
        &[("STAND_IN_POOL", "1")],
        || {
            let region = memory(&cuda(), 0, 4096);
            let problem = region.cuda().unwrap().export().unwrap_err();
            assert_eq!(problem.code(), "cuda_not_shareable");
            assert!(problem.to_string().contains("expandable_segments:False"), "{problem}");
        },
    );
}

#[test]
fn what_was_imported_is_not_exported_once_more() {
    with_stand_in("cuda::sharing::what_was_imported_is_not_exported_once_more", &[], || {
        let region = memory(&cuda(), 0, 4096);
        let mut other = importer::start(&[]);
        other.ask(&format!("import {}", to_hex(&export(&region).to_bytes())));
        assert_eq!(other.ask("export again"), "cuda_not_shareable");
        other.end();
    });
}

#[test]
fn an_exporter_that_has_ended_is_told_as_gone() {
    with_stand_in("cuda::sharing::an_exporter_that_has_ended_is_told_as_gone", &[], || {
        let mut other = importer::start(&[]);
        other.ask("allocate 0 4096");
        let export = Export::from_bytes(&from_hex(&other.ask("export"))).unwrap();
        assert!(cuda().import(&export).is_ok());
        other.end();
        assert_eq!(cuda().import(&export).unwrap_err().code(), "cuda_gone");
    });
}
