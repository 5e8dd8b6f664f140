//! A process as its case sees it. Whatever a case is about, some promises are checked with every event: each transfer ends
//! once, and nothing comes from a peer that is lost.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command as Process, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::backend::Backend;
use crate::command::{Answer, Ask, Command, Footprint, Seen};
use crate::pattern::Blocks;
use crate::tls;

/// Set for the suite's processes, to their credentials.
pub const PEER: &str = "KVFERRY_CONFORMANCE_PEER";

/// How long a process may take for a command, or an event may take to come: for what never ends, on whatever machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Leases of the suite last longer than its cases, unless a case is about that.
pub const LONG: u64 = 600_000;

pub struct Side {
    name: String,
    child: Child,
    commands: ChildStdin,
    answers: Receiver<String>,
    pub metadata: Vec<u8>,
    /// All events, in order.
    pub log: Vec<Seen>,
    /// Transfers, and how they ended: `Ok` or the error's code.
    pub transfers: HashMap<u64, Option<Result<(), String>>>,
    lost: Vec<u32>,
    /// What it knows of its peers: their first and newest metadata.
    met: HashMap<u32, (Vec<u8>, Vec<u8>)>,
}

/// The process is gone.
#[derive(Debug)]
pub struct Gone;

thread_local! {
    /// What metadata of each process is by now, by what it was first. Some fabrics must hear of regions that were registered
    /// since; whoever begins a transfer sees to that, so that cases need not.
    static NEWEST: RefCell<HashMap<Vec<u8>, Vec<u8>>> = RefCell::default();
}

fn newest(metadata: &[u8]) -> Vec<u8> {
    NEWEST.with_borrow(|newest| newest.get(metadata).cloned().unwrap_or_else(|| metadata.to_vec()))
}

#[expect(clippy::needless_pass_by_value, reason = "commands are made where they are told")]
impl Side {
    /// A process with an open fabric.
    pub fn new(backend: &'static Backend, name: &str, epoch: u64) -> Self {
        Self::at(backend, name, epoch, None)
    }

    /// The same, at an address that a later life can have, too.
    pub fn at(backend: &'static Backend, name: &str, epoch: u64, place: Option<String>) -> Self {
        // By this name, it is there even when a build has replaced it meanwhile.
        let mut child = Process::new("/proc/self/exe")
            .env(PEER, tls::credentials())
            // UCX would write its warnings between our lines.
            .env("UCX_LOG_FILE", "/dev/stderr")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let commands = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (told, answers) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if told.send(line).is_err() {
                    return;
                }
            }
        });
        let mut side = Self {
            name: format!("{name} (process {})", child.id()),
            child,
            commands,
            answers,
            metadata: Vec::new(),
            log: Vec::new(),
            transfers: HashMap::new(),
            lost: Vec::new(),
            met: HashMap::new(),
        };
        let name = name.into();
        let answer = side.ask(Command::Open { backend: backend.name.into(), name, epoch, place });
        let Answer::Bytes(metadata) = answer else { panic!("{} does not open: {answer:?}", side.name) };
        side.metadata = metadata;
        side
    }

    /// Tells it something, without waiting for the answer.
    pub fn tell(&mut self, command: &Command) -> Result<(), Gone> {
        writeln!(self.commands, "{}", serde_json::to_string(command).unwrap()).map_err(|_| Gone)
    }

    /// The next answer.
    pub fn hear(&mut self) -> Result<Answer, Gone> {
        match self.answers.recv_timeout(PATIENCE) {
            Ok(line) => Ok(serde_json::from_str(&line).unwrap()),
            Err(RecvTimeoutError::Disconnected) => Err(Gone),
            Err(RecvTimeoutError::Timeout) => panic!("{} hangs; it saw {:?}", self.name, self.log),
        }
    }

    /// Tells it something that may not be its last.
    pub fn try_ask(&mut self, command: &Command) -> Result<Answer, Gone> {
        self.tell(command)?;
        self.hear()
    }

    /// Tells it something, and hears its answer.
    pub fn ask(&mut self, command: Command) -> Answer {
        self.try_ask(&command).unwrap_or_else(|Gone| panic!("{} is gone at {command:?}", self.name))
    }

    fn number(&mut self, command: Command) -> u64 {
        match self.ask(command.clone()) {
            Answer::Number(number) => number,
            other => panic!("{} answers {command:?} with {other:?}", self.name),
        }
    }

    /// Something that must work.
    pub fn must(&mut self, command: Command) {
        let answer = self.ask(command.clone());
        assert_eq!(answer, Answer::Nothing, "{} at {command:?}", self.name);
    }

    /// Something that must not: the error's code.
    pub fn refused(&mut self, command: Command) -> String {
        match self.ask(command.clone()) {
            Answer::Error(code) => code,
            other => panic!("{} answers {command:?} with {other:?}", self.name),
        }
    }

    pub fn region(&mut self, len: u64) -> u32 {
        let region = u32::try_from(self.number(Command::Region { len, arena: true })).unwrap();
        self.renew();
        region
    }

    /// Lets others know of its regions when they next begin a transfer.
    pub fn renew(&mut self) {
        let Answer::Bytes(metadata) = self.ask(Command::Metadata) else {
            panic!("an open fabric has metadata")
        };
        NEWEST.with_borrow_mut(|newest| newest.insert(self.metadata.clone(), metadata));
    }

    /// Its metadata, by now.
    pub fn newest(&self) -> Vec<u8> {
        newest(&self.metadata)
    }

    /// A region of `len` bytes, filled.
    pub fn filled(&mut self, len: u64, seed: u64) -> u32 {
        let region = self.region(len);
        self.must(Command::Fill { region, at: 0, len, seed });
        region
    }

    /// Goes to meet the one whose metadata was that first.
    pub fn connect(&mut self, metadata: &[u8]) -> u32 {
        let newest = newest(metadata);
        let peer = u32::try_from(self.number(Command::Connect { metadata: newest.clone() })).unwrap();
        self.met.insert(peer, (metadata.to_vec(), newest));
        peer
    }

    pub fn grant(&mut self, token: u8, write: bool, region: u32, at: u64, len: u64) {
        self.must(Command::Grant { token, write, spans: vec![(region, at, len)], millis: LONG });
    }

    pub fn submit(&mut self, ask: Ask) -> u64 {
        self.try_submit(ask.clone()).unwrap_or_else(|code| panic!("{}: {code} at {ask:?}", self.name))
    }

    /// Begins a transfer that may be refused at once: the error's code.
    pub fn try_submit(&mut self, ask: Ask) -> Result<u64, String> {
        if let Some((first, known)) = self.met.get(&ask.peer).cloned()
            && newest(&first) != known
        {
            assert_eq!(self.connect(&first), ask.peer, "whoever is met again keeps its number");
        }
        match self.ask(Command::Submit(ask)) {
            Answer::Number(transfer) => {
                let before = self.transfers.insert(transfer, None);
                assert_eq!(before, None, "numbers of transfers are not used twice");
                Ok(transfer)
            }
            Answer::Error(code) => Err(code),
            other => panic!("{} answers {other:?}", self.name),
        }
    }

    pub fn verify(&mut self, region: u32, blocks: Blocks, written: bool, seed: u64) {
        let wrong = self.ask(Command::VerifyBlocks { region, blocks, written, seed });
        assert_eq!(wrong, Answer::Maybe(None), "{}: the first wrong byte", self.name);
    }

    pub fn fingerprint(&mut self, region: u32, at: u64, len: u64) -> u64 {
        self.number(Command::Fingerprint { region, at, len })
    }

    pub fn footprint(&mut self) -> Footprint {
        match self.ask(Command::Footprint) {
            Answer::Footprint(footprint) => footprint,
            other => panic!("{other:?}"),
        }
    }

    /// Takes in the events that have come, or come soon.
    pub fn poll(&mut self, millis: u64) {
        let Answer::Events(events) = self.ask(Command::Poll { millis }) else {
            panic!("poll answers with events")
        };
        self.take_in(events);
    }

    /// Takes in events that it has answered with.
    pub fn take_in(&mut self, events: Vec<Seen>) {
        for event in events {
            self.check(&event);
            self.log.push(event);
        }
    }

    fn check(&mut self, event: &Seen) {
        let peer = match event {
            Seen::Connected(peer, _) | Seen::Notified(peer, _) | Seen::Lost(peer, _) => Some(*peer),
            Seen::Done(_) | Seen::Failed(..) | Seen::Freed(_) => None,
        };
        if let Some(peer) = peer {
            assert!(!self.lost.contains(&peer), "{}: {event:?} after it was lost", self.name);
        }
        match event {
            Seen::Lost(peer, _) => self.lost.push(*peer),
            Seen::Done(transfer) => self.end(*transfer, Ok(())),
            Seen::Failed(transfer, code) => self.end(*transfer, Err(code.clone())),
            Seen::Connected(..) | Seen::Notified(..) | Seen::Freed(_) => {}
        }
    }

    fn end(&mut self, transfer: u64, result: Result<(), String>) {
        let known = self.transfers.get_mut(&transfer);
        let end =
            known.unwrap_or_else(|| panic!("{}: transfer {transfer} ends and was never begun", self.name));
        assert_eq!(*end, None, "{}: transfer {transfer} ends twice, now {result:?}", self.name);
        *end = Some(result);
    }

    /// Waits until `found` gives something about the events so far.
    pub fn until<T>(&mut self, what: &str, mut found: impl FnMut(&Self) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = found(self) {
                return found;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "{} waits for {what} in vain; it saw {:?}",
                self.name,
                self.log
            );
            self.poll(1000);
        }
    }

    /// Waits for that event.
    pub fn see(&mut self, event: &Seen) {
        self.until(&format!("{event:?}"), |side| side.log.contains(event).then_some(()));
    }

    /// Waits until a peer is connected: its number.
    pub fn connected(&mut self, peer: u32) {
        self.until("its peer", |side| {
            side.log.iter().find(|seen| matches!(seen, Seen::Connected(id, _) if *id == peer)).map(|_| ())
        });
    }

    /// Waits for the end of a transfer.
    pub fn end_of(&mut self, transfer: u64) -> Result<(), String> {
        self.until("a transfer's end", |side| side.transfers[&transfer].clone())
    }

    /// Waits until all transfers have ended.
    pub fn settle(&mut self) {
        self.until("the end of all transfers", |side| {
            side.transfers.values().all(Option::is_some).then_some(())
        });
    }

    /// Waits until a peer is lost: why.
    pub fn loss_of(&mut self, peer: u32) -> String {
        self.until("a peer's loss", |side| {
            side.log.iter().find_map(|seen| match seen {
                Seen::Lost(id, code) if *id == peer => Some(code.clone()),
                _ => None,
            })
        })
    }

    /// Ends it, now (SIGKILL).
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
        // It comes to the threads one after the other.
        while signal == Signal::SIGSTOP && !self.stands_still() {
            std::thread::yield_now();
        }
    }

    fn stands_still(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap()).all(
            |stat| {
                // The state follows the name, which is in brackets.
                stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
            },
        )
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // It is gone already if the case has killed it.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Two processes that are connected, both by their own wish: whether one that was only met is, is up to the fabric.
pub struct Pair {
    pub a: Side,
    pub b: Side,
    /// What each calls the other.
    pub a_to_b: u32,
    pub b_to_a: u32,
}

impl Pair {
    pub fn new(backend: &'static Backend) -> Self {
        Self::of(Side::new(backend, "a", 1), Side::new(backend, "b", 2))
    }

    pub fn of(mut a: Side, mut b: Side) -> Self {
        let a_to_b = a.connect(&b.metadata);
        let b_to_a = b.connect(&a.metadata);
        a.connected(a_to_b);
        b.connected(b_to_a);
        Self { a, b, a_to_b, b_to_a }
    }

    /// A transfer of `a`.
    pub fn ask(&self, write: bool, token: u8, local: u32, remote: u32, blocks: Blocks) -> Ask {
        Ask {
            peer: self.a_to_b,
            write,
            token,
            local,
            remote,
            blocks: vec![blocks],
            notify: None,
            deadline: None,
            checksum: false,
        }
    }
}
