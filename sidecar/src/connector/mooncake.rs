//! `mooncake`: vLLM's MooncakeConnector (spec/sidecar.md 3.5). Both legs carry a transfer id; the decode leg also says
//! which engine computes, and waits for that engine's KV.
//!
//! The engine's id is asked of the prefill pod's bootstrap server, since it is new in every life of the engine. An id of a
//! former life would let the decode engine wait for nobody, so it is remembered only for as long as no engine can restart
//! in, and forgotten when anything fails.
//!
//! vLLM hands KV over only for a prefill that was cut off by its length limit. So whatever `--prefill-limits` says, the
//! prefill leg must not stop at its one token by itself: an end of sequence, or a stop token. Of the APIs only Messages
//! cannot be asked for that. Its answer says when it has happened, and decode is then sent anew, to compute the prompt.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use kvferry_contract::Endpoint;
use kvferry_splice::{Edits, Malformed, scan};
use serde::{Deserialize, Serialize};

use super::nixlv2::KV;
use super::{
    Accepted, Attempt, Connector, Options, Outgoing, Question, ReleaseRequest, Unusable, fresh, limits,
    release,
};
use crate::request::Asked;
use crate::request::route::Api;

/// Which of the prefill pod's engines computes.
const RANK: HeaderName = HeaderName::from_static("x-data-parallel-rank");

/// How long the bootstrap server may take to answer: vLLM's own limit for it.
const QUESTION_PATIENCE: Duration = Duration::from_secs(5);

/// How long an answer holds. Engines take tens of seconds to restart.
const FRESH: Duration = Duration::from_secs(1);

/// Prefill engines remembered at most; one more is asked for every request. No pool has so many.
const MAX_REMEMBERED: usize = 1024;

/// How long prefill may take: by then (`VLLM_MOONCAKE_ABORT_REQUEST_TIMEOUT`) the prefill engine gives its KV up itself.
const PATIENCE: Duration = Duration::from_secs(480);

/// What has to be found in a body.
const WATCH: [&str; 1 + limits::NEVER_STOPPING_WATCH.len()] = {
    let [ignore, stop] = limits::NEVER_STOPPING_WATCH;
    [KV, ignore, stop]
};

/// Why a Messages prefill ended whose one token was an end of sequence.
const STOPPED: &[u8] = b"\"end_turn\"";

/// How much of a wrong answer of the bootstrap server is told, in bytes.
const MAX_TOLD: usize = 200;

/// The connector.
pub fn connector(options: &Options) -> Arc<dyn Connector> {
    Arc::new(Mooncake { port: options.mooncake_bootstrap_port, known: Mutex::default() })
}

#[derive(Debug)]
struct Mooncake {
    port: u16,
    known: Mutex<HashMap<Endpoint, Known>>,
}

/// What a bootstrap server said.
#[derive(Debug, Clone)]
struct Known {
    engines: Arc<[Engine]>,
    /// `None` once it is doubted.
    since: Option<Instant>,
}

/// One rank of a prefill pod.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Engine {
    rank: u32,
    id: String,
}

impl Known {
    fn is_fresh(&self, within: Duration) -> bool {
        self.since.is_some_and(|since| since.elapsed() < within)
    }
}

impl Mooncake {
    /// The bootstrap server of the pod that `target` is in.
    fn bootstrap(&self, target: &Endpoint) -> Endpoint {
        let (host, port) = (target.host(), self.port);
        let text = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        text.parse().expect("an endpoint's host and a port that is not 0 are an endpoint")
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Endpoint, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, target: &Endpoint, engines: &Arc<[Engine]>) {
        let mut known = self.known();
        if known.len() >= MAX_REMEMBERED && !known.contains_key(target) {
            // Twice as long as they count: who has just seen one fresh will still find it.
            known.retain(|_, known| known.is_fresh(FRESH * 2));
        }
        if known.len() < MAX_REMEMBERED || known.contains_key(target) {
            let engines = Arc::clone(engines);
            known.insert(target.clone(), Known { engines, since: Some(Instant::now()) });
        }
    }
}

impl Connector for Mooncake {
    fn watch(&self) -> &'static [&'static str] {
        &WATCH
    }

    fn patience(&self) -> Option<Duration> {
        Some(PATIENCE)
    }

    fn question(&self, target: &Endpoint) -> Option<Question> {
        if self.known().get(target).is_some_and(|known| known.is_fresh(FRESH)) {
            return None;
        }
        Some(Question { of: self.bootstrap(target), path: "/query", patience: QUESTION_PATIENCE })
    }

    fn begin(
        &self,
        _asked: &Asked,
        target: &Endpoint,
        answer: Option<&Bytes>,
    ) -> Result<Box<dyn Attempt>, Unusable> {
        let engines = match answer {
            Some(answer) => {
                let engines = engines(answer)?;
                self.remember(target, &engines);
                engines
            }
            // Entries are doubted, not removed: what no question was asked for is there.
            None => match self.known().get(target) {
                Some(known) => Arc::clone(&known.engines),
                None => return Err(Unusable("it was not asked".to_owned())),
            },
        };
        let engine = &engines[fresh::below(engines.len())];
        let transfer_id = format!("xfer-{}", fresh::id());
        let prefill = json(&PrefillParams {
            do_remote_prefill: false,
            do_remote_decode: true,
            transfer_id: &transfer_id,
        });
        let decode = json(&DecodeParams {
            do_remote_prefill: true,
            do_remote_decode: false,
            transfer_id: &transfer_id,
            remote_bootstrap_addr: format!("http://{}", self.bootstrap(target)),
            remote_engine_id: &engine.id,
        });
        Ok(Box::new(Transfer { rank: engine.rank, prefill, decode, stopped: false }))
    }

    fn forget(&self, target: &Endpoint) {
        if let Some(known) = self.known().get_mut(target) {
            known.since = None;
        }
    }
}

#[derive(Serialize)]
struct PrefillParams<'a> {
    do_remote_prefill: bool,
    do_remote_decode: bool,
    transfer_id: &'a str,
}

#[derive(Serialize)]
struct DecodeParams<'a> {
    do_remote_prefill: bool,
    do_remote_decode: bool,
    transfer_id: &'a str,
    remote_bootstrap_addr: String,
    remote_engine_id: &'a str,
}

fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("texts and booleans are JSON").into()
}

/// Reads the bootstrap server's answer: an object with an entry for each rank.
fn engines(answer: &Bytes) -> Result<Arc<[Engine]>, Unusable> {
    #[derive(Deserialize)]
    struct Entry {
        engine_id: String,
    }
    let said = || String::from_utf8_lossy(&answer[..answer.len().min(MAX_TOLD)]).into_owned();
    // By rank, in whatever form: an entry that is of no use must not hide the others.
    let entries: BTreeMap<String, serde_json::Value> = serde_json::from_slice(answer)
        .map_err(|error| Unusable(format!("its answer is no JSON object ({error}): {}", said())))?;
    let engine = |(rank, entry): (String, serde_json::Value)| {
        let Entry { engine_id: id } = serde_json::from_value(entry).ok()?;
        Some(Engine { rank: rank.parse().ok()?, id }).filter(|engine| !engine.id.is_empty())
    };
    let engines: Arc<[Engine]> = entries.into_iter().filter_map(engine).collect();
    if engines.is_empty() {
        return Err(Unusable(format!("its answer names no engine (an engine_id by rank): {}", said())));
    }
    Ok(engines)
}

/// One attempt.
#[derive(Debug)]
struct Transfer {
    rank: u32,
    /// The `kv_transfer_params` of either leg.
    prefill: Bytes,
    decode: Bytes,
    /// Prefill ended by itself, and hands nothing over.
    stopped: bool,
}

impl Attempt for Transfer {
    fn prefill(&self, asked: &Asked) -> Outgoing {
        let mut leg = asked.edit(limits::never_stopping(Edits::new().set(KV, self.prefill.clone()), asked));
        leg.headers.push((RANK, HeaderValue::from(self.rank)));
        leg
    }

    fn overlaps(&self) -> bool {
        true
    }

    fn beside(&self, asked: &Asked) -> Option<Outgoing> {
        Some(self.decode(asked))
    }

    fn named(&self) -> bool {
        true
    }

    fn accept(&mut self, asked: &Asked, answer: &Bytes) -> Result<Accepted, Malformed> {
        let document = scan(answer, &["stop_reason"])?;
        let reason = document.value("stop_reason").map(|at| &answer[at]);
        self.stopped = asked.api == Api::Messages && reason == Some(STOPPED);
        Ok(Accepted { kv: !self.stopped, anew: self.stopped, ..Accepted::default() })
    }

    fn decode(&self, asked: &Asked) -> Outgoing {
        let kv = if self.stopped { Bytes::from_static(b"null") } else { self.decode.clone() };
        asked.edit(Edits::new().set(KV, kv))
    }

    fn release(&self) -> Option<ReleaseRequest> {
        Some(release::by_refused_decode(&self.decode))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mooncake() -> Mooncake {
        Mooncake { port: 8998, known: Mutex::default() }
    }

    fn list(id: &str) -> Arc<[Engine]> {
        Arc::new([Engine { rank: 0, id: id.to_owned() }])
    }

    #[test]
    fn the_bootstrap_servers_list_is_read_rank_by_rank() {
        let engine = |rank, id: &str| Engine { rank, id: id.into() };
        for (answer, expected) in [
            (r#"{"0":{"engine_id":"a","worker_addr":{}}}"#, vec![engine(0, "a")]),
            (r#"{"1":{"engine_id":"b"},"0":{"engine_id":"a"}}"#, vec![engine(0, "a"), engine(1, "b")]),
            (
                r#"{"0":{"engine_id":"a"},"1":{},"2":7,"x":{"engine_id":"c"},"3":{"engine_id":""}}"#,
                vec![engine(0, "a")],
            ),
        ] {
            assert_eq!(&engines(&Bytes::from(answer)).unwrap()[..], expected, "{answer}");
        }
        for (answer, why) in [
            ("{}", "names no engine"),
            (r#"{"0":{"engine_id":null}}"#, "names no engine"),
            ("[]", "no JSON object"),
            ("Not Found", "no JSON object"),
            ("", "no JSON object"),
        ] {
            let Unusable(said) = engines(&Bytes::from(answer)).unwrap_err();
            assert!(said.contains(why) && said.contains(answer), "{answer}: {said}");
        }
    }

    #[test]
    fn the_bootstrap_server_is_beside_the_prefill_engine() {
        for (target, of) in [
            ("10.0.0.5:8000", "10.0.0.5:8998"),
            ("[fd00::5]:8000", "[fd00::5]:8998"),
            ("prefill-0.svc:1", "prefill-0.svc:8998"),
        ] {
            let question = mooncake().question(&target.parse().unwrap()).unwrap();
            assert_eq!((question.of.to_string().as_str(), question.path), (of, "/query"));
            assert_eq!(question.patience, Duration::from_secs(5));
        }
    }

    #[test]
    fn an_answer_is_asked_for_again_when_it_is_old_or_something_failed() {
        let (mooncake, target) = (mooncake(), "a:1".parse().unwrap());
        mooncake.remember(&target, &list("one"));
        assert!(mooncake.question(&target).is_none());
        assert!(mooncake.question(&"a:2".parse().unwrap()).is_some(), "another engine is another engine");
        mooncake.forget(&target);
        assert!(mooncake.question(&target).is_some());
        mooncake.remember(&target, &list("two"));
        assert!(mooncake.question(&target).is_none());
        let long_ago = Instant::now().checked_sub(FRESH).unwrap();
        mooncake.known().get_mut(&target).unwrap().since = Some(long_ago);
        assert!(mooncake.question(&target).is_some());
    }

    #[test]
    fn no_more_engines_are_remembered_than_the_limit_allows() {
        let mooncake = mooncake();
        let target = |n: usize| format!("host-{n}:1").parse::<Endpoint>().unwrap();
        for n in 0..=MAX_REMEMBERED {
            mooncake.remember(&target(n), &list("x"));
        }
        assert_eq!(mooncake.known().len(), MAX_REMEMBERED);
        // The one too many is asked for every request; those that were forgotten make room.
        assert!(mooncake.question(&target(MAX_REMEMBERED)).is_some());
        mooncake.forget(&target(0));
        mooncake.remember(&target(MAX_REMEMBERED), &list("x"));
        assert!(mooncake.question(&target(MAX_REMEMBERED)).is_none());
        assert_eq!(mooncake.known().len(), MAX_REMEMBERED);
    }
}
