//! Methods, statuses, headers, bodies and trailers in both directions.

use std::sync::Arc;

use crate::common::{APIS, Ask, Client, Protocol, Raw, Rig, Scripted, Sidecar, chunk, json_answer, sse_head};
use kvferry_emulator::Faults;
use tokio::sync::Notify;

/// An engine that sends every body back.
async fn echo() -> Scripted {
    Scripted::start(|mut exchange| async move {
        let body = exchange.request.body.clone();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        exchange.write(head).await;
        exchange.write(body).await;
        Some(exchange)
    })
    .await
}

#[tokio::test]
async fn an_api_request_without_a_prefill_header_reaches_the_decode_engine_untouched() {
    let rig = Rig::start().await;
    for route in APIS {
        // Neither valid spacing nor a duplicate key is the sidecar's business here.
        let body = route.body(false).replacen('{', "{ \"stream\" : true,\r\n \"stream\":false,", 1);
        let answer = Ask::post(route.path, body.as_str()).send(rig.address()).await.ok();
        assert!(answer.text().contains("usage"));
        assert_eq!(rig.decode.requests().pop().unwrap().body.unwrap(), body, "{}", route.path);
    }
    assert!(rig.prefill.requests().is_empty());
    assert_eq!(rig.end().await.handed_out, 0);
}

#[tokio::test]
async fn what_is_no_json_is_the_engines_to_judge() {
    let rig = Rig::start().await;
    for body in [&b""[..], b"{", b"[1]", b"\xff\xfe"] {
        let ask = Ask::post("/v1/completions", body);
        let (direct, through) = (ask.clone().send(rig.decode.addr()).await, ask.send(rig.address()).await);
        assert_eq!((through.status, &through.body), (direct.status, &direct.body));
        assert_eq!(through.header("x-kvferry-error"), "");
    }
    rig.end().await;
}

#[tokio::test]
async fn bodies_of_any_size_go_both_ways_byte_for_byte() {
    let engine = echo().await;
    let sidecar = Sidecar::start(engine.port(), &["--max-body-size=1000"]);
    let mut dice = crate::common::Dice::new(1);
    for size in [0, 1, 1000, 1001, 70_000, 5_000_000] {
        let body: Vec<u8> = (0..size).map(|_| u8::try_from(dice.below(256)).unwrap()).collect();
        for path in ["/v1/embeddings", "/v1/completions"] {
            let answer = Ask::post(path, body.clone()).send(sidecar.address()).await.ok();
            // Not assert_eq: nobody wants to read megabytes.
            assert!(answer.body == body, "{size} bytes to {path}");
        }
    }
    sidecar.end().await;
}

#[tokio::test]
async fn any_method_is_passed_on() {
    let rig = Rig::start().await;
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE"] {
        let answer = Ask::new(method, "/emulator/echo?a=b", "some text").send(rig.address()).await.ok();
        let seen = answer.json();
        assert_eq!(seen["method"], method);
        assert_eq!((&seen["path"], &seen["body"]), (&"/emulator/echo?a=b".into(), &"some text".into()));
    }
    rig.end().await;
}

#[tokio::test]
async fn a_request_about_the_server_itself_keeps_its_asterisk() {
    let engine = echo().await;
    let sidecar = Sidecar::start(engine.port(), &[]);
    let mut client = Raw::connect(sidecar.address()).await;
    client.write("OPTIONS * HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert!(client.rest().await.starts_with("HTTP/1.1 200 "));
    assert!(engine.requests()[0].head.starts_with("OPTIONS * HTTP/1.1\r\n"));
    sidecar.end().await;
}

#[tokio::test]
async fn every_other_route_answers_as_the_engine_does() {
    let rig = Rig::start().await;
    for (path, status) in
        [("/v1/models", 200), ("/version", 200), ("/nope", 404), ("/v1/chat/completions", 405)]
    {
        let (direct, through) =
            (Ask::get(path).send(rig.decode.addr()).await, Ask::get(path).send(rig.address()).await);
        assert_eq!(through.status.as_u16(), status, "{path}");
        let names = ["created"];
        assert_eq!(
            crate::common::without(through.json(), &names),
            crate::common::without(direct.json(), &names)
        );
        assert_eq!(through.header("x-emulator-role"), direct.header("x-emulator-role"));
    }
    let metrics = Ask::get("/metrics").send(rig.address()).await.ok();
    assert!(metrics.text().contains("vllm:"), "{}", metrics.text());
    rig.end().await;
}

#[tokio::test]
async fn status_and_header_lines_come_through_as_they_are() {
    let answer = "HTTP/1.1 418 Short And Stout\r\nset-cookie: a=1\r\nset-cookie: b=2\r\nx-odd: \"v, w\"\r\n\
                  cache-control: no-cache\r\nkeep-alive: timeout=5\r\ncontent-length: 3\r\n\r\ntea";
    let engine = Scripted::answering(answer).await;
    let sidecar = Sidecar::start(engine.port(), &[]);
    let answer = Ask::get("/").send(sidecar.address()).await;
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (418, &b"tea"[..]));
    let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1", "b=2"]);
    assert_eq!((answer.header("x-odd"), answer.header("cache-control")), ("\"v, w\"", "no-cache"));
    assert_eq!(answer.header("keep-alive"), "", "it belongs to the engine's hop");
    sidecar.end().await;
}

#[tokio::test]
async fn gzip_between_engine_and_client_is_their_own_affair() {
    let rig = Rig::start().await;
    rig.decode.set_faults(Faults { gzip: true, path: Some("/v1/models".into()), ..Faults::default() });
    let answer = Ask::get("/v1/models").header("accept-encoding", "gzip").send(rig.address()).await.ok();
    assert_eq!(answer.header("content-encoding"), "gzip");
    let mut plain = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&answer.body[..]), &mut plain).unwrap();
    assert!(plain.contains("\"tiny\""));
    assert_eq!(rig.decode.requests().pop().unwrap().header_values("accept-encoding"), ["gzip"]);
    rig.end().await;
}

#[tokio::test]
async fn head_gets_the_head_alone_and_the_connection_goes_on() {
    let rig = Rig::start().await;
    let length = Ask::get("/v1/models").send(rig.address()).await.ok().body.len();
    let mut client = Client::connect(rig.address(), Protocol::Http1).await;
    for _ in 0..3 {
        let answer = client.send(Ask::new("HEAD", "/v1/models", "")).await.ok();
        assert_eq!((answer.header("content-length"), answer.body.len()), (length.to_string().as_str(), 0));
    }
    rig.end().await;
}

#[tokio::test]
async fn trailers_arrive_on_every_way() {
    let rig = Rig::start().await;
    rig.decode.set_faults(Faults { trailers: true, ..Faults::default() });
    for ask in [
        Ask::new("POST", "/emulator/echo", "x"),
        rig.ask(APIS[0].path, APIS[0].body(false)),
        rig.ask(APIS[0].path, APIS[0].body(true)),
        rig.ask(APIS[2].path, APIS[2].body(false)),
        rig.ask(APIS[2].path, APIS[2].body(true)),
    ] {
        let answer = ask.header("te", "trailers").send(rig.address()).await.ok();
        let trailers = answer.trailers.clone().expect("a trailer was sent");
        assert_eq!(trailers["x-emulator-trailer"], "done");
        assert_eq!(answer.header("trailer"), "x-emulator-trailer");
    }
    // Who does not ask for trailers gets the answer without them.
    for ask in [Ask::new("POST", "/emulator/echo", "x"), rig.ask(APIS[0].path, APIS[0].body(true))] {
        assert!(ask.send(rig.address()).await.ok().trailers.is_none());
    }
    rig.end().await;
}

#[tokio::test]
async fn chunked_uploads_stream_through_while_they_come() {
    // No timing: the client sends its second half only when the engine has told that the first one arrived.
    let rig = Rig::start().await;
    let mut client = Raw::connect(rig.address()).await;
    client
        .write("POST /emulator/echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    for piece in ["first,", "second,", "third"] {
        client.write(chunk(piece)).await;
    }
    client.write(chunk("")).await;
    assert!(client.rest().await.contains("first,second,third"));
    rig.end().await;

    let arrived = Arc::new(Notify::new());
    let tell = Arc::clone(&arrived);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let engine = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"half\r\n") {
            socket.read_buf(&mut read).await.unwrap();
        }
        tell.notify_one();
        while !read.ends_with(b"0\r\n\r\n") {
            socket.read_buf(&mut read).await.unwrap();
        }
        socket.write_all(b"HTTP/1.1 204 Done\r\n\r\n").await.unwrap();
    });
    let sidecar = Sidecar::start(port, &[]);
    let mut client = Raw::connect(sidecar.address()).await;
    client
        .write(
            "POST /v1/audio HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n",
        )
        .await;
    client.write(chunk("half")).await;
    crate::common::within("the first half arrives alone", arrived.notified()).await;
    client.write(chunk("whole")).await;
    client.write(chunk("")).await;
    assert!(client.rest().await.starts_with("HTTP/1.1 204 "));
    engine.await.unwrap();
    sidecar.end().await;
}

#[tokio::test]
async fn frames_of_a_stream_arrive_one_by_one_as_sent() {
    // The engine sends a frame only when the one before has reached the client.
    let go_on = Arc::new(Notify::new());
    let reached = Arc::clone(&go_on);
    let engine = Scripted::start(move |mut exchange| {
        let reached = Arc::clone(&reached);
        async move {
            exchange.write(sse_head()).await;
            for n in 0..5 {
                exchange.write(chunk(&format!("data: {{\"usage\":{n}}}\n\n"))).await;
                reached.notified().await;
            }
            // Half a line is passed on as well: nobody here looks at lines.
            exchange.write(chunk("data: no end")).await;
            reached.notified().await;
            exchange.write(chunk("")).await;
            Some(exchange)
        }
    })
    .await;
    let sidecar = Sidecar::start(engine.port(), &[]);
    let mut answer = Ask::post("/v1/completions", "{}").open(sidecar.address()).await.unwrap();
    for n in 0..5 {
        assert_eq!(answer.until("\n\n").await, format!("data: {{\"usage\":{n}}}\n\n"));
        go_on.notify_one();
    }
    assert_eq!(answer.until("no end").await, "data: no end");
    go_on.notify_one();
    assert!(answer.data().await.is_none());
    sidecar.end().await;
}

#[tokio::test]
async fn a_body_without_length_or_chunks_ends_with_the_engines_connection() {
    let engine = Scripted::start(|mut exchange| async move {
        exchange.write("HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\n\r\nto the end").await;
        None
    })
    .await;
    let sidecar = Sidecar::start(engine.port(), &[]);
    for _ in 0..2 {
        let answer = Ask::get("/").send(sidecar.address()).await.ok();
        assert_eq!(answer.text(), "to the end");
    }
    sidecar.end().await;
}

#[tokio::test]
async fn an_answer_that_comes_before_the_body_was_read_reaches_the_client() {
    let rejecting = Scripted::start(|mut exchange| async move {
        exchange.write(json_answer(429, "{}")).await;
        Some(exchange)
    })
    .await;
    let sidecar = Sidecar::start(rejecting.port(), &[]);
    let answer = Ask::post("/v1/completions", "{}").send(sidecar.address()).await;
    assert_eq!(answer.status.as_u16(), 429);
    sidecar.end().await;
}
