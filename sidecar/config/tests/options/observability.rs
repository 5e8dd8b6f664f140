//! Log levels in two vocabularies, and the metrics port.

use kvferry_config::LogLevel::{self, Debug, Error, Info, Off, Trace, Warn};

use crate::operator::{Operator, flags, yaml};

fn level(operator: &Operator) -> LogLevel {
    operator.options().observability.log_level
}

#[test]
fn log_levels_are_words_or_verbosities_and_ours_goes_first() {
    for (args, expected) in [
        (&[][..], Info),
        (&["--zap-log-level=panic"], Off),
        (&["--zap-log-level=error"], Error),
        (&["--zap-log-level=info"], Info),
        (&["--zap-log-level=debug"], Debug),
        (&["--zap-log-level=DEBUG"], Debug),
        (&["--zap-log-level=1"], Info),
        (&["--zap-log-level=2"], Info),
        (&["--zap-log-level=3"], Info),
        (&["--zap-log-level=4"], Debug),
        (&["--zap-log-level=5"], Trace),
        (&["--zap-log-level=10"], Trace),
        (&["--log-level=off"], Off),
        (&["--log-level=error"], Error),
        (&["--log-level=Warn"], Warn),
        (&["--log-level=info"], Info),
        (&["--log-level=debug"], Debug),
        (&["--log-level=trace"], Trace),
        (&["--zap-log-level=5", "--log-level=error"], Error),
        (&["--zap-log-level=loud", "--log-level=error"], Error),
    ] {
        assert_eq!(level(&flags(args)), expected, "{args:?}");
    }
    assert_eq!(level(&yaml("zap-log-level: 4")), Debug);
    assert_eq!(level(&yaml("log-level: off")), Off);
}

#[test]
fn flags_about_the_logs_form_warn_once_and_only_if_they_ask_for_another_form() {
    for args in [
        &["--zap-encoder=json"][..],
        &["--zap-devel=false"],
        &["--zap-stacktrace-level=panic", "--zap-time-encoding=rfc3339"],
    ] {
        assert!(flags(args).warnings().iter().all(|warning| !warning.contains("zap")), "{args:?}");
    }
    let all = flags(&["--zap-devel", "--zap-encoder=console", "--zap-stacktrace-level=error"]);
    assert_eq!(
        all.flags(&["--zap-time-encoding=epoch"]).warning("zap"),
        "--zap-devel, --zap-encoder, --zap-stacktrace-level, --zap-time-encoding is accepted without effect: the log \
         is always JSON without stack traces"
    );
}

#[test]
fn metrics_are_asked_for_by_port_or_by_the_variable_of_old() {
    for (args, variable, expected) in [
        (&[][..], "", None),
        (&["--metrics-port=0"], "", None),
        (&["--metrics-port=9090"], "", Some((None, 9090))),
        (&["--metrics-port=9090"], ":9091", Some((None, 9090))),
        (&[], ":9091", Some((None, 9091))),
        (&[], "0.0.0.0:9091", Some((None, 9091))),
        (&[], "[::]:9091", Some((None, 9091))),
        (&[], "127.0.0.1:9091", Some((Some("127.0.0.1"), 9091))),
        (&[], "localhost:9091", Some((Some("127.0.0.1"), 9091))),
        (&[], "[::1]:9091", Some((Some("::1"), 9091))),
        (&[], ":0", None),
        (&[], "9091", None),
    ] {
        let metrics = flags(args).env("MORIIO_METRICS_ADDR", variable).options().observability;
        let got = metrics.metrics_port.map(|port| (metrics.metrics_host, port.get()));
        let expected = expected.map(|(host, port)| (host.map(|host| host.parse().unwrap()), port));
        assert_eq!(got, expected, "{args:?} {variable}");
    }
}
