//! `/debug/requests` and the gauges: where a request is that does not come back.

use crate::common::{APIS, Ask, PATIENCE, SHORT_GRACE, eventually};
use crate::pod::Pod;
use kvferry_emulator::{Faults, Speeds};
use serde_json::Value;
use std::time::{Duration, Instant};

fn hang() -> Faults {
    Faults { hang: true, times: Some(1), ..Faults::default() }
}

async fn listed(pod: &Pod) -> (u64, Vec<Value>) {
    let body = pod.get("/debug/requests").await.ok().json();
    (body["total"].as_u64().unwrap(), body["requests"].as_array().unwrap().clone())
}

/// The list, once it is so long.
async fn until_listed(pod: &Pod, count: usize) -> Vec<Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (total, requests) = listed(pod).await;
        if requests.len() == count {
            assert_eq!(total, count as u64);
            return requests;
        }
        assert!(Instant::now() < deadline, "{requests:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn gauge(pod: &Pod, stage: &str) -> String {
    pod.scrape().await.get(&format!("in_flight{{stage=\"{stage}\"}}")).to_string()
}

#[tokio::test]
async fn a_request_that_hangs_is_listed_with_its_stage_target_and_age() {
    let pod = Pod::start(&[SHORT_GRACE]).await;
    let to = pod.address();
    let body = APIS[0].body(false);
    let target = pod.prefill.host_port();
    assert!(until_listed(&pod, 0).await.is_empty());

    for (stage, disaggregated) in [("prefill", true), ("decode", true), ("passthrough", false)] {
        let engine = if stage == "prefill" { &pod.prefill } else { &pod.decode };
        engine.set_faults(hang());
        let ask = Ask::post(APIS[0].path, body.as_str()).header("x-request-id", "mine");
        let ask = if disaggregated { ask.prefill(&target) } else { ask };
        let client = tokio::spawn(ask.try_send(to));
        eventually("it hangs", || engine.faults() == Faults::default()).await;
        let request = until_listed(&pod, 1).await.remove(0);
        assert_eq!(request["id"], "mine", "{request}");
        assert_eq!(request["api"], "chat_completions");
        assert_eq!(request["stage"], stage);
        if disaggregated {
            assert_eq!(request["prefill_target"], target);
            assert_eq!(request["bytes_in"], body.len());
        } else {
            assert_eq!(request["prefill_target"], Value::Null);
        }
        assert_eq!(request["bytes_out"], 0);
        let age = request["since_ms"].as_u64().unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
        let older = until_listed(&pod, 1).await[0]["since_ms"].as_u64().unwrap();
        assert!(older >= age + 20, "{age} {older}");
        assert_eq!(gauge(&pod, stage).await, "1", "{stage}");
        let outstanding = if stage == "decode" { "1" } else { "0" };
        assert_eq!(pod.scrape().await.get("kv_outstanding").to_string(), outstanding, "{stage}");

        client.abort();
        until_listed(&pod, 0).await;
        pod.idle().await;
    }
    pod.end().await;
}

#[tokio::test]
async fn a_stream_shows_how_much_has_flowed() {
    let pod = Pod::start(&[]).await;
    pod.decode.set_speeds(Speeds { itl_ms: 5, ..Speeds::default() });
    let endless = APIS[1].value("go on", 100_000, true).to_string();
    let mut stream = pod.ask(APIS[1].path, endless).open(pod.address()).await.unwrap();
    stream.until("data: ").await;
    let flowed = |requests: &[Value]| requests[0]["bytes_out"].as_u64().unwrap();
    let requests = until_listed(&pod, 1).await;
    assert_eq!((&requests[0]["stage"], &requests[0]["api"]), (&"decode".into(), &"completions".into()));
    let before = flowed(&requests);
    stream.until("data: ").await;
    stream.until("data: ").await;
    assert!(flowed(&until_listed(&pod, 1).await) > before);
    drop(stream);
    until_listed(&pod, 0).await;
    pod.end().await;
}

#[tokio::test]
async fn the_oldest_comes_first_and_nothing_of_a_prompt_is_shown() {
    let pod = Pod::start(&[SHORT_GRACE, "--workers=2"]).await;
    pod.prefill.set_faults(Faults { hang: true, ..Faults::default() });
    let mut clients = Vec::new();
    for number in 0..6 {
        let body = APIS[0].value("a secret of the client", 10, true).to_string();
        let ask = pod.ask(APIS[0].path, body).header("x-request-id", &number.to_string());
        clients.push(tokio::spawn(ask.try_send(pod.address())));
        until_listed(&pod, number + 1).await;
    }
    let requests = until_listed(&pod, clients.len()).await;
    let ids: Vec<&str> = requests.iter().map(|request| request["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["0", "1", "2", "3", "4", "5"]);
    assert!(!pod.get("/debug/requests").await.text().contains("secret"));
    clients.iter().for_each(tokio::task::JoinHandle::abort);
    until_listed(&pod, 0).await;
    pod.prefill.set_faults(Faults::default());
    pod.end().await;
}

#[tokio::test]
async fn kv_that_is_given_back_counts_as_a_release_under_way() {
    let pod = Pod::start(&[]).await;
    pod.decode.set_faults(hang());
    let client = tokio::spawn(pod.ask(APIS[0].path, APIS[0].body(false)).try_send(pod.address()));
    eventually("decode hangs", || pod.decode.faults() == Faults::default()).await;
    // The release is a request to the decode engine, and that hangs too.
    pod.decode.set_faults(hang());
    client.abort();
    eventually("the release hangs", || pod.decode.faults() == Faults::default()).await;
    assert_eq!(gauge(&pod, "release").await, "1");
    assert!(until_listed(&pod, 0).await.is_empty(), "nobody waits for it");
    // It is tried again, and then it is done.
    pod.idle().await;
    assert_eq!(pod.scrape().await.get("kv_settled_total{how=\"released\"}").to_string(), "1");
    pod.end().await;
}
