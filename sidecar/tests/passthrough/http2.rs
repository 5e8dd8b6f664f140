//! HTTP/2 with prior knowledge on the same listener.

use crate::common::{APIS, Ask, Client, Opened, Protocol, Rig, content};

#[tokio::test]
async fn http2_clients_are_served_like_others() {
    let rig = Rig::start().await;
    let mut two = Client::connect(rig.address(), Protocol::Http2).await;
    for route in APIS {
        for stream in [false, true] {
            for ask in [Ask::post(route.path, route.body(stream)), rig.ask(route.path, route.body(stream))] {
                let ask = ask.header("x-request-id", "same");
                let names = ["cached_tokens", "cache_read_input_tokens", "input_tokens"];
                let one = content(&ask.clone().send(rig.address()).await.ok(), &names);
                assert_eq!(content(&two.send(ask).await.ok(), &names), one, "{}", route.path);
            }
        }
    }
    let answer = two.send(Ask::new("PUT", "/emulator/echo", vec![b'x'; 500_000])).await.ok();
    assert_eq!(answer.json()["body"].as_str().unwrap().len(), 500_000);
    two.send(Ask::get("/health")).await.ok();
    two.send(rig.ask(APIS[0].path, "[]")).await.is_error(400, "malformed_body", "must be a JSON object");
    drop(two);
    rig.end().await;
}

#[tokio::test]
async fn engines_see_the_authority_as_host() {
    let rig = Rig::start().await;
    let mut client = Client::connect(rig.address(), Protocol::Http2).await;
    client.send(rig.ask(APIS[1].path, APIS[1].body(false))).await.ok();
    for engine in [&rig.prefill, &rig.decode] {
        let seen = engine.requests().pop().unwrap();
        assert_eq!(seen.header_values("host"), [rig.address().to_string()]);
        assert!(seen.headers.iter().all(|(name, _)| !name.starts_with(':')));
    }
    drop(client);
    rig.end().await;
}

#[tokio::test]
async fn streams_of_one_connection_run_side_by_side() {
    let rig = Rig::start().await;
    rig.decode.set_speeds(kvferry_emulator::Speeds { itl_ms: 2, ..kvferry_emulator::Speeds::default() });
    let mut client = Client::connect(rig.address(), Protocol::Http2).await;
    let mut streams = Vec::new();
    for n in 0..10 {
        let route = APIS[n % APIS.len()];
        let response = client.begin(rig.ask(route.path, route.body(true))).await.unwrap();
        streams.push(Opened::new(response, None));
    }
    for stream in streams {
        let answer = stream.whole().await.unwrap().ok();
        assert!(answer.text().contains("data: "));
    }
    drop(client);
    rig.end().await;
}

#[tokio::test]
async fn a_stream_that_is_given_up_ends_alone() {
    let rig = Rig::start().await;
    rig.decode.set_speeds(kvferry_emulator::Speeds { itl_ms: 5, ..kvferry_emulator::Speeds::default() });
    let mut client = Client::connect(rig.address(), Protocol::Http2).await;
    let endless = APIS[1].value("go on", 100_000, true).to_string();
    let mut given_up = Opened::new(client.begin(rig.ask(APIS[1].path, endless)).await.unwrap(), None);
    let kept = Opened::new(client.begin(rig.ask(APIS[0].path, APIS[0].body(true))).await.unwrap(), None);
    given_up.until("data: ").await;
    drop(given_up);
    crate::common::eventually("decode notices", || rig.decode.state().totals.aborted == 1).await;
    assert!(kept.whole().await.unwrap().ok().text().ends_with("data: [DONE]\n\n"));
    drop(client);
    rig.end().await;
}
