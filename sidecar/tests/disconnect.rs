//! The client leaves: at every moment of a request, what runs for it is cancelled, its KV is read or given back, and
//! nobody else notices.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use common::{
    APIS, Ask, Client, Dice, LONG_GRACE, Raw, Rig, SHORT_GRACE, Scripted, Setup, Sidecar, chunk, eventually,
    prompt, within,
};
use kvferry_emulator::{Faults, Speeds};
use tokio::sync::Notify;

/// A whole request as bytes.
fn raw_request(rig: &Rig, body: &str) -> String {
    format!(
        "POST {} HTTP/1.1\r\nhost: a\r\nx-prefiller-host-port: {}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        APIS[0].path,
        rig.prefill.host_port(),
        body.len()
    )
}

async fn nobody_is_connected(rig: &Rig) {
    eventually("the sidecar noticed that its client left", || rig.sidecar.connections() == 0).await;
}

#[tokio::test]
async fn during_its_own_head_or_body() {
    let rig = Rig::start().await;
    let whole = raw_request(&rig, &APIS[0].body(false));
    let head = whole.find("\r\n\r\n").unwrap() + 4;
    for sent in [0, 1, head - 1, head, head + 1, whole.len() - 1] {
        let mut client = Raw::connect(rig.address()).await;
        client.write(&whole[..sent]).await;
        eventually("the connection is there", || rig.sidecar.connections() == 1).await;
        drop(client);
        nobody_is_connected(&rig).await;
    }
    // Chunked, and half of it.
    let mut client = Raw::connect(rig.address()).await;
    let head = whole[..head].replace("content-length", "x-length");
    client.write(head.replacen("\r\n", "\r\ntransfer-encoding: chunked\r\n", 1)).await;
    client.write(chunk("{\"prompt\":")).await;
    drop(client);
    nobody_is_connected(&rig).await;
    assert!(rig.prefill.requests().is_empty());
    rig.end().await;
}

#[tokio::test]
async fn while_prefill_computes() {
    let rig = Rig::with(&[SHORT_GRACE]).await;
    rig.prefill.set_speeds(Speeds { prefill_rate: 20, ..Speeds::default() });
    for (n, stream) in [false, true].into_iter().enumerate() {
        let ask = rig.ask(APIS[0].path, APIS[0].body(stream));
        let client = tokio::spawn(ask.try_send(rig.address()));
        eventually("prefill computes", || rig.prefill.state().requests.running == 1).await;
        client.abort();
        eventually("prefill is aborted", || rig.prefill.state().totals.aborted == n as u64 + 1).await;
    }
    assert!(rig.decode.requests().is_empty());
    assert_eq!(rig.prefill.state().totals.prefills, 0);
    rig.end().await;
}

#[tokio::test]
async fn while_prefill_hangs() {
    let rig = Rig::with(&[SHORT_GRACE]).await;
    rig.prefill.set_faults(Faults { hang: true, ..Faults::default() });
    let client = tokio::spawn(rig.ask(APIS[0].path, APIS[0].body(false)).try_send(rig.address()));
    eventually("prefill was asked", || rig.prefill.requests().len() == 1).await;
    client.abort();
    nobody_is_connected(&rig).await;
    assert!(rig.decode.requests().is_empty());
    rig.end().await;
}

#[tokio::test]
async fn between_the_legs() {
    // Prefill's answer, with KV that only it names, crosses the client's departure in many ways; another client's
    // requests run meanwhile and must not notice.
    const ATTEMPTS: u32 = 80;
    let rig = Rig::with(&[LONG_GRACE]).await;
    let delay = 4;
    let address = rig.address();
    let other = rig.ask(APIS[1].path, APIS[1].body(true));
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let others = tokio::spawn(async move {
        let mut served = 0;
        while stopped.try_recv().is_err() {
            let answer = other.clone().send(address).await.ok();
            assert!(answer.text().ends_with("data: [DONE]\n\n"));
            served += 1;
        }
        served
    });
    rig.prefill.set_faults(Faults { delay_ms: delay, path: Some(APIS[0].path.into()), ..Faults::default() });
    let mut dice = Dice::new(20_261_121);
    for n in 0..ATTEMPTS {
        let ask = rig.ask(APIS[0].path, APIS[0].body(n % 2 == 0));
        let client = tokio::spawn(ask.try_send(address));
        tokio::time::sleep(Duration::from_micros(dice.below(2_500 * delay))).await;
        client.abort();
    }
    let _ = stop.send(());
    assert!(within("the other client", others).await.unwrap() > 0);
    nobody_is_connected(&rig).await;
    rig.end().await;
}

#[tokio::test]
async fn just_before_prefill_answers() {
    // Prefill answers because the client has left: its KV comes too late for anybody, and only this answer names it.
    let gone = Arc::new(Notify::new());
    let told = Arc::clone(&gone);
    let prefill = Scripted::start(move |mut exchange| {
        let told = Arc::clone(&told);
        async move {
            told.notified().await;
            // It was on its way for a while.
            tokio::time::sleep(Duration::from_millis(10)).await;
            exchange.write(common::json_answer(200, r#"{"kv_transfer_params":{"a":1}}"#)).await;
            Some(exchange)
        }
    })
    .await;
    let decode = Scripted::answering(common::json_answer(404, "{}")).await;
    let sidecar = Sidecar::start(decode.port(), &[LONG_GRACE]);
    for n in 1..=3 {
        let ask = Ask::post(APIS[0].path, "{}").prefill(&prefill.host_port());
        let client = tokio::spawn(ask.try_send(sidecar.address()));
        eventually("prefill was asked", || prefill.requests().len() == n).await;
        client.abort();
        eventually("the sidecar noticed", || sidecar.connections() == 0).await;
        gone.notify_one();
    }
    eventually("all of it is released", || sidecar.ledger().released == 3).await;
    let counts = sidecar.end().await;
    assert_eq!((counts.consumed, counts.expired), (0, 0));
    assert_eq!(decode.requests().len(), 3, "nothing but releases");
}

#[tokio::test]
async fn while_decode_has_not_answered() {
    let rig = Rig::start().await;
    for (n, stream) in [false, true].into_iter().enumerate() {
        rig.decode.set_faults(Faults { hang: true, times: Some(1), ..Faults::default() });
        let ask = rig.ask(APIS[0].path, APIS[0].body(stream));
        let client = tokio::spawn(ask.try_send(rig.address()));
        eventually("decode was asked", || rig.decode.faults() == Faults::default()).await;
        assert_eq!(rig.prefill.state().leases.len(), 1);
        client.abort();
        rig.settled().await;
        assert_eq!(rig.prefill.state().totals.releases_without_read, n as u64 + 1);
    }
    assert_eq!(rig.end().await.released, 2);
}

#[tokio::test]
async fn while_decode_waits_for_room() {
    // The engine gives such a request's KV back by itself; the sidecar's release on top of that must do no harm.
    let mut setup = Setup::default();
    setup.decode.num_blocks = 12;
    let rig = setup.start().await;
    rig.decode.set_speeds(Speeds { itl_ms: 60_000, ..Speeds::default() });
    let body = |stream| APIS[1].value(&prompt(60), 60, stream).to_string();
    let mut first = rig.ask(APIS[1].path, body(true)).open(rig.address()).await.unwrap();
    first.until("data: ").await;
    let second = tokio::spawn(rig.ask(APIS[1].path, body(false)).try_send(rig.address()));
    eventually("decode has no room", || rig.decode.state().requests.waiting == 1).await;
    second.abort();
    eventually("the KV is back", || rig.prefill.state().leases.is_empty()).await;
    assert_eq!(rig.decode.state().requests.running, 1);
    drop(first);
    rig.end().await;
}

#[tokio::test]
async fn after_the_head_and_before_any_data() {
    // The head says nothing: the decode engine sends it before it has looked at the KV.
    let prefill = Scripted::answering(common::json_answer(200, r#"{"kv_transfer_params":{"a":1}}"#)).await;
    let decode = Scripted::start(|mut exchange| async move {
        if exchange.request.head.starts_with("POST /v1/completions") {
            exchange.write(common::json_answer(404, "{}")).await;
            return Some(exchange);
        }
        exchange.write(common::sse_head()).await;
        exchange.left().await;
        None
    })
    .await;
    let sidecar = Sidecar::start(decode.port(), &[]);
    let ask = Ask::post(APIS[0].path, "{}").prefill(&prefill.host_port());
    let answer = ask.open(sidecar.address()).await.unwrap();
    assert_eq!(answer.status.as_u16(), 200);
    drop(answer);
    eventually("the KV is released", || sidecar.ledger().released == 1).await;
    assert_eq!(decode.requests().len(), 2);
    sidecar.end().await;
}

#[tokio::test]
async fn while_the_kv_is_on_its_way() {
    // A transfer once begun runs to its end, and then frees the KV as every transfer does.
    let rig = Rig::start().await;
    rig.prefill.set_speeds(Speeds { transfer_rate: 20_000, ..Speeds::default() });
    for stream in [false, true] {
        let ask = rig.ask(APIS[1].path, APIS[1].value(&prompt(100), 5, stream).to_string());
        let client = tokio::spawn(ask.try_send(rig.address()));
        eventually("decode pulls", || rig.decode.state().requests.waiting == 1).await;
        client.abort();
        rig.settled().await;
    }
    let totals = rig.prefill.state().totals;
    assert_eq!(totals.releases_after_read + totals.releases_without_read, 2);
    rig.end().await;
}

#[tokio::test]
async fn in_the_middle_of_a_stream() {
    let rig = Rig::start().await;
    rig.decode.set_speeds(Speeds { itl_ms: 2, ..Speeds::default() });
    for (n, route) in APIS.into_iter().enumerate() {
        let body = route.value("go on", 100_000, true).to_string();
        let mut answer = rig.ask(route.path, body).open(rig.address()).await.unwrap();
        answer.until("\n\n").await;
        drop(answer);
        eventually("decode is aborted", || rig.decode.state().totals.aborted == n as u64 + 1).await;
    }
    assert_eq!(rig.end().await.consumed, 5);
}

#[tokio::test]
async fn while_a_whole_answer_is_made() {
    let rig = Rig::start().await;
    rig.decode.set_speeds(Speeds { itl_ms: 2, ..Speeds::default() });
    let body = APIS[0].value("go on", 100_000, false).to_string();
    let client = tokio::spawn(rig.ask(APIS[0].path, body).try_send(rig.address()));
    eventually("decode generates", || rig.decode.state().requests.running == 1).await;
    client.abort();
    eventually("decode is aborted", || rig.decode.state().totals.aborted == 1).await;
    rig.end().await;
}

#[tokio::test]
async fn at_any_byte_of_the_answer() {
    let rig = Rig::start().await;
    let mut dice = Dice::new(7);
    for n in 0..40_u64 {
        let route = APIS[usize::try_from(n).unwrap() % APIS.len()];
        // Whole answers and streams, long and short, left after some of their data: often right before the end.
        let ask = rig.ask(route.path, route.value(&prompt(30), 4, n % 3 > 0).to_string());
        let mut answer = ask.open(rig.address()).await.unwrap();
        for _ in 0..dice.below(8) {
            if answer.data().await.is_none() {
                break;
            }
        }
    }
    nobody_is_connected(&rig).await;
    rig.end().await;
}

#[tokio::test]
async fn during_a_passed_through_stream() {
    let rig = Rig::start().await;
    rig.decode.set_speeds(Speeds { itl_ms: 2, ..Speeds::default() });
    let body = APIS[1].value("go on", 100_000, true).to_string();
    let mut answer = Ask::post(APIS[1].path, body).open(rig.address()).await.unwrap();
    answer.until("data: ").await;
    drop(answer);
    eventually("decode is aborted", || rig.decode.state().totals.aborted == 1).await;

    // And before the engine has said anything.
    rig.decode.set_faults(Faults { hang: true, ..Faults::default() });
    let client = tokio::spawn(Ask::post(APIS[1].path, "{}").try_send(rig.address()));
    eventually("decode was asked", || rig.decode.requests().len() == 2).await;
    client.abort();
    nobody_is_connected(&rig).await;
    rig.end().await;
}

#[tokio::test]
async fn from_an_http2_connection_with_many_requests_in_all_phases() {
    let rig = Rig::with(&[LONG_GRACE]).await;
    rig.decode.set_speeds(Speeds { itl_ms: 5, ..Speeds::default() });
    rig.prefill.set_speeds(Speeds { prefill_rate: 5_000, ..Speeds::default() });
    let mut client = Client::connect(rig.address(), common::Protocol::Http2).await;
    let mut open = Vec::new();
    for n in 0..5 {
        let body = APIS[1].value(&prompt(20 * n), 100_000, true).to_string();
        open.push(client.begin(rig.ask(APIS[1].path, body)).await.unwrap());
    }
    let address = rig.address();
    let late: Vec<_> = (0..5)
        .map(|n| rig.ask(APIS[0].path, APIS[0].value(&prompt(200 * n), 9, false).to_string()))
        .collect();
    let late = tokio::spawn(async move {
        let mut other = Client::connect(address, common::Protocol::Http2).await;
        for ask in late {
            let _ = other.begin(ask).await;
        }
    });
    eventually("decode is at work", || rig.decode.state().requests.running >= 5).await;
    drop(client);
    late.abort();
    drop(open);
    nobody_is_connected(&rig).await;
    rig.end().await;
}

#[tokio::test]
async fn a_client_that_only_reads_late_is_not_taken_for_gone() {
    const PIECES: usize = 64;
    let piece = format!("data: {}\n\n", "x".repeat(500_000));
    let (written, length) = (Arc::new(AtomicUsize::new(0)), piece.len());
    let count = Arc::clone(&written);
    let prefill = Scripted::answering(common::json_answer(200, r#"{"kv_transfer_params":{"a":1}}"#)).await;
    let decode = Scripted::start(move |mut exchange| {
        let (piece, count) = (chunk(&piece), Arc::clone(&count));
        async move {
            exchange.write(common::sse_head()).await;
            for _ in 0..PIECES {
                exchange.write(&piece).await;
                count.fetch_add(1, Relaxed);
            }
            exchange.write(chunk("")).await;
            Some(exchange)
        }
    })
    .await;
    let sidecar = Sidecar::start(decode.port(), &[]);
    let ask = Ask::post(APIS[1].path, "{}").prefill(&prefill.host_port());
    let answer = ask.open(sidecar.address()).await.unwrap();
    // The engine comes to a stop long before its end: nobody in between hoards what the client does not read.
    let (mut last, mut looks) = (usize::MAX, 0);
    eventually("the engine waits for the reader", || {
        let now = written.load(Relaxed);
        looks = if now == last { looks + 1 } else { 0 };
        last = now;
        looks > 20
    })
    .await;
    assert!(last < PIECES, "all of it was taken");
    assert_eq!(answer.whole().await.unwrap().body.len(), PIECES * length);
    sidecar.end().await;
}

/// Its answer alone names the blocks, so a prefill that is almost done is worth waiting for.
#[tokio::test]
async fn a_prefill_that_ends_soon_after_its_client_left_is_released_not_aborted() {
    let rig = Rig::with(&[LONG_GRACE]).await;
    rig.prefill.set_speeds(Speeds { prefill_rate: 200, ..Speeds::default() });
    let ask = rig.ask(APIS[0].path, APIS[0].body(false));
    let client = tokio::spawn(ask.try_send(rig.address()));
    eventually("prefill computes", || rig.prefill.state().requests.running == 1).await;
    client.abort();
    eventually("the KV is released", || rig.prefill.state().totals.releases_without_read == 1).await;
    let totals = rig.prefill.state().totals;
    assert_eq!((totals.prefills, totals.aborted), (1, 0));
    assert!(rig.decode.requests().iter().all(|seen| seen.body.as_ref().unwrap().contains("no-such-model")));
    rig.end().await;
}
