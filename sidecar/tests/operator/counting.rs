//! What each way for a request to end adds to the metrics: exactly this, and nothing else.

use std::collections::BTreeMap;

use crate::common::{APIS, Ask, PATIENCE, SHORT_GRACE, eventually, reserve_port, within};
use crate::pod::Pod;
use crate::scrape::Scrape;
use kvferry_emulator::{Faults, Speeds};

const CHAT: &str = "requests_total{api_type=\"chat_completions\"}";
const DISAGGREGATED: &str = "disagg_requests_total{disagg_type=\"p/d\"}";
const PREFILL: &str = "prefill_duration_seconds_count";
const DECODE: &str = "decode_duration_seconds_count";
const PREFILL_ERROR: &str = "request_errors_total{stage=\"prefill\"}";
const DECODE_ERROR: &str = "request_errors_total{stage=\"decode\"}";
const CANCELLED: &str = "cancels_total{leg=\"decode\"}";
const TTFT: &str = "ttft_seconds_count{api_type=\"chat_completions\"}";
const HANDOVER: &str = "handover_seconds_count";
const HANDED_OUT: &str = "kv_handed_out_total";
const CONSUMED: &str = "kv_settled_total{how=\"consumed\"}";
const RELEASED: &str = "kv_settled_total{how=\"released\"}";

fn finished(outcome: &str) -> String {
    format!("requests_finished_total{{outcome=\"{outcome}\"}}")
}

fn once() -> Faults {
    Faults { times: Some(1), ..Faults::default() }
}

/// A pod, and what its metrics were before the next request.
struct Counted {
    pod: Pod,
    before: Scrape,
}

impl Counted {
    async fn start(flags: &[&str]) -> Self {
        let pod = Pod::start(flags).await;
        let before = pod.scrape().await;
        Self { pod, before }
    }

    /// A handoff for chat.
    fn ask(&self, stream: bool) -> Ask {
        self.pod.ask(APIS[0].path, APIS[0].body(stream))
    }

    /// Waits until these series, and no others, are higher by one than they were.
    async fn adds(&mut self, expected: &[&str], outcome: &str) {
        let outcome = finished(outcome);
        let expected: BTreeMap<String, u64> =
            expected.iter().copied().chain([outcome.as_str()]).map(|name| (name.to_owned(), 1)).collect();
        self.adds_just(&expected).await;
    }

    async fn adds_just(&mut self, expected: &BTreeMap<String, u64>) {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let now = self.pod.scrape().await;
            let added = now.since(&self.before);
            // Once everything is at rest no more will come.
            if now.under_way() == 0.0 && (added == *expected || std::time::Instant::now() > deadline) {
                assert_eq!(added, *expected);
                self.before = now;
                return;
            }
            assert!(std::time::Instant::now() < deadline + PATIENCE, "under way: {now:?}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    async fn end(self) {
        self.pod.end().await;
    }
}

#[tokio::test]
async fn a_handoff_counts_once_in_each_place_whatever_its_api() {
    let mut counted = Counted::start(&[]).await;
    for route in APIS {
        for stream in [false, true] {
            counted.pod.ask(route.path, route.body(stream)).send(counted.pod.address()).await.ok();
            let requests = format!("requests_total{{api_type=\"{}\"}}", route.label);
            let ttft = format!("ttft_seconds_count{{api_type=\"{}\"}}", route.label);
            let expected =
                [&*requests, DISAGGREGATED, PREFILL, DECODE, &*ttft, HANDOVER, HANDED_OUT, CONSUMED];
            counted.adds(&expected, "ok").await;
        }
    }
    let scrape = counted.pod.scrape().await;
    for direction in ["in", "out", "to_prefill", "from_prefill"] {
        assert!(scrape.get(&format!("bytes_total{{direction=\"{direction}\"}}")) > 0.0, "{direction}");
    }
    assert!(scrape.get("inter_token_latency_seconds_count") > 0.0);
    counted.end().await;
}

#[tokio::test]
async fn the_lengths_of_bodies_add_up() {
    let pod = Pod::start(&[]).await;
    let mut sums = (0, 0);
    for stream in [false, true] {
        let body = APIS[0].body(stream);
        sums.0 += body.len();
        let answer = pod.ask(APIS[0].path, body).send(pod.address()).await.ok();
        sums.1 += answer.body.len();
    }
    pod.idle().await;
    let scrape = pod.scrape().await;
    let read =
        ["in", "out"].map(|way| scrape.get(&format!("bytes_total{{direction=\"{way}\"}}")).to_string());
    assert_eq!(read, [sums.0.to_string(), sums.1.to_string()]);
    pod.end().await;
}

#[tokio::test]
async fn requests_without_a_handoff_are_counted_and_time_no_stage() {
    let mut counted = Counted::start(&[]).await;
    for stream in [false, true] {
        let ask = Ask::post(APIS[0].path, APIS[0].body(stream));
        ask.send(counted.pod.address()).await.ok();
        counted.adds(&[CHAT, TTFT], "ok").await;
    }
    // The engine's own refusal is an answer like any other.
    Ask::post(APIS[0].path, "{}").send(counted.pod.address()).await;
    counted.adds(&[CHAT, TTFT], "ok").await;
    counted.end().await;
}

#[tokio::test]
async fn what_is_not_intercepted_is_not_counted() {
    let mut counted = Counted::start(&[]).await;
    for path in ["/health", "/v1/models", "/metrics", "/nope"] {
        Ask::get(path).prefill("127.0.0.1:1").send(counted.pod.address()).await;
    }
    Ask::get(APIS[0].path).send(counted.pod.address()).await;
    counted.adds_just(&BTreeMap::new()).await;
    counted.end().await;
}

#[tokio::test]
async fn a_prefill_that_fails_is_its_own_error_and_says_nothing_about_decode() {
    let (nobody, _reserved) = reserve_port();
    let mut counted = Counted::start(&["--prefill-timeout=500ms", SHORT_GRACE]).await;
    let to = counted.pod.address();

    counted.pod.prefill.set_faults(Faults { status: Some(429), ..once() });
    assert_eq!(counted.ask(true).send(to).await.status, 429);
    let failed = [CHAT, DISAGGREGATED, PREFILL, PREFILL_ERROR];
    let refused = [&failed[..], &[TTFT]].concat();
    counted.adds(&refused, "prefill_refused").await;

    let nowhere = Ask::post(APIS[0].path, APIS[0].body(true)).prefill(&format!("127.0.0.1:{nobody}"));
    nowhere.send(to).await.is_error(502, "prefill_unreachable", "connection refused");
    counted.adds(&failed, "prefill_unreachable").await;

    // Twice: on a kept connection it could be one that was closed as idle, and is tried again.
    counted.pod.prefill.set_faults(Faults { reset_before: true, times: Some(2), ..Faults::default() });
    assert_eq!(counted.ask(true).send(to).await.status, 502);
    counted.pod.prefill.set_faults(Faults::default());
    counted.adds(&failed, "prefill_broke").await;

    counted.pod.prefill.set_faults(Faults { hang: true, ..once() });
    assert_eq!(counted.ask(true).send(to).await.status, 504);
    let late = [&failed[..], &["cancels_total{leg=\"prefill\"}"]].concat();
    counted.adds(&late, "prefill_timeout").await;
    counted.end().await;
}

#[tokio::test]
async fn a_decode_that_fails_is_its_own_error() {
    let mut counted = Counted::start(&[]).await;
    let to = counted.pod.address();

    counted.pod.decode.set_faults(Faults { status: Some(429), ..once() });
    assert_eq!(counted.ask(true).send(to).await.status, 429);
    let failed = [CHAT, DISAGGREGATED, PREFILL, DECODE, DECODE_ERROR, HANDED_OUT, RELEASED];
    let released = [&failed[..], &["kv_releases_total{reason=\"decode_failed\"}"]].concat();
    let refused = [&released[..], &[TTFT, HANDOVER]].concat();
    counted.adds(&refused, "decode_refused").await;

    // Twice: on a kept connection it could be one that was closed as idle, and is tried again.
    counted.pod.decode.set_faults(Faults { reset_before: true, times: Some(2), ..Faults::default() });
    assert_eq!(counted.ask(true).send(to).await.status, 502);
    counted.pod.decode.set_faults(Faults::default());
    counted.adds(&released, "decode_broke").await;

    counted.pod.decode.set_faults(Faults { reset_after_bytes: Some(2000), ..once() });
    let body = APIS[0].value("go on", 100, true).to_string();
    assert!(counted.pod.ask(APIS[0].path, body).try_send(to).await.is_err());
    let broken = [CHAT, DISAGGREGATED, PREFILL, DECODE, DECODE_ERROR, TTFT, HANDOVER, HANDED_OUT, CONSUMED];
    counted.adds(&broken, "decode_broke").await;
    counted.end().await;
}

#[tokio::test]
async fn a_client_that_left_is_counted_as_such_wherever_it_left() {
    let mut counted = Counted::start(&[SHORT_GRACE]).await;
    let to = counted.pod.address();
    let client = |counted: &Counted| tokio::spawn(counted.ask(true).try_send(to));

    counted.pod.prefill.set_faults(Faults { hang: true, ..once() });
    let waiting = client(&counted);
    eventually("prefill hangs", || counted.pod.prefill.faults() == Faults::default()).await;
    waiting.abort();
    let in_prefill = [CHAT, DISAGGREGATED, PREFILL, PREFILL_ERROR, "cancels_total{leg=\"prefill\"}"];
    counted.adds(&in_prefill, "client_left").await;

    counted.pod.decode.set_faults(Faults { hang: true, ..once() });
    let waiting = client(&counted);
    eventually("decode hangs", || counted.pod.decode.faults() == Faults::default()).await;
    waiting.abort();
    let in_decode = [
        CHAT,
        DISAGGREGATED,
        PREFILL,
        DECODE,
        DECODE_ERROR,
        CANCELLED,
        HANDED_OUT,
        RELEASED,
        "kv_releases_total{reason=\"client_left\"}",
    ];
    counted.adds(&in_decode, "client_left").await;

    counted.pod.decode.set_speeds(Speeds { itl_ms: 5, ..Speeds::default() });
    let endless = APIS[0].value("go on", 100_000, true).to_string();
    let mut stream = counted.pod.ask(APIS[0].path, endless.as_str()).open(to).await.unwrap();
    stream.until("data: ").await;
    drop(stream);
    let in_stream =
        [CHAT, DISAGGREGATED, PREFILL, DECODE, DECODE_ERROR, CANCELLED, TTFT, HANDOVER, HANDED_OUT, CONSUMED];
    counted.adds(&in_stream, "client_left").await;

    let mut stream = Ask::post(APIS[0].path, endless).open(to).await.unwrap();
    stream.until("data: ").await;
    drop(stream);
    counted.adds(&[CHAT, TTFT], "client_left").await;
    counted.end().await;
}

#[tokio::test]
async fn errors_of_clients_and_routers_are_nobody_elses() {
    let mut counted = Counted::start(&["--allow-target=127.0.0.1/32", "--max-body-size=10000"]).await;
    let to = counted.pod.address();
    let target = counted.pod.prefill.host_port();
    for (target, body, outcome) in [
        ("nonsense", "{}".to_owned(), "bad_prefill_target"),
        ("10.0.0.1:80", "{}".to_owned(), "target_denied"),
        (&target, "[".to_owned(), "malformed_body"),
        (&target, "x".repeat(10_001), "body_too_large"),
    ] {
        Ask::post(APIS[0].path, body).prefill(target).send(to).await;
        counted.adds(&[CHAT], outcome).await;
    }
    counted.end().await;
}

#[tokio::test]
async fn a_decode_that_takes_too_long_is_its_own_error() {
    for (flag, outcome) in
        [("--decode-stall-timeout=300ms", "decode_stalled"), ("--request-timeout=700ms", "request_timeout")]
    {
        let mut counted = Counted::start(&[flag, SHORT_GRACE]).await;
        counted.pod.decode.set_faults(Faults { hang: true, ..once() });
        assert_eq!(counted.ask(true).send(counted.pod.address()).await.status, 504);
        let late = [
            CHAT,
            DISAGGREGATED,
            PREFILL,
            DECODE,
            DECODE_ERROR,
            CANCELLED,
            HANDED_OUT,
            RELEASED,
            "kv_releases_total{reason=\"deadline\"}",
        ];
        counted.adds(&late, outcome).await;
        counted.end().await;
    }
}

/// These series once each, and those as often as they say.
fn and(once: &[&str], more: &[(&str, u64)]) -> BTreeMap<String, u64> {
    let once = once.iter().map(|name| ((*name).to_owned(), 1));
    once.chain(more.iter().map(|(name, count)| ((*name).to_owned(), *count))).collect()
}

#[tokio::test]
async fn another_try_is_counted_by_where_it_went_and_how_it_ended() {
    let flags =
        ["--prefill-failure-policy=retry-other", "--prefill-max-retries=1", "--prefill-retry-backoff=1ms"];
    let mut counted = Counted::start(&flags).await;
    let to = counted.pod.address();
    let ok = finished("ok");
    let served = [CHAT, DISAGGREGATED, DECODE, TTFT, HANDOVER, HANDED_OUT, CONSUMED, ok.as_str()];

    counted.pod.prefill.set_faults(Faults { status: Some(503), ..once() });
    counted.ask(false).send(to).await.ok();
    let same = [&served[..], &[PREFILL_ERROR, "retries_total{kind=\"same\"}"]].concat();
    counted.adds_just(&and(&same, &[(PREFILL, 2)])).await;

    let (nobody, _reserved) = reserve_port();
    let refusing = format!("127.0.0.1:{nobody}");
    let candidates = format!("{refusing},{}", counted.pod.prefill.host_port());
    Ask::post(APIS[0].path, APIS[0].body(false)).prefill(&candidates).send(to).await.ok();
    // One that is not there is not tried twice while there is another.
    let both = ["retries_total{kind=\"same\"}", "retries_total{kind=\"other\"}"];
    let other =
        [&served[..], &[PREFILL_ERROR, both[1], "prefill_failover_total{outcome=\"other\"}"]].concat();
    counted.adds_just(&and(&other, &[(PREFILL, 2)])).await;

    let candidates = format!("{refusing},{refusing}");
    let answer = Ask::post(APIS[0].path, APIS[0].body(false)).prefill(&candidates).send(to).await;
    answer.is_error(503, "prefill_exhausted", "no prefill engine could serve this request");
    let exhausted = finished("prefill_exhausted");
    let failed = [CHAT, DISAGGREGATED, exhausted.as_str(), "prefill_failover_total{outcome=\"failed\"}"];
    let failed = [&failed[..], &both].concat();
    counted.adds_just(&and(&failed, &[(PREFILL, 3), (PREFILL_ERROR, 3)])).await;
    counted.end().await;
}

#[tokio::test]
async fn local_prefill_is_counted_with_its_budget() {
    let flags = ["--prefill-failure-policy=local", "--prefill-local-ratio=0", "--prefill-local-min-rate=1"];
    let mut counted = Counted::start(&flags).await;
    let (nobody, _reserved) = reserve_port();
    let ask = || Ask::post(APIS[0].path, APIS[0].body(false)).prefill(&format!("127.0.0.1:{nobody}"));
    // The budget refills by one a second, so at some point of a row without pause it is spent.
    loop {
        let answer = ask().send(counted.pod.address()).await;
        let failed = [CHAT, DISAGGREGATED, PREFILL, PREFILL_ERROR];
        if answer.status == 503 {
            let over = [&failed[..], &["prefill_failover_total{outcome=\"over_budget\"}"]].concat();
            counted.adds(&over, "prefill_exhausted").await;
            break;
        }
        let local = ["prefill_failover_total{outcome=\"local\"}", "retries_total{kind=\"local\"}"];
        counted.adds(&[&failed[..], &local, &[DECODE, TTFT]].concat(), "ok").await;
    }
    counted.end().await;
}

#[tokio::test]
async fn connections_of_clients_and_to_engines_are_counted_while_they_are_open() {
    let pod = Pod::start(&["--workers=1"]).await;
    let mut client = crate::common::Client::connect(pod.address(), crate::common::Protocol::Http1).await;
    client.send(pod.ask(APIS[0].path, APIS[0].body(false))).await.ok();
    pod.idle().await;
    let scrape = pod.scrape().await;
    assert_eq!(scrape.get("client_connections").to_string(), "1");
    for leg in ["prefill", "decode"] {
        let opened = scrape.get(&format!("upstream_connections_opened_total{{leg=\"{leg}\"}}"));
        assert_eq!(opened.to_string(), "1", "{leg}");
    }
    pod.decode.set_faults(Faults { hang: true, ..once() });
    let ask = pod.ask(APIS[0].path, APIS[0].body(false));
    let hanging = tokio::spawn(async move { client.begin(ask).await.is_ok() });
    eventually("decode hangs", || pod.decode.faults() == Faults::default()).await;
    let state = |scrape: &Scrape, leg: &str, state: &str| {
        scrape.get(&format!("upstream_connections{{leg=\"{leg}\",state=\"{state}\"}}")).to_string()
    };
    let scrape = pod.scrape().await;
    assert_eq!(state(&scrape, "decode", "in_use"), "1");
    assert_eq!(state(&scrape, "prefill", "idle"), "1");
    hanging.abort();
    within("the client is gone", async {
        while pod.scrape().await.get("client_connections") > 0.0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    // Kept connections are closed after a few seconds.
    within("no connection is left", async {
        let open = |scrape: &Scrape| {
            let all = ["prefill", "decode"].iter().flat_map(|leg| [(leg, "idle"), (leg, "in_use")]);
            all.map(|(leg, what)| state(scrape, leg, what)).any(|count| count != "0")
        };
        while open(&pod.scrape().await) {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await;
    pod.end().await;
}

#[tokio::test]
async fn an_answer_begun_with_prefills_token_is_counted_by_how_it_goes_on() {
    let pod = Pod::start(&["--first-token-forwarding"]).await;
    let body = |tokens| {
        let mut body = APIS[1].value("go on", tokens, true);
        body["temperature"] = 0.into();
        body.to_string()
    };
    let ask = || pod.ask(APIS[1].path, body(5));
    ask().send(pod.address()).await.ok();

    pod.decode.set_faults(Faults { status: Some(503), ..once() });
    assert!(ask().try_send(pod.address()).await.is_err());
    pod.idle().await;

    pod.decode.set_faults(Faults { hang: true, ..once() });
    let mut answer = ask().open(pod.address()).await.unwrap();
    answer.until("\n\n").await;
    drop(answer);
    pod.idle().await;

    // Not exact, so not begun: it counts nowhere.
    pod.ask(APIS[0].path, APIS[0].body(true)).send(pod.address()).await.ok();

    let scrape = pod.scrape().await;
    let count = |outcome: &str| scrape.get(&format!("first_token_total{{outcome=\"{outcome}\"}}"));
    let counts = ["joined", "resumed", "broken", "client_left"].map(|outcome| count(outcome).to_string());
    assert_eq!(counts, ["1", "0", "1", "1"]);
    pod.end().await;
}
