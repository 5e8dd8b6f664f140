//! The stage before the matrix: what can go wrong with encoders, whatever the connector behind them.

use std::time::Duration;

use kvferry_emulator::{Config, Emulator, Faults, Role, SharedStore};
use serde_json::{Value, json};

use crate::cell::{WORDS, rest};
use crate::common::{APIS, Ask, Sidecar, eventually};
use crate::expect::Engine::Prefill;
use crate::expect::Leg::{No, Once};
use crate::expect::Sees::{Answer, Error, Nothing, Words};
use crate::expect::{Leg, Sees};

const ENCODERS: &str = "x-encoder-hosts-ports";
const CHAT: &str = APIS[0].path;

/// How long an encoder keeps what nobody fetches.
const LEASE: Duration = Duration::from_secs(2);

/// How encoders hand their outputs over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    Example,
    Nixl,
}

impl Column {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Example => "ec-example",
            Self::Nixl => "ec-nixl",
        }
    }
}

/// What happens to the second of two encoders, or behind both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    Fails,
    IsAway,
    BreaksOff,
    TalksNonsense,
    Hangs,
    ClientLeaves,
    PrefillFails,
}

impl Event {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Fails => "An encoder answers 4xx or 5xx",
            Self::IsAway => "An encoder cannot be reached",
            Self::BreaksOff => "An encoder dies in its answer",
            Self::TalksNonsense => "An encoder answers 200 with garbage",
            Self::Hangs => "An encoder hangs",
            Self::ClientLeaves => "The client leaves while encoders work",
            Self::PrefillFails => "Prefill answers 5xx after encoders have done their work",
        }
    }
}

/// What is left in the encoder that did its part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    Stored,
    UntilLease,
}

impl Kept {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Stored => "nothing: outputs are in the shared storage, and age out there",
            Self::UntilLease => "encoders: outputs that are done, until their own lease ends",
        }
    }
}

/// What is expected in these columns.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) event: Event,
    pub(crate) columns: &'static [Column],
    pub(crate) sees: Sees<'static>,
    pub(crate) prefill: Leg,
    pub(crate) decode: Leg,
    pub(crate) kept: Kept,
}

const fn cell(
    event: Event,
    columns: &'static [Column],
    sees: Sees<'static>,
    (prefill, decode): (Leg, Leg),
    kept: Kept,
) -> Expected {
    Expected { event, columns, sees, prefill, decode, kept }
}

pub(crate) const MATRIX: &[Expected] = &[
    cell(Event::Fails, &[Column::Example], Error(502, "encode_failed"), (No, No), Kept::Stored),
    cell(Event::Fails, &[Column::Nixl], Error(502, "encode_failed"), (No, No), Kept::UntilLease),
    cell(Event::IsAway, &[Column::Example], Error(502, "encode_failed"), (No, No), Kept::Stored),
    cell(Event::IsAway, &[Column::Nixl], Error(502, "encode_failed"), (No, No), Kept::UntilLease),
    cell(Event::BreaksOff, &[Column::Example], Error(502, "encode_failed"), (No, No), Kept::Stored),
    cell(Event::BreaksOff, &[Column::Nixl], Error(502, "encode_failed"), (No, No), Kept::UntilLease),
    // What is not in the storage is encoded by the engine that computes the prompt.
    cell(Event::TalksNonsense, &[Column::Example], Answer, (Once, Once), Kept::Stored),
    cell(Event::TalksNonsense, &[Column::Nixl], Error(502, "encode_failed"), (No, No), Kept::UntilLease),
    cell(Event::Hangs, &[Column::Example], Error(504, "encode_timeout"), (No, No), Kept::Stored),
    cell(Event::Hangs, &[Column::Nixl], Error(504, "encode_timeout"), (No, No), Kept::UntilLease),
    cell(Event::ClientLeaves, &[Column::Example], Nothing, (No, No), Kept::Stored),
    cell(Event::ClientLeaves, &[Column::Nixl], Nothing, (No, No), Kept::UntilLease),
    cell(Event::PrefillFails, &[Column::Example], Words(Prefill, 503), (Once, No), Kept::Stored),
    cell(Event::PrefillFails, &[Column::Nixl], Words(Prefill, 503), (Once, No), Kept::UntilLease),
];

/// Two encoders and what comes behind them.
struct Stages {
    encoders: [Emulator; 2],
    prefill: Emulator,
    decode: Emulator,
    sidecar: Sidecar,
}

impl Stages {
    async fn start(column: Column, event: Event) -> Self {
        let store = (column == Column::Example).then(SharedStore::in_memory);
        let engine = |role| {
            let config = Config { role, encoder_store: store.clone(), kv_lease: LEASE, ..Config::default() };
            Emulator::start(config)
        };
        let encoders = [engine(Role::Encode).await.unwrap(), engine(Role::Encode).await.unwrap()];
        let (prefill, decode) = (engine(Role::Prefill).await.unwrap(), engine(Role::Decode).await.unwrap());
        let limit = if event == Event::Hangs { "--prefill-timeout=1s" } else { "--prefill-timeout=1m" };
        let flags = [&format!("--ec-connector={}", column.name()), limit, "--workers=1"];
        let sidecar = Sidecar::start(decode.addr().port(), &flags);
        Self { encoders, prefill, decode, sidecar }
    }

    fn ask(&self, second: &str) -> Ask {
        let image = |name: &str| json!({"type": "image_url", "image_url": {"url": name}});
        let body: Value = json!({"model": "tiny", "max_tokens": 5,
            "messages": [{"role": "user", "content": [image("http://a/1"), image("http://a/2")]}]});
        Ask::post(CHAT, body.to_string())
            .prefill(&self.prefill.host_port())
            .header(ENCODERS, &format!("{},{second}", self.encoders[0].host_port()))
    }

    /// Lets the event happen.
    async fn happens(&self, event: Event) -> String {
        let [first, second] = &self.encoders;
        let mut address = second.host_port();
        match event {
            Event::Fails => second.set_faults(Faults { status: Some(500), ..Faults::default() }),
            Event::IsAway => "127.0.0.1:1".clone_into(&mut address),
            Event::BreaksOff => {
                second.set_faults(Faults { reset_after_bytes: Some(5), ..Faults::default() });
            }
            Event::TalksNonsense => second.set_faults(Faults { not_json: true, ..Faults::default() }),
            Event::Hangs | Event::ClientLeaves => {
                second.set_faults(Faults { hang: true, ..Faults::default() });
            }
            Event::PrefillFails => self.prefill.set_faults(Faults {
                status: Some(503),
                body: Some(WORDS.to_owned()),
                path: Some(CHAT.to_owned()),
                ..Faults::default()
            }),
        }
        let ask = self.ask(&address);
        if event == Event::ClientLeaves {
            let client = tokio::spawn(ask.try_send(self.sidecar.address()));
            eventually("both encoders were asked", || {
                !first.requests().is_empty() && !second.requests().is_empty()
            })
            .await;
            client.abort();
            return Nothing.to_string();
        }
        rest(ask.open(self.sidecar.address()).await.unwrap(), String::new()).await
    }
}

/// Runs one cell. Returns in what it differs from the table.
pub(crate) async fn run(column: Column, expected: &Expected) -> Vec<String> {
    let stages = Stages::start(column, expected.event).await;
    let sees = stages.happens(expected.event).await;
    let mut differs = Vec::new();
    if sees != expected.sees.to_string() {
        differs.push(format!("the client sees {sees}, not {}", expected.sees));
    }
    let all = || stages.encoders.iter().chain([&stages.prefill, &stages.decode]);
    eventually("nothing is held", || {
        stages.sidecar.connections() == 0 && all().all(|engine| engine.state().idle())
    })
    .await;
    for (engine, leg) in [(&stages.prefill, expected.prefill), (&stages.decode, expected.decode)] {
        let seen = engine.requests().len();
        if !leg.allows(seen) {
            differs.push(format!("{} got {seen} legs, not {leg:?}", engine.state().role));
        }
    }
    for engine in all() {
        engine.set_faults(Faults::default());
    }
    stages.ask(&stages.encoders[1].host_port()).send(stages.sidecar.address()).await.ok();
    stages.sidecar.end().await;
    differs
}
