//! What every client asks for and what befalls every engine: all of it from the seed, none of it from the clock.

use std::collections::BTreeMap;
use std::time::Duration;

use kvferry_emulator::{Faults, Speeds};

use crate::api::{Api, Wish};
use crate::dice::Dice;

/// Different prompts. Each is computed once beforehand, so that every answer can be checked.
pub(crate) const PROMPTS: u64 = 24;

/// Output lengths, in tokens.
pub(crate) const LENGTHS: [u64; 4] = [1, 8, 16, 24];

/// What the decode engine waits between two tokens: streams that live for seconds, so that thousands of them are some
/// hundred requests a second, which two cores can carry: clients, engines, sidecar and all.
pub(crate) const ITL_MS: u64 = 500;

/// And a slow one: the longest answer still takes less than half of what a request may take.
const SLOWEST_ITL_MS: u64 = 750;

/// Prompt tokens a second of a healthy engine: the longest prompt takes a tenth of a second or so.
const PREFILL_RATE: u64 = 20_000;

/// Choices of a request for several: enough for its frames to fill a slow reader's buffers.
const MANY_CHOICES: u64 = 16;

/// Longest pause of a slow reader between two pieces.
const SLOW_READ_MS: u64 = 30;

/// Part of the dice's path that keeps clients and engines apart.
const CLIENT: u64 = 1;
const ENGINE: u64 = 2;

/// Which part of the soak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    /// Engines fail, clients leave.
    Storm,
    /// Engines are well; clients leave all the same.
    Calm,
}

/// One request and how its client behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) wish: Wish,
    pub(crate) stream: bool,
    /// Choices, where the API has them.
    pub(crate) choices: u64,
    /// Where it is to be prefilled.
    pub(crate) prefill: Prefill,
    pub(crate) client: Client,
    /// Whether it asks for trailers.
    pub(crate) trailers: bool,
    /// Pause before it is sent.
    pub(crate) think: Duration,
}

/// The prefill header of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prefill {
    /// No header.
    None,
    /// This engine.
    One(u64),
    /// A list, this engine first.
    List(u64),
    /// A port on which nobody listens.
    Nobody,
}

/// What a client does with its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    /// Reads it.
    Stays,
    /// Reads it with pauses.
    Slow(Duration),
    /// Sends half of its body and leaves.
    HalfAsked,
    /// Leaves after so long, wherever things are.
    LeavesAfter(Duration),
    /// Leaves after so many pieces of the answer's body.
    LeavesAt(u64),
}

/// The `number`th request of a client.
pub(crate) fn ask(seed: u64, phase: Phase, client: u64, number: u64, prefills: u64) -> Ask {
    let mut dice = Dice::new(seed, &[CLIENT, phase as u64, client, number]);
    let api = *dice.pick(&Api::ALL);
    let wish = Wish { api, prompt: dice.within(0..PROMPTS), tokens: *dice.pick(&LENGTHS) };
    let prefill = match dice.within(0..100) {
        0..24 => Prefill::None,
        24..30 => Prefill::List(dice.within(0..prefills)),
        30 if phase == Phase::Storm => Prefill::Nobody,
        _ => Prefill::One(dice.within(0..prefills)),
    };
    let behaviour = match dice.within(0..100) {
        0..2 => Client::HalfAsked,
        2..10 => Client::LeavesAfter(Duration::from_millis(dice.within(0..3000))),
        10..16 => Client::LeavesAt(dice.within(1..20)),
        16..24 => Client::Slow(Duration::from_millis(dice.within(1..SLOW_READ_MS))),
        _ => Client::Stays,
    };
    Ask {
        wish,
        stream: dice.percent(75),
        choices: if api.has_choices() && dice.percent(10) { MANY_CHOICES } else { 1 },
        prefill,
        client: behaviour,
        trailers: dice.percent(10),
        think: Duration::from_millis(dice.within(0..100)),
    }
}

/// What befalls an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Upset {
    /// These faults from now on; none of them is a good spell.
    Faults(Box<Faults>),
    /// Another pace.
    Speeds(Speeds),
    /// A new life at once, every connection reset.
    Restart,
    /// It dies at its next request and comes back after so long.
    Crash(Duration),
}

/// The speeds of a healthy engine.
pub(crate) fn healthy() -> Speeds {
    Speeds { prefill_rate: PREFILL_RATE, itl_ms: ITL_MS, transfer_rate: 0 }
}

/// The `number`th thing that befalls an engine, and for how long.
pub(crate) fn upset(seed: u64, engine: u64, number: u64) -> (Upset, Duration) {
    let mut dice = Dice::new(seed, &[ENGINE, engine, number]);
    let lasts = Duration::from_millis(dice.within(300..2500));
    let upset = match dice.within(0..100) {
        0..35 => Upset::Faults(Box::default()),
        35..38 => Upset::Restart,
        38..41 => Upset::Crash(Duration::from_millis(dice.within(50..1500))),
        41..47 => Upset::Speeds(slow(&mut dice)),
        _ => Upset::Faults(Box::new(faults(&mut dice))),
    };
    (upset, lasts)
}

fn slow(dice: &mut Dice) -> Speeds {
    Speeds {
        prefill_rate: dice.within(500..PREFILL_RATE),
        itl_ms: dice.within(0..SLOWEST_ITL_MS),
        transfer_rate: dice.within(200_000..50_000_000),
    }
}

/// One kind of fault, or two that may come together. `corrupt_kv` is not among them: an engine that is handed wrong
/// bytes answers wrongly without knowing it, and no sidecar in front can tell.
fn faults(dice: &mut Dice) -> Faults {
    let mut faults =
        Faults { times: Some(u32::try_from(dice.within(1..60)).unwrap_or(1)), ..Faults::default() };
    match dice.within(0..13) {
        0 => {
            const STATUSES: [u16; 11] = [400, 401, 404, 409, 413, 422, 429, 500, 502, 503, 504];
            faults.status = Some(*dice.pick(&STATUSES));
            faults.body = dice.percent(30).then(|| "<html>not what you expect</html>".to_owned());
        }
        1 => {
            faults.hang = true;
            // Each costs a client the whole of its patience.
            faults.times = Some(u32::try_from(dice.within(1..15)).unwrap_or(1));
        }
        2 => faults.reset_before = true,
        3 => faults.reset_after_bytes = usize::try_from(dice.within(0..3000)).ok(),
        4 => faults.garbage = true,
        5 => faults.not_json = true,
        6 => faults.gzip = true,
        7 => faults.drip_ms = Some(dice.within(0..4)),
        8 => faults.drop_kv_params = true,
        9 => faults.early_hints = true,
        10 => faults.trailers = true,
        11 => faults.headers = BTreeMap::from([("x-noise".to_owned(), "n".repeat(3000))]),
        _ => faults.delay_ms = dice.within(1..1500),
    }
    if dice.percent(20) {
        faults.delay_ms = dice.within(1..800);
    }
    if dice.percent(20) {
        faults.path = Some(dice.pick(&Api::ALL).path().to_owned());
    }
    if dice.percent(10) && stalls(&faults) == 0 {
        faults.times = None;
    }
    faults
}

/// Requests that these faults can make take longer than a client waits.
pub(crate) fn stalls(faults: &Faults) -> u64 {
    if faults.hang || faults.drip_ms.is_some() { u64::from(faults.times.unwrap_or(u32::MAX)) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_decides_and_nothing_else() {
        let asks = |seed| (0..50).map(|n| ask(seed, Phase::Storm, 3, n, 3)).collect::<Vec<_>>();
        assert_eq!(asks(1), asks(1));
        assert_ne!(asks(1), asks(2));
        let upsets = |seed| (0..50).map(|n| upset(seed, 0, n)).collect::<Vec<_>>();
        assert_eq!(upsets(1), upsets(1));
        assert_ne!(upsets(1), upsets(2));
    }

    #[test]
    fn everything_that_can_happen_does() {
        let asks: Vec<Ask> = (0..3000).map(|n| ask(5, Phase::Storm, n, 0, 3)).collect();
        for api in Api::ALL {
            assert!(asks.iter().any(|ask| ask.wish.api == api && ask.stream));
            assert!(asks.iter().any(|ask| ask.wish.api == api && !ask.stream));
        }
        assert!(asks.iter().any(|ask| ask.prefill == Prefill::Nobody));
        assert!((0..3).all(|engine| asks.iter().any(|ask| ask.prefill == Prefill::One(engine))));
        assert!(asks.iter().any(|ask| ask.client == Client::HalfAsked));
        assert!(asks.iter().any(|ask| ask.choices > 1));
        let upsets: Vec<Upset> = (0..3000).map(|n| upset(5, 1, n).0).collect();
        let has = |is: &dyn Fn(&Faults) -> bool| {
            upsets.iter().any(|upset| matches!(upset, Upset::Faults(faults) if is(faults)))
        };
        let kinds: [&dyn Fn(&Faults) -> bool; 13] = [
            &|f| f.status.is_some(),
            &|f| f.hang,
            &|f| f.reset_before,
            &|f| f.reset_after_bytes.is_some(),
            &|f| f.garbage,
            &|f| f.not_json,
            &|f| f.gzip,
            &|f| f.drip_ms.is_some(),
            &|f| f.drop_kv_params,
            &|f| f.early_hints,
            &|f| f.trailers,
            &|f| !f.headers.is_empty(),
            &|f| f.delay_ms > 0,
        ];
        assert!(kinds.into_iter().all(has));
        assert!(upsets.iter().any(|upset| matches!(upset, Upset::Restart)));
        assert!(upsets.iter().any(|upset| matches!(upset, Upset::Crash(_))));
    }

    #[test]
    fn what_could_never_be_told_from_a_bug_does_not_happen() {
        for n in 0..3000 {
            if let (Upset::Faults(faults), _) = upset(9, 0, n) {
                assert!(!faults.corrupt_kv);
                assert!(stalls(&faults) < 60, "{faults:?}");
            }
            assert_ne!(ask(9, Phase::Calm, n, 0, 3).prefill, Prefill::Nobody);
        }
    }
}
