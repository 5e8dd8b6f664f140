//! Rank r listens on the first port + r, and its engine on the first engine port + r.

use std::net::TcpListener;

use crate::child::run;
use crate::common::{APIS, Ask, Client, Protocol, Scripted, Sidecar, json_answer};
use crate::pod::{Pod, RANKS, reserve_ports};

#[tokio::test]
async fn what_comes_in_on_a_ranks_port_goes_to_that_ranks_engine() {
    let pod = Pod::start(&[]).await;
    for rank in 0..RANKS {
        let to = pod.rank(rank);
        for route in APIS {
            for stream in [false, true] {
                Ask::post(route.path, route.body(stream)).send(to).await.ok();
                assert_eq!(pod.engines.only().0, rank, "{}", route.path);
                let handed_over = pod.ask(route.path, route.body(stream)).send(to).await.ok();
                let (at, leg) = pod.engines.only();
                assert_eq!(at, rank, "{}", route.path);
                assert!(leg.body.unwrap().contains("kv_transfer_params"), "{}", handed_over.text());
            }
        }
        Ask::get("/v1/models").send(to).await.ok();
        assert_eq!(pod.engines.only().0, rank);
        Ask::get("/health").send(to).await.ok();
        assert!(pod.engines.seen().iter().all(Vec::is_empty), "health is the sidecar's own answer");
    }
    let handoffs = usize::from(RANKS) * APIS.len() * 2;
    assert_eq!(pod.prefill.requests().len(), handoffs);
    assert_eq!(pod.sidecar.ledger().consumed, handoffs as u64);
    pod.end().await;
}

#[tokio::test]
async fn each_rank_decodes_with_the_kv_that_was_computed_for_its_request() {
    // All at once, so that an engine that got another's handle would be found out by its tokens.
    let pod = Pod::start(&[]).await;
    let mut asked = Vec::new();
    for number in 0..4 * RANKS {
        let body = APIS[1].value(&format!("prompt number {number}"), 20, false).to_string();
        let alone = Ask::post(APIS[1].path, body.as_str()).send(pod.prefill.addr()).await.ok();
        let ask = pod.ask(APIS[1].path, body);
        asked.push((alone, tokio::spawn(ask.send(pod.rank(number % RANKS)))));
    }
    for (alone, answer) in asked {
        let answer = answer.await.unwrap().ok();
        assert_eq!(answer.json()["choices"][0]["text"], alone.json()["choices"][0]["text"]);
    }
    pod.end().await;
}

#[tokio::test]
async fn http2_reaches_every_rank_too() {
    let pod = Pod::start(&[]).await;
    for rank in 0..RANKS {
        let mut client = Client::connect(pod.rank(rank), Protocol::Http2).await;
        client.send(pod.ask(APIS[0].path, APIS[0].body(true))).await.ok();
        assert_eq!(pod.engines.only().0, rank);
    }
    pod.end().await;
}

#[tokio::test]
async fn ranks_share_the_connections_to_prefill_engines() {
    let (port, _reserved) = reserve_ports(RANKS);
    let prefill = Scripted::answering(json_answer(200, r#"{"kv_transfer_params":{"a":1}}"#)).await;
    let engines = crate::pod::Engines::start().await;
    // One worker: connections are kept by each.
    let flags = [format!("--data-parallel-size={RANKS}"), format!("--port={port}"), "--workers=1".to_owned()];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let sidecar = Sidecar::start(engines.first_port, &flags);
    for rank in 0..RANKS {
        let mut to = sidecar.address();
        to.set_port(port + rank);
        // The decode engine refuses such a handle, which is no matter here.
        Ask::post(APIS[0].path, APIS[0].body(false)).prefill(&prefill.host_port()).send(to).await;
    }
    let connections: Vec<usize> = prefill.requests().iter().map(|request| request.connection).collect();
    assert_eq!(connections, vec![0; usize::from(RANKS)]);
    sidecar.end().await;
}

#[test]
fn a_port_that_a_later_rank_cannot_have_is_named() {
    let (port, mut reserved) = reserve_ports(RANKS);
    let (engine, _engines) = reserve_ports(RANKS);
    drop(reserved.pop());
    let taken = port + RANKS - 1;
    let _other = TcpListener::bind(("127.0.0.1", taken)).unwrap();
    let output = run(&[
        "--secure-proxy=false",
        &format!("--port={port}"),
        &format!("--model-server-port={engine}"),
        &format!("--data-parallel-size={RANKS}"),
    ]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("port {taken}")), "{said}");
    assert_eq!(said.matches('\n').count(), 1, "{said}");
}
