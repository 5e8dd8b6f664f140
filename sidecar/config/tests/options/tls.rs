//! TLS of the listener and of the legs.

use std::path::Path;

use kvferry_config::Stage::{self, Decoder, Encoder, Prefiller};

use crate::operator::{flags, yaml};

#[test]
fn stages_are_listed_or_named_by_the_booleans_of_old() {
    for (args, keys, expected) in [
        (&[][..], "{}", &[][..]),
        (&["--enable-tls="], "{}", &[]),
        (&["--enable-tls=prefiller"], "{}", &[Prefiller]),
        (&["--enable-tls=decoder"], "{}", &[Decoder]),
        (&["--enable-tls=encoder"], "{}", &[Encoder]),
        (&["--enable-tls=prefiller,decoder"], "{}", &[Prefiller, Decoder]),
        (&["--enable-tls=decoder", "--enable-tls=prefiller"], "{}", &[Prefiller, Decoder]),
        (&["--prefiller-use-tls", "--decoder-use-tls"], "{}", &[Prefiller, Decoder]),
        (&["--enable-tls=prefiller", "--decoder-use-tls"], "{}", &[Prefiller, Decoder]),
        (&["--enable-tls=prefiller", "--prefiller-use-tls=false"], "{}", &[Prefiller]),
        (&[], "{enable-tls: [prefiller, decoder], prefiller-use-tls: false}", &[Prefiller, Decoder]),
        (&[], "{enable-tls: [encoder], decoder-use-tls: true}", &[Decoder, Encoder]),
        (&["--enable-tls=prefiller"], "{enable-tls: [decoder], decoder-use-tls: true}", &[Prefiller]),
        (&["--prefiller-use-tls"], "{enable-tls: [decoder]}", &[Prefiller, Decoder]),
        (&["--decoder-use-tls=false"], "{decoder-use-tls: true}", &[]),
    ] {
        let legs = yaml(keys).flags(args).options().legs;
        let stages: Vec<Stage> = legs.enable_tls.into_iter().collect();
        assert_eq!(stages, expected, "{args:?} {keys}");
    }
}

#[test]
fn verification_is_switched_off_in_the_same_ways() {
    for (args, expected) in [
        (&[][..], &[][..]),
        (&["--tls-insecure-skip-verify=prefiller,encoder"], &[Prefiller, Encoder]),
        (&["--prefiller-tls-insecure-skip-verify"], &[Prefiller]),
        (&["--decoder-tls-insecure-skip-verify"], &[Decoder]),
        (
            &["--tls-insecure-skip-verify=prefiller", "--decoder-tls-insecure-skip-verify"],
            &[Prefiller, Decoder],
        ),
    ] {
        let legs = flags(args).options().legs;
        let stages: Vec<Stage> = legs.tls_insecure_skip_verify.into_iter().collect();
        assert_eq!(stages, expected, "{args:?}");
    }
}

#[test]
fn other_stages_are_refused() {
    for (list, given) in [
        ("enable-tls", "invalid"),
        ("enable-tls", "prefiller,invalid"),
        ("tls-insecure-skip-verify", "invalid"),
    ] {
        assert_eq!(
            flags(&[&format!("--{list}={given}")]).refusal(),
            format!("--{list} stages must be one of: prefiller, decoder, encoder (got \"invalid\")")
        );
    }
}

#[test]
fn a_leg_shows_a_certificate_only_where_it_speaks_tls() {
    for stage in [Prefiller, Decoder, Encoder] {
        let cert = format!("--{stage}-client-cert-path=/certs");
        assert_eq!(
            flags(&[&cert]).refusal(),
            format!(
                "--{stage}-client-cert-path requires --enable-tls={stage}: without TLS no certificate is shown"
            )
        );
        let legs = flags(&[&cert, &format!("--enable-tls={stage}")]).options().legs;
        for other in [Prefiller, Decoder, Encoder] {
            let expected = (other == stage).then_some(Path::new("/certs"));
            assert_eq!(legs.client_cert_path(other), expected);
        }
    }
}

#[test]
fn clients_cannot_be_asked_for_certificates_without_tls() {
    let operator = flags(&["--client-ca-path=/ca.pem"]);
    assert_eq!(operator.options().listener.client_ca_path.as_deref(), Some(Path::new("/ca.pem")));
    assert_eq!(
        operator.flags(&["--secure-proxy=false"]).refusal(),
        "--client-ca-path requires --secure-serving: without TLS no client can show a certificate"
    );
}

#[test]
fn versions_and_suites_are_checked_by_those_who_know_them() {
    assert_eq!(
        flags(&["--tls-min-version=VersionTLS11"]).refusal(),
        "invalid --tls-min-version: \"VersionTLS11\" is no version"
    );
    assert_eq!(
        flags(&["--tls-cipher-suites=TLS_A,RC4"]).refusal(),
        "invalid --tls-cipher-suites: \"RC4\" is no suite"
    );
    let weak = yaml("{tls-cipher-suites: [TLS_A, TLS_B_CBC_C]}");
    assert_eq!(weak.options().listener.tls_cipher_suites, ["TLS_A"]);
    assert_eq!(
        weak.warning("--tls-cipher-suites"),
        "--tls-cipher-suites: TLS_B_CBC_C are too weak and not offered"
    );
}
