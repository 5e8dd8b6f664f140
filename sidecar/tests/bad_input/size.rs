//! The limit on bodies that have to be read.

use super::{end_untouched, head, refused};
use crate::common::{APIS, Ask, Raw, Rig, chunk, eventually};

const FLAGS: [&str; 1] = ["--max-body-size=1000"];

/// A JSON object of this length.
fn object(length: usize) -> String {
    format!("{{\"prompt\":\"{}\"}}", "x".repeat(length - 13))
}

#[tokio::test]
async fn a_body_announced_as_too_large_is_refused_unread() {
    let rig = Rig::with(&FLAGS).await;
    for length in ["1001", "5000000", "9000000000000000000"] {
        let mut client = Raw::connect(rig.address()).await;
        // Not a byte of it is sent.
        client.write(head(&rig, &format!("content-length: {length}\r\n"))).await;
        refused(&mut client, 413, "body_too_large").await;
    }
    end_untouched(rig).await;
}

#[tokio::test]
async fn a_body_that_turns_out_too_large_is_refused_when_it_does() {
    let rig = Rig::with(&FLAGS).await;
    let mut client = Raw::connect(rig.address()).await;
    client.write(head(&rig, "transfer-encoding: chunked\r\n")).await;
    client.write(chunk("{\"prompt\":\"")).await;
    for _ in 0..10 {
        client.try_write(chunk(&"x".repeat(100))).await;
    }
    refused(&mut client, 413, "body_too_large").await;
    end_untouched(rig).await;
}

#[tokio::test]
async fn the_limit_itself_is_allowed() {
    let rig = Rig::with(&FLAGS).await;
    assert_eq!(object(1000).len(), 1000);
    rig.ask(APIS[1].path, object(1000)).send(rig.address()).await.ok();
    let mut client = Raw::connect(rig.address()).await;
    client.write(head(&rig, "transfer-encoding: chunked\r\nconnection: close\r\n")).await;
    client.write(chunk(&object(1000)) + &chunk("")).await;
    assert!(client.rest().await.starts_with("HTTP/1.1 200 "));
    let answer = rig.ask(APIS[1].path, object(1001)).send(rig.address()).await;
    answer.is_error(413, "body_too_large", "larger than 1000 bytes (raise --max-body-size");
    rig.end().await;
}

#[tokio::test]
async fn a_client_that_sends_everything_before_it_reads_still_gets_the_answer() {
    // Closing at once would reset the connection and take the answer with it.
    let rig = Rig::with(&FLAGS).await;
    for size in [2_000, 100_000, 1_000_000] {
        let mut client = Raw::connect(rig.address()).await;
        client.write(head(&rig, &format!("content-length: {size}\r\n"))).await;
        client.try_write("x".repeat(size)).await;
        refused(&mut client, 413, "body_too_large").await;
    }
    end_untouched(rig).await;
}

#[tokio::test]
async fn a_refused_client_that_does_not_leave_is_not_kept() {
    let rig = Rig::with(&FLAGS).await;
    let mut client = Raw::connect(rig.address()).await;
    client.write(head(&rig, "content-length: 5000000\r\n")).await;
    assert!(client.head().await.starts_with("HTTP/1.1 413 "));
    eventually("the connection is closed", || rig.sidecar.connections() == 0).await;
    drop(client);
    end_untouched(rig).await;
}

#[tokio::test]
async fn http2_bodies_have_the_same_limit() {
    use crate::common::{Client, Protocol};
    let rig = Rig::with(&FLAGS).await;
    let mut client = Client::connect(rig.address(), Protocol::Http2).await;
    client.send(rig.ask(APIS[1].path, object(1000))).await.ok();
    rig.prefill.clear_requests();
    rig.decode.clear_requests();
    for size in [1001, 300_000] {
        let response = client.begin(rig.ask(APIS[1].path, object(size))).await.unwrap();
        assert_eq!(response.status().as_u16(), 413, "{size}");
    }
    drop(client);
    rig.settled().await;
    assert!(rig.prefill.requests().is_empty());
    rig.end().await;
}

#[tokio::test]
async fn what_is_passed_through_has_no_limit() {
    let rig = Rig::with(&FLAGS).await;
    Ask::post(APIS[1].path, object(100_000)).send(rig.address()).await.ok();
    rig.end().await;
}
