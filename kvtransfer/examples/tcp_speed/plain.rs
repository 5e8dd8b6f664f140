//! What plain sockets do: bytes poured through several of them, and questions that are answered with a block, by sides
//! that sleep as the fabric's do.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Bytes of a question, of which the first eight say how many are wanted: about what a read of one block takes.
const QUESTION: usize = 80;

/// Serves both kinds; where.
pub fn serve() -> String {
    let (pouring, answering) =
        (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let addresses = format!("{},{}", pouring.local_addr().unwrap(), answering.local_addr().unwrap());
    thread::spawn(move || {
        for stream in pouring.incoming() {
            thread::spawn(move || pour(&mut stream.unwrap()));
        }
    });
    thread::spawn(move || {
        for stream in answering.incoming() {
            thread::spawn(move || answer(stream.unwrap()));
        }
    });
    addresses
}

/// Sends what is asked for, from memory as large as the fabric's.
fn pour(stream: &mut TcpStream) {
    let memory = vec![1_u8; 128 << 20];
    let mut asked = [0; 8];
    while stream.read_exact(&mut asked).is_ok() {
        let mut left = usize::try_from(u64::from_le_bytes(asked)).unwrap();
        let mut at = 0;
        while left > 0 {
            let part = left.min(1 << 20).min(memory.len() - at);
            stream.write_all(&memory[at..at + part]).unwrap();
            at = (at + part) % memory.len();
            left -= part;
        }
    }
}

pub fn throughput(address: &str, streams: usize, bytes: usize, rounds: usize) -> Vec<f64> {
    let mut workers: Vec<_> =
        (0..streams).map(|_| (TcpStream::connect(address).unwrap(), vec![0_u8; bytes / streams])).collect();
    let round = |_| {
        let begin = Instant::now();
        thread::scope(|scope| {
            for (stream, memory) in &mut workers {
                scope.spawn(|| {
                    stream.write_all(&(memory.len() as u64).to_le_bytes()).unwrap();
                    stream.read_exact(memory).unwrap();
                });
            }
        });
        bytes as f64 / begin.elapsed().as_secs_f64() / 1e9
    };
    (0..rounds).map(round).collect()
}

/// A socket that sleeps in poll(2) before it reads.
pub struct Asking(TcpStream);

impl Asking {
    pub fn new(address: &str) -> Self {
        Self::of(TcpStream::connect(address).unwrap())
    }

    fn of(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_nonblocking(true).unwrap();
        Self(stream)
    }

    fn read(&mut self, memory: &mut [u8]) -> std::io::Result<()> {
        let mut have = 0;
        while have < memory.len() {
            poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).unwrap();
            match self.0.read(&mut memory[have..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => have += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// How long it takes, in µs.
    pub fn ask(&mut self, memory: &mut [u8]) -> f64 {
        let mut question = [0; QUESTION];
        question[..8].copy_from_slice(&(memory.len() as u64).to_le_bytes());
        let begin = Instant::now();
        self.0.write_all(&question).unwrap();
        self.read(memory).unwrap();
        begin.elapsed().as_secs_f64() * 1e6
    }
}

fn answer(stream: TcpStream) {
    let (mut asking, mut question, memory) = (Asking::of(stream), [0; QUESTION], vec![1_u8; 1 << 20]);
    while asking.read(&mut question).is_ok() {
        let wanted = u64::from_le_bytes(question[..8].try_into().unwrap());
        asking.0.write_all(&memory[..usize::try_from(wanted).unwrap()]).unwrap();
    }
}
