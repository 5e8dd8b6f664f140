//! Bodies that stop, crawl, break off or are framed wrongly.

use std::time::Duration;

use super::{end_untouched, head, refused};
use crate::common::{APIS, Raw, Rig, chunk};

#[tokio::test]
async fn a_body_that_stops_arriving_is_given_up() {
    let rig = Rig::with(&["--body-timeout=150ms"]).await;
    for (framing, part) in [
        ("transfer-encoding: chunked\r\n", ""),
        ("transfer-encoding: chunked\r\n", "8\r\n{\"promp"),
        ("transfer-encoding: chunked\r\n", "8\r\n{\"prompt\r\n"),
        ("content-length: 100\r\n", ""),
        ("content-length: 100\r\n", "{\"prompt\":"),
    ] {
        let mut client = Raw::connect(rig.address()).await;
        client.write(head(&rig, framing)).await;
        client.write(part).await;
        refused(&mut client, 408, "body_stalled").await;
    }
    end_untouched(rig).await;
}

#[tokio::test]
async fn a_chunked_body_that_never_ends_is_stopped_by_the_size_limit() {
    // A little every now and then: patience alone would never end it.
    let rig = Rig::with(&["--body-timeout=20s", "--max-body-size=300"]).await;
    let mut client = Raw::connect(rig.address()).await;
    client.write(head(&rig, "transfer-encoding: chunked\r\n")).await;
    client.write(chunk("{\"prompt\":\"")).await;
    for _ in 0..300 {
        if !client.try_write(chunk("x")).await {
            break;
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    refused(&mut client, 413, "body_too_large").await;
    end_untouched(rig).await;
}

#[tokio::test]
async fn a_client_that_is_only_slow_is_served() {
    // Longer in all than the limit for a pause.
    let rig = Rig::with(&["--body-timeout=1s"]).await;
    let body = APIS[1].body(false);
    let mut client = Raw::connect(rig.address()).await;
    let framing = format!("content-length: {}\r\nconnection: close\r\n", body.len());
    for piece in head(&rig, &framing).as_bytes().chunks(40) {
        client.write(piece).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let pieces = body.len().div_ceil(6);
    for piece in body.as_bytes().chunks(pieces) {
        tokio::time::sleep(Duration::from_millis(220)).await;
        client.write(piece).await;
    }
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    rig.end().await;
}

#[tokio::test]
async fn a_body_byte_by_byte_is_the_body() {
    let rig = Rig::start().await;
    let body = APIS[1].body(false);
    let mut client = Raw::connect(rig.address()).await;
    client.write(head(&rig, "transfer-encoding: chunked\r\nconnection: close\r\n")).await;
    let chunks: String = body.chars().map(|c| chunk(&c.to_string())).collect();
    client.write(chunks + &chunk("")).await;
    assert!(client.rest().await.starts_with("HTTP/1.1 200 "));
    let seen = rig.decode.requests().pop().unwrap().body.unwrap();
    assert!(seen.ends_with(&body[1..]));
    rig.end().await;
}

#[tokio::test]
async fn wrong_framing_is_the_clients_fault() {
    let rig = Rig::start().await;
    for part in ["zz\r\n", "-1\r\n", "\r\n", "2\r\n{}xx", "2 \n{}", "ffffffffffffffff1\r\n"] {
        let mut client = Raw::connect(rig.address()).await;
        client.write(head(&rig, "transfer-encoding: chunked\r\n")).await;
        client.write(part).await;
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{part:?}: {answer}");
        assert!(answer.contains("x-kvferry-error: body_broken\r\n"), "{part:?}: {answer}");
        assert!(answer.contains("connection: close\r\n"), "{part:?}: {answer}");
    }
    end_untouched(rig).await;
}

#[tokio::test]
async fn chunk_extensions_without_end_are_not_read_for_ever() {
    let rig = Rig::start().await;
    let mut client = Raw::connect(rig.address()).await;
    client.write(head(&rig, "transfer-encoding: chunked\r\n")).await;
    client.write("2;").await;
    for _ in 0..2_000 {
        if !client.try_write("x".repeat(1_000)).await {
            break;
        }
    }
    let answer = client.rest().await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    end_untouched(rig).await;
}

#[tokio::test]
async fn a_client_that_says_no_more_before_its_body_is_complete_is_no_request() {
    let rig = Rig::start().await;
    for framing in ["content-length: 100\r\n", "transfer-encoding: chunked\r\n"] {
        let mut client = Raw::connect(rig.address()).await;
        client.write(head(&rig, framing) + "5\r\n{\"a\":").await;
        client.finish_writing().await;
        let answer = client.rest().await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    end_untouched(rig).await;
}
