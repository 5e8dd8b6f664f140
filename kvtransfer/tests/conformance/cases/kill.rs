//! Either side is killed at any moment, many times over. Whoever is left sees its loss, keeps what was done, loses only
//! what was under way, lets go of everything, and meets the next life.

use std::sync::mpsc;
use std::thread::{sleep, spawn};
use std::time::Duration;

use crate::backend::Backend;
use crate::command::{Answer, Ask, Command, Seen};
use crate::pattern::Blocks;
use crate::random::Random;
use crate::side::{Gone, LONG, Side};

use super::lets_go;

/// Transfers in each direction from each side.
const TRANSFERS: u64 = 6;

/// Blocks of each: together some milliseconds of copying, so that a moment in them is likely, and little to prepare.
fn blocks() -> Blocks {
    Blocks { gap: 4096, ..Blocks::scattered(40, 64 << 10) }
}

fn kills() -> u64 {
    // A few show that it works at all, in every run of the tests; 200 are for `make` targets that look for what is rare.
    std::env::var("KVFERRY_KILLS").ok().map_or(8, |kills| kills.parse().expect("KVFERRY_KILLS is a number"))
}

pub fn limit() -> Duration {
    Duration::from_secs(120 + 15 * kills())
}

/// One side's part: a region of four quarters, of `TRANSFERS` slots each.
///
/// It reads into the first, writes from the second, lets the third be read and the fourth be written. So each byte is either
/// never written, or by one transfer only, and what it holds says which have been done.
#[derive(Clone, Copy)]
struct Part {
    region: u32,
    seed: u64,
}

const READ_INTO: u64 = 0;
const WRITE_FROM: u64 = 1;
const TO_BE_READ: u64 = 2;
const TO_BE_WRITTEN: u64 = 3;

fn at(quarter: u64, slot: u64) -> u64 {
    (quarter * TRANSFERS + slot) * blocks().extent()
}

fn len() -> u64 {
    at(4, 0)
}

fn read_blocks(slot: u64) -> Blocks {
    Blocks { here: at(READ_INTO, slot), there: at(TO_BE_READ, slot), ..blocks() }
}

fn write_blocks(slot: u64) -> Blocks {
    Blocks { here: at(WRITE_FROM, slot), there: at(TO_BE_WRITTEN, slot), ..blocks() }
}

/// Tokens: `2 * round` for reading and the next for writing, so that none is used twice soon.
fn tokens(round: u64) -> [u8; 2] {
    let first = u8::try_from(round % 100 * 2).unwrap();
    [first, first + 1]
}

fn prepare(side: &mut Side, seed: u64, round: u64) -> Part {
    let region = side.filled(len(), seed);
    for (token, quarter) in tokens(round).into_iter().zip([TO_BE_READ, TO_BE_WRITTEN]) {
        side.grant(token, quarter == TO_BE_WRITTEN, region, at(quarter, 0), at(1, 0));
    }
    Part { region, seed }
}

/// Begins everything with a peer. Either of the two may be gone at any moment.
fn begin(
    side: &mut Side,
    peer: u32,
    own: Part,
    other: Part,
    round: u64,
) -> Result<Vec<(u64, bool, u64)>, Gone> {
    let mut begun = Vec::new();
    for slot in 0..TRANSFERS {
        for (write, token, blocks) in
            [(false, tokens(round)[0], read_blocks(slot)), (true, tokens(round)[1], write_blocks(slot))]
        {
            let notify = write.then(|| vec![u8::try_from(slot).unwrap()]);
            let ask = Ask {
                peer,
                write,
                token,
                local: own.region,
                remote: other.region,
                blocks: vec![blocks],
                notify,
                deadline: None,
                checksum: slot == 0,
            };
            match side.try_ask(&Command::Submit(ask))? {
                Answer::Number(transfer) => {
                    side.transfers.insert(transfer, None);
                    begun.push((transfer, write, slot));
                }
                // The peer is gone already.
                Answer::Error(code) => assert_eq!(code, "unknown_peer"),
                other => panic!("{other:?}"),
            }
        }
    }
    Ok(begun)
}

/// Takes in events until the peer is connected or lost; `None` if it is lost.
fn meet(side: &mut Side, peer: u32) -> Option<u32> {
    side.until("a peer that connects or is lost", |side| {
        side.log.iter().rev().find_map(|seen| match seen {
            Seen::Lost(id, _) if *id == peer => Some(None),
            Seen::Connected(id, _) if *id == peer => Some(Some(peer)),
            _ => None,
        })
    })
}

/// What is promised to the one that is left.
fn verify(left: &mut Side, peer: u32, own: Part, other: Part, begun: &[(u64, bool, u64)], round: u64) {
    assert_eq!(left.loss_of(peer), "peer_lost");
    // Everything with a peer has ended before it is lost.
    for (transfer, write, slot) in begun {
        match left.transfers[transfer].clone().expect("its peer is lost, so it has ended") {
            Ok(()) if !write => left.verify(own.region, read_blocks(*slot), false, other.seed),
            Ok(()) => {}
            Err(code) => assert_eq!(code, "peer_lost"),
        }
    }
    let told: Vec<u64> = (0..TRANSFERS)
        .filter(|slot| {
            let message = vec![u8::try_from(*slot).unwrap()];
            left.log.contains(&Seen::Notified(peer, message))
        })
        .collect();
    for slot in told {
        left.verify(own.region, write_blocks(slot), true, other.seed);
    }
    for token in tokens(round) {
        left.must(Command::Revoke { token });
        left.see(&Seen::Freed(token));
    }
    let freed = left.fingerprint(own.region, 0, len());
    sleep(Duration::from_millis(2));
    assert_eq!(
        left.fingerprint(own.region, 0, len()),
        freed,
        "bytes were written after everything had ended"
    );
    left.must(Command::Deregister { region: own.region });
}

pub fn either_side_killed_at_any_moment_costs_only_what_was_under_way(backend: &'static Backend, seed: u64) {
    if let Some(why) = backend.frail {
        println!("    SKIPPED: {why}");
        return;
    }
    let mut random = Random::new(seed);
    let mut epoch = 1;
    let mut sides = [Side::new(backend, "a", 1), Side::new(backend, "b", 2)];
    println!("    {} kills, KVFERRY_SEED={seed}", kills());
    // How often the victim died before it was connected, and after.
    let (mut early, mut late, mut done, mut failed) = (0, 0, 0, 0);
    // What each has when nothing is under way.
    let mut idle = [sides[0].footprint(), sides[1].footprint()];
    for round in 0..kills() {
        epoch += 2;
        let victim = usize::try_from(random.below(2)).unwrap();
        let knocking = usize::try_from(random.below(2)).unwrap();
        let seeds = [random.next(), random.next()];
        let parts = [prepare(&mut sides[0], seeds[0], round), prepare(&mut sides[1], seeds[1], round)];
        for side in &mut sides {
            side.log.clear();
        }
        // Half of the time it dies while they meet, else while everything is under way.
        let (latest, meeting) = if random.below(2) == 0 { (3000, true) } else { (20_000, false) };
        let moment = Duration::from_micros(random.below(latest));
        let (armed, fire) = mpsc::channel();
        let pid = sides[victim].pid();
        let killer = spawn(move || {
            fire.recv().unwrap();
            sleep(moment);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        });
        let arm = |now: bool| {
            if now {
                armed.send(()).unwrap();
            }
        };
        arm(meeting);
        let begun = under_way(&mut sides, victim, knocking, parts, round, || arm(!meeting));
        killer.join().unwrap();
        sides[victim].kill();

        let left = &mut sides[1 - victim];
        if begun.transfers.is_empty() {
            early += 1;
        } else {
            late += 1;
        }
        verify(left, begun.peer, parts[1 - victim], parts[victim], &begun.transfers, round);
        for (transfer, ..) in &begun.transfers {
            if left.transfers[transfer] == Some(Ok(())) { done += 1 } else { failed += 1 }
        }
        lets_go(left, idle[1 - victim], (backend.kept)(usize::try_from(round + 1).unwrap()));

        // The next life.
        sides[victim] = Side::new(backend, ["a", "b"][victim], epoch);
        idle[victim] = sides[victim].footprint();
    }
    println!(
        "    died before anything was under way: {early}, after: {late}; transfers done: {done}, failed: {failed}"
    );
    the_next_life_works(sides);
}

struct Begun {
    /// What the one that is left calls the victim.
    peer: u32,
    /// Its transfers: (number, whether it writes, slot).
    transfers: Vec<(u64, bool, u64)>,
}

/// Both go to meet each other and begin everything, until one dies, at whatever it is then.
fn under_way(
    sides: &mut [Side; 2],
    victim: usize,
    first: usize,
    parts: [Part; 2],
    round: u64,
    met: impl FnOnce(),
) -> Begun {
    let mut peers = [None; 2];
    for number in [first, 1 - first] {
        let metadata = sides[1 - number].newest();
        match sides[number].try_ask(&Command::Connect { metadata }) {
            Ok(Answer::Number(peer)) => peers[number] = Some(u32::try_from(peer).unwrap()),
            Err(Gone) => assert_eq!(number, victim, "nobody else is killed"),
            other => panic!("{other:?}"),
        }
    }
    let peer = peers[1 - victim].expect("going to meet a peer begins, whatever becomes of it");
    let mut begun = Begun { peer, transfers: Vec::new() };
    let connected = meet(&mut sides[1 - victim], peer);
    met();
    if connected.is_none() {
        return begun;
    }
    for number in [first, 1 - first] {
        if number == victim {
            // Its requests are refused while it does not know that it is connected, and it dies at one or another.
            if let Some(peer) = peers[victim] {
                let connected = soon_connected(&mut sides[victim], peer);
                let begin = connected
                    .and_then(|()| begin(&mut sides[victim], peer, parts[victim], parts[1 - victim], round));
                drop(begin);
            }
        } else {
            let transfers = begin(&mut sides[number], peer, parts[number], parts[victim], round);
            begun.transfers = transfers.expect("the one that is left lives");
        }
    }
    begun
}

/// Waits a while for a peer, on the side that may die meanwhile.
fn soon_connected(side: &mut Side, peer: u32) -> Result<(), Gone> {
    for _ in 0..50 {
        let Answer::Events(events) = side.try_ask(&Command::Poll { millis: 2 })? else {
            panic!("poll gives events")
        };
        side.take_in(events);
        if side.log.iter().any(|seen| matches!(seen, Seen::Connected(id, _) if *id == peer)) {
            break;
        }
    }
    Ok(())
}

fn the_next_life_works([a, b]: [Side; 2]) {
    let mut pair = crate::side::Pair::of(a, b);
    let (here, there) = (pair.a.filled(len(), 1), pair.b.filled(len(), 2));
    pair.b.must(Command::Grant { token: 250, write: false, spans: vec![(there, 0, len())], millis: LONG });
    let transfer = pair.a.submit(pair.ask(false, 250, here, there, blocks()));
    assert_eq!(pair.a.end_of(transfer), Ok(()));
    pair.a.verify(here, blocks(), false, 2);
}
