//! The legs' headers: one request id, no routing header, nothing of the client's hop, everything else.

use crate::common::{APIS, Ask, Rig, Scripted, Sidecar, json_answer};
use kvferry_emulator::SeenRequest;

/// Sends a request and returns what each engine saw.
async fn seen(rig: &Rig, ask: Ask) -> (SeenRequest, SeenRequest) {
    rig.prefill.clear_requests();
    rig.decode.clear_requests();
    ask.send(rig.address()).await.ok();
    let (mut prefill, mut decode) = (rig.prefill.requests(), rig.decode.requests());
    assert_eq!((prefill.len(), decode.len()), (1, 1));
    (prefill.remove(0), decode.remove(0))
}

#[tokio::test]
async fn both_legs_carry_one_request_id_the_clients_if_it_sent_one() {
    let rig = Rig::start().await;
    let body = APIS[0].body(false);
    for (sent, expected) in [
        (&["mine"][..], Some("mine")),
        (&["first", "second"], Some("first")),
        (&["same", "same"], Some("same")),
        (&[], None),
        (&[""], None),
    ] {
        let mut ask = rig.ask(APIS[0].path, body.as_str());
        for id in sent {
            ask = ask.header("x-request-id", id);
        }
        let (prefill, decode) = seen(&rig, ask).await;
        let (prefill, decode) = (prefill.header_values("x-request-id"), decode.header_values("x-request-id"));
        assert_eq!(prefill, decode, "{sent:?}");
        assert_eq!(prefill.len(), 1, "{sent:?}");
        match expected {
            Some(id) => assert_eq!(prefill, [id]),
            None => assert!(uuid::Uuid::parse_str(prefill[0]).is_ok(), "{prefill:?}"),
        }
    }
    rig.end().await;
}

#[tokio::test]
async fn generated_request_ids_differ() {
    let rig = Rig::start().await;
    let mut ids = std::collections::HashSet::new();
    for _ in 0..5 {
        let (prefill, _) = seen(&rig, rig.ask(APIS[1].path, APIS[1].body(false))).await;
        ids.insert(prefill.header_values("x-request-id")[0].to_owned());
    }
    assert_eq!(ids.len(), 5);
    rig.end().await;
}

#[tokio::test]
async fn no_routing_header_reaches_an_engine_on_any_route() {
    const ROUTING: [&str; 6] = [
        "x-encoder-hosts-ports",
        "x-llm-d-encoder-hosts-ports",
        "x-kv-cache-source-host-port",
        "x-llm-d-kv-cache-source-host-port",
        "x-data-parallel-host-port",
        "x-llm-d-prefiller-host-port",
    ];
    let rig = Rig::start().await;
    let with_routing = |mut ask: Ask| {
        for name in ROUTING {
            ask = ask.header(name, "127.0.0.1:9").header(name, "127.0.0.2:9");
        }
        ask
    };
    let body = APIS[0].body(false);
    let asks = [
        with_routing(rig.ask(APIS[0].path, body.as_str())),
        // An empty old spelling: no disaggregation, and still nothing for the engine to see.
        with_routing(Ask::post(APIS[0].path, body.as_str()).prefill("")),
        with_routing(Ask::get("/v1/models").prefill("127.0.0.1:9")),
        with_routing(Ask::new("PUT", "/emulator/echo", "text").prefill("127.0.0.1:9")),
    ];
    for ask in asks {
        ask.send(rig.address()).await.ok();
    }
    let requests = [rig.prefill.requests(), rig.decode.requests()].concat();
    assert_eq!(requests.len(), 5);
    for request in requests {
        for (name, value) in &request.headers {
            assert!(
                !ROUTING.contains(&name.as_str()) && name != crate::common::PREFILLER,
                "{name}: {value} reached {}",
                request.path
            );
        }
    }
    rig.end().await;
}

#[tokio::test]
async fn ordinary_headers_and_the_query_go_to_both_legs() {
    let rig = Rig::start().await;
    let sent = [
        ("authorization", "Bearer secret"),
        ("user-agent", "test/1"),
        ("accept", "application/json"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("x-odd", "  spaced \u{e9} "),
        ("host", "models.example.com:8443"),
    ];
    let mut ask = rig.ask("/v1/completions?a=b;c&d=%20%zz&&e", APIS[1].body(false));
    for (name, value) in sent {
        ask = ask.header(name, value);
    }
    let (prefill, decode) = seen(&rig, ask).await;
    for leg in [prefill, decode] {
        assert_eq!(leg.path, "/v1/completions?a=b;c&d=%20%zz&&e");
        for (name, _) in sent {
            let expected: Vec<&str> =
                sent.iter().filter(|(other, _)| *other == name).map(|(_, value)| value.trim()).collect();
            assert_eq!(leg.header_values(name), expected, "{name}");
        }
        assert_eq!(leg.header_values("content-type"), ["application/json"]);
    }
    rig.end().await;
}

#[tokio::test]
async fn a_client_without_a_user_agent_is_not_given_one() {
    let rig = Rig::start().await;
    let (prefill, decode) = seen(&rig, rig.ask(APIS[1].path, APIS[1].body(false))).await;
    assert!(prefill.header_values("user-agent").is_empty());
    assert!(decode.header_values("user-agent").is_empty());
    rig.end().await;
}

#[tokio::test]
async fn the_clients_address_is_appended_to_the_forwarding_list() {
    let rig = Rig::start().await;
    for (before, expected) in [
        (&[][..], "127.0.0.1"),
        (&["10.1.1.1"], "10.1.1.1, 127.0.0.1"),
        (&["10.1.1.1, 10.2.2.2", "10.3.3.3"], "10.1.1.1, 10.2.2.2, 10.3.3.3, 127.0.0.1"),
    ] {
        let mut ask = rig.ask(APIS[1].path, APIS[1].body(false));
        for line in before {
            ask = ask.header("x-forwarded-for", line);
        }
        let (prefill, decode) = seen(&rig, ask).await;
        for leg in [prefill, decode] {
            assert_eq!(leg.header_values("x-forwarded-for"), [expected]);
            assert!(leg.header_values("x-forwarded-proto").is_empty());
            assert!(leg.header_values("x-forwarded-host").is_empty());
        }
    }
    rig.end().await;
}

#[tokio::test]
async fn what_belongs_to_the_clients_hop_stays_there() {
    let rig = Rig::start().await;
    let mut ask = rig.ask(APIS[1].path, APIS[1].body(false));
    let hop = [
        ("connection", "keep-alive, X-Only-Here"),
        ("x-only-here", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-authorization", "Basic eA=="),
        ("proxy-connection", "keep-alive"),
        ("te", "gzip"),
    ];
    for (name, value) in hop {
        ask = ask.header(name, value);
    }
    let (prefill, decode) = seen(&rig, ask).await;
    for leg in [prefill, decode] {
        for (name, _) in hop {
            assert!(leg.header_values(name).is_empty(), "{name}");
        }
    }
    rig.end().await;
}

#[tokio::test]
async fn the_engines_hop_stays_there_too_and_its_other_headers_come_through() {
    let prefill = Scripted::answering(json_answer(200, r#"{"kv_transfer_params":{"a":1}}"#)).await;
    for (kind, body) in [("application/json", "{}"), ("text/event-stream", "data: {}\n\n")] {
        let answer = format!(
            "HTTP/1.1 201 Made\r\ncontent-type: {kind}\r\nset-cookie: a=1\r\nset-cookie: b=2\r\nx-odd: v\r\n\
             server: uvicorn\r\nconnection: x-secret\r\nx-secret: 1\r\nkeep-alive: timeout=5\r\n\
             proxy-authenticate: Basic\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let decode = Scripted::answering(answer).await;
        let sidecar = Sidecar::start(decode.port(), &[]);
        let ask = Ask::post("/v1/completions", "{}").prefill(&prefill.host_port());
        let answer = ask.send(sidecar.address()).await;
        assert_eq!(answer.status.as_u16(), 201);
        assert_eq!(answer.text(), body);
        let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["a=1", "b=2"]);
        assert_eq!((answer.header("x-odd"), answer.header("server")), ("v", "uvicorn"));
        for name in ["x-secret", "keep-alive", "proxy-authenticate"] {
            assert_eq!(answer.header(name), "", "{name}");
        }
        sidecar.end().await;
    }
}
