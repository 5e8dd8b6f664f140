//! The log: JSON, one line for every intercepted request.

use crate::child::{Process, empty, engine, request_lines};
use crate::common::{APIS, Ask, SHORT_GRACE, reserve_port};
use kvferry_emulator::{Faults, Speeds};
use serde_json::Value;

#[tokio::test]
async fn every_intercepted_request_is_one_line_of_json() {
    let (prefill, decode) = (engine().await, engine().await);
    let process = Process::start(decode.addr().port(), &[]).await;
    let to = process.address;
    let target = prefill.host_port();
    let mut expected = 0;
    for route in APIS {
        for stream in [false, true] {
            let ask = Ask::post(route.path, route.body(stream)).header("x-request-id", "mine");
            let answer = ask.prefill(&target).send(to).await.ok();
            expected += 1;
            let log = process.requests(expected).await;
            let line = log.last().unwrap();
            let what = format!("{} stream={stream}: {line}", route.path);
            for (name, value) in [
                ("request_id", "mine"),
                ("api", route.label),
                ("path", route.path),
                ("method", "POST"),
                ("target", &target),
                ("outcome", "ok"),
            ] {
                assert_eq!(line[name], value, "{name} of {what}");
            }
            for (name, value) in
                [("status", 200), ("bytes_in", route.body(stream).len()), ("bytes_out", answer.body.len())]
            {
                assert_eq!(line[name], value, "{name} of {what}");
            }
            assert!(line["cached_tokens"].is_u64(), "{what}");
            let ms = |name: &str| line[name].as_f64().unwrap_or_else(|| panic!("no {name}: {what}"));
            let (prefill, decode, total) = (ms("prefill_ms"), ms("decode_ms"), ms("total_ms"));
            assert!(prefill > 0.0 && decode > 0.0 && prefill + decode <= total, "{what}");
            assert!(ms("decode_first_ms") <= decode && prefill <= ms("ttft_ms"), "{what}");
            assert!(ms("ttft_ms") <= total, "{what}");
        }
    }
    // What is not intercepted has no line.
    for path in ["/v1/models", "/health", "/nope"] {
        Ask::get(path).send(to).await;
    }
    assert_eq!(request_lines(&process.end().await).len(), expected);
}

#[tokio::test]
async fn requests_without_a_handoff_and_failures_have_their_line_too() {
    let (prefill, decode) = (engine().await, engine().await);
    let (nobody, _reserved) = reserve_port();
    let process = Process::start(
        decode.addr().port(),
        &["--max-body-size=10000", "--request-timeout=700ms", SHORT_GRACE],
    )
    .await;
    let to = process.address;
    let target = prefill.host_port();
    let body = APIS[0].body(false);
    let ask = || Ask::post(APIS[0].path, body.as_str());
    let mut lines = 0;
    let mut last = async |status: u16, outcome: &str, target: &str| {
        lines += 1;
        let line = process.requests(lines).await.pop().unwrap();
        assert_eq!(
            (line["status"].as_u64(), line["outcome"].as_str()),
            (Some(status.into()), Some(outcome)),
            "{line}"
        );
        assert_eq!(line["target"], target, "{line}");
        line
    };

    ask().send(to).await.ok();
    let line = last(200, "ok", "").await;
    assert!(line.get("prefill_ms").is_none_or(Value::is_null), "no prefill ran: {line}");
    assert!(line["decode_ms"].is_f64() && line["ttft_ms"].is_f64(), "{line}");

    ask().prefill("nonsense").send(to).await;
    let line = last(400, "bad_prefill_target", "nonsense").await;
    assert!(line.get("decode_ms").is_none_or(Value::is_null), "{line}");
    Ask::post(APIS[0].path, "[").prefill(&target).send(to).await;
    last(400, "malformed_body", &target).await;
    Ask::post(APIS[0].path, vec![b'x'; 10_001]).prefill(&target).send(to).await;
    last(413, "body_too_large", &target).await;
    let refusing = format!("127.0.0.1:{nobody}");
    ask().prefill(&refusing).send(to).await;
    last(502, "prefill_unreachable", &refusing).await;

    let once = |faults| Faults { times: Some(1), ..faults };
    let status = || Faults { status: Some(429), ..Faults::default() };
    prefill.set_faults(once(status()));
    ask().prefill(&target).send(to).await;
    let line = last(429, "prefill_refused", &target).await;
    assert!(line["prefill_ms"].is_f64(), "{line}");
    decode.set_faults(once(status()));
    ask().prefill(&target).send(to).await;
    last(429, "decode_refused", &target).await;
    empty([&prefill, &decode]).await;
    prefill.set_faults(once(Faults { hang: true, ..Faults::default() }));
    ask().prefill(&target).send(to).await;
    last(504, "request_timeout", &target).await;

    decode.set_speeds(Speeds { itl_ms: 5, ..Speeds::default() });
    let endless = APIS[0].value("go on", 100_000, true).to_string();
    let mut stream = Ask::post(APIS[0].path, endless.as_str()).open(to).await.unwrap();
    stream.until("data: ").await;
    drop(stream);
    last(200, "client_left", "").await;
    let mut stream = Ask::post(APIS[0].path, endless).prefill(&target).open(to).await.unwrap();
    assert!(!stream.end().await.1);
    let line = last(200, "request_timeout", &target).await;
    assert!(line["bytes_out"].as_u64() > Some(0), "{line}");
    empty([&prefill, &decode]).await;
    assert_eq!(request_lines(&process.end().await).len(), lines);
}

#[tokio::test]
async fn a_request_id_made_here_is_in_the_log_and_on_the_legs() {
    let (prefill, decode) = (engine().await, engine().await);
    let process = Process::start(decode.addr().port(), &[]).await;
    let ask = Ask::post(APIS[0].path, APIS[0].body(false)).prefill(&prefill.host_port());
    ask.send(process.address).await.ok();
    let line = process.requests(1).await.pop().unwrap();
    let seen = prefill.requests().pop().unwrap();
    assert_eq!(line["request_id"], seen.header_values("x-request-id")[0]);
    process.end().await;
}

#[tokio::test]
async fn the_log_says_where_it_listens_and_how_it_ended() {
    let decode = engine().await;
    let process = Process::start(decode.addr().port(), &["--vllm-port=9"]).await;
    let listening = process.logged("listening").await;
    let address = listening["fields"]["addr"].as_str().unwrap();
    assert!(address.ends_with(&format!(":{}", process.address.port())), "{address}");
    let log = process.end().await;
    assert!(log.iter().all(|line| line["timestamp"].is_string() && line["level"].is_string()));
    let warned = |about: &str| {
        let of = |line: &&Value| {
            line["level"] == "WARN" && line["fields"]["message"].as_str().unwrap().contains(about)
        };
        log.iter().filter(of).count()
    };
    assert_eq!(warned("--vllm-port is deprecated"), 1);
}

#[tokio::test]
async fn a_log_that_is_off_says_nothing() {
    let decode = engine().await;
    let mut process = Process::start(decode.addr().port(), &["--log-level=off"]).await;
    Ask::post(APIS[0].path, APIS[0].body(false)).send(process.address).await.ok();
    process.signal("TERM");
    assert_eq!(process.code().await, 0);
    assert!(process.log().is_empty());
}
