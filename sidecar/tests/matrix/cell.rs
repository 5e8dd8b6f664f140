//! One cell: an event happens to one way of handing over, and what everybody sees of it is compared with the table.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use kvferry_emulator::{Config, Emulator, Faults, Speeds};
use kvferry_handoff::Counts;
use serde_json::Value;
use socket2::Socket;

use crate::column::{Column, SESSION};
use crate::common::{
    Ask, Dice, LEASE, LONG_GRACE, Opened, PATIENCE, SHORT_GRACE, Sidecar, eventually, reserve_port,
};
use crate::event::Event;
use crate::expect::{Account, Engine, Held, Sees};
use crate::table::Expected;

/// The lease of cells in which it is what frees the KV.
const SHORT_LEASE: Duration = Duration::from_secs(2);

/// Between two looks at a state that is waited for.
const LOOK: Duration = Duration::from_millis(3);

/// What an engine says when it is told to fail: its spaces must come through.
pub(crate) const WORDS: &str = "{\"error\": {\"engine\": \"own\" } }\n";

/// Tokens of an answer that is to end, and of one that is not.
const SHORT: usize = 12;
const LONG: usize = 500;

/// Attempts to leave just when prefill answers.
const ATTEMPTS: u64 = 8;

/// Two engines, the sidecar between them, and what was so before the event.
pub(crate) struct Cell {
    column: Column,
    event: Event,
    prefill: Option<Emulator>,
    decode: Option<Emulator>,
    /// Keeps the port of a decode engine that is gone from others.
    _decode_port: Socket,
    sidecar: Sidecar,
    before: Counts,
    /// What was said in the turn before, if there was one.
    reply: Option<String>,
}

/// Flags that an event needs. Limits are as short as a busy machine allows for what comes before the event.
fn flags(event: Event, column: Column) -> Vec<&'static str> {
    match event {
        Event::PrefillHangs => vec!["--prefill-timeout=1s", SHORT_GRACE],
        Event::DecodeHangs if column == Column::Sglang => vec!["--prefill-timeout=1s"],
        Event::PrefillTalksNonsense | Event::DecodeHangs => vec!["--decode-stall-timeout=1s"],
        Event::StreamHangs => vec!["--decode-stall-timeout=3s"],
        Event::RequestTakesTooLong => vec!["--request-timeout=2s"],
        Event::ClientLeavesInPrefill => vec![SHORT_GRACE],
        Event::ClientLeavesAsPrefillEnds | Event::ClientLeavesBetween => vec![LONG_GRACE],
        Event::HugeBody => vec!["--max-body-size=4000"],
        _ => Vec::new(),
    }
}

/// Runs one cell. Returns in what it differs from the table.
pub(crate) async fn run(column: Column, event: Event, expected: &Expected) -> Vec<String> {
    let lease = if expected.end.held == Held::Nothing { LEASE } else { SHORT_LEASE };
    let mut cell = Cell::start(column, event, lease).await;
    cell.prepare().await;
    let sees = cell.happens().await;
    let mut differs = Vec::new();
    if sees != expected.sees.to_string() {
        differs.push(format!("the client sees {sees}, not {}", expected.sees));
    }
    differs.extend(cell.settles(expected.end.account).await);
    let (prefill, decode) = (cell.legs(cell.prefill.as_ref()), cell.legs(cell.decode.as_ref()));
    for (engine, leg, seen) in [("prefill", expected.prefill, prefill), ("decode", expected.decode, decode)] {
        if !leg.allows(seen) {
            differs.push(format!("{engine} got {seen} legs, not {leg:?}"));
        }
    }
    if !cell.reuses() {
        differs.push("prefill was not told of the turn before".to_owned());
    }
    let expired = cell.prefill.as_ref().map_or(0, |prefill| prefill.state().totals.expired);
    if match expected.end.held {
        Held::Nothing => expired != 0,
        Held::UntilLease => expired != 1,
        Held::AtMostUntilLease => false,
    } {
        differs.push(format!("{expired} leases ran out, not as in {:?}", expected.end.held));
    }
    let served = cell.serves_on().await;
    let last = cell.sidecar.stop(Duration::from_secs(2)).await;
    // All there ever was, so whatever came late is in it.
    let counts = event_only(cell.before, last, served);
    if !expected.end.account.allows(counts) {
        differs.push(format!("the ledger says {counts:?}, not {:?}", expected.end.account));
    }
    differs
}

impl Cell {
    async fn start(column: Column, event: Event, lease: Duration) -> Self {
        let (port, decode_port) = reserve_port();
        let (prefill, decode) = column.engines(lease);
        let prefill = Emulator::start(prefill).await.unwrap();
        let decode = Emulator::start(Config { port, ..decode }).await.unwrap();
        let mut all = column.flags(&prefill, &decode);
        all.push("--workers=1".to_owned());
        all.extend(flags(event, column).into_iter().map(str::to_owned));
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let sidecar = Sidecar::start(port, &all);
        let before = sidecar.ledger();
        Self {
            column,
            event,
            prefill: Some(prefill),
            decode: Some(decode),
            _decode_port: decode_port,
            sidecar,
            before,
            reply: None,
        }
    }

    fn prefill(&self) -> &Emulator {
        self.prefill.as_ref().expect("it is stopped by its own event only")
    }

    fn decode(&self) -> &Emulator {
        self.decode.as_ref().expect("it is stopped by its own event only")
    }

    fn address(&self) -> SocketAddr {
        self.sidecar.address()
    }

    /// What the client asks for when the event happens.
    fn body(&self, stream: bool, tokens: usize) -> Value {
        let body = self.column.body(stream, tokens);
        match &self.reply {
            Some(reply) => Column::next_turn(body, reply),
            None => body,
        }
    }

    fn ask(&self, body: &Value) -> Ask {
        self.ask_of(&self.prefill().host_port(), body)
    }

    fn ask_of(&self, target: &str, body: &Value) -> Ask {
        Ask::post(self.column.path(), body.to_string()).prefill(target).header("x-session-token", SESSION)
    }

    /// What has to be so before the event can happen.
    async fn prepare(&mut self) {
        let body = self.column.body(true, SHORT);
        if self.column == Column::Push {
            // Only its answer tells who the prefill engine is.
            self.ask(&body).send(self.address()).await.ok();
        }
        if self.column == Column::Bidirectional {
            let answer = self.ask(&self.column.body(false, SHORT)).send(self.address()).await.ok().json();
            self.reply = answer["choices"][0]["message"]["content"].as_str().map(str::to_owned);
        }
        if self.column == Column::DecodeFirst && self.event.is_for_first() {
            // The prompt is in the storage, so the decode engine takes the request when it is asked first.
            let mut store = body.clone();
            store["cache_hit_threshold"] = 0.into();
            Ask::post(self.column.path(), store.to_string()).send(self.prefill().addr()).await.ok();
        }
        let ledger = || self.sidecar.ledger();
        eventually("nothing is outstanding", || ledger().outstanding() == 0).await;
        let idle = |engine: &Emulator| self.column.is_idle(engine);
        eventually("engines are idle", || idle(self.prefill()) && idle(self.decode())).await;
        self.prefill().clear_requests();
        self.decode().clear_requests();
        self.before = self.sidecar.ledger();
    }

    /// Acts on the legs, and not on releases.
    fn on_legs(&self, faults: Faults) -> Faults {
        Faults { path: Some(self.column.path().to_owned()), ..faults }
    }

    fn prefill_does(&self, faults: Faults) {
        self.prefill().set_faults(self.on_legs(faults));
    }

    fn decode_does(&self, faults: Faults) {
        self.decode().set_faults(self.on_legs(faults));
    }

    /// Lets the event happen.
    async fn happens(&mut self) -> String {
        let refuses =
            |status| Faults { status: Some(status), body: Some(WORDS.to_owned()), ..Faults::default() };
        let hangs = || Faults { hang: true, ..Faults::default() };
        match self.event {
            Event::PrefillRefuses => self.prefill_does(refuses(422)),
            Event::PrefillFails => self.prefill_does(refuses(503)),
            Event::PrefillBreaksOff => {
                self.prefill_does(Faults { reset_after_bytes: Some(20), ..Faults::default() });
            }
            Event::PrefillTalksNonsense => self.prefill_does(Faults { not_json: true, ..Faults::default() }),
            Event::PrefillHangs => self.prefill_does(hangs()),
            Event::BootstrapFails => {
                let path = if self.column == Column::Sglang { "/route" } else { "/query" };
                self.prefill().set_faults(Faults { path: Some(path.to_owned()), ..refuses(503) });
            }
            Event::DecodeFails => self.decode_does(refuses(503)),
            Event::DecodeBreaksOff => self.decode_does(Faults { reset_before: true, ..Faults::default() }),
            Event::DecodeHangs | Event::RequestTakesTooLong | Event::ClientLeavesInDecode => {
                self.decode_does(hangs());
            }
            Event::WholeAnswerBreaksOff => {
                self.decode_does(Faults { reset_after_bytes: Some(40), ..Faults::default() });
            }
            Event::ReleaseIsRefused => self.decode().set_faults(refuses(500)),
            Event::PrefillIsAway
            | Event::DecodeIsAway
            | Event::StreamBreaksOff
            | Event::StreamHangs
            | Event::ClientLeavesInPrefill
            | Event::ClientLeavesAsPrefillEnds
            | Event::ClientLeavesBetween
            | Event::ClientLeavesInStream
            | Event::MalformedJson
            | Event::HugeBody => {}
        }
        let streams = self.event != Event::WholeAnswerBreaksOff;
        let ask = self.ask(&self.body(streams, SHORT));
        match self.event {
            Event::PrefillIsAway if self.column == Column::Push => {
                // It is the address that is known.
                self.prefill.take().expect("it is there until now").stop();
                self.seen(ask).await
            }
            Event::PrefillIsAway => {
                // What is beside it, like a bootstrap server, is still there.
                let target = format!("{}:1", self.prefill().addr().ip());
                self.seen(self.ask_of(&target, &self.body(true, SHORT))).await
            }
            Event::DecodeIsAway => {
                self.decode.take().expect("it is there until now").stop();
                self.seen(ask).await
            }
            Event::MalformedJson => {
                let body = r#"{"messages": [, "model": "tiny"}"#;
                let ask = Ask::post(self.column.path(), body).prefill(&self.prefill().host_port());
                self.seen(ask).await
            }
            Event::HugeBody => {
                let mut body = self.body(true, SHORT);
                body["user"] = "x".repeat(8000).into();
                self.seen(self.ask(&body)).await
            }
            Event::StreamBreaksOff | Event::StreamHangs | Event::ClientLeavesInStream => {
                self.in_stream().await
            }
            Event::ClientLeavesInPrefill => self.leaves_in_prefill(ask, 10).await,
            Event::ClientLeavesAsPrefillEnds => self.leaves_in_prefill(ask, 200).await,
            Event::ClientLeavesBetween => self.leaves_between().await,
            Event::ClientLeavesInDecode => self.leaves_in_decode(ask).await,
            _ => self.seen(ask).await,
        }
    }

    async fn seen(&self, ask: Ask) -> String {
        match ask.open(self.address()).await {
            Ok(answer) => rest(answer, String::new()).await,
            Err(error) => format!("no answer: {error}"),
        }
    }

    /// Something happens when the client has a part of its stream.
    async fn in_stream(&self) -> String {
        self.decode().set_speeds(Speeds { itl_ms: 20, ..Speeds::default() });
        let ask = self.ask(&self.body(true, LONG));
        let mut answer = ask.open(self.address()).await.unwrap();
        let mut read = String::new();
        // More than what a prefill engine could have computed.
        while read.matches("data: ").count() < 3 {
            read += &answer.until("\n\n").await;
        }
        let chunks = self.column == Column::Chunked;
        match self.event {
            Event::ClientLeavesInStream => {
                drop(answer);
                return Sees::Nothing.to_string();
            }
            // Of chunks it is the next request that it happens to.
            Event::StreamBreaksOff if chunks => {
                self.decode_does(Faults { reset_before: true, ..Faults::default() });
            }
            Event::StreamBreaksOff => self.decode().restart(),
            _ if chunks => self.decode_does(Faults { hang: true, ..Faults::default() }),
            _ => self.decode().set_speeds(Speeds { itl_ms: 3_600_000, ..Speeds::default() }),
        }
        rest(answer, read).await
    }

    async fn leaves_in_prefill(&self, ask: Ask, tokens_per_second: u64) -> String {
        self.prefill().set_speeds(Speeds { prefill_rate: tokens_per_second, ..Speeds::default() });
        let client = tokio::spawn(ask.try_send(self.address()));
        eventually("prefill computes", || self.prefill().state().requests.running == 1).await;
        if self.column.overlaps() {
            eventually("decode waits", || self.decode().state().requests.waiting == 1).await;
        }
        client.abort();
        Sees::Nothing.to_string()
    }

    async fn leaves_between(&self) -> String {
        self.prefill_does(Faults { delay_ms: 2, ..Faults::default() });
        let mut dice = Dice::new(20_261_121);
        for n in 0..ATTEMPTS {
            let ask = self.ask(&self.body(n % 2 == 0, SHORT));
            let client = tokio::spawn(ask.try_send(self.address()));
            tokio::time::sleep(Duration::from_micros(dice.below(9_000))).await;
            client.abort();
        }
        Sees::Nothing.to_string()
    }

    async fn leaves_in_decode(&self, ask: Ask) -> String {
        let client = tokio::spawn(ask.try_send(self.address()));
        eventually("decode was asked", || self.legs(self.decode.as_ref()) == 1).await;
        if self.column.overlaps() && self.column != Column::Sglang {
            let leased = || self.prefill().state().blocks.held.leased;
            eventually("prefill has computed the KV", || leased() > 0).await;
        }
        client.abort();
        Sees::Nothing.to_string()
    }

    /// Waits until nothing is held, nothing runs and the ledger says what it is to say. `Some`: that was not to be.
    async fn settles(&self, account: Account) -> Option<String> {
        let deadline = Instant::now() + PATIENCE;
        let idle =
            |engine: &Option<Emulator>| engine.as_ref().is_none_or(|engine| self.column.is_idle(engine));
        let mut steady = 0;
        loop {
            let counts = self.sidecar.ledger();
            let settled = account.allows(event_only(self.before, counts, 0))
                && counts.outstanding() == 0
                && self.sidecar.connections() == 0
                && idle(&self.prefill)
                && idle(&self.decode);
            // A request may be between two of its steps.
            steady = if settled { steady + 1 } else { 0 };
            if steady == 5 {
                return None;
            }
            if Instant::now() > deadline {
                let mut left = format!("left behind: {counts:?}");
                for engine in [&self.prefill, &self.decode].into_iter().flatten() {
                    let state = engine.state();
                    let _ = write!(left, "; {} {:?} {:?}", state.role, state.requests, state.leases);
                }
                return Some(left);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Legs that an engine got; neither releases nor questions.
    fn legs(&self, engine: Option<&Emulator>) -> usize {
        let requests = engine.map_or_else(Vec::new, Emulator::requests);
        requests.iter().filter(|request| request.path == self.column.path()).count()
    }

    /// Whether a prefill leg behind a turn was told where that turn's KV is. Of several, the first.
    fn reuses(&self) -> bool {
        let requests = self.prefill.as_ref().map_or_else(Vec::new, Emulator::requests);
        let leg = requests.iter().find(|request| request.path == self.column.path());
        let body = leg.and_then(|leg| leg.body.as_deref());
        self.reply.is_none() || body.is_none_or(|body| body.contains("\"remote_num_tokens\""))
    }

    /// Afterwards everything works, as far as there are engines. Returns how often KV was handed out and read for it.
    async fn serves_on(&self) -> u64 {
        for engine in [&self.prefill, &self.decode].into_iter().flatten() {
            engine.set_faults(Faults::default());
            engine.set_speeds(Speeds::default());
        }
        let body = self.column.body(true, 2);
        let ask = match (&self.prefill, &self.decode) {
            (Some(_), Some(_)) => self.ask(&body),
            (None, Some(_)) => Ask::post(self.column.path(), body.to_string()),
            _ => Ask::get("/health"),
        };
        ask.send(self.address()).await.ok();
        let handed_over = self.prefill.is_some() && self.decode.is_some() && self.column.is_accounted_for();
        u64::from(handed_over)
    }
}

/// What the ledger says besides what was there before, and besides KV that was read afterwards.
fn event_only(before: Counts, now: Counts, served: u64) -> Counts {
    Counts {
        handed_out: now.handed_out - before.handed_out - served,
        consumed: now.consumed - before.consumed - served,
        released: now.released - before.released,
        expired: now.expired - before.expired,
    }
}

/// What the client makes of an answer of which it has `read` something.
pub(crate) async fn rest(mut answer: Opened, mut read: String) -> String {
    let complete = loop {
        match answer.data().await {
            Some(Ok(data)) => read += &String::from_utf8_lossy(&data),
            end => break end.is_none(),
        }
    };
    let header = |name: &str| answer.headers.get(name).map_or("", |value| value.to_str().unwrap());
    let status = answer.status.as_u16();
    let code = header("x-kvferry-error");
    let sees = if !complete {
        match status {
            200 => Sees::Cut,
            _ => return format!("{status}, cut"),
        }
    } else if !code.is_empty() {
        Sees::Error(status, code)
    } else if status == 200 {
        match read.lines().find_map(|line| line.strip_prefix("data: {\"error\":")) {
            None => Sees::Answer,
            Some(error) => {
                let error: Value = serde_json::from_str(error.strip_suffix('}').unwrap()).unwrap();
                assert!(read.ends_with("data: [DONE]\n\n"), "{read}");
                Sees::ErrorEvent(u16::try_from(error["code"].as_u64().unwrap()).unwrap())
            }
        }
    } else {
        match header("x-emulator-role") {
            // Its own as well: what it could not read back.
            "prefill" if read == WORDS || read.contains("KV load failed") => {
                Sees::Words(Engine::Prefill, status)
            }
            // Words that no fault put into its mouth are its own as well.
            "decode" => Sees::Words(Engine::Decode, status),
            _ => return format!("{status} {read}"),
        }
    };
    sees.to_string()
}
