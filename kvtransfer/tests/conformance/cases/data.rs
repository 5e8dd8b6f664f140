//! Bytes arrive as they were, all of them, and messages after them.

use crate::backend::Backend;
use crate::command::{Answer, Ask, Command, Seen};
use crate::pattern::Blocks;
use crate::side::Pair;

use super::lets_go;

const MIB: u64 = 1 << 20;

/// What the receiver's memory holds before.
const OLD: u64 = 7;

/// Moves blocks both ways, with seeds of their own, and has the receiving side verify them.
fn move_both_ways(pair: &mut Pair, len: u64, blocks: Blocks, checksum: bool) {
    let (here, there) = (pair.a.filled(len, 11), pair.b.filled(len, 22));
    pair.b.grant(1, false, there, 0, len);
    let read = Ask { checksum, ..pair.ask(false, 1, here, there, blocks) };
    let read = pair.a.submit(read);
    assert_eq!(pair.a.end_of(read), Ok(()), "{blocks:?}");
    pair.a.verify(here, blocks, false, 22);

    pair.a.must(Command::Fill { region: here, at: 0, len, seed: 33 });
    pair.b.grant(2, true, there, 0, len);
    let write = Ask { checksum, ..pair.ask(true, 2, here, there, blocks) };
    let write = pair.a.submit(write);
    assert_eq!(pair.a.end_of(write), Ok(()), "{blocks:?}");
    pair.b.verify(there, blocks, true, 33);

    for token in [1, 2] {
        pair.b.must(Command::Revoke { token });
        pair.b.see(&Seen::Freed(token));
    }
    pair.b.log.retain(|seen| !matches!(seen, Seen::Freed(_)));
    pair.b.must(Command::Deregister { region: there });
    pair.a.must(Command::Deregister { region: here });
}

pub fn blocks_of_every_size_arrive_as_they_were(backend: &'static Backend, _seed: u64) {
    let mut pair = Pair::new(backend);
    for lane in
        [pair.a.ask(Command::Lane { peer: pair.a_to_b }), pair.b.ask(Command::Lane { peer: pair.b_to_a })]
    {
        assert!(
            matches!(&lane, Answer::Text(Some(lane)) if backend.lanes.contains(&lane.as_str())),
            "{lane:?}"
        );
    }
    for (count, len) in
        [(1, 1), (1, 4096), (3, 4095), (1, 70_000), (64, 16 << 10), (512, 64 << 10), (5, 3 * MIB + 7)]
    {
        for checksum in [false, true] {
            let blocks = Blocks { here: 3, there: 3 + len, ..Blocks::scattered(count, len) };
            move_both_ways(&mut pair, 3 + len + blocks.extent(), blocks, checksum);
        }
    }
}

pub fn twenty_thousand_scattered_blocks_arrive(backend: &'static Backend, _seed: u64) {
    let mut pair = Pair::new(backend);
    let blocks = Blocks { gap: 1000, ..Blocks::scattered(20_000, 3000) };
    move_both_ways(&mut pair, blocks.extent(), blocks, false);
}

pub fn a_transfer_of_nothing_is_done_and_its_message_comes(backend: &'static Backend, _seed: u64) {
    let mut pair = Pair::new(backend);
    let (here, there) = (pair.a.filled(4096, 11), pair.b.filled(4096, 22));
    let before = pair.b.fingerprint(there, 0, 4096);
    pair.b.grant(1, true, there, 0, 4096);
    pair.b.grant(2, false, there, 0, 4096);
    let none = Blocks { count: 0, ..Blocks::one(0, 1) };
    for (number, (write, token, blocks)) in
        [(true, 1, none), (false, 2, none), (true, 1, Blocks::one(4096, 0)), (false, 2, Blocks::one(4096, 0))]
            .into_iter()
            .enumerate()
    {
        let message = vec![u8::try_from(number).unwrap()];
        let ask = Ask { notify: Some(message.clone()), ..pair.ask(write, token, here, there, blocks) };
        let transfer = pair.a.submit(ask);
        assert_eq!(pair.a.end_of(transfer), Ok(()));
        pair.b.see(&Seen::Notified(pair.b_to_a, message));
    }
    assert_eq!(pair.b.fingerprint(there, 0, 4096), before);
}

pub fn a_gibibyte_arrives(backend: &'static Backend, _seed: u64) {
    let mut pair = Pair::new(backend);
    let free = std::fs::read_to_string("/proc/meminfo").unwrap();
    let free = free.lines().find_map(|line| line.strip_prefix("MemAvailable:")).unwrap();
    let free: u64 = free.trim().trim_end_matches(" kB").parse().unwrap();
    // Two regions, and room for what else runs here.
    let len = if free > (6 << 20) { 1024 * MIB } else { 256 * MIB };
    if len < 1024 * MIB {
        println!("    memory is short: 256 MiB instead of 1 GiB");
    }
    let (here, there) = (pair.a.region(len), pair.b.filled(len, 22));
    pair.b.grant(1, false, there, 0, len);
    let read = pair.a.submit(pair.ask(false, 1, here, there, Blocks::one(0, len)));
    assert_eq!(pair.a.end_of(read), Ok(()));
    pair.a.verify(here, Blocks::one(0, len), false, 22);
    // And back, to one byte further, where other bytes are.
    let further = Blocks { len: len - 1, there: 1, ..Blocks::one(0, len) };
    pair.b.grant(2, true, there, 0, len);
    let write = pair.a.submit(pair.ask(true, 2, here, there, further));
    assert_eq!(pair.a.end_of(write), Ok(()));
    pair.b.verify(there, further, true, 22);
}

pub fn a_message_comes_after_the_bytes_of_its_transfer(backend: &'static Backend, _seed: u64) {
    const SLOTS: u64 = 4;
    let mut pair = Pair::new(backend);
    // Long enough that a message that came first would be seen to: the last blocks are verified first.
    let blocks = Blocks::scattered(400, 60_000);
    let slot = blocks.extent();
    let (here, there) = (pair.a.filled(SLOTS * slot, 11), pair.b.filled(SLOTS * slot, OLD));
    pair.b.grant(1, true, there, 0, SLOTS * slot);
    let in_slot = |number: u64| Blocks { here: number * slot, there: number * slot, ..blocks };
    for number in 0..SLOTS {
        let notify = Some(vec![u8::try_from(number).unwrap()]);
        let ask = Ask { notify, ..pair.ask(true, 1, here, there, in_slot(number)) };
        pair.a.submit(ask);
    }
    for number in 0..SLOTS {
        pair.b.see(&Seen::Notified(pair.b_to_a, vec![u8::try_from(number).unwrap()]));
        pair.b.verify(there, in_slot(number), true, 11);
    }
    pair.a.settle();
    assert!(pair.a.transfers.values().all(|end| *end == Some(Ok(()))));
    let messages = pair.b.log.iter().filter(|seen| matches!(seen, Seen::Notified(..)));
    assert_eq!(messages.count() as u64, SLOTS, "each message comes once");
}

pub fn a_message_comes_after_the_bytes_of_transfers_that_were_done(backend: &'static Backend, _seed: u64) {
    let mut pair = Pair::new(backend);
    let blocks = Blocks::scattered(20, 10_000);
    let (here, there) = (pair.a.filled(blocks.extent(), 0), pair.b.filled(blocks.extent(), OLD));
    pair.b.grant(1, true, there, 0, blocks.extent());
    for round in 1..20u8 {
        let seed = u64::from(round) * 1000;
        pair.a.must(Command::Fill { region: here, at: 0, len: blocks.extent(), seed });
        let transfer = pair.a.submit(pair.ask(true, 1, here, there, blocks));
        assert_eq!(pair.a.end_of(transfer), Ok(()));
        pair.a.must(Command::Notify { peer: pair.a_to_b, message: vec![round] });
        pair.b.see(&Seen::Notified(pair.b_to_a, vec![round]));
        pair.b.verify(there, blocks, true, seed);
    }
}

pub fn memory_that_is_no_arena_is_moved_or_refused(backend: &'static Backend, _seed: u64) {
    let mut pair = Pair::new(backend);
    let blocks = Blocks::scattered(3000, 1000);
    let len = blocks.extent();
    let other = |side: &mut crate::side::Side| side.ask(Command::Region { len, arena: false });
    let (here, there) = match (other(&mut pair.a), other(&mut pair.b)) {
        (Answer::Number(here), Answer::Number(there)) => (here, there),
        (Answer::Error(code), _) if code == "memory_kind" => return,
        answers => panic!("{answers:?}"),
    };
    let (here, there) = (u32::try_from(here).unwrap(), u32::try_from(there).unwrap());
    pair.b.renew();
    pair.a.must(Command::Fill { region: here, at: 0, len, seed: 11 });
    pair.b.must(Command::Fill { region: there, at: 0, len, seed: 22 });
    pair.b.grant(1, false, there, 0, len);
    pair.b.grant(2, true, there, 0, len);
    for checksum in [false, true] {
        for (write, token) in [(false, 1), (true, 2)] {
            let ask = Ask { checksum, ..pair.ask(write, token, here, there, blocks) };
            let transfer = pair.a.submit(ask);
            match pair.a.end_of(transfer) {
                Ok(()) if write => pair.b.verify(there, blocks, true, 11),
                Ok(()) => pair.a.verify(here, blocks, false, 22),
                // The kernel does not allow it here, and the error says what to do.
                Err(code) => assert!(["limit", "memory_kind"].contains(&code.as_str()), "{code}"),
            }
            pair.a.must(Command::Fill { region: here, at: 0, len, seed: 11 });
            pair.b.must(Command::Fill { region: there, at: 0, len, seed: 22 });
        }
    }
}

pub fn regions_come_and_go_while_connected(backend: &'static Backend, _seed: u64) {
    let mut pair = Pair::new(backend);
    let (before_a, before_b) = (pair.a.footprint(), pair.b.footprint());
    for round in 0..10 {
        let blocks = Blocks::scattered(3, 5000 + round);
        move_both_ways(&mut pair, blocks.extent(), blocks, false);
    }
    lets_go(&mut pair.a, before_a, (backend.kept)(0));
    lets_go(&mut pair.b, before_b, (backend.kept)(0));
}
