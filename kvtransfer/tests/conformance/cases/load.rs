//! Much at the same time.

use crate::backend::Backend;
use crate::command::{Ask, Command, Seen};
use crate::pattern::Blocks;
use crate::side::{Pair, Side};

pub fn both_directions_are_moved_at_the_same_time(backend: &'static Backend, _seed: u64) {
    const SLOTS: u64 = 12;
    let mut pair = Pair::new(backend);
    let blocks = Blocks::scattered(100, 40_000);
    let (slot, len) = (blocks.extent(), 4 * SLOTS * blocks.extent());
    let (here, there) = (pair.a.filled(len, 11), pair.b.filled(len, 22));
    // Quarters of both regions: what a reads into and from, and what it writes from and to. Each is the other way round
    // for b, so that no byte is read and written at the same time.
    let quarter = len / 4;
    for (side, region) in [(&mut pair.a, here), (&mut pair.b, there)] {
        side.grant(1, false, region, 2 * quarter, quarter);
        side.grant(2, true, region, 3 * quarter, quarter);
    }
    let asks = |peer, local, remote, number: u64| {
        let at = |local_quarter: u64, remote_quarter: u64| Blocks {
            here: local_quarter * quarter + number * slot,
            there: remote_quarter * quarter + number * slot,
            ..blocks
        };
        let ask = |write, token, blocks| Ask {
            peer,
            write,
            token,
            local,
            remote,
            blocks: vec![blocks],
            notify: None,
            deadline: None,
            checksum: false,
        };
        [ask(false, 1, at(0, 2)), ask(true, 2, at(1, 3))]
    };
    for number in 0..SLOTS {
        for ask in asks(pair.a_to_b, here, there, number) {
            pair.a.submit(ask);
        }
        for ask in asks(pair.b_to_a, there, here, number) {
            pair.b.submit(ask);
        }
    }
    pair.a.settle();
    pair.b.settle();
    for side in [&pair.a, &pair.b] {
        assert!(side.transfers.values().all(|end| *end == Some(Ok(()))), "{:?}", side.transfers);
    }
    for number in 0..SLOTS {
        let [read, write] = asks(0, 0, 0, number).map(|ask| ask.blocks[0]);
        pair.a.verify(here, read, false, 22);
        pair.b.verify(there, read, false, 11);
        pair.b.verify(there, write, true, 11);
        pair.a.verify(here, write, true, 22);
    }
}

pub fn four_peers_are_served_at_the_same_time(backend: &'static Backend, _seed: u64) {
    let mut hub = Side::new(backend, "hub", 1);
    let blocks = Blocks::scattered(200, 16_000);
    let len = blocks.extent();
    let there = hub.filled(5 * len, 99);
    hub.grant(1, false, there, 4 * len, len);
    hub.grant(2, true, there, 0, 4 * len);
    let mut spokes: Vec<(Side, u32, u32)> = (0..4u64)
        .map(|number| {
            let mut spoke = Side::new(backend, &format!("spoke-{number}"), 10 + number);
            let peer = spoke.connect(&hub.metadata);
            let here = spoke.filled(2 * len, number);
            (spoke, peer, here)
        })
        .collect();
    for (number, (spoke, peer, here)) in (0u64..).zip(&mut spokes) {
        spoke.connected(*peer);
        let read = Blocks { here: len, there: 4 * len, ..blocks };
        let write = Blocks { here: 0, there: number * len, ..blocks };
        for _ in 0..5 {
            for (write, token, blocks) in [(false, 1, read), (true, 2, write)] {
                let notify = write.then(|| vec![u8::try_from(number).unwrap()]);
                let (peer, local, remote, blocks) = (*peer, *here, there, vec![blocks]);
                spoke.submit(Ask {
                    peer,
                    write,
                    token,
                    local,
                    remote,
                    blocks,
                    notify,
                    deadline: None,
                    checksum: false,
                });
            }
        }
    }
    for (number, (spoke, _, here)) in (0u64..).zip(&mut spokes) {
        spoke.settle();
        assert!(spoke.transfers.values().all(|end| *end == Some(Ok(()))), "{:?}", spoke.transfers);
        spoke.verify(*here, Blocks { here: len, there: 4 * len, ..blocks }, false, 99);
        hub.verify(there, Blocks { here: 0, there: number * len, ..blocks }, true, number);
    }
    hub.until("all messages", |hub| {
        let messages = hub.log.iter().filter(|seen| matches!(seen, Seen::Notified(..))).count();
        (messages == 20).then_some(())
    });
}

pub fn a_small_transfer_ends_while_a_large_one_runs(backend: &'static Backend, _seed: u64) {
    let mut pair = Pair::new(backend);
    let (large, small) = (Blocks::one(0, 256 << 20), Blocks::one(0, 1 << 20));
    let (here, there) = (pair.a.region(large.len), pair.b.region(large.len));
    let (here_small, there_small) = (pair.a.region(small.len), pair.b.filled(small.len, 22));
    pair.b.grant(1, false, there, 0, large.len);
    pair.b.grant(2, false, there_small, 0, small.len);
    let mut overtaken = 0;
    for _ in 0..3 {
        let large = pair.a.submit(pair.ask(false, 1, here, there, large));
        let little = pair.a.submit(pair.ask(false, 2, here_small, there_small, small));
        assert_eq!(pair.a.end_of(little), Ok(()));
        assert_eq!(pair.a.end_of(large), Ok(()));
        pair.a.verify(here_small, small, false, 22);
        pair.a.must(Command::Fill { region: here_small, at: 0, len: small.len, seed: 1 });
        let mut ends = pair.a.log.iter().filter_map(|seen| match seen {
            Seen::Done(transfer) if [large, little].contains(transfer) => Some(*transfer),
            _ => None,
        });
        overtaken += u32::from(ends.next() == Some(little));
    }
    assert_eq!(overtaken, 3, "the small one never waits for all of the large one");
}
