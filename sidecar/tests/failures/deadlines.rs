//! Limits in time: the prefill leg's own, and one for both legs together.

use crate::common::{APIS, Ask, Rig, SHORT_GRACE, eventually};
use kvferry_emulator::{Faults, Speeds};

/// The next request is never answered; later ones are.
fn hang() -> Faults {
    Faults { hang: true, times: Some(1), ..Faults::default() }
}

#[tokio::test]
async fn a_hanging_prefill_is_given_up_at_its_own_limit() {
    let rig = Rig::with(&["--prefill-timeout=150ms", SHORT_GRACE]).await;
    rig.prefill.set_faults(hang());
    let answer = rig.ask(APIS[0].path, APIS[0].body(true)).send(rig.address()).await;
    answer.is_error(504, "prefill_timeout", "150 ms (--prefill-timeout)");
    assert!(rig.decode.requests().is_empty());
    // The limit is not for decode: one that takes longer is fine.
    rig.decode.set_faults(Faults { delay_ms: 300, ..Faults::default() });
    rig.ask(APIS[0].path, APIS[0].body(true)).send(rig.address()).await.ok();
    rig.end().await;
}

#[tokio::test]
async fn a_prefill_that_is_too_slow_is_aborted_in_the_engine() {
    let rig = Rig::with(&["--prefill-timeout=100ms", SHORT_GRACE]).await;
    rig.prefill.set_speeds(Speeds { prefill_rate: 10, ..Speeds::default() });
    let answer = rig.ask(APIS[1].path, APIS[1].body(false)).send(rig.address()).await;
    answer.is_error(504, "prefill_timeout", &rig.prefill.host_port());
    eventually("prefill is aborted", || rig.prefill.state().totals.aborted == 1).await;
    rig.end().await;
}

#[tokio::test]
async fn one_deadline_covers_prefill() {
    let rig = Rig::with(&["--request-timeout=150ms", SHORT_GRACE]).await;
    rig.prefill.set_faults(hang());
    let answer = rig.ask(APIS[0].path, APIS[0].body(false)).send(rig.address()).await;
    answer.is_error(504, "request_timeout", "150 ms (--request-timeout), waiting for prefill");
    assert!(rig.decode.requests().is_empty());
    rig.end().await;
}

#[tokio::test]
async fn the_shorter_of_two_limits_counts() {
    for (flags, code) in [
        (["--request-timeout=100ms", "--prefill-timeout=20s", SHORT_GRACE], "request_timeout"),
        (["--request-timeout=20s", "--prefill-timeout=100ms", SHORT_GRACE], "prefill_timeout"),
    ] {
        let rig = Rig::with(&flags).await;
        rig.prefill.set_faults(hang());
        let answer = rig.ask(APIS[0].path, APIS[0].body(false)).send(rig.address()).await;
        answer.is_error(504, code, "100 ms");
        rig.end().await;
    }
}

#[tokio::test]
async fn the_deadline_covers_decode_and_releases_the_kv() {
    for stream in [false, true] {
        let rig = Rig::with(&["--request-timeout=700ms"]).await;
        rig.decode.set_faults(hang());
        let answer = rig.ask(APIS[0].path, APIS[0].body(stream)).send(rig.address()).await;
        answer.is_error(504, "request_timeout", "700 ms (--request-timeout), in decode");
        rig.settled().await;
        assert_eq!(rig.prefill.state().totals.releases_without_read, 1);
        assert_eq!(rig.end().await.released, 1);
    }
}

#[tokio::test]
async fn a_whole_answer_that_drips_beyond_the_deadline_is_an_error() {
    let rig = Rig::with(&["--request-timeout=700ms"]).await;
    rig.decode.set_faults(Faults { drip_ms: Some(10), times: Some(1), ..Faults::default() });
    let answer = rig.ask(APIS[0].path, APIS[0].body(false)).send(rig.address()).await;
    answer.is_error(504, "request_timeout", "in decode");
    rig.end().await;
}

#[tokio::test]
async fn a_stream_that_goes_on_beyond_the_deadline_is_cut_and_aborted() {
    let rig = Rig::with(&["--request-timeout=800ms"]).await;
    rig.decode.set_speeds(Speeds { itl_ms: 10, ..Speeds::default() });
    let mut answers = Vec::new();
    for route in APIS {
        let body = route.value("go on", 100_000, true).to_string();
        answers.push(rig.ask(route.path, body).open(rig.address()).await.unwrap());
    }
    for (mut answer, route) in answers.into_iter().zip(APIS) {
        assert_eq!(answer.status.as_u16(), 200);
        let (_, complete) = answer.end().await;
        assert!(!complete, "{}: a clean end would look like a whole answer", route.path);
    }
    rig.settled().await;
    assert_eq!(rig.decode.state().totals.aborted, 5);
    assert_eq!(rig.end().await.consumed, 5);
}

#[tokio::test]
async fn a_silent_stream_is_cut_at_the_deadline_too() {
    // Nothing arrives that would make anybody look at the clock.
    let rig = Rig::with(&["--request-timeout=800ms"]).await;
    rig.decode.set_speeds(Speeds { itl_ms: 600_000, ..Speeds::default() });
    let mut answer = rig.ask(APIS[1].path, APIS[1].body(true)).open(rig.address()).await.unwrap();
    answer.until("data: ").await;
    assert!(!answer.end().await.1);
    rig.end().await;
}

#[tokio::test]
async fn limits_are_for_handoffs_only() {
    let rig = Rig::with(&["--request-timeout=50ms", "--prefill-timeout=50ms"]).await;
    rig.decode.set_faults(Faults { delay_ms: 200, ..Faults::default() });
    Ask::post(APIS[0].path, APIS[0].body(true)).send(rig.address()).await.ok();
    rig.end().await;
}
