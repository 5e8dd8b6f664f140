//! Ranks share a process, not their engines' fate; and all of them end together.

use crate::child::Process;
use crate::common::{APIS, Ask, LONG_GRACE, Opened, PATIENCE, eventually, within};
use crate::pod::{Engines, Pod, RANKS, reserve_ports};
use kvferry_emulator::{Faults, Speeds};

fn is_whole(text: &str) -> bool {
    text.ends_with("data: [DONE]\n\n")
}

/// A stream under way on a rank, disaggregated.
async fn stream(pod: &Pod, rank: u16, tokens: usize) -> Opened {
    let body = APIS[0].value("go on", tokens, true).to_string();
    let mut stream = pod.ask(APIS[0].path, body).open(pod.rank(rank)).await.unwrap();
    stream.until("data: ").await;
    stream
}

#[tokio::test]
async fn a_rank_whose_engine_is_gone_fails_alone_and_comes_back_with_it() {
    const DEAD: u16 = 1;
    let mut pod = Pod::start(&[LONG_GRACE]).await;
    let ask = |pod: &Pod, rank: u16| {
        let plain = Ask::post(APIS[0].path, APIS[0].body(false));
        [plain, pod.ask(APIS[0].path, APIS[0].body(true))].map(|ask| ask.send(pod.rank(rank)))
    };
    for rank in 0..RANKS {
        pod.engines.of(rank).set_speeds(Speeds { itl_ms: 5, ..Speeds::default() });
    }
    let mut streams = Vec::new();
    for rank in 0..RANKS {
        streams.push(stream(&pod, rank, 100).await);
    }
    pod.engines.stop(DEAD);
    for (stream, rank) in streams.iter_mut().zip(0..) {
        let (_, complete) = stream.end().await;
        assert_eq!(complete, rank != DEAD, "rank {rank}");
    }
    for rank in 0..RANKS {
        for answer in ask(&pod, rank) {
            let answer = answer.await;
            if rank == DEAD {
                answer.is_error(503, "decode_unreachable", "The decode node is not ready");
            } else {
                answer.ok();
            }
        }
    }
    // By the header too: who chose the rank is told, and nobody else is asked instead.
    let chosen =
        pod.ask(APIS[0].path, APIS[0].body(false)).header("x-data-parallel-host-port", &pod.named(DEAD));
    chosen.send(pod.rank(0)).await.is_error(503, "decode_unreachable", "The decode node is not ready");

    pod.engines.start_again(DEAD).await;
    for rank in 0..RANKS {
        for answer in ask(&pod, rank) {
            answer.await.ok();
        }
    }
    // What prefill had handed out for the dead engine was given back through the others'.
    let counts = pod.sidecar.ledger();
    assert_eq!((counts.outstanding(), counts.released, counts.expired), (0, 2, 0), "{counts:?}");
    pod.end().await;
}

#[tokio::test]
async fn kv_for_an_engine_that_hangs_is_given_back_through_another_rank() {
    let pod = Pod::start(&[]).await;
    pod.engines.of(1).set_faults(Faults { hang: true, ..Faults::default() });
    let waiting = tokio::spawn(pod.ask(APIS[0].path, APIS[0].body(true)).try_send(pod.rank(1)));
    eventually("decode hangs", || pod.engines.of(1).requests().len() == 1).await;
    waiting.abort();
    eventually("the KV is back", || pod.prefill.state().totals.releases_without_read == 1).await;
    assert_eq!(pod.engines.of(2).requests().len(), 1, "the next rank carries it");
    assert!(pod.engines.of(0).requests().is_empty());
    pod.end().await;
}

#[tokio::test]
async fn a_rank_whose_engine_hangs_delays_no_other() {
    let pod = Pod::start(&["--workers=1"]).await;
    pod.engines.of(0).set_faults(Faults { hang: true, ..Faults::default() });
    let hanging: Vec<_> = (0..20)
        .map(|_| tokio::spawn(Ask::post(APIS[0].path, APIS[0].body(false)).try_send(pod.rank(0))))
        .collect();
    eventually("all of them hang", || pod.engines.of(0).requests().len() == hanging.len()).await;
    for rank in 1..RANKS {
        pod.ask(APIS[0].path, APIS[0].body(true)).send(pod.rank(rank)).await.ok();
    }
    for hanging in hanging {
        assert!(!hanging.is_finished());
        hanging.abort();
    }
    pod.end().await;
}

#[tokio::test]
async fn a_stop_closes_every_port_and_lets_the_streams_of_every_rank_end() {
    let mut pod = Pod::start(&[]).await;
    let mut streams = Vec::new();
    for rank in 0..RANKS {
        pod.engines.of(rank).set_speeds(Speeds { itl_ms: 5, ..Speeds::default() });
        streams.push(stream(&pod, rank, 200).await);
    }
    let ports: Vec<_> = (0..RANKS).map(|rank| pod.rank(rank)).collect();
    let watch = async {
        for port in ports {
            eventually("the port is closed", || std::net::TcpStream::connect(port).is_err()).await;
        }
        for stream in streams {
            assert!(is_whole(&stream.whole().await.unwrap().text()));
        }
    };
    let (counts, ()) = tokio::join!(pod.sidecar.stop(PATIENCE), watch);
    assert_eq!(counts.consumed, u64::from(RANKS));
    eventually("every engine is empty", || pod.prefill.state().idle() && pod.engines.idle()).await;
}

#[tokio::test]
async fn a_stop_without_patience_gives_back_the_kv_of_every_rank() {
    let mut pod = Pod::start(&[]).await;
    let mut waiting = Vec::new();
    for rank in 0..RANKS {
        pod.engines.of(rank).set_faults(Faults { hang: true, times: Some(1), ..Faults::default() });
        waiting.push(tokio::spawn(pod.ask(APIS[0].path, APIS[0].body(false)).try_send(pod.rank(rank))));
        eventually("decode hangs", || pod.engines.of(rank).faults() == Faults::default()).await;
    }
    let counts = pod.sidecar.stop(std::time::Duration::from_millis(100)).await;
    assert_eq!(counts.released, u64::from(RANKS));
    for waiting in waiting {
        assert!(waiting.await.unwrap().is_err());
    }
    eventually("every engine is empty", || pod.prefill.state().idle() && pod.engines.idle()).await;
    assert_eq!(pod.prefill.state().totals.releases_without_read, u64::from(RANKS));
}

#[tokio::test]
async fn a_pod_is_ready_when_every_rank_is() {
    const LATE: u16 = 2;
    let ((port, _one), (admin, _two)) = (reserve_ports(RANKS), reserve_ports(1));
    let mut engines = Engines::start().await;
    engines.stop(LATE);
    let flags = [
        "--secure-serving=false".to_owned(),
        "--ready-when-decoder-answers".to_owned(),
        format!("--data-parallel-size={RANKS}"),
        format!("--model-server-port={}", engines.first_port),
        format!("--metrics-port={admin}"),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let process = Process::start_as(port, &[], &flags).await;
    let ready = || Ask::get("/ready").send(([127, 0, 0, 1], admin).into());
    let names = format!("localhost:{}", engines.first_port + LATE);
    within("the engine that is away is named", async {
        while !ready().await.text().contains(&names) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(ready().await.status, 503);
    // The others serve all the same.
    Ask::get("/v1/models").send(process.address).await.ok();
    engines.start_again(LATE).await;
    within("it is ready", async {
        while ready().await.status != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    process.end().await;
}
