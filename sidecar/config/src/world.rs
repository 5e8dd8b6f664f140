//! What a configuration needs of the process around it, as one value: real in the process, made up in tests.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, ToSocketAddrs};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Largest configuration file read, in bytes. With every key set, one has some kilobytes.
pub const MAX_CONFIGURATION_BYTES: u64 = 1024 * 1024;

/// The process and the machine, as far as a configuration depends on them.
#[expect(missing_debug_implementations, reason = "it holds functions")]
pub struct World<'a> {
    /// An environment variable's value.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// The whole text of a file.
    pub read: &'a dyn Fn(&Path) -> io::Result<String>,
    /// The addresses of a host name, looked up for no longer than the given time.
    pub resolve: &'a dyn Fn(&str, Duration) -> io::Result<Vec<IpAddr>>,
    /// Cores this process may use.
    pub cores: NonZeroUsize,
}

impl World<'static> {
    /// The one this process lives in.
    pub fn of_process() -> Self {
        Self {
            variable: &|name| std::env::var(name).ok(),
            read: &read,
            resolve: &resolve,
            cores: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_CONFIGURATION_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_CONFIGURATION_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has more than {MAX_CONFIGURATION_BYTES} bytes"),
        ));
    }
    Ok(text)
}

/// The system's resolver knows no deadline, so it works on a thread of its own, which is left behind if it is late.
fn resolve(host: &str, patience: Duration) -> io::Result<Vec<IpAddr>> {
    let (found, answer) = mpsc::channel();
    let name = host.to_owned();
    thread::Builder::new().name("resolve".to_owned()).spawn(move || {
        let addresses = (name.as_str(), 0).to_socket_addrs();
        // Nobody waits any more if it took too long.
        let _ = found.send(addresses.map(|all| all.map(|address| address.ip()).collect()));
    })?;
    answer
        .recv_timeout(patience)
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the name server did not answer")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_can_read_a_file_and_resolve_its_own_host() {
        let world = World::of_process();
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        assert!((world.read)(&manifest).unwrap().contains("kvferry-config"));
        assert!((world.read)(&manifest.join("none")).is_err());
        let addresses = (world.resolve)("localhost", Duration::from_secs(60)).unwrap();
        assert!(addresses.iter().all(IpAddr::is_loopback) && !addresses.is_empty(), "{addresses:?}");
    }

    #[test]
    fn a_file_without_end_is_not_read_to_its_end() {
        let error = read(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
