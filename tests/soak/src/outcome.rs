//! What became of a request, and what that says about the sidecar.

use std::collections::BTreeMap;
use std::io::Read as _;

use bytes::Bytes;
use flate2::read::GzDecoder;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};

use crate::api::Said;
use crate::plan::Ask;

/// Set by the sidecar on each error of its own, with the error's stable code.
const TYPED: &str = "x-kvferry-error";

/// Set by the emulated engines on each of their answers.
const ENGINE: &str = "x-emulator-role";

/// What an engine with the fault `not_json` says.
const NONSENSE: &[u8] = b"this is not JSON";

/// The table's lines that must stay empty, and the one that must not.
pub(crate) const CORRECT: &str = "correct";
pub(crate) const WRONG: &str = "WRONG ANSWER";
pub(crate) const UNTYPED: &str = "UNTYPED ERROR";
pub(crate) const NO_ANSWER: &str = "NO ANSWER";
pub(crate) const HUNG: &str = "HUNG";

/// What became of one request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// The complete right answer.
    Correct,
    /// The client left as planned.
    Left,
    /// An error of the sidecar's own, with its code.
    Typed(String),
    /// An engine's own error, passed on.
    EngineError(u16),
    /// An engine's error inside a stream that had begun well.
    EngineErrorInStream,
    /// Nonsense that an engine sent as a success, passed on.
    EngineNonsense,
    /// The answer was visibly broken off.
    BrokenOff,
    /// Without a prefill header nothing but the client's patience ends a request.
    GaveUp,
    /// A complete answer that is not the right one.
    Wrong(String),
    /// An error that says neither that it is the sidecar's nor that it is an engine's.
    Untyped(String),
    /// The connection ended without an answer.
    NoAnswer(String),
    /// No end within any limit.
    Hung,
}

impl Outcome {
    /// The line of the table it is counted in.
    pub(crate) fn label(&self) -> String {
        match self {
            Self::Correct => CORRECT.to_owned(),
            Self::Left => "client left".to_owned(),
            Self::Typed(code) => format!("sidecar: {code}"),
            Self::EngineError(status) => format!("engine: {status}"),
            Self::EngineErrorInStream => "engine: error in stream".to_owned(),
            Self::EngineNonsense => "engine: nonsense".to_owned(),
            Self::BrokenOff => "broken off".to_owned(),
            Self::GaveUp => "client gave up".to_owned(),
            Self::Wrong(_) => WRONG.to_owned(),
            Self::Untyped(_) => UNTYPED.to_owned(),
            Self::NoAnswer(_) => NO_ANSWER.to_owned(),
            Self::Hung => HUNG.to_owned(),
        }
    }

    /// Whether it may not happen even where engines fail.
    pub(crate) fn never(&self) -> bool {
        matches!(self, Self::Wrong(_) | Self::Untyped(_) | Self::NoAnswer(_) | Self::Hung)
    }

    /// Whether it may happen where all engines are well.
    pub(crate) fn well(&self) -> bool {
        matches!(self, Self::Correct | Self::Left)
    }
}

/// Judges a complete answer.
pub(crate) fn judge(ask: &Ask, expected: &str, status: u16, headers: &HeaderMap, body: &Bytes) -> Outcome {
    if !(200..300).contains(&status) {
        return match (headers.get(TYPED), headers.contains_key(ENGINE)) {
            (Some(code), _) => Outcome::Typed(code.to_str().unwrap_or("not ASCII").to_owned()),
            (None, true) => Outcome::EngineError(status),
            (None, false) => Outcome::Untyped(format!("{status} {}", excerpt(body))),
        };
    }
    let body = match plain(headers, body) {
        Ok(body) => body,
        Err(error) => return Outcome::Wrong(format!("its gzip is broken: {error}")),
    };
    if body == NONSENSE {
        return Outcome::EngineNonsense;
    }
    let sse = headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    if sse != ask.stream {
        return Outcome::Wrong(format!(
            "stream asked for: {}, stream sent: {sse}: {}",
            ask.stream,
            excerpt(&body)
        ));
    }
    let api = ask.wish.api;
    match if sse { api.read_stream(&body) } else { api.read_whole(&body) } {
        Err(error) => Outcome::Wrong(error),
        Ok(Said { error: Some(_), .. }) => Outcome::EngineErrorInStream,
        Ok(Said { ended: false, .. }) => Outcome::Wrong("it stops short and looks complete".to_owned()),
        Ok(said) => {
            let count = usize::try_from(ask.choices).expect("a number of choices fits usize");
            let right = said.choices.len() == count && said.choices.iter().all(|choice| choice == expected);
            if right { Outcome::Correct } else { Outcome::Wrong(difference(&said.choices, count, expected)) }
        }
    }
}

fn plain(headers: &HeaderMap, body: &Bytes) -> std::io::Result<Bytes> {
    if headers.get(CONTENT_ENCODING).is_none_or(|encoding| encoding != "gzip") {
        return Ok(body.clone());
    }
    let mut plain = Vec::new();
    GzDecoder::new(&body[..]).read_to_end(&mut plain)?;
    Ok(plain.into())
}

fn difference(choices: &[String], count: usize, expected: &str) -> String {
    let wrong = choices.iter().find(|choice| *choice != expected);
    match wrong {
        None => format!("{} choices instead of {count}", choices.len()),
        Some(wrong) => format!("{wrong:?} instead of {expected:?}"),
    }
}

fn excerpt(body: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(&body[..body.len().min(200)]))
}

/// Counts of outcomes, and the first that may not happen in full.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) counts: BTreeMap<String, u64>,
    pub(crate) total: u64,
    pub(crate) never: u64,
    pub(crate) unwell: u64,
    pub(crate) gave_up: u64,
    /// Each with all it takes to ask again.
    pub(crate) examples: Vec<String>,
}

impl Tally {
    /// Failures that are told in full; the rest is counted.
    const EXAMPLES: usize = 20;

    /// Counts one. `calm`: whether all engines were well. `what` tells the request apart.
    pub(crate) fn count(&mut self, outcome: &Outcome, calm: bool, what: impl FnOnce() -> String) {
        *self.counts.entry(outcome.label()).or_default() += 1;
        self.total += 1;
        self.never += u64::from(outcome.never());
        self.unwell += u64::from(!outcome.well());
        self.gave_up += u64::from(*outcome == Outcome::GaveUp);
        let bad = outcome.never() || (calm && !outcome.well());
        if bad && self.examples.len() < Self::EXAMPLES {
            self.examples.push(format!("{}: {outcome:?}", what()));
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::api::{Api, Wish};
    use crate::plan::{Client, Prefill};

    fn ask(stream: bool, choices: u64) -> Ask {
        Ask {
            wish: Wish { api: Api::Completions, prompt: 0, tokens: 1 },
            stream,
            choices,
            prefill: Prefill::None,
            client: Client::Stays,
            trailers: false,
            think: std::time::Duration::ZERO,
        }
    }

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| ((*name).parse().unwrap(), HeaderValue::from_static(value)))
            .collect()
    }

    fn judged(ask: &Ask, status: u16, lines: &[(&'static str, &'static str)], body: &str) -> Outcome {
        judge(ask, " ba", status, &headers(lines), &Bytes::copy_from_slice(body.as_bytes()))
    }

    #[test]
    fn only_the_complete_right_answer_is_correct() {
        let whole = r#"{"choices":[{"text":" ba"}]}"#;
        assert_eq!(judged(&ask(false, 1), 200, &[], whole), Outcome::Correct);
        assert!(judged(&ask(false, 2), 200, &[], whole).never());
        assert!(judged(&ask(false, 1), 200, &[], r#"{"choices":[{"text":" do"}]}"#).never());
        assert!(judged(&ask(false, 1), 200, &[], "").never());
        let sse = [("content-type", "text/event-stream; charset=utf-8")];
        let stream = "data: {\"choices\":[{\"index\":0,\"text\":\" ba\"}]}\n\n";
        assert!(judged(&ask(true, 1), 200, &sse, stream).never(), "it stops short");
        assert_eq!(judged(&ask(true, 1), 200, &sse, &format!("{stream}data: [DONE]\n\n")), Outcome::Correct);
        assert!(judged(&ask(true, 1), 200, &[], whole).never(), "a stream was asked for");
        assert_eq!(judged(&ask(true, 1), 200, &[], "this is not JSON"), Outcome::EngineNonsense);
    }

    #[test]
    fn an_error_says_whose_it_is_or_is_a_failure() {
        let typed = judged(&ask(false, 1), 502, &[(TYPED, "prefill_broke")], "");
        assert_eq!(typed, Outcome::Typed("prefill_broke".to_owned()));
        assert_eq!(judged(&ask(false, 1), 429, &[(ENGINE, "decode")], ""), Outcome::EngineError(429));
        assert!(judged(&ask(false, 1), 500, &[], "").never());
        assert!(!typed.never() && !typed.well());
    }

    #[test]
    fn failures_are_told_in_full_up_to_a_limit_and_counted_beyond() {
        let mut tally = Tally::default();
        for n in 0..50 {
            tally.count(&Outcome::Hung, false, || format!("request {n}"));
        }
        tally.count(&Outcome::BrokenOff, true, || "in the calm".to_owned());
        assert_eq!((tally.never, tally.unwell, tally.examples.len()), (50, 51, Tally::EXAMPLES));
        assert_eq!(tally.counts[HUNG], 50);
        assert!(tally.examples[0].starts_with("request 0: "));
    }
}
