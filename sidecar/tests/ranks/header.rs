//! `x-data-parallel-host-port`: rank 0 takes it as a choice of engine, everybody removes it.

use crate::child::Process;
use crate::common::{APIS, Ask, Setup, eventually};
use crate::pod::{Engines, Pod, RANKS, engine, reserve_ports};
use kvferry_emulator::SeenRequest;

const RANK: &str = "x-data-parallel-host-port";

fn without_rank_header(seen: &SeenRequest) {
    assert!(seen.header_values(RANK).is_empty(), "{:?}", seen.headers);
}

#[tokio::test]
async fn on_rank_0_the_header_chooses_the_engine_with_and_without_a_handoff() {
    let pod = Pod::start(&[]).await;
    let to = pod.rank(0);
    for rank in 0..RANKS {
        for route in APIS {
            let value = pod.named(rank);
            Ask::post(route.path, route.body(true)).header(RANK, &value).send(to).await.ok();
            let (at, seen) = pod.engines.only();
            assert_eq!(at, rank, "{}", route.path);
            without_rank_header(&seen);

            pod.prefill.clear_requests();
            pod.ask(route.path, route.body(true)).header(RANK, &value).send(to).await.ok();
            let (at, seen) = pod.engines.only();
            assert_eq!(at, rank, "{}", route.path);
            assert!(seen.body.as_ref().unwrap().contains("kv_transfer_params"));
            without_rank_header(&seen);
            without_rank_header(&pod.prefill.requests()[0]);
        }
    }
    pod.end().await;
}

#[tokio::test]
async fn a_value_that_names_no_rank_is_an_error_and_reaches_no_engine() {
    let pod = Pod::start(&[]).await;
    let beyond = format!("127.0.0.1:{}", pod.port + RANKS);
    // The engine's own port is not the port by which a rank is known.
    let engine = pod.engines.of(1).host_port();
    for value in [beyond.as_str(), &engine, "nonsense", "127.0.0.1", ":", "127.0.0.1:0", "127.0.0.1:99999"] {
        for disaggregated in [false, true] {
            let plain = Ask::post(APIS[0].path, APIS[0].body(false));
            let ask = if disaggregated { pod.ask(APIS[0].path, APIS[0].body(false)) } else { plain };
            let answer = ask.header(RANK, value).send(pod.rank(0)).await;
            answer.is_error(400, "unknown_rank", "no rank of this pod");
            assert!(answer.json()["message"].as_str().unwrap().contains(value));
        }
    }
    assert!(pod.engines.seen().iter().all(Vec::is_empty));
    assert!(pod.prefill.requests().is_empty());
    pod.end().await;
}

#[tokio::test]
async fn an_empty_value_chooses_nobody() {
    let pod = Pod::start(&[]).await;
    for value in ["", "  "] {
        let ask = Ask::post(APIS[0].path, APIS[0].body(false)).header(RANK, value);
        ask.send(pod.rank(0)).await.ok();
        let (rank, seen) = pod.engines.only();
        assert_eq!(rank, 0);
        without_rank_header(&seen);
    }
    pod.end().await;
}

#[tokio::test]
async fn other_ranks_serve_for_themselves_whatever_the_header_says() {
    let pod = Pod::start(&[]).await;
    for rank in 1..RANKS {
        for value in [pod.named(0), pod.named(RANKS - rank), "nonsense".to_owned()] {
            let body = APIS[0].body(false);
            Ask::post(APIS[0].path, body.as_str()).header(RANK, &value).send(pod.rank(rank)).await.ok();
            let (at, seen) = pod.engines.only();
            assert_eq!(at, rank, "{value}");
            without_rank_header(&seen);
            pod.ask(APIS[0].path, body).header(RANK, &value).send(pod.rank(rank)).await.ok();
            let (at, seen) = pod.engines.only();
            assert_eq!(at, rank, "{value}");
            without_rank_header(&seen);
        }
    }
    pod.end().await;
}

#[tokio::test]
async fn routes_that_are_not_intercepted_stay_on_their_rank_and_lose_the_header() {
    let pod = Pod::start(&[]).await;
    for path in ["/v1/models", "/v1/embeddings", "/metrics"] {
        for rank in 0..RANKS {
            Ask::get(path).header(RANK, &pod.named(1)).send(pod.rank(rank)).await;
            let (at, seen) = pod.engines.only();
            assert_eq!(at, rank, "{path}");
            without_rank_header(&seen);
        }
    }
    pod.end().await;
}

#[tokio::test]
async fn with_one_rank_there_is_nothing_to_choose() {
    let rig = Setup::default().start().await;
    for value in [rig.address().to_string(), "nonsense".to_owned()] {
        rig.ask(APIS[0].path, APIS[0].body(false)).header(RANK, &value).send(rig.address()).await.ok();
        without_rank_header(&rig.decode.requests().pop().unwrap());
        without_rank_header(&rig.prefill.requests().pop().unwrap());
    }
    rig.end().await;
}

#[tokio::test]
async fn where_the_pods_address_is_known_a_rank_must_be_named_by_it() {
    let (port, _reserved) = reserve_ports(RANKS);
    let engines = Engines::start().await;
    let prefill = engine(0).await;
    let (size, first) =
        (format!("--data-parallel-size={RANKS}"), format!("--model-server-port={}", engines.first_port));
    let flags = ["--secure-proxy=false", &size, &first];
    let process = Process::start_as(port, &[("POD_IP", "10.1.2.3")], &flags).await;
    let ask = |host: &str, rank: u16| {
        Ask::post(APIS[0].path, APIS[0].body(false))
            .prefill(&prefill.host_port())
            .header(RANK, &format!("{host}:{}", port + rank))
            .send(process.address)
    };
    for rank in 0..RANKS {
        ask("10.1.2.3", rank).await.ok();
        assert_eq!(engines.only().0, rank);
        ask("10.1.2.4", rank).await.is_error(400, "unknown_rank", "10.1.2.4");
    }
    eventually("the engines are empty", || prefill.state().idle() && engines.idle()).await;
    process.end().await;
}
