//! What a person reads: what is measured, a line for each side, and what came of the goals.

use std::fmt::Write as _;
use std::time::Duration;

use super::fleet::CLIENTS;
use super::{Line, Plan};
use crate::svg::INFALLIBLE;

/// What the figures are, in words; they stand in the JSON too.
pub(super) fn explain(plan: Plan) -> String {
    let Plan { lives, rounds, connectors, telemetry } = plan;
    let seconds = |length: Duration| length.as_secs_f64();
    format!(
        "CPU time (user and system, all threads) of the sidecar's process for each request, over that of a sidecar with \
         --kv-connector=nixlv2 and nothing else. Each request is a chat completion of 1 KB with a prefill header: prefill \
         leg, decode leg, an answer in one piece, engines without think time. {CLIENTS} clients in a closed loop on kept \
         connections, each in a chat of two turns, now with the side and now with the base. All that a side does is in it: mooncake's question once a second, a \
         scrape a second, the export of spans. What engines do is not. Windows are {} s for connectors and {} s for \
         telemetry; a figure is the median of {rounds} rounds in each of {lives} lives of all processes.",
        seconds(connectors),
        seconds(telemetry),
    )
}

/// The table.
pub(super) fn table(lines: &[Line]) -> String {
    let mut text = format!(
        "\n  {:<38}{:>9}{:>9}{:>8}{:>18}{:>9}\n",
        "side", "us/req", "nixlv2", "ratio", "half of rounds", "goal"
    );
    for Line { side, cost } in lines {
        let [low, high] = cost.quartiles;
        let spread = format!("{low:.3} to {high:.3}");
        write!(text, "  {:<38}{:>9.2}{:>9.2}", side.words, cost.us, cost.base_us).expect(INFALLIBLE);
        write!(text, "{:>8.3}{spread:>18}", cost.ratio).expect(INFALLIBLE);
        match side.goal {
            Some(goal) => {
                let reached = if cost.ratio <= goal { "reached" } else { "MISSED" };
                writeln!(text, "{:>9}  {reached}", format!("<= {goal:.2}")).expect(INFALLIBLE);
            }
            None => text.push_str("        -  what the same program differs by from itself\n"),
        }
    }
    text
}
