//! Bytes arrive where they belong, and the report says how.

use std::time::{Duration, Instant};

use bytes::Bytes;
use kvferry_agent::Event;
use kvferry_transfer::{Access, RegionId, Span, Token};

use crate::support::{MIB, Of, end, pair, pattern, segments, soon, wait};

#[test]
fn a_read_and_a_write_arrive_over_the_best_lane_and_say_so() {
    for (fabrics, lane) in [(&[Of::Shm, Of::Tcp][..], "shm"), (&[Of::Tcp][..], "tcp")] {
        let (a, b, peer) = pair(fabrics, 20 * MIB);
        b.fill(3);
        let token = b.grant(Access::Read);
        let report =
            end(a.agent.read(&peer, token, segments(a.region, b.region, 20 * MIB, 1280), soon())).unwrap();
        assert!(a.bytes(0, 20 * MIB) == pattern(20 << 20, 3), "every byte");
        assert_eq!(report.bytes, 20 * MIB);
        assert_eq!(
            report.lanes.iter().map(|of| (&*of.lane, of.bytes)).collect::<Vec<_>>(),
            [(lane, 20 * MIB)]
        );
        assert!(report.retried == 0 && !report.fell_back && !report.verified && report.settled);
        a.fill(4);
        let token = b.grant(Access::Write);
        let report =
            end(a.agent.write(&peer, token, segments(a.region, b.region, 20 * MIB, 5), soon())).unwrap();
        assert!(b.bytes(0, 20 * MIB) == pattern(20 << 20, 4), "every byte");
        assert_eq!(report.bytes, 20 * MIB);
        let snapshot = wait(a.agent.snapshot()).unwrap();
        let lanes = &snapshot.peers[0].lanes;
        assert_eq!((lanes[0].bytes, lanes[0].state), (40 * MIB, "up"));
        assert_eq!((snapshot.transfers, snapshot.chunks), (0, 0));
    }
}

#[test]
fn a_message_comes_after_every_byte_whether_written_or_read() {
    let (a, mut b, peer) = pair(&[Of::Tcp], 4 * MIB);
    let token = b.grant(Access::Write);
    for round in 1..20 {
        a.fill(round);
        let all = segments(a.region, b.region, 4 * MIB, 16);
        let transfer = a.agent.write(&peer, token, all, soon().notifying(vec![round]));
        assert_eq!(b.notified(), [round]);
        assert!(b.bytes(0, 4 * MIB) == pattern(4 << 20, round), "every byte of round {round}");
        end(transfer).unwrap();
    }
    let token = b.grant(Access::Read);
    end(a.agent.read(&peer, token, segments(a.region, b.region, MIB, 1), soon().notifying("read"))).unwrap();
    assert_eq!(b.notified(), b"read");
    end(a.agent.read(&peer, token, vec![], soon().notifying("nothing"))).unwrap();
    assert_eq!(b.notified(), b"nothing");
    a.agent.notify(&peer, Bytes::from_static(b"hello")).unwrap();
    assert_eq!(b.notified(), b"hello");
}

#[test]
fn verified_transfers_arrive_and_say_that_they_are() {
    for fabrics in [&[Of::Shm][..], &[Of::Tcp][..]] {
        let (a, b, peer) = pair(fabrics, 24 * MIB);
        b.fill(5);
        let (read, write) = (b.grant(Access::Read), b.grant(Access::Write));
        let all = segments(a.region, b.region, 24 * MIB, 1536);
        let report = end(a.agent.read(&peer, read, all.clone(), soon().verified())).unwrap();
        assert!(report.verified && report.bytes == 24 * MIB);
        assert!(a.bytes(0, 24 * MIB) == pattern(24 << 20, 5), "every byte");
        a.fill(6);
        assert!(end(a.agent.write(&peer, write, all, soon().verified())).unwrap().verified);
        assert!(b.bytes(0, 24 * MIB) == pattern(24 << 20, 6), "every byte");
    }
}

#[test]
fn what_no_lease_covers_is_refused_and_a_revoked_one_is_freed() {
    let (a, mut b, peer) = pair(&[Of::Shm, Of::Tcp], MIB);
    let all = segments(a.region, b.region, MIB, 1);
    assert_eq!(end(a.agent.read(&peer, Token([1; 16]), all.clone(), soon())).unwrap_err(), "no_lease");
    let half = vec![Span::new(b.region, 0, MIB / 2)];
    let token = b.agent.grant(Access::Read, half, Instant::now() + Duration::from_secs(600)).unwrap();
    assert_eq!(end(a.agent.read(&peer, token, all.clone(), soon())).unwrap_err(), "outside_lease");
    assert_eq!(end(a.agent.write(&peer, token, all.clone(), soon())).unwrap_err(), "lease_direction");
    assert_eq!(b.agent.deregister(b.region).unwrap_err().code(), "region_busy");
    b.agent.revoke(token);
    assert_eq!(b.until(|event| if let Event::Freed(token) = event { Some(token) } else { None }), token);
    assert_eq!(end(a.agent.read(&peer, token, all, soon())).unwrap_err(), "no_lease");
    b.agent.deregister(b.region).unwrap();
}

#[test]
fn a_lease_that_comes_to_its_time_is_freed() {
    let (_a, mut b, _peer) = pair(&[Of::Shm, Of::Tcp], MIB);
    let span = vec![Span::new(b.region, 0, MIB)];
    let token = b.agent.grant(Access::Write, span, Instant::now() + Duration::from_millis(20)).unwrap();
    assert_eq!(b.until(|event| if let Event::Freed(token) = event { Some(token) } else { None }), token);
    assert_eq!(wait(b.agent.snapshot()).unwrap().leases, 0);
    b.agent.deregister(b.region).unwrap();
}

#[test]
fn what_can_be_known_at_once_is_refused_at_once() {
    let (a, b, peer) = pair(&[Of::Tcp], MIB);
    let token = b.grant(Access::Read);
    let code = |segments| end(a.agent.read(&peer, token, segments, soon())).unwrap_err();
    let all = || segments(a.region, b.region, MIB, 2);
    assert_eq!(code(segments(RegionId(9), b.region, MIB, 1)), "unknown_region");
    assert_eq!(code(segments(a.region, RegionId(9), MIB, 1)), "unknown_remote_region");
    assert_eq!(code(segments(a.region, b.region, 2 * MIB, 1)), "out_of_region");
    assert_eq!(code([all(), all()].concat()), "overlap");
    let mut far = all();
    far[0].remote.offset = u64::MAX;
    assert_eq!(code(far), "out_of_region");
    let span = vec![Span::new(b.region, 0, 2 * MIB)];
    assert_eq!(b.agent.grant(Access::Read, span, Instant::now()).unwrap_err().code(), "out_of_region");
    assert_eq!(b.agent.deregister(RegionId(9)).unwrap_err().code(), "unknown_region");
}

#[test]
fn regions_that_come_after_the_meeting_are_known_to_the_peer_before_its_next_message() {
    for fabrics in [&[Of::Shm][..], &[Of::Tcp][..]] {
        let (mut a, b, peer) = pair(fabrics, MIB);
        let back = b.meet(&a);
        let late = b.agent.register(b.memory.clone()).unwrap();
        b.agent.notify(&back, Bytes::from_static(b"there is another one")).unwrap();
        assert_eq!(a.notified(), b"there is another one");
        b.fill(8);
        let span = vec![Span::new(late, 0, MIB)];
        let token = b.agent.grant(Access::Read, span, Instant::now() + Duration::from_secs(600)).unwrap();
        end(a.agent.read(&peer, token, segments(a.region, late, MIB, 4), soon())).unwrap();
        assert!(a.bytes(0, MIB) == pattern(1 << 20, 8), "every byte");
        assert_eq!(back.name().as_str(), "a");
    }
}
