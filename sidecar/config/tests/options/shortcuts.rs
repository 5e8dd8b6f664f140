//! A shortcut that cannot do anything says so at start, and does not keep the sidecar from starting.

use crate::operator::{flags, yaml};

#[test]
fn first_token_forwarding_names_the_connectors_where_it_works() {
    let writing: [&[&str]; 4] = [
        &["--kv-connector=sglang"],
        &["--kv-connector=mooncake"],
        &["--nixl-push-mode"],
        &["--moriio-write-mode", "--moriio-local-pod-ip=10.0.0.1"],
    ];
    for args in writing {
        let warning = flags(args).flags(&["--first-token-forwarding"]).warning("first-token-forwarding");
        assert_eq!(
            warning,
            "--first-token-forwarding has no effect here: it works with --kv-connector=nixlv2 alone, without \
             --nixl-push-mode and --moriio-write-mode"
        );
    }
    let silent: [&[&str]; 3] = [
        &["--first-token-forwarding"],
        &["--first-token-forwarding", "--bidirectional-kv"],
        &["--kv-connector=sglang"],
    ];
    for args in silent {
        assert!(flags(args).warnings().iter().all(|warning| !warning.contains("first-token")), "{args:?}");
    }
}

#[test]
fn speculative_prefill_works_everywhere() {
    for connector in ["nixlv2", "sglang", "shared-storage"] {
        let connector = format!("--kv-connector={connector}");
        for operator in [flags(&["--enable-speculative-prefill"]), yaml("enable-speculative-prefill: true")] {
            let warnings = operator.flags(&[&connector]).warnings();
            assert!(warnings.iter().all(|warning| !warning.contains("speculative")), "{warnings:?}");
        }
    }
}
