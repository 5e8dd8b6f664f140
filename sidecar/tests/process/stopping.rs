//! SIGTERM: what runs is finished, or cut and its KV given back, and then the process ends.

use std::sync::Arc;

use crate::child::{Process, empty, engine};
use crate::common::{
    APIS, Ask, Client, Opened, Protocol, Raw, SHORT_GRACE, Scripted, chunk, eventually, json_answer,
    sse_head, within,
};
use kvferry_emulator::{Faults, Speeds};
use tokio::sync::Notify;

#[tokio::test]
async fn a_stop_lets_a_running_stream_end_and_takes_no_new_client() {
    const FRAMES: usize = 5;
    for name in ["TERM", "INT"] {
        let prefill = Scripted::answering(json_answer(200, r#"{"kv_transfer_params":{"a":1}}"#)).await;
        let go_on = Arc::new(Notify::new());
        let told = Arc::clone(&go_on);
        let decode = Scripted::start(move |mut exchange| {
            let told = Arc::clone(&told);
            async move {
                exchange.write(sse_head()).await;
                for n in 0..FRAMES {
                    exchange.write(chunk(&format!("data: {n}\n\n"))).await;
                    told.notified().await;
                }
                exchange.write(chunk("")).await;
                Some(exchange)
            }
        })
        .await;
        let mut process = Process::start(decode.port(), &[]).await;
        let to = process.address;
        let ask = Ask::post(APIS[0].path, "{}").prefill(&prefill.host_port());
        let mut answer = ask.open(to).await.unwrap();
        assert_eq!(answer.until("\n\n").await, "data: 0\n\n");
        // A connection without a request must not keep the process.
        let mut idle = Raw::connect(to).await;
        idle.write("GET /health HTTP/1.1\r\nhost: a\r\n\r\n").await;
        idle.head().await;

        process.signal(name);
        eventually("new clients are refused", || std::net::TcpStream::connect(to).is_err()).await;
        assert_eq!(idle.rest().await, "");
        for n in 1..FRAMES {
            assert!(process.child.try_wait().unwrap().is_none(), "a stream still runs");
            go_on.notify_one();
            assert_eq!(answer.until("\n\n").await, format!("data: {n}\n\n"));
        }
        go_on.notify_one();
        assert!(answer.data().await.is_none(), "a clean end");
        assert_eq!(process.code().await, 0);
    }
}

#[tokio::test]
async fn a_request_that_arrives_with_the_stop_is_served_or_refused_but_never_lost() {
    // Accepted, but not yet read, when the signal comes.
    let (prefill, decode) = (engine().await, engine().await);
    let mut process = Process::start(decode.addr().port(), &[]).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(Client::connect(process.address, Protocol::Http1).await);
    }
    process.signal("TERM");
    for mut client in clients {
        let ask = Ask::post(APIS[0].path, APIS[0].body(true)).prefill(&prefill.host_port());
        if let Ok(response) = client.begin(ask).await {
            let answer = Opened::new(response, Some(client)).whole().await.unwrap().ok();
            assert!(answer.text().ends_with("data: [DONE]\n\n"));
        }
    }
    assert_eq!(process.code().await, 0);
    empty([&prefill, &decode]).await;
}

#[tokio::test]
async fn what_outlives_the_shutdown_timeout_is_cut_and_its_kv_given_back() {
    let (prefill, decode) = (engine().await, engine().await);
    decode.set_speeds(Speeds { itl_ms: 5, ..Speeds::default() });
    let mut process = Process::start(decode.addr().port(), &["--shutdown-timeout=300ms", SHORT_GRACE]).await;
    let endless = APIS[1].value("go on", 1_000_000, true).to_string();
    let ask = |body: String| Ask::post(APIS[1].path, body).prefill(&prefill.host_port());
    let mut stream = ask(endless).open(process.address).await.unwrap();
    stream.until("data: ").await;
    // And one whose KV nobody has read yet.
    decode.set_faults(Faults { hang: true, times: Some(1), ..Faults::default() });
    let waiting = tokio::spawn(ask(APIS[1].body(false)).try_send(process.address));
    eventually("decode hangs", || decode.faults() == Faults::default()).await;
    // And one that prefill never answers.
    prefill.set_faults(Faults { hang: true, times: Some(1), ..Faults::default() });
    let computing = tokio::spawn(ask(APIS[1].body(false)).try_send(process.address));
    eventually("prefill hangs", || prefill.faults() == Faults::default()).await;

    process.signal("TERM");
    let (_, complete) = stream.end().await;
    assert!(!complete, "a clean end would look like a whole answer");
    assert!(within("an end", waiting).await.unwrap().is_err());
    assert!(within("an end", computing).await.unwrap().is_err());
    assert_eq!(process.code().await, 0);
    empty([&prefill, &decode]).await;
    assert_eq!(prefill.state().totals.releases_without_read, 1);
    let stopped = process.logged("stopped").await;
    assert_eq!(stopped["fields"]["kv_outstanding"], 0);
    assert_eq!(stopped["fields"]["kv_released"], 1);
}

#[tokio::test]
async fn kv_of_a_client_that_left_is_given_back_before_the_process_ends() {
    let (prefill, decode) = (engine().await, engine().await);
    let mut process = Process::start(decode.addr().port(), &[]).await;
    decode.set_faults(Faults { hang: true, times: Some(1), ..Faults::default() });
    let ask = Ask::post(APIS[0].path, APIS[0].body(false)).prefill(&prefill.host_port());
    let client = tokio::spawn(ask.try_send(process.address));
    eventually("decode hangs", || decode.faults() == Faults::default()).await;
    client.abort();
    process.signal("TERM");
    assert_eq!(process.code().await, 0);
    empty([&prefill, &decode]).await;
    assert_eq!(prefill.state().totals.releases_without_read, 1);
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let decode = engine().await;
    let mut process = Process::start(decode.addr().port(), &["--shutdown-timeout=600s"]).await;
    decode.set_faults(Faults { hang: true, ..Faults::default() });
    let client = tokio::spawn(Ask::post(APIS[0].path, "{}").try_send(process.address));
    eventually("decode hangs", || decode.requests().len() == 1).await;
    process.signal("TERM");
    process.logged("shutting down").await;
    process.signal("TERM");
    assert_eq!(process.code().await, 1);
    assert!(within("an end", client).await.unwrap().is_err());
}

#[tokio::test]
async fn a_restarted_sidecar_gets_its_port_back_at_once() {
    let decode = engine().await;
    let mut first = Process::start(decode.addr().port(), &[]).await;
    // Connections of its own closing linger in the kernel.
    for _ in 0..5 {
        let mut client = Raw::connect(first.address).await;
        client.write("GET /v1/models HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        client.rest().await;
    }
    first.signal("TERM");
    assert_eq!(first.code().await, 0);
    let second = Process::start_on(first.address.port(), decode.addr().port(), &[]).await;
    Ask::get("/v1/models").send(second.address).await.ok();
    second.end().await;
}
