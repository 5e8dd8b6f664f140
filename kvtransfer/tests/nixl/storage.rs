//! Memory to files and back, with NIXL's POSIX plugin.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use kvferry_transfer::fabric::nixl::{Mode, Storage, StorageOptions};
use kvferry_transfer::fabric::{Direction, Event};
use kvferry_transfer::{Error, RegionId, TransferId};

use crate::support::{bytes, filled, pattern, region, segment, until, with_each};

const LEN: u64 = 8 << 20;

fn storage(library: &Path) -> Storage {
    Storage::open(StorageOptions { library: Some(library.into()), ..StorageOptions::new("POSIX") }).unwrap()
}

/// A folder of the test's own, empty.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("nixl-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn end(storage: &Storage, transfer: TransferId) -> Result<(), Error> {
    until(
        storage.wake_fd(),
        |events| storage.poll(events),
        |event| match event {
            Event::Done(id) if id == transfer => Some(Ok(())),
            Event::Failed(id, error) if id == transfer => Some(Err(error)),
            _ => None,
        },
    )
}

#[test]
fn memory_goes_to_files_and_comes_back_as_it_was() {
    with_each("storage::memory_goes_to_files_and_comes_back_as_it_was", |library| {
        let (storage, folder) = (storage(library), folder("and-back"));
        let (out, back) = (filled(LEN, 3), region(LEN));
        let (from, to) = (storage.register(out).unwrap(), storage.register(back.clone()).unwrap());
        let files = ["one", "two"].map(|name| storage.open_file(&folder.join(name), Mode::Write).unwrap());
        // Blocks of odd lengths, turned about, in two files.
        let (block, count) = (12_345, 400_u64);
        let blocks = |memory: RegionId| {
            (0..count)
                .map(|number| {
                    let file = files[usize::try_from(number % 2).unwrap()];
                    segment((memory, number * block), (file, number * 7 % count * block), block)
                })
                .collect()
        };
        let written = storage.submit(Direction::Write, blocks(from)).unwrap();
        assert_eq!(end(&storage, written), Ok(()));
        let read = storage.submit(Direction::Read, blocks(to)).unwrap();
        assert_eq!(end(&storage, read), Ok(()));
        let len = count * block;
        assert!(
            bytes(&back, 0, len) == pattern(LEN, 3)[..usize::try_from(len).unwrap()],
            "other bytes came back"
        );
        // And it lies in the files where it was said to.
        let one = fs::read(folder.join("one")).unwrap();
        let at = usize::try_from(2 * 7 * block).unwrap();
        let block = usize::try_from(block).unwrap();
        assert_eq!(one[at..at + block], pattern(LEN, 3)[2 * block..3 * block]);
        for id in [from, to, files[0], files[1]] {
            storage.forget(id).unwrap();
        }
        assert_eq!(storage.forget(from), Err(Error::UnknownRegion(from)));
        fs::remove_dir_all(folder).unwrap();
    });
}

#[test]
fn a_file_is_read_to_its_end_and_not_beyond() {
    with_each("storage::a_file_is_read_to_its_end_and_not_beyond", |library| {
        let (storage, folder) = (storage(library), folder("end"));
        let path = folder.join("short");
        fs::write(&path, pattern(4096, 5)).unwrap();
        let memory = region(LEN);
        let (to, file) =
            (storage.register(memory.clone()).unwrap(), storage.open_file(&path, Mode::Read).unwrap());
        let read = |at, len| storage.submit(Direction::Read, [segment((to, 0), (file, at), len)].into());
        for (at, len) in [(4000, 97), (4096, 1), (u64::MAX, 2)] {
            assert_eq!(read(at, len), Err(Error::OutOfRegion(file, 4096)), "{at} {len}");
        }
        assert_eq!(end(&storage, read(4000, 96).unwrap()), Ok(()));
        assert_eq!(bytes(&memory, 0, 96), pattern(4096, 5)[4000..]);
        // It grows, and what is new can be read.
        let mut appended = File::options().append(true).open(&path).unwrap();
        appended.write_all(b"more").unwrap();
        assert_eq!(end(&storage, read(4096, 4).unwrap()), Ok(()));
        assert_eq!(bytes(&memory, 0, 4), b"more");
        let nothing = storage.submit(Direction::Read, [].into()).unwrap();
        assert_eq!(end(&storage, nothing), Ok(()));
        fs::remove_dir_all(folder).unwrap();
    });
}

#[test]
fn what_cannot_be_is_refused_at_once() {
    with_each("storage::what_cannot_be_is_refused_at_once", |library| {
        let (storage, folder) = (storage(library), folder("refused"));
        let missing = storage.open_file(&folder.join("missing"), Mode::Read).unwrap_err();
        assert_eq!(missing, Error::System("opening a file for NIXL", nix::errno::Errno::ENOENT as i32));
        fs::write(folder.join("kept"), pattern(4096, 5)).unwrap();
        let (memory, file) = (
            storage.register(filled(LEN, 1)).unwrap(),
            storage.open_file(&folder.join("kept"), Mode::Read).unwrap(),
        );
        let submit = |direction, segments: &[_]| storage.submit(direction, segments.into()).unwrap_err();
        let one = segment((memory, 0), (file, 0), 10);
        assert_eq!(submit(Direction::Write, &[one]).code(), "system", "it is open for reading");
        let writable = storage.open_file(&folder.join("new"), Mode::Write).unwrap();
        for (segments, code) in [
            (vec![segment((memory, LEN - 1), (writable, 0), 2)], "out_of_region"),
            (vec![segment((RegionId(77), 0), (writable, 0), 2)], "unknown_region"),
            (vec![segment((memory, 0), (RegionId(77), 0), 2)], "unknown_region"),
            (vec![segment((memory, 0), (memory, 0), 2)], "unknown_region"),
            (vec![segment((writable, 0), (writable, 0), 2)], "unknown_region"),
            (
                vec![segment((memory, 0), (writable, 0), 9), segment((memory, 50), (writable, 8), 9)],
                "overlap",
            ),
        ] {
            assert_eq!(submit(Direction::Write, &segments).code(), code, "{segments:?}");
        }
        assert_eq!(fs::read(folder.join("kept")).unwrap(), pattern(4096, 5));
        assert_eq!(fs::read(folder.join("new")).unwrap(), b"");
        storage.close();
        assert_eq!(storage.register(region(4096)).unwrap_err(), Error::Closed);
        fs::remove_dir_all(folder).unwrap();
    });
}

#[test]
fn what_the_system_refuses_is_a_failure_that_names_the_plugin() {
    with_each("storage::what_the_system_refuses_is_a_failure_that_names_the_plugin", |library| {
        let storage = storage(library);
        let memory = storage.register(filled(LEN, 1)).unwrap();
        let full = storage.open_file(Path::new("/dev/full"), Mode::Write).unwrap();
        let begun =
            storage.submit(Direction::Write, [segment((memory, 0), (full, 4096), 4096)].into()).unwrap();
        let error = end(&storage, begun).unwrap_err();
        println!("{error}");
        assert!(matches!(&error, Error::Library(text) if text.contains("POSIX")), "{error}");
        // Others go on.
        let good = tempfile(&storage);
        let begun = storage.submit(Direction::Write, [segment((memory, 0), (good, 0), 4096)].into()).unwrap();
        assert_eq!(end(&storage, begun), Ok(()));
    });
}

/// A file without a name.
fn tempfile(storage: &Storage) -> RegionId {
    let file = nix::sys::memfd::memfd_create(c"nixl", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).unwrap();
    storage.file(file.into()).unwrap()
}

#[test]
fn a_plugin_that_is_not_there_and_parameters_that_it_does_not_know_are_errors() {
    with_each(
        "storage::a_plugin_that_is_not_there_and_parameters_that_it_does_not_know_are_errors",
        |library| {
            let open = |plugin, params: &[(&str, &str)]| {
                let params = params.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
                Storage::open(StorageOptions {
                    library: Some(library.into()),
                    params,
                    ..StorageOptions::new(plugin)
                })
            };
            let text = open("TAPE", &[]).unwrap_err().to_string();
            assert!(text.contains("has no plugin TAPE") && text.contains("POSIX"), "{text}");
            // 1.0 does not tell which parameters it knows.
            match open("POSIX", &[("use_tape", "true")]) {
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.contains("use_tape") && text.contains("use_aio"), "{text}");
                }
                Ok(_) => assert!(library.to_str().unwrap().contains("oldest"), "a word that nothing knows"),
            }
            open("POSIX", &[("use_aio", "true")]).unwrap();
        },
    );
}
