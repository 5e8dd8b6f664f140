//! Request heads: targets that cannot be used, heads that are too large, old and odd forms of HTTP.

use super::end_untouched;
use crate::common::{APIS, Ask, Client, PREFILLER, Protocol, Raw, Rig};

#[tokio::test]
async fn a_target_that_cannot_be_used_is_the_routers_fault_and_is_quoted() {
    let rig = Rig::start().await;
    let mut client = Client::connect(rig.address(), Protocol::Http1).await;
    for target in [
        "prefill",
        "prefill:",
        ":8000",
        "prefill:0",
        "prefill:65536",
        "prefill:99999999999999999999",
        "prefill:-1",
        "prefill:+80",
        "prefill:8o",
        "https://prefill:8000",
        "ftp://prefill:8000",
        "http://http://prefill:8000",
        "prefill:8000/v1",
        "prefill:8000?x=1",
        "user@prefill:8000",
        "two words:8000",
        "2001:db8::7:8000",
        "[2001:db8::7:8000",
        "[2001:db8::7]",
        "[prefill]:8000",
        "\u{fc}:8000",
        "a\tb:8000",
        "\"prefill\":8000",
    ] {
        for header in [PREFILLER, "x-llm-d-prefiller-host-port"] {
            let ask = Ask::post(APIS[0].path, APIS[0].body(false)).header(header, target);
            let answer = client.send(ask).await;
            answer.is_error(400, "bad_prefill_target", "x-prefiller-host-port");
        }
    }
    drop(client);
    end_untouched(rig).await;
}

#[tokio::test]
async fn a_bad_target_is_refused_before_the_body_is_waited_for() {
    let rig = Rig::start().await;
    let mut client = Raw::connect(rig.address()).await;
    client
        .write("POST /v1/completions HTTP/1.1\r\nhost: a\r\nx-prefiller-host-port: nowhere\r\ncontent-length: 10\r\n\r\n")
        .await;
    assert!(client.head().await.starts_with("HTTP/1.1 400 "));
    drop(client);
    end_untouched(rig).await;
}

#[tokio::test]
async fn a_head_of_more_than_a_mebibyte_is_431() {
    let rig = Rig::start().await;
    for filler in [
        format!("x-long: {}\r\n", "x".repeat(2 << 20)),
        "x-many: 1\r\n".repeat(200_000),
        format!("x-\u{0}{}", "x".repeat(2 << 20)),
    ] {
        let mut client = Raw::connect(rig.address()).await;
        client.try_write(format!("GET / HTTP/1.1\r\nhost: a\r\n{filler}\r\n")).await;
        let answer = client.rest().await;
        // What is not even a header line may be called bad before it is called long.
        assert!(answer.starts_with("HTTP/1.1 431 ") || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    // A request line alone can be too long as well.
    let mut client = Raw::connect(rig.address()).await;
    client.try_write(format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(2 << 20))).await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 431 ") || answer.starts_with("HTTP/1.1 414 "), "{answer}");
    end_untouched(rig).await;
}

#[tokio::test]
async fn many_and_long_headers_within_the_limit_reach_both_engines() {
    let rig = Rig::start().await;
    let mut ask = rig.ask(APIS[0].path, APIS[0].body(false));
    for n in 0..300 {
        ask = ask.header(&format!("x-number-{n}"), &"v".repeat(100));
    }
    ask.header("x-long", &"v".repeat(100_000)).send(rig.address()).await.ok();
    for engine in [&rig.prefill, &rig.decode] {
        let seen = engine.requests().pop().unwrap();
        assert_eq!(seen.header_values("x-number-299").len(), 1);
        assert_eq!(seen.header_values("x-long")[0].len(), 100_000);
    }
    rig.end().await;
}

#[tokio::test]
async fn what_is_no_http_is_refused_and_the_connection_closed() {
    let rig = Rig::start().await;
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a client that expects TLS"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\nhost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\n folded: line\r\n\r\n",
        b"GET / HTTP/1.1\r\nx-null: a\0b\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
    ] {
        let mut client = Raw::connect(rig.address()).await;
        client.write(bytes).await;
        let answer = client.rest().await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    end_untouched(rig).await;
}

#[tokio::test]
async fn an_http_1_0_client_gets_an_answer_that_ends_with_the_connection() {
    let rig = Rig::start().await;
    for stream in [false, true] {
        let body = APIS[1].body(stream);
        let target = rig.prefill.host_port();
        let mut client = Raw::connect(rig.address()).await;
        client
            .write(format!(
                "POST /v1/completions HTTP/1.0\r\nx-prefiller-host-port: {target}\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            ))
            .await;
        let answer = client.rest().await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.0 200 ") || head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(!head.contains("transfer-encoding"), "HTTP/1.0 knows no chunks: {head}");
        assert!(if stream { body.ends_with("data: [DONE]\n\n") } else { body.ends_with('}') }, "{body}");
        assert!(body.starts_with(if stream { "data: " } else { "{" }), "{body}");
    }
    let mut client = Raw::connect(rig.address()).await;
    client.write("GET /health HTTP/1.0\r\n\r\n").await;
    assert!(client.rest().await.contains(" 200 "));
    rig.end().await;
}

#[tokio::test]
async fn an_absolute_request_target_is_served_by_its_path_and_names_the_host() {
    let rig = Rig::start().await;
    let body = APIS[1].body(false);
    let target = rig.prefill.host_port();
    for path in ["/v1/completions?a=b", "//v1/completions/?a=b"] {
        let mut client = Raw::connect(rig.address()).await;
        client
            .write(format!(
                "POST http://models.example:80{path} HTTP/1.1\r\nhost: other.example\r\nconnection: close\r\n\
                 x-prefiller-host-port: {target}\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            ))
            .await;
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        for engine in [&rig.prefill, &rig.decode] {
            let seen = engine.requests().pop().unwrap();
            assert_eq!(seen.path, "/v1/completions?a=b");
            // RFC 9112, 3.2.2: such a target's host replaces the header.
            assert_eq!(seen.header_values("host"), ["models.example:80"]);
        }
    }
    rig.end().await;
}

#[tokio::test]
async fn a_proxy_is_not_what_we_are() {
    let rig = Rig::start().await;
    let mut client = Raw::connect(rig.address()).await;
    client.write("CONNECT example.com:443 HTTP/1.1\r\nhost: example.com:443\r\n\r\n").await;
    let head = client.head().await;
    assert!(!head.starts_with("HTTP/1.1 2"), "{head}");
    drop(client);
    rig.end().await;
}
