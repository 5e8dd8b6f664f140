//! What is written is read; what was not written by an agent is refused, whatever it is.

use std::collections::BTreeMap;

use bytes::Bytes;
use kvferry_transfer::memory::{Device, Kind};
use kvferry_transfer::{Access, AgentName, Epoch, RegionId, Span, Token};
use proptest::prelude::*;

use super::*;
use crate::Error;

fn hello() -> Hello {
    let region = |len, kind, ids: &[Option<u32>]| TableRegion {
        len,
        kind,
        ids: ids.iter().map(|id| id.map(RegionId)).collect(),
    };
    Hello {
        session: 7,
        fabrics: vec![
            Carried { kind: "shm".into(), metadata: Bytes::from_static(b"where") },
            Carried { kind: "nixl-obj".into(), metadata: Bytes::new() },
        ],
        regions: BTreeMap::from([
            (RegionId(0), region(1 << 40, Kind::Host, &[Some(3), None])),
            (RegionId(9), region(0, Kind::Cuda(Device(2)), &[None, Some(0)])),
        ]),
        about: Bytes::from_static(b"blocks of 16 tokens"),
    }
}

fn samples() -> Vec<Frame> {
    vec![
        Frame::Greeting(greeting("a").encode().into()),
        Frame::Proof(vec![5; 32].into()),
        Frame::Hello(Box::new(hello())),
        Frame::Hello(Box::default()),
        Frame::Refuse("full".into(), "the limit peers is reached".into()),
        Frame::Table(Box::new(hello())),
        Frame::Notify(Bytes::from_static(b"block 7 is there")),
        Frame::Heard(1, 16),
        Frame::Check {
            number: 4,
            token: Token([8; 16]),
            access: Access::Write,
            spans: vec![Span::new(RegionId(0), 1, 2), Span::new(RegionId(1), 3, u64::MAX)],
        },
        Frame::Checked { number: 4, sums: vec![1, 2, 3] },
        Frame::Unchecked { number: 4, code: "no_lease".into(), words: "no such lease".into() },
        Frame::Ping,
        Frame::Bye("it stops".into()),
    ]
}

fn greeting(name: &str) -> Greeting {
    Greeting { name: AgentName::new(name).unwrap(), epoch: Epoch(1), nonce: [3; 32], secret: true }
}

fn body(frame: &Frame) -> Bytes {
    frame.encode().slice(4..)
}

#[test]
fn what_is_written_is_read() {
    for frame in samples() {
        assert_eq!(Frame::decode(&body(&frame)), Ok(frame));
    }
    assert_eq!(Greeting::decode(&greeting("a").encode()), Ok(greeting("a")));
}

#[test]
fn every_truncation_and_every_appendix_is_refused_where_the_end_is_not_open() {
    for frame in samples() {
        let whole = body(&frame);
        let open = matches!(frame, Frame::Greeting(_) | Frame::Proof(_) | Frame::Notify(_));
        for end in 0..whole.len() {
            let read = Frame::decode(&whole.slice(..end));
            assert!(read.is_err() || (open && end > 0), "{end} bytes of {frame:?} are {read:?}");
        }
        let longer = Frame::decode(&[&whole[..], b"x"].concat().into());
        assert!(longer.is_err() || open, "{longer:?}");
    }
    let whole = greeting("a").encode();
    for end in 0..whole.len() {
        assert!(Greeting::decode(&whole[..end]).is_err());
    }
}

#[test]
fn counts_that_would_cost_memory_are_refused_before_it_is_taken() {
    let mut check =
        body(&Frame::Check { number: 0, token: Token([0; 16]), access: Access::Read, spans: vec![] })
            .to_vec();
    let end = check.len();
    check[end - 4..].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(Frame::decode(&check.into()).unwrap_err().code(), "malformed_frame");
    let mut hello = body(&Frame::Hello(Box::default())).to_vec();
    hello[9..13].copy_from_slice(&17_u32.to_le_bytes());
    assert_eq!(Frame::decode(&hello.into()), Err(Error::Malformed("more than 16 fabrics")));
    let long = [&[6_u8][..], &vec![0; crate::limits::MAX_MESSAGE + 1]].concat();
    assert_eq!(Frame::decode(&long.into()), Err(Error::Malformed("a notification is longer than 64 KiB")));
}

#[test]
fn another_version_is_told_whatever_else_has_changed_in_it() {
    let mut future = 9_u16.to_le_bytes().to_vec();
    future.extend(12_u16.to_le_bytes());
    future.extend(b"unlike anything known");
    assert_eq!(Greeting::decode(&future), Err(Error::Version((9, 12), VERSIONS)));
    let mut wide = greeting("a").encode();
    wide[2..4].copy_from_slice(&12_u16.to_le_bytes());
    assert!(Greeting::decode(&wide).is_ok(), "1 to 12 have ours in common");
}

#[test]
fn a_greeting_from_oneself_a_namesake_a_stranger_or_another_life_is_told_apart() {
    let (own, expected) = (greeting("a"), |name: &str, epoch| (AgentName::new(name).unwrap(), epoch));
    let other = greeting("b");
    assert_eq!(check(&own, &other, None), Ok(()));
    assert_eq!(check(&own, &own.clone(), None), Err(Error::SelfConnect));
    let namesake = Greeting { epoch: Epoch(2), ..greeting("a") };
    assert_eq!(check(&own, &namesake, None), Err(Error::NameClash(own.name.clone())));
    let bare = Greeting { secret: false, ..greeting("b") };
    assert_eq!(check(&own, &bare, None).unwrap_err().code(), "unauthenticated");
    assert_eq!(check(&bare, &own, None).unwrap_err().code(), "unauthenticated");
    assert_eq!(check(&own, &other, Some(&expected("b", Some(Epoch(1))))), Ok(()));
    assert_eq!(check(&own, &other, Some(&expected("b", None))), Ok(()));
    assert_eq!(check(&own, &other, Some(&expected("c", None))).unwrap_err().code(), "wrong_peer");
    let stale = check(&own, &other, Some(&expected("b", Some(Epoch(9)))));
    assert_eq!(stale, Err(Error::StaleEpoch(Epoch(9), Epoch(1))));
}

proptest! {
    #[test]
    fn bytes_from_anywhere_are_refused_or_are_exactly_what_would_be_written(
        which in 0_usize..13, at in any::<usize>(), byte in any::<u8>(), tail in proptest::collection::vec(any::<u8>(), 0..3)
    ) {
        let mut bytes = body(&samples()[which]).to_vec();
        let at = at % bytes.len();
        bytes[at] = byte;
        bytes.extend(tail);
        let bytes = Bytes::from(bytes);
        if let Ok(frame) = Frame::decode(&bytes) {
            prop_assert_eq!(body(&frame), bytes);
        }
    }

    #[test]
    fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
        let noise = Bytes::from(noise);
        let _ = Greeting::decode(&noise);
        if let Ok(frame) = Frame::decode(&noise) {
            prop_assert_eq!(body(&frame), noise);
        }
    }
}
