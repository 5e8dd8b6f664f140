//! What can go wrong: each says so in CUDA's words, whose fault it is, and what to do.

use std::num::NonZeroUsize;
use std::path::Path;

use kvferry_transfer::memory::cuda::{Cuda, CudaProblem};
use kvferry_transfer::memory::{Device, Region};
use kvferry_transfer::{Error, Fault};

use super::{bytes, cuda, fill, memory, pattern, with_stand_in};
use crate::{CC, process};

fn open() -> Result<Cuda, CudaProblem> {
    Cuda::open(std::env::var_os(super::DRIVER).map(std::path::PathBuf::from).as_deref())
}

fn says(problem: &CudaProblem, code: &str, fault: Fault, parts: &[&str]) {
    assert_eq!((problem.code(), problem.fault()), (code, fault), "{problem}");
    let text = problem.to_string();
    for part in parts {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
}

#[test]
fn without_a_driver_it_is_said_what_was_tried_and_how_to_get_one() {
    process::alone(
        "cuda::refusals::without_a_driver_it_is_said_what_was_tried_and_how_to_get_one",
        &[],
        || {
            let problem = Cuda::open(Some(&CC.nothing("no-libcuda.so.1"))).unwrap_err();
            says(
                &problem,
                "cuda_driver",
                Fault::Machine,
                &["no-libcuda.so.1", "No such file", "NVIDIA container runtime"],
            );
            assert_eq!(Error::from(problem).code(), "library");
        },
    );
}

#[test]
fn another_driver_than_the_one_that_is_loaded_is_refused() {
    with_stand_in("cuda::refusals::another_driver_than_the_one_that_is_loaded_is_refused", &[], || {
        let _loaded = cuda();
        let problem = Cuda::open(Some(Path::new("/other/libcuda.so.1"))).unwrap_err();
        says(&problem, "cuda_other_driver", Fault::Caller, &["/other/libcuda.so.1", "libcuda-stand-in"]);
    });
}

#[test]
fn a_machine_without_a_device_is_told_and_can_be_tried_again() {
    for variable in [("STAND_IN_FAIL", "cuInit=100"), ("STAND_IN_VISIBLE", "")] {
        with_stand_in(
            "cuda::refusals::a_machine_without_a_device_is_told_and_can_be_tried_again",
            &[variable],
            || {
                for _ in 0..2 {
                    let problem = open().unwrap_err();
                    says(
                        &problem,
                        "cuda_no_device",
                        Fault::Machine,
                        &["CUDA_ERROR_NO_DEVICE", "nvidia.com/gpu", "CUDA_VISIBLE_DEVICES"],
                    );
                }
            },
        );
    }
}

#[test]
fn a_driver_that_is_not_ready_says_what_it_waits_for() {
    with_stand_in(
        "cuda::refusals::a_driver_that_is_not_ready_says_what_it_waits_for",
        &[("STAND_IN_FAIL", "cuInit=802")],
        || {
            let problem = open().unwrap_err();
            says(
                &problem,
                "cuda_call",
                Fault::Machine,
                &["cuInit", "CUDA_ERROR_SYSTEM_NOT_READY", "fabric manager"],
            );
            assert!(problem.may_retry());
        },
    );
}

#[test]
fn a_device_that_is_not_there_is_told_with_those_that_are() {
    with_stand_in("cuda::refusals::a_device_that_is_not_there_is_told_with_those_that_are", &[], || {
        let problem = cuda().device(Device(2)).unwrap_err();
        says(&problem, "cuda_unknown_device", Fault::Caller, &["no cuda:2", "sees 2"]);
    });
}

#[test]
fn a_device_without_room_says_how_much_it_has() {
    with_stand_in(
        "cuda::refusals::a_device_without_room_says_how_much_it_has",
        &[("STAND_IN_MEMORY", "100000")],
        || {
            let device = cuda().device(Device(0)).unwrap();
            let problem = device.allocate(NonZeroUsize::new(100_001).unwrap()).unwrap_err();
            says(&problem, "cuda_out_of_memory", Fault::Machine, &["cuda:0", "100001", "100000 are free"]);
            assert!(problem.may_retry());
        },
    );
}

#[test]
fn a_device_without_room_for_a_context_is_told_as_full() {
    with_stand_in(
        "cuda::refusals::a_device_without_room_for_a_context_is_told_as_full",
        &[("STAND_IN_FAIL", "cuDevicePrimaryCtxRetain=2")],
        || {
            let problem = cuda().device(Device(1)).unwrap_err();
            says(&problem, "cuda_out_of_memory", Fault::Machine, &["cuda:1"]);
        },
    );
}

#[test]
fn a_copy_that_fails_on_the_device_is_told_when_it_is_finished() {
    with_stand_in(
        "cuda::refusals::a_copy_that_fails_on_the_device_is_told_when_it_is_finished",
        &[("STAND_IN_FAIL", "copy=719@2")],
        || {
            let region = memory(&cuda(), 0, 4096);
            fill(&region, &pattern(4096, 1));
            let problem = region.cuda().unwrap().read(0, &mut [0; 10]).unwrap_err();
            says(&problem, "cuda_call", Fault::Machine, &["CUDA_ERROR_LAUNCH_FAILED", "restart it", "Xid"]);
            assert!(!problem.may_retry());
        },
    );
}

#[test]
fn each_call_that_fails_on_the_way_is_named_and_leaves_nothing_behind() {
    let calls = [
        "cuDeviceGetCount",
        "cuDeviceGet",
        "cuDevicePrimaryCtxRetain",
        "cuCtxPushCurrent_v2",
        "cuMemAlloc_v2",
        "cuEventCreate",
        "cuStreamCreate",
        "cuMemcpyHtoDAsync_v2",
        "cuEventRecord",
        "cuIpcGetMemHandle",
    ];
    for call in calls {
        with_stand_in(
            "cuda::refusals::each_call_that_fails_on_the_way_is_named_and_leaves_nothing_behind",
            // A number that the driver has no name for.
            &[("STAND_IN_FAIL", &format!("{call}=9999")), ("CALL", call)],
            || {
                let call = std::env::var("CALL").unwrap();
                let problem = everything().unwrap_err();
                let plain = call.trim_end_matches("_v2");
                says(&problem, "cuda_call", Fault::Machine, &[plain, "CUDA error 9999"]);
            },
        );
    }
}

/// All that a process does with its own device memory.
fn everything() -> Result<Region, CudaProblem> {
    let region = open()?.device(Device(0))?.allocate(NonZeroUsize::new(4096).unwrap())?;
    region.cuda().unwrap().write(0, &[1; 4096])?;
    region.cuda().unwrap().export()?;
    Ok(region)
}

#[test]
fn a_failure_that_passes_leaves_the_device_as_usable_as_before() {
    with_stand_in(
        "cuda::refusals::a_failure_that_passes_leaves_the_device_as_usable_as_before",
        &[("STAND_IN_FAIL", "cuMemAlloc_v2=2@2")],
        || {
            let region = memory(&cuda(), 0, 4096);
            let device = cuda().device(Device(0)).unwrap();
            assert!(device.allocate(NonZeroUsize::MIN).is_err());
            fill(&region, &pattern(4096, 5));
            assert!(bytes(&region) == pattern(4096, 5));
        },
    );
}
