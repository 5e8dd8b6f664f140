//! Two doctors on one host move real bytes, and say over what.
#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

use std::net::SocketAddr;
use std::time::Duration;

use kvferry_doctor::judge::Want;
use kvferry_doctor::peer::{Measured, Setup, measure, serve};

/// For what never comes, on whatever machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn setup(secret: Option<&[u8]>) -> Setup {
    // No UCX: what is installed is for the tests of UCX.
    let ucx_library = Some("/nowhere/libucp.so.0".into());
    Setup { ucx_library, secret: secret.map(<[u8]>::to_vec), want: Want::Auto }
}

/// A port that was free just now.
fn address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Measures with a side that listens in a thread of its own.
fn measured(theirs: Setup, ours: &Setup) -> Result<Measured, String> {
    let at = address();
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // It ends with the process.
        runtime.block_on(serve(at, &theirs, &mut |said| drop(ready.send(said)))).unwrap();
    });
    while !is_ready.recv_timeout(PATIENCE).unwrap().contains("listening") {}
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, measure(&at.to_string(), ours)).await.unwrap() })
}

#[test]
fn within_a_host_shared_memory_is_chosen_and_tcp_is_measured_beside_it() {
    let measured = measured(setup(None), &setup(None)).unwrap();
    assert_eq!((measured.chosen.fabric.as_str(), measured.chosen.zero_copy), ("shm", true));
    let each: Vec<_> = measured.each.iter().map(|figures| figures.fabric.as_str()).collect();
    assert_eq!(each, ["shm", "tcp"]);
    assert!(measured.each[1].lane.starts_with("tcp"), "{}", measured.each[1].lane);
    for figures in measured.each.iter().chain([&measured.chosen]) {
        assert!(figures.read > 0.0 && figures.write > 0.0 && figures.latency_us > 0.0, "{figures:?}");
    }
    let refused: Vec<_> = measured.refused.iter().map(|refused| refused.fabric).collect();
    assert_eq!(refused, ["ucx"]);
    assert!(measured.refused[0].why.contains("/nowhere/libucp.so.0"));
}

#[test]
fn a_peer_with_another_secret_is_refused_with_the_reason() {
    let error = measured(setup(Some(b"sixteen bytes ...")), &setup(Some(b"sixteen others ..."))).unwrap_err();
    assert!(error.contains("secret"), "{error}");
}

#[test]
fn nobody_there_is_said_with_the_address() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let at = address().to_string();
    let error = runtime.block_on(measure(&at, &setup(None))).unwrap_err();
    assert!(error.contains(&at), "{error}");
}

#[test]
fn an_address_that_nobody_can_come_back_to_is_not_listened_on() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let at: SocketAddr = "0.0.0.0:0".parse().unwrap();
    let error = runtime.block_on(serve(at, &setup(None), &mut drop)).unwrap_err();
    assert!(error.contains("the address that peers reach"), "{error}");
}
