//! The end, with everything an operator may have turned on: one signal drains, the second does not wait.

use crate::common::{APIS, eventually, within};
use crate::pod::Pod;
use kvferry_emulator::Faults;

#[tokio::test]
async fn the_second_signal_ends_it_at_once_whichever_it_is() {
    for (first, second) in [("TERM", "TERM"), ("TERM", "INT"), ("INT", "TERM")] {
        let variables = [("OTEL_TRACES_EXPORTER", "console"), ("OTEL_TRACES_SAMPLER_ARG", "1")];
        let flags = ["--shutdown-timeout=600s", "--tracing", "--ready-when-decoder-answers"];
        let mut pod = Pod::start_with(&variables, &flags).await;
        pod.decode.set_faults(Faults { hang: true, times: Some(1), ..Faults::default() });
        let ask = pod.ask(APIS[0].path, APIS[0].body(true));
        let client = tokio::spawn(ask.try_send(pod.address()));
        eventually("decode hangs", || pod.decode.faults() == Faults::default()).await;
        pod.process.signal(first);
        pod.process.logged("shutting down").await;
        assert_eq!(pod.get("/ready").await.status, 503);
        pod.process.signal(second);
        assert_eq!(pod.process.code().await, 1);
        assert!(within("an end", client).await.unwrap().is_err());
        assert!(std::net::TcpStream::connect(pod.admin).is_err());
    }
}

#[tokio::test]
async fn what_outlives_the_deadline_is_cut_and_the_operator_can_watch_it() {
    let mut pod = Pod::start(&["--shutdown-timeout=2s"]).await;
    pod.decode.set_faults(Faults { hang: true, times: Some(1), ..Faults::default() });
    let ask = pod.ask(APIS[0].path, APIS[0].body(true));
    let client = tokio::spawn(ask.try_send(pod.address()));
    eventually("decode hangs", || pod.decode.faults() == Faults::default()).await;
    pod.process.signal("TERM");
    pod.process.logged("shutting down").await;
    let listed = pod.get("/debug/requests").await.ok().json();
    assert_eq!((&listed["total"], &listed["requests"][0]["stage"]), (&1.into(), &"decode".into()));
    assert_eq!(pod.scrape().await.get("kv_outstanding").to_string(), "1");
    assert!(within("an end", client).await.unwrap().is_err());
    assert_eq!(pod.process.code().await, 0);
    let stopped = pod.process.logged("stopped").await;
    assert_eq!(stopped["fields"]["kv_outstanding"], 0);
    assert_eq!(stopped["fields"]["kv_released"], 1);
    crate::child::empty([&pod.prefill, &pod.decode]).await;
}

#[tokio::test]
async fn it_ends_whether_or_not_anybody_was_ever_served() {
    for flags in [&[][..], &["--tracing"], &["--pair-warm-up"], &["--ready-when-decoder-answers"]] {
        let pod = Pod::start(flags).await;
        pod.end().await;
    }
}
