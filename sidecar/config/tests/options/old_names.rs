//! Names of older sidecars: they work, and each says once what to use.

use crate::operator::{flags, yaml};

#[test]
fn each_deprecated_flag_warns_once_whichever_way_it_was_given() {
    for (name, value, instead) in [
        ("vllm-port", "9000", "--model-server-port"),
        ("connector", "sglang", "--kv-connector"),
        ("secure-proxy", "false", "--secure-serving"),
        ("prefiller-use-tls", "true", "--enable-tls=prefiller"),
        ("decoder-use-tls", "true", "--enable-tls=decoder"),
        ("prefiller-tls-insecure-skip-verify", "true", "--tls-insecure-skip-verify=prefiller"),
        ("decoder-tls-insecure-skip-verify", "true", "--tls-insecure-skip-verify=decoder"),
        ("inference-pool-namespace", "ns", "--inference-pool=namespace/name or INFERENCE_POOL"),
        ("inference-pool-name", "pool", "--inference-pool=namespace/name or INFERENCE_POOL"),
    ] {
        let expected = format!("--{name} is deprecated; use {instead}");
        for operator in [
            flags(&[&format!("--{name}={value}"), &format!("--{name}={value}")]),
            flags(&[&format!("-{name}={value}")]),
            yaml(&format!("{name}: {value}")),
        ] {
            assert_eq!(operator.warning("deprecated"), expected);
        }
    }
    for name in ["INFERENCE_POOL_NAMESPACE", "INFERENCE_POOL_NAME"] {
        let warning = flags(&[]).env(name, "x").warning("deprecated");
        assert_eq!(
            warning,
            format!("{name} is deprecated; use --inference-pool=namespace/name or INFERENCE_POOL")
        );
    }
    assert!(flags(&[]).warnings().iter().all(|warning| !warning.contains("deprecated")));
}

#[test]
fn connectors_of_the_first_sidecar_are_known_by_their_names_of_today() {
    for (old, today) in [("nixl", "nixlv2"), ("lmcache", "shared-storage")] {
        for operator in [
            flags(&["-connector", old]),
            flags(&[&format!("--connector={old}")]),
            flags(&[&format!("--kv-connector={old}")]),
            yaml(&format!("kv-connector: {old}")),
        ] {
            assert_eq!(operator.options().handoff.kv_connector, today);
            let expected = format!("connector {old:?} is deprecated; use --kv-connector={today}");
            assert_eq!(operator.warning("is deprecated; use --kv-connector="), expected);
        }
    }
}

#[test]
fn the_arguments_of_the_charts_are_accepted() {
    let modelservice = flags(&[
        "--port=8000",
        "--vllm-port=8200",
        "--connector=nixlv2",
        "--zap-devel=true",
        "--zap-encoder=json",
        "--zap-log-level=debug",
        "--zap-stacktrace-level=error",
        "--zap-time-encoding=epoch",
        "--secure-proxy=false",
        "--prefiller-use-tls=true",
        "--cert-path=/certs",
    ]);
    assert_eq!(modelservice.options().ports.model_server_port.get(), 8200);
    let guide =
        flags(&["--zap-log-level=1", "--secure-proxy=false", "--data-parallel-size=8", "--port=8000"])
            .env("POD_IP", "10.0.0.7");
    assert_eq!(guide.options().ports.ranks().last(), Some((8007, 8207)));
    assert_eq!(guide.options().environment.pod_ip.as_deref(), Some("10.0.0.7"));
    let oldest = flags(&["-port", "8000", "-vllm-port", "8001", "-connector", "lmcache"]);
    assert_eq!(oldest.options().ports.model_server_port.get(), 8001);
}
