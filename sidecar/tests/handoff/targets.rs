//! Which prefill engine is used: the header's spellings, lists and odd forms.

use crate::common::{APIS, Ask, PREFILLER, Rig, Setup};
use kvferry_emulator::{Config, Emulator};

const NEW: &str = "x-llm-d-prefiller-host-port";

/// A target where nothing answers, for entries that must not be used.
const WRONG: &str = "127.0.0.1:1";

fn ask() -> Ask {
    Ask::post(APIS[0].path, APIS[0].body(false))
}

#[tokio::test]
async fn the_first_candidate_is_used_in_every_spelling_of_the_header() {
    let rig = Rig::start().await;
    let right = rig.prefill.host_port();
    let port = rig.prefill.addr().port();
    let cases = [
        vec![(PREFILLER, right.clone())],
        vec![(NEW, right.clone())],
        // Schedulers write both; only the old one is safe from clients that forge it.
        vec![(NEW, WRONG.to_owned()), (PREFILLER, right.clone())],
        vec![(PREFILLER, right.clone()), (NEW, WRONG.to_owned())],
        vec![(PREFILLER, format!("{right},{WRONG}"))],
        vec![(PREFILLER, format!("  {right} ,{WRONG}, "))],
        vec![(PREFILLER, right.clone()), (PREFILLER, WRONG.to_owned())],
        vec![(PREFILLER, right.clone()), (PREFILLER, format!("{WRONG},{WRONG}"))],
        vec![(NEW, format!("{right},{WRONG}"))],
        vec![(PREFILLER, format!("http://{right}"))],
        vec![(PREFILLER, format!("localhost:{port}"))],
        vec![("X-Prefiller-Host-Port", right.clone())],
    ];
    let expected = cases.len();
    for lines in cases {
        let mut ask = ask();
        for (name, value) in &lines {
            ask = ask.header(name, value);
        }
        let answer = ask.send(rig.address()).await;
        assert_eq!(answer.status, 200, "{lines:?}: {}", answer.text());
    }
    assert_eq!(rig.prefill.requests().len(), expected);
    rig.end().await;
}

#[tokio::test]
async fn a_prefill_engine_may_have_an_ipv6_address() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        // Nothing to try on a machine without IPv6.
        return;
    }
    let mut setup = Setup::default();
    setup.prefill.host = "::1".to_owned();
    let rig = setup.start().await;
    assert!(rig.prefill.host_port().starts_with("[::1]:"));
    rig.ask(APIS[0].path, APIS[0].body(true)).send(rig.address()).await.ok();
    assert_eq!(rig.end().await.consumed, 1);
}

#[tokio::test]
async fn without_a_first_candidate_the_decode_engine_serves_alone() {
    let rig = Rig::start().await;
    let right = rig.prefill.host_port();
    for lines in [
        vec![],
        vec![(PREFILLER, String::new())],
        vec![(PREFILLER, "  ".to_owned())],
        // An empty old spelling is a scheduler's word that nobody was chosen; the new one may be forged.
        vec![(PREFILLER, String::new()), (NEW, right.clone())],
        vec![(PREFILLER, format!(",{right}"))],
    ] {
        let mut ask = ask();
        for (name, value) in &lines {
            ask = ask.header(name, value);
        }
        ask.send(rig.address()).await.ok();
        let leg = rig.decode.requests().pop().unwrap();
        assert_eq!(leg.body.unwrap(), APIS[0].body(false), "{lines:?}");
    }
    assert!(rig.prefill.requests().is_empty());
    rig.end().await;
}

#[tokio::test]
async fn with_sampling_every_candidate_gets_its_share() {
    let rig = Rig::with(&["--enable-prefiller-sampling"]).await;
    let other = Emulator::start(Config::default()).await.unwrap();
    let list = format!("{}, {}", rig.prefill.host_port(), other.host_port());
    let mut asked = 0;
    while rig.prefill.requests().is_empty() || other.requests().is_empty() {
        // The odds that chance alone gets here are one in 2^64.
        assert!(asked < 64, "one candidate was never chosen");
        ask().prefill(&list).send(rig.address()).await.ok();
        asked += 1;
    }
    assert_eq!(rig.prefill.requests().len() + other.requests().len(), asked);
    rig.end().await;
    assert!(other.state().idle());
}
