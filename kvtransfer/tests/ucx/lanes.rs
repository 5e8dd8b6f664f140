//! What really carries the bytes, with and without the settings that matter.

use kvferry_transfer::fabric::ucx::{UcxFabric, UcxOptions, Want};
use kvferry_transfer::fabric::{Copying, Event, Fabric, Lane};

use kvferry_ffi_testing::skipped;

use crate::support::{met, options, until, with_each};

/// The lane between two fabrics of these options, and UCX's minor version.
fn lane(options: UcxOptions) -> (Lane, u32) {
    let a = UcxFabric::open(UcxOptions {
        name: kvferry_transfer::AgentName::new("b").unwrap(),
        ..options.clone()
    })
    .unwrap();
    let b = UcxFabric::open(options).unwrap();
    let lane = a.lane(met(&a, &b)).unwrap();
    let minor = a.version().split('.').nth(1).unwrap().parse().unwrap();
    println!("UCX {}: {lane}", a.version());
    (lane, minor)
}

#[test]
fn bytes_go_the_shortest_way_that_tells_a_peers_death() {
    with_each("lanes::bytes_go_the_shortest_way_that_tells_a_peers_death", |library| {
        let (lane, minor) = lane(options("a", library));
        // Before 1.20, cma is not for those that want to hear of errors.
        if minor >= 20 {
            assert_eq!((lane.transport.as_str(), lane.copying), ("cma", Copying::ZeroCopy));
        } else {
            assert_eq!(lane.transport, "tcp");
            assert_ne!(lane.copying, Copying::ZeroCopy);
        }
    });
}

#[test]
fn with_rendezvous_as_usual_ucx_would_emulate_and_the_lane_says_so() {
    with_each("lanes::with_rendezvous_as_usual_ucx_would_emulate_and_the_lane_says_so", |library| {
        let set = vec![("RNDV_THRESH".into(), "auto".into())];
        let (lane, _) = lane(UcxOptions { set, ..options("a", library) });
        assert_eq!(lane.copying, Copying::Emulated, "{lane}");
    });
}

#[test]
fn over_tcp_the_lane_is_a_socket_or_emulated() {
    with_each("lanes::over_tcp_the_lane_is_a_socket_or_emulated", |library| {
        let (lane, minor) = lane(UcxOptions { transports: Some("tcp".into()), ..options("a", library) });
        assert_eq!(lane.transport, "tcp");
        assert!(!lane.device.is_empty());
        if minor >= 20 {
            assert_eq!(lane.copying, Copying::Socket, "puts go straight into place");
        } else {
            assert_ne!(lane.copying, Copying::ZeroCopy);
        }
    });
}

#[test]
fn a_lane_of_messages_is_an_error_where_zero_copy_is_wanted() {
    with_each("lanes::a_lane_of_messages_is_an_error_where_zero_copy_is_wanted", |library| {
        let open = |name| {
            let transports = Some("tcp".into());
            UcxFabric::open(UcxOptions { want: Want::ZeroCopy, transports, ..options(name, library.clone()) })
                .unwrap()
        };
        let (a, b) = (open("a"), open("b"));
        let peer = a.connect(&b.metadata().unwrap()).unwrap();
        let why = until(&a, |event| match event {
            Event::Lost(id, error) if id == peer => Some(error),
            Event::Connected(..) => panic!("over messages"),
            _ => None,
        });
        // Whichever of the two finds it first, and says so, or parts.
        assert!(matches!(why.code(), "lane" | "peer_lost"), "{why}");
    });
}

#[test]
fn rdma_that_is_wanted_and_not_there_is_an_error() {
    if std::fs::read_dir("/sys/class/infiniband").is_ok_and(|mut devices| devices.next().is_some()) {
        return skipped("this machine has an RDMA device");
    }
    with_each("lanes::rdma_that_is_wanted_and_not_there_is_an_error", |library| {
        let wanting = UcxOptions { want: Want::Rdma, ..options("a", library) };
        let error = UcxFabric::open(wanting).unwrap_err();
        println!("{error}");
        assert_eq!(error.code(), "lane");
        assert!(error.to_string().contains("tcp/"), "it says what there is: {error}");
    });
}
