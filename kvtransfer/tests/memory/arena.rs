//! Host arenas as they are asked for, and what is said where they cannot be had so. Limits are lowered in processes of
//! their own.

use std::fs;
use std::num::NonZeroUsize;

use kvferry_ffi_testing::skipped;
use kvferry_transfer::memory::{Arena, ArenaOptions, ArenaProblem, Numa, Owner, Pages, Region, limits, numa};
use kvferry_transfer::{Error, Fault};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::process::alone;

const MIB: usize = 1 << 20;

fn options(len: usize) -> ArenaOptions {
    ArenaOptions::new("arena-test", NonZeroUsize::new(len).unwrap())
}

fn with(change: impl FnOnce(&mut ArenaOptions)) -> Result<Region, ArenaProblem> {
    let mut options = options(4 * MIB + 5);
    change(&mut options);
    Arena::with(&options)
}

/// It can be used up to its last byte, and not beyond.
fn works(region: &Region) {
    assert_eq!(region.len(), 4 * MIB as u64 + 5);
    assert!(region.write_at(4 * MIB as u64, b"block"));
    let mut read = [0; 5];
    assert!(region.read_at(4 * MIB as u64, &mut read) && &read == b"block");
    assert!(!region.write_at(4 * MIB as u64 + 1, b"block"));
    let theirs = Arena::open(region.arena().unwrap().file().try_clone_to_owned().unwrap()).unwrap();
    assert!(theirs.read_at(4 * MIB as u64, &mut read) && &read == b"block", "whoever maps it sees the same");
}

/// A number of `/proc/self/smaps` for the arena's mapping, in KiB.
fn of_mapping(region: &Region, what: &str) -> u64 {
    let begin = format!("{:x}-", region.address(0, 0).unwrap().addr());
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut lines = maps.lines().skip_while(|line| !line.starts_with(&begin)).skip(1);
    let line = lines.find_map(|line| line.strip_prefix(what)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Whether `option` stands among the flags of the arena's mapping.
fn has_flag(region: &Region, flag: &str) -> bool {
    let begin = format!("{:x}-", region.address(0, 0).unwrap().addr());
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut lines = maps.lines().skip_while(|line| !line.starts_with(&begin));
    lines.find_map(|line| line.strip_prefix("VmFlags:")).unwrap().split(' ').any(|found| found == flag)
}

#[test]
fn pages_are_taken_as_they_are_touched_or_all_at_once() {
    let lazy = with(|_| ()).unwrap();
    assert_eq!(of_mapping(&lazy, "Rss:"), 0);
    works(&lazy);
    let eager = with(|options| options.prefault = true).unwrap();
    assert!(of_mapping(&eager, "Rss:") >= 4 << 10);
    works(&eager);
}

#[test]
fn a_locked_arena_is_locked_as_far_as_the_limit_goes() {
    // Within 8 MiB, which is what most machines allow.
    match with(|options| options.lock = true) {
        Ok(region) => {
            assert!(has_flag(&region, "lo"));
            works(&region);
        }
        Err(problem) => {
            assert_eq!(problem.code(), "arena_memlock");
            skipped(&format!("locking: {problem}"));
        }
    }
}

#[test]
fn more_than_may_be_locked_is_refused_before_it_is_tried() {
    alone("arena::more_than_may_be_locked_is_refused_before_it_is_tried", &[], || {
        without_capabilities();
        setrlimit(Resource::RLIMIT_MEMLOCK, 65_536, 65_536).unwrap();
        let problem = with(|options| options.lock = true).unwrap_err();
        assert_eq!(problem, ArenaProblem::Memlock { needed: 4 * MIB as u64 + 5, locked: 0, limit: 65_536 });
        assert_eq!((problem.fault(), problem.may_retry()), (Fault::Machine, false));
        let text = problem.to_string();
        for part in ["4194309", "65536", "ulimit -l", "LimitMEMLOCK=infinity", "IPC_LOCK"] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
        assert_eq!(limits::memlock(65_537).unwrap_err().code(), "arena_memlock");
        assert_eq!(limits::memlock(65_536), Ok(()));
        assert_eq!(Error::from(problem).code(), "limit");
    });
}

/// As an ordinary user: root may lock what it likes.
fn without_capabilities() {
    if nix::unistd::geteuid().is_root() {
        nix::unistd::setuid(nix::unistd::Uid::from_raw(65_534)).unwrap();
    }
}

#[test]
fn an_arena_longer_than_a_file_may_be_is_an_error_and_not_a_signal() {
    alone("arena::an_arena_longer_than_a_file_may_be_is_an_error_and_not_a_signal", &[], || {
        let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
        setrlimit(Resource::RLIMIT_FSIZE, MIB as u64, hard).unwrap();
        let problem = with(|_| ()).unwrap_err();
        assert_eq!(problem, ArenaProblem::FileSize(4 * MIB as u64 + 5, MIB as u64));
        assert!(problem.to_string().contains("ulimit -f"), "{problem}");
        assert!(Arena::with(&options(MIB)).is_ok());
    });
}

#[test]
fn more_address_space_than_there_may_be_is_told_with_where_to_look() {
    alone("arena::more_address_space_than_there_may_be_is_told_with_where_to_look", &[], || {
        let (_, hard) = getrlimit(Resource::RLIMIT_AS).unwrap();
        setrlimit(Resource::RLIMIT_AS, 1 << 30, hard).unwrap();
        let problem = Arena::with(&options(2 << 30)).unwrap_err();
        assert_eq!((problem.code(), problem.may_retry()), ("arena_refused", true));
        assert!(problem.to_string().contains("ulimit -v"), "{problem}");
    });
}

#[test]
fn more_memory_than_there_is_is_refused_when_it_is_to_be_taken_now() {
    let all = 1 << 45;
    let problem = Arena::with(&ArenaOptions { prefault: true, ..options(all) }).unwrap_err();
    let ArenaProblem::Memory { needed, left, of } = problem.clone() else { panic!("{problem}") };
    assert!(needed == all as u64 && left > 0 && left < needed, "{problem}");
    let part = if of == Owner::Container { "resources.limits.memory" } else { "the machine has" };
    assert!(problem.to_string().contains(part), "{problem}");
    assert_eq!(limits::room(4096), Ok(()));
}

#[test]
fn huge_pages_are_had_or_it_is_said_how_many_are_free() {
    for (pages, size) in [(Pages::Huge2M, 2 * MIB), (Pages::Huge1G, 1 << 30)] {
        match with(|options| options.pages = pages) {
            Ok(region) => {
                assert_eq!(of_mapping(&region, "KernelPageSize:"), size as u64 >> 10);
                assert!(region.arena().unwrap().fell_back().is_none());
                works(&region);
            }
            Err(problem) => {
                let needed = (4 * MIB + 5).div_ceil(size);
                let ArenaProblem::HugePages { size: told, needed: asked, free } = problem.clone() else {
                    panic!("{problem}")
                };
                assert_eq!((told, asked), (size, needed));
                assert!(free.is_none_or(|free| free < needed as u64), "{problem}");
                assert!(free.is_none() || problem.to_string().contains("nr_hugepages"), "{problem}");
                skipped(&format!("huge pages: {problem}"));
            }
        }
    }
}

#[test]
fn where_huge_pages_are_short_usual_ones_do_if_that_is_allowed_and_it_is_told() {
    // More than any machine has reserved.
    let len = NonZeroUsize::new(1 << 42).unwrap();
    let asked = ArenaOptions { pages: Pages::Huge2M, ..ArenaOptions::new("short", len) };
    assert_eq!(Arena::with(&asked).unwrap_err().code(), "arena_huge_pages");
    let region = Arena::with(&ArenaOptions { fallback: true, ..asked }).unwrap();
    assert_eq!(region.len(), 1 << 42);
    let why = region.arena().unwrap().fell_back().unwrap();
    assert_eq!(why.code(), "arena_huge_pages");
    assert!(region.write_at(12345, b"block"));
}

#[test]
fn pages_are_joined_where_the_kernel_lets_them_be() {
    match with(|options| options.pages = Pages::Transparent) {
        Ok(region) => {
            assert!(has_flag(&region, "hg"), "the kernel knows that it is wished for");
            works(&region);
        }
        Err(problem) => {
            assert!(problem.to_string().contains("shmem_enabled"), "{problem}");
            let region =
                with(|options| (options.pages, options.fallback) = (Pages::Transparent, true)).unwrap();
            assert_eq!(region.arena().unwrap().fell_back(), Some(&problem));
            works(&region);
        }
    }
}

#[test]
fn an_arena_lies_where_it_is_placed() {
    let nodes = numa::nodes();
    assert!(!nodes.is_empty());
    for place in nodes.iter().map(|node| Numa::Bind(*node)).chain([Numa::Interleave, Numa::Default]) {
        let made = with(|options| (options.numa, options.prefault) = (place, true));
        if let Err(problem @ ArenaProblem::NumaDenied(_)) = &made {
            skipped(&format!("placing memory: {problem}"));
            continue;
        }
        let region = made.unwrap();
        works(&region);
        let begin = format!("{:x} ", region.address(0, 0).unwrap().addr());
        let maps = fs::read_to_string("/proc/self/numa_maps").unwrap_or_default();
        let Some(told) = maps.lines().find_map(|line| line.strip_prefix(&begin)) else {
            skipped("the kernel does not tell where memory lies");
            continue;
        };
        let wanted = match place {
            Numa::Bind(node) => format!("bind:{node} "),
            Numa::Interleave => "interleave:".into(),
            Numa::Default => "default ".into(),
        };
        assert!(told.starts_with(&wanted), "{told}");
        if let Numa::Bind(node) = place {
            let pages = format!(" N{node}=");
            assert!(told.contains(&pages), "{told}");
        }
    }
}

#[test]
fn a_node_that_is_not_there_is_refused_with_those_that_are() {
    let problem = with(|options| options.numa = Numa::Bind(1023)).unwrap_err();
    assert_eq!(problem, ArenaProblem::UnknownNode(1023, numa::nodes()));
    assert_eq!((problem.code(), problem.fault()), ("arena_unknown_node", Fault::Caller));
    assert!(problem.to_string().contains(&format!("{:?}", numa::nodes())), "{problem}");
}
