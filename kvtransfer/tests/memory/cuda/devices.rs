//! A device's memory within one process.

use std::sync::Arc;

use kvferry_transfer::memory::cuda::Cuda;
use kvferry_transfer::memory::{Arena, Device, Kind, allocate};

use super::{bytes, cuda, fill, memory, pattern, with_stand_in};
use std::num::NonZeroUsize;

const MIB: usize = 1 << 20;

#[test]
fn the_driver_tells_its_devices_in_this_process_order() {
    with_stand_in(
        "cuda::devices::the_driver_tells_its_devices_in_this_process_order",
        &[("STAND_IN_VISIBLE", "3,1")],
        || {
            let cuda = cuda();
            let found: Vec<_> = cuda.devices().cloned().collect();
            assert_eq!(found.len(), 2);
            assert_eq!(
                (found[0].device, found[0].name.as_str(), found[0].bus.as_str()),
                (Device(0), "Stand-in 3", "0000:03:00.0")
            );
            assert_eq!(
                (found[1].device, found[1].uuid[15], found[1].uuid[0]),
                (Device(1), 1, 0xa0),
                "the later call for UUIDs"
            );
            assert_eq!(cuda.version(), "12.4");
            assert_eq!(Cuda::open(None).unwrap().file(), cuda.file(), "a process has one driver");
        },
    );
}

#[test]
fn what_is_copied_in_comes_out_and_nothing_beside_it_changes() {
    with_stand_in("cuda::devices::what_is_copied_in_comes_out_and_nothing_beside_it_changes", &[], || {
        let region = memory(&cuda(), 1, MIB);
        assert_eq!((region.kind(), region.len()), (Kind::Cuda(Device(1)), MIB as u64));
        fill(&region, &pattern(MIB, 1));
        region.cuda().unwrap().write(1000, b"blocks").unwrap();
        let mut expected = pattern(MIB, 1);
        expected[1000..1006].copy_from_slice(b"blocks");
        assert!(bytes(&region) == expected);
        let mut read = [0; 6];
        region.cuda().unwrap().read(1000, &mut read).unwrap();
        assert_eq!(&read, b"blocks");
        assert!(!region.read_at(0, &mut read) && !region.write_at(0, &read), "the host cannot reach it");
    });
}

#[test]
fn a_range_out_of_the_memory_is_refused_and_copies_nothing() {
    with_stand_in("cuda::devices::a_range_out_of_the_memory_is_refused_and_copies_nothing", &[], || {
        let region = memory(&cuda(), 0, 4096);
        fill(&region, &pattern(4096, 1));
        let memory = region.cuda().unwrap();
        for (offset, len) in [(4096, 1), (4090, 7), (u64::MAX, 1)] {
            assert_eq!(memory.read(offset, &mut vec![0; len]).unwrap_err().code(), "cuda_bounds");
            assert_eq!(memory.write(offset, &vec![0; len]).unwrap_err().code(), "cuda_bounds");
        }
        assert!(bytes(&region) == pattern(4096, 1));
    });
}

#[test]
fn copies_between_devices_are_queued_together_and_all_there_when_they_are_finished() {
    with_stand_in(
        "cuda::devices::copies_between_devices_are_queued_together_and_all_there_when_they_are_finished",
        &[("STAND_IN_POLLS", "300")],
        || {
            let cuda = cuda();
            let (from, to) = (memory(&cuda, 0, MIB), memory(&cuda, 1, MIB));
            fill(&from, &pattern(MIB, 2));
            let mut copies = cuda.device(Device(1)).unwrap().copies().unwrap();
            // Backwards, in pieces of 4 KiB.
            let blocks = (0..MIB as u64).step_by(4096);
            for at in blocks.clone() {
                let to = (to.cuda().unwrap(), MIB as u64 - 4096 - at);
                #[expect(unsafe_code, reason = "both are kept until the copies are finished")]
                // SAFETY: as said.
                unsafe { copies.between(to, (from.cuda().unwrap(), at), 4096) }.unwrap();
            }
            copies.finish().unwrap();
            let (from, to) = (bytes(&from), bytes(&to));
            for at in blocks.map(|at| usize::try_from(at).unwrap()) {
                let there = MIB - 4096 - at;
                assert!(from[at..at + 4096] == to[there..there + 4096], "{at}");
            }
        },
    );
}

#[test]
fn memory_is_freed_with_its_last_clone_and_can_be_had_again() {
    with_stand_in(
        "cuda::devices::memory_is_freed_with_its_last_clone_and_can_be_had_again",
        &[("STAND_IN_MEMORY", "1048576")],
        || {
            let device = cuda().device(Device(0)).unwrap();
            let all = NonZeroUsize::new(MIB).unwrap();
            let region = device.allocate(all).unwrap();
            let clone = region.clone();
            drop(region);
            assert_eq!(device.allocate(all).unwrap_err().code(), "cuda_out_of_memory", "the clone has it");
            drop(clone);
            assert!(device.allocate(all).is_ok());
        },
    );
}

#[test]
fn a_kind_of_memory_is_allocated_by_what_opens_it() {
    with_stand_in("cuda::devices::a_kind_of_memory_is_allocated_by_what_opens_it", &[], || {
        let _loaded = cuda();
        let len = NonZeroUsize::new(4096).unwrap();
        for kind in [Kind::Host, Kind::Cuda(Device(0)), Kind::Cuda(Device(1))] {
            let region = allocate(kind, len).unwrap();
            assert_eq!((region.kind(), region.len()), (kind, 4096));
            fill(&region, &pattern(4096, 3));
            assert!(bytes(&region) == pattern(4096, 3));
        }
        let error = allocate(Kind::Cuda(Device(2)), len).unwrap_err();
        assert!(error.to_string().contains("this process sees 2"), "{error}");
    });
}

#[test]
fn memory_of_an_engine_is_adopted_within_its_allocation_only_and_not_freed() {
    with_stand_in(
        "cuda::devices::memory_of_an_engine_is_adopted_within_its_allocation_only_and_not_freed",
        &[],
        || {
            let cuda = cuda();
            let device = cuda.device(Device(0)).unwrap();
            let engines = memory(&cuda, 0, MIB);
            let base = engines.address(4096, 0).unwrap();
            let keep = Arc::new(engines.clone());
            #[expect(unsafe_code, reason = "memory of somebody else")]
            // SAFETY: `keep` holds the allocation.
            let adopt = |device: &kvferry_transfer::memory::cuda::CudaDevice, len| unsafe {
                device.adopt(base, len, keep.clone())
            };
            let left = (MIB - 4096) as u64;
            assert_eq!(adopt(&device, left + 1).unwrap_err().code(), "cuda_bounds");
            let other = cuda.device(Device(1)).unwrap();
            assert_eq!(adopt(&other, 1).unwrap_err().code(), "cuda_unknown_device");
            let adopted = adopt(&device, left).unwrap();
            fill(&adopted, &pattern(MIB - 4096, 4));
            drop(adopted);
            assert!(bytes(&engines)[4096..] == pattern(MIB - 4096, 4), "it is the engine's, and still there");
        },
    );
}

#[test]
fn host_memory_is_pinned_once_until_it_is_let_go() {
    with_stand_in("cuda::devices::host_memory_is_pinned_once_until_it_is_let_go", &[], || {
        let cuda = cuda();
        let device = cuda.device(Device(0)).unwrap();
        let arena = Arena::create("pin", NonZeroUsize::new(MIB).unwrap()).unwrap();
        let pinned = device.pin(&arena).unwrap();
        assert_eq!(pinned.region().len(), arena.len());
        assert!(device.pin(&arena).unwrap_err().to_string().contains("712"), "it is already");
        drop(pinned);
        assert!(device.pin(&arena).is_ok());
        assert_eq!(device.pin(&memory(&cuda, 0, 4096)).unwrap_err().code(), "cuda_not_host");
    });
}
