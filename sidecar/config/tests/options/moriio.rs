//! MoRI-IO: groups of pods, and names that are looked up at start.

use std::net::IpAddr;
use std::time::Duration;

use crate::operator::{Operator, flags};

fn group(remote: &str, decode: &str, size: u32, local: u32) -> Operator {
    flags(&[
        &format!("--moriio-remote-hosts={remote}"),
        &format!("--moriio-decode-hosts={decode}"),
        &format!("--moriio-dp-size={size}"),
        &format!("--moriio-dp-size-local={local}"),
    ])
}

#[test]
fn every_rank_needs_a_host_and_every_host_ranks() {
    for (remote, decode, size, local, refused) in [
        ("10.0.0.1,10.0.0.2", "10.0.1.1,10.0.1.2", 16, 8, None),
        ("", "", 8, 0, None),
        ("10.0.0.1", "10.0.1.1", 8, 0, None),
        ("10.0.0.1", "", 8, 3, None),
        (
            "10.0.0.1,10.0.0.2",
            "",
            16,
            0,
            Some(
                "--moriio-remote-hosts has 2 hosts, so it requires --moriio-dp-size-local > 0: the ranks in each of \
                 them",
            ),
        ),
        (
            "",
            "10.0.1.1,10.0.1.2",
            15,
            8,
            Some(
                "--moriio-dp-size (15) must be divisible by --moriio-dp-size-local (8) as --moriio-decode-hosts has 2 \
                 hosts",
            ),
        ),
        (
            "10.0.0.1,10.0.0.2,10.0.0.3",
            "",
            16,
            8,
            Some(
                "--moriio-remote-hosts has 3 hosts but --moriio-dp-size / --moriio-dp-size-local is 2: give one host \
                 for each 8 ranks",
            ),
        ),
        (
            "",
            "10.0.1.1,10.0.1.2,10.0.1.3",
            16,
            8,
            Some(
                "--moriio-decode-hosts has 3 hosts but --moriio-dp-size / --moriio-dp-size-local is 2: give one host \
                 for each 8 ranks",
            ),
        ),
    ] {
        let operator = group(remote, decode, size, local);
        match refused {
            None => {
                operator.options();
            }
            Some(line) => assert_eq!(operator.refusal(), line),
        }
    }
}

#[test]
fn write_mode_needs_an_address_to_write_to() {
    let line = "--moriio-write-mode requires --moriio-local-pod-ip or the environment variable POD_IP: prefill \
                engines must know where to write";
    assert_eq!(flags(&["--moriio-write-mode"]).refusal(), line);
    assert_eq!(
        flags(&["--moriio-write-mode", "--moriio-local-pod-ip="]).env("POD_IP", "10.0.0.7").refusal(),
        line
    );
    for operator in [
        flags(&["--moriio-write-mode", "--moriio-local-pod-ip=10.0.0.7"]),
        flags(&["--moriio-write-mode"]).env("POD_IP", "10.0.0.7"),
    ] {
        let local = operator.options().moriio.moriio_local_pod_ip.unwrap();
        assert_eq!(local.address, "10.0.0.7".parse::<IpAddr>().unwrap());
    }
}

#[test]
fn parallel_dispatch_needs_write_mode() {
    assert_eq!(
        flags(&["--moriio-parallel-dispatch"]).env("POD_IP", "10.0.0.7").refusal(),
        "--moriio-parallel-dispatch requires --moriio-write-mode"
    );
    let both = flags(&["--moriio-parallel-dispatch", "--moriio-write-mode"]).env("POD_IP", "10.0.0.7");
    assert!(both.options().moriio.moriio_parallel_dispatch);
}

#[test]
fn names_are_looked_up_at_start_and_kept() {
    let operator = group("p-0.svc,10.0.0.2", "d-0.svc,d-1.svc", 4, 2)
        .host("p-0.svc", &["fd00::1", "10.0.0.1"])
        .host("d-0.svc", &["fd00::2"])
        .host("d-1.svc", &["10.0.1.1", "10.0.1.2"])
        .host("me.svc", &["10.0.1.9"])
        .env("POD_IP", "me.svc");
    let moriio = operator.options().moriio;
    let hosts: Vec<(&str, String)> = moriio
        .moriio_remote_hosts
        .iter()
        .chain(&moriio.moriio_decode_hosts)
        .chain(&moriio.moriio_local_pod_ip)
        .map(|host| (host.name.as_str(), host.address.to_string()))
        .collect();
    // IPv4 goes first, and the first of those.
    let expected = [
        ("p-0.svc", "10.0.0.1"),
        ("10.0.0.2", "10.0.0.2"),
        ("d-0.svc", "fd00::2"),
        ("d-1.svc", "10.0.1.1"),
        ("me.svc", "10.0.1.9"),
    ];
    assert_eq!(hosts, expected.map(|(name, address)| (name, address.to_owned())));
}

#[test]
fn a_name_that_cannot_be_looked_up_is_refused() {
    for (flag, line) in [
        ("moriio-remote-hosts", "cannot resolve --moriio-remote-hosts host \"gone.svc\": no such name"),
        ("moriio-decode-hosts", "cannot resolve --moriio-decode-hosts host \"gone.svc\": no such name"),
        ("moriio-local-pod-ip", "cannot resolve --moriio-local-pod-ip host \"gone.svc\": no such name"),
    ] {
        assert_eq!(flags(&[&format!("--{flag}=gone.svc")]).refusal(), line);
    }
    assert_eq!(
        flags(&["--moriio-remote-hosts=empty.svc"]).host("empty.svc", &[]).refusal(),
        "cannot resolve --moriio-remote-hosts host \"empty.svc\": it has no address"
    );
}

#[test]
fn addresses_are_not_looked_up() {
    let literal = flags(&["--moriio-remote-hosts=fd00::1"]).options().moriio;
    assert_eq!(literal.moriio_remote_hosts[0].address, "fd00::1".parse::<IpAddr>().unwrap());
}

#[test]
fn sizes_and_waits_below_what_makes_sense_mean_none() {
    for (args, size, local, wait) in [
        (&[][..], 1, None, 30),
        (&["--moriio-dp-size=0", "--moriio-dp-size-local=-1"], 1, None, 30),
        (&["--moriio-dp-size=8", "--moriio-dp-size-local=8"], 8, Some(8), 30),
        (&["--moriio-parallel-decode-wait-timeout=0"], 1, None, 30),
        (&["--moriio-parallel-decode-wait-timeout=-5s"], 1, None, 30),
        (&["--moriio-parallel-decode-wait-timeout=5s"], 1, None, 5),
    ] {
        let moriio = flags(args).options().moriio;
        assert_eq!(moriio.moriio_dp_size.get(), size, "{args:?}");
        assert_eq!(moriio.moriio_dp_size_local.map(std::num::NonZeroU32::get), local, "{args:?}");
        assert_eq!(moriio.moriio_parallel_decode_wait_timeout, Duration::from_secs(wait), "{args:?}");
    }
    assert_eq!(flags(&["--moriio-tp-size=0"]).refusal(), "--moriio-tp-size must be at least 1, got 0");
    assert_eq!(
        flags(&["--moriio-decode-notify-port=0"]).refusal(),
        "--moriio-decode-notify-port must be between 1 and 65535, got 0"
    );
}

#[test]
fn write_mode_with_another_connector_is_told_to_have_no_effect() {
    let other = flags(&["--moriio-write-mode", "--kv-connector=sglang"]).env("POD_IP", "10.0.0.7");
    assert_eq!(
        other.warning("--moriio-write-mode"),
        "--moriio-write-mode has no effect without --kv-connector=nixlv2"
    );
}
