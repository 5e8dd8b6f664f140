//! The shm fabric with device memory on either side, or on both: two real processes.

use std::num::NonZeroUsize;
use std::thread;
use std::time::{Duration, Instant};

use kvferry_transfer::fabric::shm::Shm;
use kvferry_transfer::fabric::{Direction, Event, Fabric, Request};
use kvferry_transfer::memory::{Device, Region};
use kvferry_transfer::{Access, Error, PeerId, Place, RegionId, Segment};

use super::peer::{PATIENCE, fabric, meet, region, start, token, until};
use super::{Second, bytes, cuda, fill, pattern, with_stand_in};
use crate::process::from_hex;

/// More than a slice of device copies (16 MiB), and no multiple of anything.
const LEN: usize = (18 << 20) + 4321;

struct Pair {
    fabric: Shm,
    second: Second,
    peer: PeerId,
}

impl Pair {
    fn new(variables: &[(&str, &str)]) -> Self {
        // The fabric takes the driver that this process has loaded.
        cuda();
        let (fabric, mut second) = (fabric("first"), start(variables));
        let peer = meet(&fabric, &from_hex(&second.ask("open")));
        Self { fabric, second, peer }
    }

    fn here(&self, place: &str, len: usize, seed: u64) -> (RegionId, Region) {
        let region = region(place, len);
        fill(&region, &pattern(len, seed));
        (self.fabric.register(region.clone()).unwrap(), region)
    }

    fn there(&mut self, place: &str, len: usize, seed: u64) -> RegionId {
        RegionId(self.second.ask(&format!("register {place} {len} {seed}")).parse().unwrap())
    }

    fn request(
        &self,
        access: Access,
        (here, there): (RegionId, RegionId),
        blocks: &[(u64, u64, u64)],
    ) -> Request {
        let place = |region, offset| Place { region, offset };
        let segment = |(ours, theirs, len): &(u64, u64, u64)| Segment {
            local: place(here, *ours),
            remote: place(there, *theirs),
            len: *len,
        };
        Request {
            peer: self.peer,
            direction: if access == Access::Read { Direction::Read } else { Direction::Write },
            token: token(there, access),
            segments: blocks.iter().map(segment).collect(),
            notify: None,
            deadline: None,
            checksum: false,
        }
    }

    fn end_of(&self, request: Request) -> Result<(), Error> {
        let transfer = self.fabric.submit(request)?;
        until(&self.fabric, |event| match event {
            Event::Done(id) if id == transfer => Some(Ok(())),
            Event::Failed(id, error) if id == transfer => Some(Err(error)),
            _ => None,
        })
    }

    /// Moves everything there and back, whole and in scattered blocks, with checksums and without.
    fn moves(&mut self, ours: &str, theirs: &str) {
        let ids = ((self.here(ours, LEN, 1)), self.there(theirs, LEN, 2));
        let ((here, region), there) = ids;
        let whole = [(0, 0, LEN as u64)];
        for checksum in [false, true] {
            fill(&region, &pattern(LEN, 3));
            let write = Request { checksum, ..self.request(Access::Write, (here, there), &whole) };
            assert_eq!(self.end_of(write), Ok(()), "{ours} to {theirs}");
            assert_eq!(self.second.ask(&format!("is {} 3", there.0)), "true");
            fill(&region, &pattern(LEN, 4));
            let read = Request { checksum, ..self.request(Access::Read, (here, there), &whole) };
            assert_eq!(self.end_of(read), Ok(()), "{theirs} to {ours}");
            assert!(bytes(&region) == pattern(LEN, 3), "{theirs} to {ours}");
        }
        // Blocks of 5000 bytes, the last here from the first there.
        let blocks: Vec<_> = (0..1500u64).map(|at| (at * 7001, (1499 - at) * 9001, 5000)).collect();
        fill(&region, &pattern(LEN, 5));
        assert_eq!(self.end_of(self.request(Access::Read, (here, there), &blocks)), Ok(()));
        let (mut expected, source) = (pattern(LEN, 5), pattern(LEN, 3));
        for (to, from, len) in blocks.map_usize() {
            expected[to..to + len].copy_from_slice(&source[from..from + len]);
        }
        assert!(bytes(&region) == expected, "scattered, {theirs} to {ours}");
    }
}

trait MapUsize {
    fn map_usize(&self) -> Vec<(usize, usize, usize)>;
}

impl MapUsize for Vec<(u64, u64, u64)> {
    fn map_usize(&self) -> Vec<(usize, usize, usize)> {
        let size = |number: u64| usize::try_from(number).unwrap();
        self.iter().map(|(one, other, len)| (size(*one), size(*other), size(*len))).collect()
    }
}

/// What both drivers do, on devices of these numbers (in each process' own order).
pub fn moves_between(places: &[(&str, &str)], variables: &[(&str, &str)]) {
    let mut pair = Pair::new(variables);
    for (ours, theirs) in places {
        pair.moves(ours, theirs);
    }
    // The second lets go first; this side closes what it has mapped, and then its own memory goes.
    let number = pair.second.ask("register host 4096 0");
    assert_eq!(pair.second.ask(&format!("let go {number}")), "gone");
    pair.fabric.close();
    pair.second.end();
}

#[test]
fn blocks_move_between_host_and_devices_of_two_processes_every_way() {
    with_stand_in(
        "cuda::fabric::blocks_move_between_host_and_devices_of_two_processes_every_way",
        &[],
        || {
            let places = [("host", "0"), ("0", "host"), ("0", "0"), ("1", "0")];
            // The other counts its devices the other way round.
            moves_between(&places, &[("STAND_IN_VISIBLE", "1,0")]);
        },
    );
}

#[test]
fn the_lane_tells_that_device_memory_is_reached() {
    with_stand_in("cuda::fabric::the_lane_tells_that_device_memory_is_reached", &[], || {
        let mut pair = Pair::new(&[]);
        let ((here, _keep), there) = (pair.here("host", 4096, 1), pair.there("0", 4096, 2));
        assert_eq!(pair.fabric.lane(pair.peer).unwrap().transport, "shm");
        pair.end_of(pair.request(Access::Read, (here, there), &[(0, 0, 4096)])).unwrap();
        assert_eq!(pair.fabric.lane(pair.peer).unwrap().transport, "shm+cuda");
        pair.fabric.close();
        pair.second.end();
    });
}

#[test]
fn bounds_and_leases_are_held_to_as_for_host_memory() {
    with_stand_in("cuda::fabric::bounds_and_leases_are_held_to_as_for_host_memory", &[], || {
        let mut pair = Pair::new(&[]);
        let ((here, region), there) = (pair.here("0", 8192, 1), pair.there("1", 4096, 2));
        for access in [Access::Read, Access::Write] {
            for blocks in [[(0, 1, 4096)], [(0, u64::MAX - 8, 4)]] {
                let error = pair.end_of(pair.request(access, (here, there), &blocks)).unwrap_err();
                assert!(["outside_lease", "out_of_region"].contains(&error.code()), "{error}");
            }
            let mut wrong = pair.request(access, (here, there), &[(0, 0, 4096)]);
            wrong.token.0[0] ^= 0x80;
            assert_eq!(pair.end_of(wrong).unwrap_err().code(), "no_lease");
        }
        let beyond = pair.request(Access::Read, (here, there), &[(8190, 0, 3)]);
        assert_eq!(pair.fabric.submit(beyond).unwrap_err(), Error::OutOfRegion(here, 8192));
        assert!(bytes(&region) == pattern(8192, 1), "nothing is written");
        assert_eq!(pair.second.ask(&format!("is {} 2", there.0)), "true");
        drop(region);
        pair.fabric.close();
        pair.second.end();
    });
}

/// A write to the second, which cannot take it, and then one that it can.
fn fails_alone(variables: &[(&str, &str)], ours: &str, parts: &[&str]) {
    let mut pair = Pair::new(variables);
    let ((device, region), there) = (pair.here(ours, 4096, 1), pair.there("host", 4096, 2));
    let error = pair.end_of(pair.request(Access::Write, (device, there), &[(0, 0, 4096)])).unwrap_err();
    for part in parts {
        assert!(error.to_string().contains(part), "{part} is not in: {error}");
    }
    let (host, _keep) = pair.here("host", 4096, 3);
    assert_eq!(
        pair.end_of(pair.request(Access::Write, (host, there), &[(0, 0, 4096)])),
        Ok(()),
        "the peer is well"
    );
    assert_eq!(pair.second.ask(&format!("is {} 3", there.0)), "true");
    drop(region);
    pair.fabric.close();
    pair.second.end();
}

#[test]
fn a_device_that_the_other_does_not_see_fails_the_transfer_and_says_what_to_do() {
    with_stand_in(
        "cuda::fabric::a_device_that_the_other_does_not_see_fails_the_transfer_and_says_what_to_do",
        &[],
        || {
            let load = [("STAND_IN_VISIBLE", "0")];
            fails_alone(&load, "1", &["does not see", "NVIDIA_VISIBLE_DEVICES"]);
        },
    );
}

#[test]
fn a_mapping_that_the_system_denies_fails_the_transfer_and_says_what_to_do() {
    with_stand_in(
        "cuda::fabric::a_mapping_that_the_system_denies_fails_the_transfer_and_says_what_to_do",
        &[],
        || {
            let denied = [("STAND_IN_FAIL", "cuIpcOpenMemHandle_v2=205")];
            fails_alone(&denied, "0", &["CUDA_ERROR_MAP_FAILED", "hostIPC"]);
        },
    );
}

#[test]
fn a_copy_that_fails_on_the_device_fails_the_transfer() {
    with_stand_in("cuda::fabric::a_copy_that_fails_on_the_device_fails_the_transfer", &[], || {
        let failing = [("STAND_IN_FAIL", "copy=719")];
        fails_alone(&failing, "0", &["CUDA_ERROR_LAUNCH_FAILED"]);
    });
}

#[test]
fn what_a_peer_had_mapped_is_freed_when_it_is_killed() {
    with_stand_in(
        "cuda::fabric::what_a_peer_had_mapped_is_freed_when_it_is_killed",
        &[("STAND_IN_MEMORY", "1048576")],
        || {
            let mut pair = Pair::new(&[]);
            let ((here, region), there) = (pair.here("0", 1 << 20, 1), pair.there("host", 1 << 20, 2));
            pair.end_of(pair.request(Access::Write, (here, there), &[(0, 0, 1 << 20)])).unwrap();
            drop(region);
            pair.second.kill();
            until(&pair.fabric, |event| matches!(event, Event::Lost(..)).then_some(()));
            pair.fabric.deregister(here).unwrap();
            let (device, all) = (cuda().device(Device(0)).unwrap(), NonZeroUsize::new(1 << 20).unwrap());
            let start = Instant::now();
            while device.allocate(all).is_err() {
                assert!(start.elapsed() < PATIENCE, "it is not freed");
                thread::sleep(Duration::from_millis(1));
            }
        },
    );
}

#[test]
fn a_region_that_is_let_go_is_freed_only_when_the_other_has_closed_it() {
    with_stand_in(
        "cuda::fabric::a_region_that_is_let_go_is_freed_only_when_the_other_has_closed_it",
        &[],
        || {
            let mut pair = Pair::new(&[]);
            let (here, _keep) = pair.here("host", 4096, 0);
            for round in 0..20 {
                let there = pair.there("0", 4096, round);
                pair.end_of(pair.request(Access::Read, (here, there), &[(0, 0, 4096)])).unwrap();
                assert_eq!(pair.second.ask(&format!("let go {}", there.0)), "gone");
            }
            pair.fabric.close();
            // The stand-in has counted it if one was freed under this side's mapping.
            pair.second.end();
        },
    );
}
