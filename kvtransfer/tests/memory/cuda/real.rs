//! The same with the machine's own driver and devices, where there are some: `cargo test --test memory -- real`.

use kvferry_ffi_testing::skipped;
use kvferry_transfer::memory::Device;
use kvferry_transfer::memory::cuda::Cuda;

use super::{bytes, cuda, fill, memory, pattern};
use crate::process;

const LEN: usize = (5 << 20) + 77;

/// Runs `test` in a process of its own, if this machine has a device.
fn with_driver(name: &str, test: impl FnOnce()) {
    match Cuda::open(None) {
        Ok(cuda) => {
            let (version, file) = (cuda.version(), cuda.file().display());
            println!("CUDA {version} from {file}: {:?}", cuda.devices().collect::<Vec<_>>());
            process::alone(name, &[], test);
        }
        Err(problem) => skipped(&format!("{name}: {problem}")),
    }
}

#[test]
fn a_real_device_keeps_what_is_copied_in() {
    with_driver("cuda::real::a_real_device_keeps_what_is_copied_in", || {
        let device = cuda().device(Device(0)).unwrap();
        println!("node {:?}", device.numa_node());
        let region = memory(&cuda(), 0, LEN);
        fill(&region, &pattern(LEN, 1));
        assert!(bytes(&region) == pattern(LEN, 1));
        let huge = device.allocate(std::num::NonZeroUsize::new(1 << 50).unwrap()).unwrap_err();
        assert_eq!(huge.code(), "cuda_out_of_memory", "{huge}");
        let own = region.cuda().unwrap().export().unwrap();
        assert_eq!(cuda().import(&own).unwrap_err().code(), "cuda_own_export");
    });
}

#[test]
fn two_real_processes_share_a_devices_memory() {
    with_driver("cuda::real::two_real_processes_share_a_devices_memory", super::sharing::is_shared);
}

#[test]
fn blocks_move_between_host_and_real_devices_of_two_processes() {
    with_driver("cuda::real::blocks_move_between_host_and_real_devices_of_two_processes", || {
        let mut places = vec![("host", "0"), ("0", "host"), ("0", "0")];
        if cuda().devices().len() > 1 {
            places.push(("1", "0"));
        }
        super::fabric::moves_between(&places, &[]);
    });
}
