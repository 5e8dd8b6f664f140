//! What a side does not allow is not done, and what it allowed ends when it says.

use std::time::Duration;

use kvferry_transfer::fabric::tcp::TcpOptions;
use kvferry_transfer::fabric::{Fabric, Request};
use kvferry_transfer::{Access, Error, Place, Refused, RegionId, Segment, Token};

use crate::support::{Relay, Side, TOKEN, Way, place, read, segment, write};

const LEN: u64 = 64 << 10;

#[test]
fn what_no_lease_covers_is_refused_with_its_reason_and_not_touched() {
    let (mut initiator, owner) = (Side::new("initiator", LEN), Side::new("owner", LEN));
    owner.grant(TOKEN, Access::Write, &[(4096, 4096)]);
    let peer = initiator.meet(&owner);
    initiator.fill(1);
    let refused = |refused| Err(Error::Refused(refused));
    let other = Request { token: Token([8; 16]), ..write(peer, &[segment(0, 4096, 1)]) };
    assert_eq!(initiator.run(other), refused(Refused::NoLease));
    assert_eq!(initiator.run(read(peer, &[segment(0, 4096, 1)])), refused(Refused::Direction));
    assert_eq!(initiator.run(write(peer, &[segment(0, 4095, 2)])), refused(Refused::Outside));
    let partly = [segment(0, 4096, 16), segment(16, 8192, 16)];
    assert_eq!(initiator.run(write(peer, &partly)), refused(Refused::Outside));
    let unknown = Request { token: Token([8; 16]), ..write(peer, &[]) };
    assert_eq!(initiator.run(unknown), refused(Refused::NoLease), "also with nothing to move");
    assert!(owner.bytes(0, LEN).iter().all(|byte| *byte == 0), "a refused write has left bytes");
    assert_eq!(initiator.run(write(peer, &[segment(0, 4096, 4096)])), Ok(()));
}

#[test]
fn a_large_write_that_is_refused_leaves_the_connection_usable() {
    let len = 32 << 20;
    let (mut initiator, owner, peer) = Side::pair(len, Access::Read);
    initiator.fill(1);
    let put = write(peer, &[segment(0, 0, len)]);
    assert_eq!(initiator.run(put), Err(Error::Refused(Refused::Direction)));
    assert!(owner.bytes(0, len).iter().all(|byte| *byte == 0));
    assert_eq!(initiator.run(read(peer, &[segment(0, 0, len)])), Ok(()));
}

#[test]
fn a_lease_ends_by_its_time_or_by_hand_and_is_freed_once() {
    let (mut initiator, mut owner) = (Side::new("initiator", LEN), Side::new("owner", LEN));
    let (short, long) = (Token([1; 16]), Token([2; 16]));
    owner.grant_for(short, Access::Read, &[(0, LEN)], Duration::from_millis(20)).unwrap();
    owner.grant(long, Access::Read, &[(0, LEN)]);
    assert_eq!(owner.grant_for(long, Access::Read, &[], Duration::ZERO), Err(Error::TokenInUse));
    owner.freed(short);
    let peer = initiator.meet(&owner);
    let mut request = Request { token: short, ..read(peer, &[segment(0, 0, 1)]) };
    assert_eq!(initiator.run(request.clone()), Err(Error::Refused(Refused::NoLease)));
    request.token = long;
    assert_eq!(initiator.run(request.clone()), Ok(()));
    owner.fabric.revoke(long);
    owner.freed(long);
    assert_eq!(initiator.run(request), Err(Error::Refused(Refused::NoLease)));
    owner.fabric.revoke(long);
    owner.fabric.revoke(Token([9; 16]));
    assert_eq!(owner.others(), []);
}

#[test]
fn leases_and_requests_for_what_is_not_there_are_refused_at_once() {
    let (mut initiator, owner, peer) = Side::pair(LEN, Access::Read);
    let there = |at, len| owner.grant_for(Token([9; 16]), Access::Read, &[(at, len)], Duration::ZERO);
    assert_eq!(there(LEN, 1), Err(Error::OutOfRegion(RegionId(0), LEN)));
    assert_eq!(there(u64::MAX, 2), Err(Error::OutOfRegion(RegionId(0), LEN)));
    let out = Err(Error::OutOfRegion(RegionId(0), LEN));
    assert_eq!(initiator.run(read(peer, &[segment(LEN - 1, 0, 2)])), out);
    assert_eq!(initiator.run(read(peer, &[segment(0, LEN - 1, 2)])), out);
    assert_eq!(initiator.run(read(peer, &[segment(0, u64::MAX, 2)])), out);
    let elsewhere = Place { region: RegionId(5), offset: 0 };
    let unknown = Err(Error::UnknownRegion(RegionId(5)));
    assert_eq!(initiator.run(read(peer, &[Segment { local: elsewhere, remote: place(0), len: 1 }])), unknown);
    // What the peer has, the peer knows best.
    let there = [Segment { local: place(0), remote: elsewhere, len: 1 }];
    assert_eq!(initiator.run(read(peer, &there)), Err(Error::Refused(Refused::Outside)));
    let twice = [segment(0, 0, 8), segment(7, 100, 8)];
    assert_eq!(initiator.run(read(peer, &twice)), Err(Error::Overlap));
}

#[test]
fn a_region_stays_while_a_lease_or_a_transfer_names_it() {
    let relay = Relay::new();
    let options = TcpOptions { advertise: vec![relay.address], ..Side::options("owner") };
    let (mut initiator, mut owner) = (Side::new("initiator", LEN), Side::open(options, LEN));
    relay.leads_to(owner.fabric.listening()[0]);
    owner.grant(TOKEN, Access::Read, &[(0, LEN)]);
    let peer = initiator.meet(&owner);
    relay.freeze(Way::ToOwner);
    let transfer = initiator.fabric.submit(read(peer, &[segment(0, 0, LEN)])).unwrap();
    let busy = Err(Error::RegionBusy(RegionId(0)));
    assert_eq!(
        (initiator.fabric.deregister(RegionId(0)), owner.fabric.deregister(RegionId(0))),
        (busy.clone(), busy)
    );
    relay.thaw(Way::ToOwner);
    assert_eq!(initiator.outcome(transfer), Ok(()));
    owner.fabric.revoke(TOKEN);
    owner.freed(TOKEN);
    assert_eq!(
        (initiator.fabric.deregister(RegionId(0)), owner.fabric.deregister(RegionId(0))),
        (Ok(()), Ok(()))
    );
    assert_eq!(owner.fabric.deregister(RegionId(0)), Err(Error::UnknownRegion(RegionId(0))));
}

#[test]
fn a_lease_that_ends_in_the_middle_of_a_transfer_ends_it_and_is_freed() {
    let len = 256 << 20;
    let (mut initiator, mut owner, peer) = Side::pair(len, Access::Write);
    let transfer = initiator.fabric.submit(write(peer, &[segment(0, 0, len)])).unwrap();
    owner.fabric.revoke(TOKEN);
    owner.freed(TOKEN);
    let after = owner.bytes(0, len);
    assert_eq!(initiator.outcome(transfer), Err(Error::Refused(Refused::NoLease)));
    assert!(owner.bytes(0, len) == after, "bytes were written after the lease was free");
}

#[test]
fn a_peer_that_stalls_in_the_middle_of_a_chunk_does_not_keep_its_lease_from_being_freed() {
    let len = 64 << 20;
    let relay = Relay::new();
    let options = TcpOptions { advertise: vec![relay.address], ..Side::options("owner") };
    let mut initiator = Side::open(TcpOptions { streams: 1, window: len, ..Side::options("initiator") }, len);
    let mut owner = Side::open(options, len);
    relay.leads_to(owner.fabric.listening()[0]);
    owner.grant(TOKEN, Access::Read, &[(0, len)]);
    let peer = initiator.meet(&owner);
    relay.freeze(Way::ToInitiator);
    let transfer = initiator.fabric.submit(read(peer, &[segment(0, 0, len)])).unwrap();
    // By then the kernel's buffers are full, and a chunk is on its way that does not get on.
    std::thread::sleep(Duration::from_secs(1));
    owner.fabric.revoke(TOKEN);
    owner.freed(TOKEN);
    relay.thaw(Way::ToInitiator);
    assert!(initiator.outcome(transfer).is_err());
}
