//! How transfers end early: cancelled, too late, or with the peer. Whichever it is, they end once, and nothing is written
//! to their places afterwards.

use std::time::{Duration, Instant};

use kvferry_transfer::fabric::tcp::TcpOptions;
use kvferry_transfer::fabric::{Event, Fabric, Request};
use kvferry_transfer::{Access, Error, PeerId};

use crate::support::{Relay, Side, TOKEN, Way, read, segment, write};

const LEN: u64 = 32 << 20;

/// Two sides with a relay between them.
fn apart(access: Access, silence: Duration) -> (Side, Side, PeerId, Relay) {
    let relay = Relay::new();
    let options = |name| TcpOptions { silence, ..Side::options(name) };
    let mut initiator = Side::open(options("initiator"), LEN);
    let owner = Side::open(TcpOptions { advertise: vec![relay.address], ..options("owner") }, LEN);
    relay.leads_to(owner.fabric.listening()[0]);
    owner.grant(TOKEN, access, &[(0, LEN)]);
    let peer = initiator.meet(&owner);
    (initiator, owner, peer, relay)
}

const LONG: Duration = Duration::from_secs(600);

#[test]
fn a_read_that_is_cancelled_writes_nothing_any_more() {
    let (mut initiator, owner, peer, relay) = apart(Access::Read, LONG);
    owner.fill(1);
    let transfer = initiator.fabric.submit(read(peer, &[segment(0, 0, LEN)])).unwrap();
    while relay.passed(Way::ToInitiator) < 1 << 20 {
        std::thread::yield_now();
    }
    relay.freeze(Way::ToInitiator);
    initiator.fabric.cancel(transfer);
    let ended = initiator.outcome(transfer);
    let after = initiator.bytes(0, LEN);
    relay.thaw(Way::ToInitiator);
    // What was on its way comes and is thrown away; then others are served.
    assert_eq!(initiator.run(read(peer, &[segment(0, 0, 0)])), Ok(()));
    if ended == Ok(()) {
        // It was faster than the relay could be stopped: then all of it is there.
        assert!(after == owner.bytes(0, LEN));
    } else {
        assert_eq!(ended, Err(Error::Cancelled));
    }
    assert!(initiator.bytes(0, LEN) == after, "bytes were written after the transfer had failed");
    initiator.fabric.cancel(transfer);
    assert_eq!(initiator.others(), [], "it ends once");
}

#[test]
fn a_write_that_is_cancelled_writes_nothing_any_more() {
    let (mut initiator, owner, peer, _relay) = apart(Access::Write, LONG);
    initiator.fill(1);
    let transfer = initiator.fabric.submit(write(peer, &[segment(0, 0, LEN)])).unwrap();
    initiator.fabric.cancel(transfer);
    let ended = initiator.outcome(transfer);
    let after = owner.bytes(0, LEN);
    assert_eq!(initiator.run(write(peer, &[segment(0, 0, 0)])), Ok(()));
    assert!(matches!(ended, Ok(()) | Err(Error::Cancelled)), "{ended:?}");
    assert!(owner.bytes(0, LEN) == after, "bytes were written after the transfer had failed");
}

#[test]
fn a_deadline_ends_a_read_from_a_peer_that_does_not_answer() {
    let (mut initiator, owner, peer, relay) = apart(Access::Read, LONG);
    owner.fill(1);
    relay.freeze(Way::ToOwner);
    let deadline = Some(Instant::now() + Duration::from_millis(50));
    let late = Request { deadline, ..read(peer, &[segment(0, 0, LEN)]) };
    assert_eq!(initiator.run(late), Err(Error::Deadline));
    relay.thaw(Way::ToOwner);
    assert_eq!(initiator.run(read(peer, &[segment(0, 0, 0)])), Ok(()));
    assert!(initiator.bytes(0, LEN).iter().all(|byte| *byte == 0), "bytes came after the deadline");
    let far = Some(Instant::now() + LONG);
    assert_eq!(initiator.run(Request { deadline: far, ..read(peer, &[segment(0, 0, 8)]) }), Ok(()));
}

#[test]
fn a_deadline_ends_a_read_in_the_middle_of_a_chunk_and_the_rest_of_it_goes_nowhere() {
    for checksum in [false, true] {
        let (mut initiator, owner, peer, relay) = apart(Access::Read, LONG);
        owner.fill(1);
        let begun = initiator.bytes(0, LEN);
        relay.freeze_after(Way::ToInitiator, 700_000);
        let deadline = Some(Instant::now() + Duration::from_millis(300));
        let late = Request { deadline, checksum, ..read(peer, &[segment(0, 0, LEN)]) };
        assert_eq!(initiator.run(late), Err(Error::Deadline));
        let after = initiator.bytes(0, LEN);
        assert!(after != begun, "some of it had come");
        relay.thaw(Way::ToInitiator);
        assert_eq!(
            initiator.run(read(peer, &[segment(0, 0, 0)])),
            Ok(()),
            "the connection is as good as before"
        );
        assert!(initiator.bytes(0, LEN) == after, "bytes came after the deadline");
    }
}

#[test]
fn a_peer_that_falls_silent_is_lost_after_all_that_was_under_way() {
    for (access, way) in [(Access::Read, Way::ToInitiator), (Access::Write, Way::ToOwner)] {
        let (mut initiator, _owner, peer, relay) = apart(access, Duration::from_millis(500));
        relay.freeze(way);
        let ask = if access == Access::Read { read } else { write };
        let ids = [0, 1].map(|i| initiator.fabric.submit(ask(peer, &[segment(i * 8, i * 8, 8)])).unwrap());
        let events = initiator.until(|event| matches!(event, Event::Lost(..)));
        assert!(
            matches!(&events[..], [
                Event::Failed(first, Error::Lost(_)),
                Event::Failed(second, Error::Lost(_)),
                Event::Lost(lost, Error::Lost(_)),
            ] if [*first, *second] == ids && *lost == peer),
            "{events:?}"
        );
        let late = initiator.fabric.submit(read(peer, &[]));
        assert_eq!(late, Err(Error::UnknownPeer(peer)));
    }
}

#[test]
fn a_peer_with_nothing_due_may_be_silent() {
    let (mut initiator, _owner, peer, _relay) = apart(Access::Read, Duration::from_secs(1));
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(initiator.others(), []);
    assert_eq!(initiator.run(read(peer, &[segment(0, 0, 8)])), Ok(()));
}

#[test]
fn a_connection_that_is_cut_ends_all_of_it_on_both_sides() {
    for access in [Access::Read, Access::Write] {
        let (mut initiator, mut owner, peer, relay) = apart(access, LONG);
        let ask = if access == Access::Read { read } else { write };
        relay.slow(Way::ToOwner);
        relay.slow(Way::ToInitiator);
        let transfer = initiator.fabric.submit(ask(peer, &[segment(0, 0, LEN)])).unwrap();
        relay.cut();
        assert_eq!(initiator.outcome(transfer).unwrap_err().code(), "peer_lost");
        assert_eq!(initiator.lost(peer).code(), "peer_lost");
        owner.fabric.revoke(TOKEN);
        owner.freed(TOKEN);
        assert_eq!(owner.others(), [], "nobody here has heard of the guest");
    }
}

#[test]
fn a_fabric_that_closes_in_the_middle_leaves_nothing_open_on_either_side() {
    let (mut initiator, mut owner, peer) = Side::pair(256 << 20, Access::Write);
    let transfer = initiator.fabric.submit(write(peer, &[segment(0, 0, 256 << 20)])).unwrap();
    owner.fabric.close();
    owner.freed(TOKEN);
    assert_eq!(initiator.outcome(transfer).unwrap_err().code(), "peer_lost");
    initiator.lost(peer);
    assert_eq!(owner.fabric.metadata(), Err(Error::Closed));
    assert_eq!(owner.fabric.submit(read(peer, &[])), Err(Error::Closed));

    let (mut initiator, _owner, peer) = Side::pair(256 << 20, Access::Read);
    let transfer = initiator.fabric.submit(read(peer, &[segment(0, 0, 256 << 20)])).unwrap();
    initiator.fabric.close();
    assert_eq!(initiator.outcome(transfer), Err(Error::Closed));
    initiator.fabric.close();
}

#[test]
fn what_was_said_right_before_closing_arrives() {
    let (initiator, mut owner, peer) = Side::pair(4096, Access::Read);
    initiator.fabric.notify(peer, "farewell".into()).unwrap();
    initiator.fabric.close();
    assert_eq!(owner.message(), &b"farewell"[..]);
    let gone = owner.until(|event| matches!(event, Event::Lost(..)));
    assert_eq!(gone.len(), 1, "who was heard of is lost when it goes: {gone:?}");
}

#[test]
fn parting_cancels_what_is_under_way_and_meeting_again_gives_another_number() {
    let (mut initiator, owner, peer, relay) = apart(Access::Read, LONG);
    relay.freeze(Way::ToOwner);
    let transfer = initiator.fabric.submit(read(peer, &[segment(0, 0, 8)])).unwrap();
    initiator.fabric.disconnect(peer);
    assert_eq!(initiator.outcome(transfer), Err(Error::Cancelled));
    assert_eq!(initiator.lost(peer), Error::Cancelled);
    relay.thaw(Way::ToOwner);
    let again = initiator.meet(&owner);
    assert_ne!(again, peer);
    assert_eq!(initiator.run(read(again, &[segment(0, 0, 8)])), Ok(()));
}
