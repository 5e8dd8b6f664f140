//! Stands between two fabrics and passes on what they say: all of it, none for a while, slowly, or with a bit turned.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    ToOwner,
    ToInitiator,
}

#[derive(Default)]
struct Rule {
    frozen: AtomicBool,
    /// Bytes passed on at a time, with a pause after them; 0: as they come.
    slow: AtomicBool,
    /// In how many bytes a bit is turned; 0: never.
    flip_in: AtomicU64,
    /// After how many bytes it freezes; 0: never.
    freeze_in: AtomicU64,
    passed: AtomicU64,
}

#[derive(Default)]
struct Rules {
    to_owner: Rule,
    to_initiator: Rule,
    streams: Mutex<Vec<TcpStream>>,
}

#[derive(Clone)]
pub struct Relay {
    pub address: SocketAddr,
    rules: Arc<Rules>,
    owner: Arc<Mutex<Option<SocketAddr>>>,
}

impl Relay {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay =
            Self { address: listener.local_addr().unwrap(), rules: Arc::default(), owner: Arc::default() };
        let in_thread = relay.clone();
        thread::spawn(move || {
            for from in listener.incoming() {
                let owner = in_thread.owner.lock().unwrap().unwrap();
                let (from, to) = (from.unwrap(), TcpStream::connect(owner).unwrap());
                in_thread
                    .rules
                    .streams
                    .lock()
                    .unwrap()
                    .extend([from.try_clone().unwrap(), to.try_clone().unwrap()]);
                for (way, source, sink) in [
                    (Way::ToOwner, from.try_clone().unwrap(), to.try_clone().unwrap()),
                    (Way::ToInitiator, to, from),
                ] {
                    let rules = Arc::clone(&in_thread.rules);
                    thread::spawn(move || pass(rules.of(way), source, sink));
                }
            }
        });
        relay
    }

    pub fn leads_to(&self, owner: SocketAddr) {
        *self.owner.lock().unwrap() = Some(owner);
    }

    /// Passes nothing on, and takes nothing, until it is thawed.
    pub fn freeze(&self, way: Way) {
        self.rules.of(way).frozen.store(true, Ordering::SeqCst);
    }

    /// The same, `after` so many more bytes.
    pub fn freeze_after(&self, way: Way, after: u64) {
        self.rules.of(way).freeze_in.store(after, Ordering::SeqCst);
    }

    pub fn thaw(&self, way: Way) {
        self.rules.of(way).frozen.store(false, Ordering::SeqCst);
    }

    pub fn slow(&self, way: Way) {
        self.rules.of(way).slow.store(true, Ordering::SeqCst);
    }

    /// Turns a bit, `after` so many more bytes.
    pub fn flip(&self, way: Way, after: u64) {
        self.rules.of(way).flip_in.store(after, Ordering::SeqCst);
    }

    pub fn passed(&self, way: Way) -> u64 {
        self.rules.of(way).passed.load(Ordering::SeqCst)
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        for stream in self.rules.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Rules {
    fn of(&self, way: Way) -> &Rule {
        match way {
            Way::ToOwner => &self.to_owner,
            Way::ToInitiator => &self.to_initiator,
        }
    }
}

impl Rule {
    fn flips(&self, bytes: &mut [u8]) {
        let (at, count) = (self.flip_in.load(Ordering::SeqCst), bytes.len() as u64);
        if at > 0 && at <= count {
            bytes[usize::try_from(at - 1).unwrap()] ^= 1;
        }
        if at > 0 {
            self.flip_in.store(at.saturating_sub(count), Ordering::SeqCst);
        }
    }

    /// How many of `count` bytes may pass before it freezes.
    fn before_it_freezes(&self, count: usize) -> usize {
        let (left, count) = (self.freeze_in.load(Ordering::SeqCst), count as u64);
        if left == 0 {
            return usize::try_from(count).unwrap();
        }
        self.freeze_in.store(left.saturating_sub(count), Ordering::SeqCst);
        if left <= count {
            self.frozen.store(true, Ordering::SeqCst);
        }
        usize::try_from(left.min(count)).unwrap()
    }

    fn wait(&self) {
        while self.frozen.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn pass(rule: &Rule, mut source: TcpStream, mut sink: TcpStream) {
    let mut bytes = vec![0; 64 << 10];
    loop {
        rule.wait();
        let slow = rule.slow.load(Ordering::SeqCst);
        let most = if slow { 16 << 10 } else { bytes.len() };
        let count = match source.read(&mut bytes[..most]) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        rule.wait();
        rule.flips(&mut bytes[..count]);
        let (first, rest) = bytes[..count].split_at(rule.before_it_freezes(count));
        if sink.write_all(first).is_err() {
            break;
        }
        rule.wait();
        if sink.write_all(rest).is_err() {
            break;
        }
        rule.passed.fetch_add(count as u64, Ordering::SeqCst);
        if slow {
            thread::sleep(Duration::from_micros(200));
        }
    }
    let _ = sink.shutdown(Shutdown::Write);
}
