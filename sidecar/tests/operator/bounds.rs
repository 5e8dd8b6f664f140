//! No request adds a series: whatever clients, routers and engines call themselves.

use crate::common::{APIS, Ask, SHORT_GRACE};
use crate::pod::Pod;
use crate::scrape::Scrape;
use kvferry_emulator::Faults;

#[tokio::test]
async fn odd_targets_models_ids_and_paths_add_no_series() {
    let pod = Pod::start(&[SHORT_GRACE, "--connect-timeout=200ms"]).await;
    let before = pod.scrape().await;
    let to = pod.address();
    for number in 0..30_u16 {
        let body = serde_json::json!({"model": format!("model-{number}"), "prompt": "a", "max_tokens": 1});
        let ask = || {
            Ask::post("/v1/completions", body.to_string())
                .header("x-request-id", &format!("id-{number}"))
                .header("user-agent", &format!("agent-{number}"))
        };
        ask().send(to).await;
        ask().prefill(&pod.prefill.host_port()).send(to).await;
        for target in [
            format!("127.0.{number}.1:1"),
            format!("no-such-host-{number}:80"),
            format!("{number}\"}},{{=\\"),
        ] {
            ask().prefill(&target).send(to).await;
        }
        Ask::get(&format!("/path/{number}?a={number}")).send(to).await;
        Ask::post(&format!("/v1/completions?api=v{number}"), "{}").prefill("127.0.0.1:1").send(to).await;
        pod.prefill.set_faults(Faults { status: Some(400 + number), times: Some(1), ..Faults::default() });
        let body = APIS[usize::from(number) % APIS.len()].body(true);
        pod.ask(APIS[usize::from(number) % APIS.len()].path, body).send(to).await;
    }
    pod.idle().await;
    let after = pod.scrape().await;
    assert_eq!(after.series(), before.series());
    let text = pod.get("/metrics").await.text();
    for word in ["model-", "id-", "agent-", "no-such-host", "127.0"] {
        assert!(!text.contains(word), "{word}");
    }
    // Every one of them ended in a way that has a name.
    assert_eq!(after.get("requests_finished_total{outcome=\"other\"}").to_string(), "0");
    pod.end().await;
}

#[tokio::test]
async fn series_are_the_same_whatever_the_configuration() {
    let plain = Pod::start(&[]).await;
    let other = Pod::start(&[
        "--kv-connector=sglang",
        "--prefill-failure-policy=local",
        "--allow-target=10.0.0.0/8",
        "--ready-when-decoder-answers",
        "--tracing",
    ])
    .await;
    let series = |scrape: Scrape| scrape.series().into_iter().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(series(plain.scrape().await), series(other.scrape().await));
    plain.end().await;
    other.end().await;
}
