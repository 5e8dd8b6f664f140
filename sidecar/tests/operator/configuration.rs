//! `--print-config`: what is in force, in the form in which it can be given.

use std::process::Stdio;

use crate::child::{Process, engine, run};
use crate::common::{APIS, Ask, reserve_port};
use serde_json::Value;

/// Flags of every kind: numbers, durations, lists, words, switches.
const FLAGS: [&str; 16] = [
    "--port=18000",
    "--vllm-port=18200",
    "--data-parallel-size=2",
    "--secure-serving=false",
    "--enable-tls=prefiller,decoder",
    "--tls-insecure-skip-verify=prefiller",
    "--allow-target=10.0.0.0/8:8000,[2001:db8::1]:80",
    "--prefill-max-retries=3",
    "--prefill-retry-backoff=1m1.5s",
    "--prefill-timeout=0s",
    "--prefill-local-ratio=0.25",
    "--metrics-port=18100",
    "--log-level=debug",
    "--request-log=false",
    "--inference-pool=llm/pool",
    "--workers=3",
];

fn printed(args: &[&str]) -> String {
    let output = run(&[&["--print-config"], args].concat());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{args:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_is_printed_is_json_with_the_values_in_force() {
    let config: Value = serde_json::from_str(&printed(&FLAGS)).unwrap();
    for (key, value) in [
        ("port", Value::from(18000)),
        // Deprecated names come out as what they mean.
        ("model-server-port", 18200.into()),
        ("data-parallel-size", 2.into()),
        ("secure-serving", false.into()),
        ("enable-tls", serde_json::json!(["prefiller", "decoder"])),
        ("prefill-retry-backoff", "1m1s500ms".into()),
        ("inference-pool", "llm/pool".into()),
        // And what nobody gave has its default.
        ("kv-connector", "nixlv2".into()),
        ("shutdown-timeout", "1m".into()),
    ] {
        assert_eq!(config[key], value, "{key}");
    }
}

#[test]
fn what_was_printed_can_be_given_back_as_configuration() {
    for flags in [&[][..], &FLAGS] {
        let first = printed(flags);
        assert_eq!(printed(&["--configuration", &first]), first);
        let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!(
            "printed-{}-{}.yaml",
            std::process::id(),
            flags.len()
        ));
        std::fs::write(&path, &first).unwrap();
        let read = printed(&["--configuration-file", path.to_str().unwrap()]);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read, first);
        // A flag still outranks it.
        let other = printed(&["--configuration", &first, "--prefill-max-retries=7"]);
        assert_eq!(serde_json::from_str::<Value>(&other).unwrap()["prefill-max-retries"], 7);
    }
}

#[tokio::test]
async fn a_sidecar_serves_by_what_another_printed() {
    let (prefill, decode) = (engine().await, engine().await);
    let (port, _reserved) = reserve_port();
    let decoder = format!("--model-server-port={}", decode.addr().port());
    let config = printed(&["--secure-serving=false", &decoder, "--max-body-size=1000"]);
    let process = Process::start_as(port, &[], &["--configuration", &config]).await;
    let ask = |body: &str| Ask::post(APIS[0].path, body).prefill(&prefill.host_port());
    ask(&APIS[0].body(false)).send(process.address).await.ok();
    ask(&"x".repeat(1001)).send(process.address).await.is_error(413, "body_too_large", "1000 bytes");
    // The log has it too, as it was at the start.
    let logged = process.logged("Proxy configuration").await;
    let logged: Value = serde_json::from_str(logged["fields"]["configuration"].as_str().unwrap()).unwrap();
    let mut expected: Value = serde_json::from_str(&config).unwrap();
    expected["port"] = port.into();
    assert_eq!(logged, expected);
    crate::child::empty([&prefill, &decode]).await;
    process.end().await;
}

#[test]
fn passwords_in_proxy_variables_are_not_shown() {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_kvferry-sidecar"));
    let output = command
        .arg("--print-config")
        .env("HTTPS_PROXY", "http://user:hunter2@proxy.example:3128")
        .env("HTTP_PROXY", "http://user:hunter2@proxy.example:3128")
        .output()
        .unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    assert!(shown.contains("proxy.example:3128") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_reason_to_panic() {
    for flag in ["--print-config", "--help", "--version"] {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_kvferry-sidecar"))
            .arg(flag)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!said.contains("panicked"), "{flag}: {said}");
        assert_ne!(output.status.code(), Some(101), "{flag}");
    }
}
