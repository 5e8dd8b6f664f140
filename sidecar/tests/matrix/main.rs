//! The failure matrix: everything that can go wrong, with every way to hand a request over. `docs/failure-matrix.md` is
//! written from the same table, so what it says was seen.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../connectors/hosts.rs"]
mod hosts;

mod cell;
mod column;
mod encoders;
mod event;
mod expect;
mod page;
mod reference;
mod table;

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use event::Event;
use table::MATRIX;

/// Cells of one row that run at a time. Most of their time they wait.
const AT_ONCE: usize = 6;

/// Runs all cells of a row.
async fn row(event: Event) {
    let row = MATRIX.iter().find(|row| row.event == event).expect("every event has a row");
    let (turns, mut cells) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
    for expected in row.cells {
        for column in expected.columns {
            let turns = Arc::clone(&turns);
            cells.spawn(async move {
                let _turn = turns.acquire().await.unwrap();
                // In a task of its own, so that one cell's panic is told with its name and harms no other.
                let differs = tokio::spawn(cell::run(*column, event, expected)).await;
                let differs = differs.unwrap_or_else(|error| vec![error.to_string()]);
                (!differs.is_empty()).then(|| format!("{event:?}, {column:?}: {}", differs.join("; ")))
            });
        }
    }
    let differs: Vec<String> = cells.join_all().await.into_iter().flatten().collect();
    assert!(differs.is_empty(), "{}", differs.join("\n"));
}

/// One test for each row, so that a failure names it.
macro_rules! rows {
    ($($test:ident: $event:ident,)*) => {
        $(#[tokio::test]
        async fn $test() {
            row(Event::$event).await;
        })*

        /// Every event that has a test.
        const TESTED: &[Event] = &[$(Event::$event),*];
    };
}

rows! {
    prefill_answers_4xx: PrefillRefuses,
    prefill_answers_5xx: PrefillFails,
    prefill_cannot_be_reached: PrefillIsAway,
    prefill_dies_in_its_answer: PrefillBreaksOff,
    prefill_answers_200_with_garbage: PrefillTalksNonsense,
    prefill_hangs: PrefillHangs,
    the_bootstrap_server_fails: BootstrapFails,
    decode_cannot_be_reached: DecodeIsAway,
    decode_answers_5xx: DecodeFails,
    decode_dies_before_its_answer: DecodeBreaksOff,
    decode_hangs_before_its_answer: DecodeHangs,
    decode_dies_in_a_whole_answer: WholeAnswerBreaksOff,
    decode_dies_in_its_stream: StreamBreaksOff,
    decode_hangs_in_its_stream: StreamHangs,
    decode_fails_and_the_release_too: ReleaseIsRefused,
    both_legs_take_longer_than_the_request_may: RequestTakesTooLong,
    the_client_leaves_while_prefill_computes: ClientLeavesInPrefill,
    the_client_leaves_and_prefill_ends_soon_after: ClientLeavesAsPrefillEnds,
    the_client_leaves_around_the_moment_in_which_prefill_answers: ClientLeavesBetween,
    the_client_leaves_before_decode_answers: ClientLeavesInDecode,
    the_client_leaves_in_its_stream: ClientLeavesInStream,
    the_body_is_no_json_object: MalformedJson,
    the_body_is_too_large: HugeBody,
}

#[test]
fn every_row_has_its_test_and_every_column_its_cell() {
    assert_eq!(TESTED.len(), MATRIX.len());
    for (row, tested) in MATRIX.iter().zip(TESTED) {
        assert_eq!(row.event, *tested);
        for column in column::Column::ALL {
            let cells = row.cells.iter().filter(|cell| cell.columns.contains(&column)).count();
            // Only these two know of a bootstrap server.
            let none = row.event == Event::BootstrapFails
                && !matches!(column, column::Column::Mooncake | column::Column::Sglang);
            assert_eq!(cells, usize::from(!none), "{:?}, {column:?}", row.event);
        }
    }
}

#[tokio::test]
async fn encoders_fail_in_every_way() {
    let mut cells = JoinSet::new();
    for expected in encoders::MATRIX {
        for column in expected.columns {
            cells.spawn(async move {
                let differs = tokio::spawn(encoders::run(*column, expected)).await;
                let differs = differs.unwrap_or_else(|error| vec![error.to_string()]);
                (!differs.is_empty())
                    .then(|| format!("{:?}, {column:?}: {}", expected.event, differs.join("; ")))
            });
        }
    }
    let differs: Vec<String> = cells.join_all().await.into_iter().flatten().collect();
    assert!(differs.is_empty(), "{}", differs.join("\n"));
}
