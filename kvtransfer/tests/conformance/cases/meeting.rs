//! Peers meet, part, die and come again.

use crate::backend::Backend;
use crate::command::{Answer, Command, Seen};
use crate::pattern::Blocks;
use crate::side::{Pair, Side};

/// One small write from `a` to `b`, verified.
fn works(pair: &mut Pair) {
    let blocks = Blocks::scattered(3, 1000);
    let (here, there) = (pair.a.filled(blocks.extent(), 5), pair.b.filled(blocks.extent(), 6));
    pair.b.grant(200, true, there, 0, blocks.extent());
    let transfer = pair.a.submit(pair.ask(true, 200, here, there, blocks));
    assert_eq!(pair.a.end_of(transfer), Ok(()));
    pair.b.verify(there, blocks, true, 5);
    pair.b.must(Command::Revoke { token: 200 });
}

pub fn two_that_meet_at_the_same_time_have_one_connection(backend: &'static Backend, _seed: u64) {
    for (a, b) in [("a", "b"), ("b", "a")] {
        let (mut a, mut b) = (Side::new(backend, a, 1), Side::new(backend, b, 2));
        for round in 0..10 {
            a.tell(&Command::Connect { metadata: b.metadata.clone() }).unwrap();
            b.tell(&Command::Connect { metadata: a.metadata.clone() }).unwrap();
            let number = |answer| match answer {
                Ok(Answer::Number(peer)) => u32::try_from(peer).unwrap(),
                other => panic!("{other:?}"),
            };
            let (a_to_b, b_to_a) = (number(a.hear()), number(b.hear()));
            a.connected(a_to_b);
            b.connected(b_to_a);
            for (side, other) in [(&mut a, a_to_b), (&mut b, b_to_a)] {
                side.must(Command::Notify { peer: other, message: vec![round] });
            }
            a.see(&Seen::Notified(a_to_b, vec![round]));
            b.see(&Seen::Notified(b_to_a, vec![round]));
            let mut pair = Pair { a, b, a_to_b, b_to_a };
            works(&mut pair);
            (a, b) = (pair.a, pair.b);
            a.must(Command::Disconnect { peer: a_to_b });
            assert_eq!(a.loss_of(a_to_b), "cancelled");
            assert_eq!(b.loss_of(b_to_a), "peer_lost");
        }
        for side in [&a, &b] {
            let meetings = side.log.iter().filter(|seen| matches!(seen, Seen::Connected(..))).count();
            assert_eq!(meetings, 10, "one each time: {:?}", side.log);
        }
    }
}

pub fn whoever_is_met_twice_keeps_its_number(backend: &'static Backend, _seed: u64) {
    let mut pair = Pair::new(backend);
    assert_eq!(pair.a.connect(&pair.b.metadata), pair.a_to_b);
    assert_eq!(pair.b.connect(&pair.a.metadata), pair.b_to_a, "also from the other side");
    works(&mut pair);
    for side in [&pair.a, &pair.b] {
        let meetings = side.log.iter().filter(|seen| matches!(seen, Seen::Connected(..))).count();
        assert_eq!(meetings, 1, "{:?}", side.log);
    }
}

pub fn whoever_was_only_met_hears_messages_and_of_the_end(backend: &'static Backend, _seed: u64) {
    let (mut a, mut b) = (Side::new(backend, "a", 1), Side::new(backend, "b", 2));
    let a_to_b = a.connect(&b.metadata);
    a.connected(a_to_b);
    a.must(Command::Notify { peer: a_to_b, message: b"hello".to_vec() });
    let b_to_a = b.until("a message", |side| {
        side.log.iter().find_map(|seen| match seen {
            Seen::Notified(peer, message) if message == b"hello" => Some(*peer),
            _ => None,
        })
    });
    assert_eq!(b.connect(&a.metadata), b_to_a, "it is the same peer when it is met in turn");
    b.connected(b_to_a);
    let mut pair = Pair { a, b, a_to_b, b_to_a };
    works(&mut pair);
    pair.a.kill();
    assert_eq!(pair.b.loss_of(b_to_a), "peer_lost");
}

pub fn whoever_parts_ends_what_is_under_way_and_may_come_again(backend: &'static Backend, _seed: u64) {
    let mut pair = Pair::new(backend);
    let large = Blocks::one(0, 64 << 20);
    let (here, there) = (pair.a.region(large.len), pair.b.region(large.len));
    pair.b.grant(1, false, there, 0, large.len);
    pair.b.grant(2, true, there, 0, large.len);
    for _ in 0..3 {
        pair.a.submit(pair.ask(false, 1, here, there, large));
    }
    pair.a.submit(pair.ask(true, 2, here, there, large));
    pair.a.must(Command::Disconnect { peer: pair.a_to_b });
    assert_eq!(pair.a.loss_of(pair.a_to_b), "cancelled");
    for end in pair.a.transfers.values() {
        let end = end.clone().expect("everything with a peer ends before it is lost");
        assert!(end.is_ok() || end == Err("cancelled".into()), "{end:?}");
    }
    assert_eq!(pair.b.loss_of(pair.b_to_a), "peer_lost");
    assert_eq!(pair.a.refused(Command::Notify { peer: pair.a_to_b, message: vec![] }), "unknown_peer");
    for token in [1, 2] {
        pair.b.must(Command::Revoke { token });
        pair.b.see(&Seen::Freed(token));
    }
    let mut again = Pair::of(pair.a, pair.b);
    assert_ne!(again.a_to_b, pair.a_to_b);
    works(&mut again);
}

pub fn a_peer_of_another_epoch_is_another_peer(backend: &'static Backend, _seed: u64) {
    let mut pair = Pair::new(backend);
    works(&mut pair);
    pair.b.kill();
    assert_eq!(pair.a.loss_of(pair.a_to_b), "peer_lost");
    let old = pair.b.metadata.clone();
    let mut again = Pair::of(pair.a, Side::new(backend, "b", 3));
    assert_ne!(again.a_to_b, pair.a_to_b);
    works(&mut again);
    let stale = again.a.connect(&old);
    let code = again.a.loss_of(stale);
    assert!(["stale_epoch", "peer_lost"].contains(&code.as_str()), "{code}");
    works(&mut again);
}

pub fn a_stale_epoch_is_told(backend: &'static Backend, _seed: u64) {
    let Some(place) = backend.place else {
        println!("    SKIPPED: two lives of an agent cannot have the same address here");
        return;
    };
    let place = Some(place());
    let mut pair = Pair::of(Side::new(backend, "a", 1), Side::at(backend, "b", 2, place.clone()));
    works(&mut pair);
    let old = pair.b.metadata.clone();
    pair.b.kill();
    pair.a.loss_of(pair.a_to_b);
    let b = Side::at(backend, "b", 3, place);
    let stale = pair.a.connect(&old);
    assert_eq!(pair.a.loss_of(stale), "stale_epoch");
    let mut again = Pair::of(pair.a, b);
    works(&mut again);
    again.b.must(Command::Close);
}

pub fn nobody_at_home_is_a_loss(backend: &'static Backend, _seed: u64) {
    let (mut a, mut b) = (Side::new(backend, "a", 1), Side::new(backend, "b", 2));
    let metadata = b.metadata.clone();
    b.kill();
    let peer = a.connect(&metadata);
    assert_eq!(a.loss_of(peer), "peer_lost");
    assert_eq!(a.ask(Command::Lane { peer }), Answer::Text(None));
}
