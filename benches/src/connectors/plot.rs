//! The plot: a row for each side with its ratio, half of its rounds, and its goal. The axis is linear: what matters lies
//! within some per cent of one.

use std::fmt::Write as _;

use super::Line;
use crate::num::{float, float_len};
use crate::svg::{INFALLIBLE, escape, text};

const WIDTH: f64 = 900.0;
const LEFT: f64 = 300.0;
const RIGHT: f64 = 780.0;
const TOP: f64 = 92.0;
const ROW: f64 = 26.0;
/// Below the rows: the axis' numbers, and the machine.
const FOOT: f64 = 62.0;

/// Ratios from here to there are always shown; the axis grows to hold others.
const SHOWN: (f64, f64) = (0.9, 1.15);

const REACHED: &str = "#0072b2";
const MISSED: &str = "#d55e00";
const WITHOUT: &str = "#999999";

/// The whole picture.
pub(super) fn svg(lines: &[Line], machine: &str) -> String {
    let bottom = TOP + ROW * float_len(lines.len());
    let height = bottom + FOOT;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui, sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"20\" y=\"30\" font-size=\"18\" font-weight=\"600\" fill=\"#222222\">What connectors and telemetry cost</text>\n"
    );
    let subtitle = "CPU time of the sidecar for each request, over that with nixlv2 serial; lower is better";
    text(&mut out, (20.0, 50.0), "start", 12.0, "#555555", subtitle);
    let legend = "dot: median of the rounds; bar: half of the rounds; tick: goal";
    text(&mut out, (20.0, 68.0), "start", 11.0, "#777777", legend);
    let axis = Axis::over(lines);
    for (value, words) in axis.ticks() {
        let x = axis.x(value);
        let colour = if (value - 1.0).abs() < 1e-6 { "#333333" } else { "#dddddd" };
        line(&mut out, (x, TOP - 6.0), (x, bottom), colour, 1.0);
        text(&mut out, (x, bottom + 16.0), "middle", 11.0, "#555555", &words);
    }
    for (index, row) in lines.iter().enumerate() {
        draw(&mut out, axis, row, TOP + ROW * (float_len(index) + 0.5));
    }
    text(&mut out, (20.0, height - 12.0), "start", 11.0, "#777777", machine);
    out.push_str("</svg>\n");
    out
}

fn draw(out: &mut String, axis: Axis, Line { side, cost }: &Line, y: f64) {
    let colour = match side.goal {
        None => WITHOUT,
        Some(goal) if cost.ratio <= goal => REACHED,
        Some(_) => MISSED,
    };
    text(out, (LEFT - 14.0, y + 4.0), "end", 12.0, "#222222", side.words);
    if let Some(goal) = side.goal {
        let x = axis.x(goal);
        line(out, (x, y - 8.0), (x, y + 8.0), "#222222", 2.0);
    }
    let [low, high] = cost.quartiles.map(|quartile| axis.x(quartile));
    line(out, (low, y), (high, y), colour, 4.0);
    let (x, ratio, words) = (axis.x(cost.ratio), cost.ratio, escape(side.words));
    writeln!(
        out,
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"{colour}\"><title>{words}: {ratio:.3}</title></circle>"
    )
    .expect(INFALLIBLE);
    let number = format!("{ratio:.2}  ({:.1} µs)", cost.us);
    text(out, (RIGHT + 14.0, y + 4.0), "start", 11.0, "#333333", &number);
}

fn line(out: &mut String, from: (f64, f64), to: (f64, f64), colour: &str, width: f64) {
    writeln!(
        out,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-width=\"{width}\"/>",
        from.0, from.1, to.0, to.1
    )
    .expect(INFALLIBLE);
}

/// A linear axis whose ends are steps.
#[derive(Debug, Clone, Copy)]
struct Axis {
    low: f64,
    step: f64,
    steps: u32,
}

impl Axis {
    fn over(lines: &[Line]) -> Self {
        let values = || {
            lines.iter().flat_map(|line| [line.cost.quartiles[0], line.cost.quartiles[1], line.cost.ratio])
        };
        let low = values().fold(SHOWN.0, f64::min);
        let high = values().fold(SHOWN.1, f64::max);
        let step = if high - low <= 0.5 { 0.05 } else { 0.25 };
        let low = (low / step + 1e-9).floor() * step;
        let mut steps = 1;
        while low + step * f64::from(steps) < high - 1e-9 {
            steps += 1;
        }
        Self { low, step, steps }
    }

    fn x(self, value: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * (value - self.low) / (self.step * f64::from(self.steps))
    }

    fn ticks(self) -> impl Iterator<Item = (f64, String)> {
        (0..=self.steps).map(move |index| {
            let value = self.low + self.step * float(index.into());
            (value, format!("{value:.2}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::rounds::Cost;
    use super::super::sides::SIDES;
    use super::*;
    use crate::svg::well_formed;

    fn lines(ratio: f64) -> Vec<Line> {
        let cost = Cost {
            us: 50.0,
            base_us: 50.0,
            ratio,
            quartiles: [ratio - 0.01, ratio + 0.02],
            rounds: vec![ratio],
        };
        SIDES.iter().map(|side| Line { side: *side, cost: cost.clone() }).collect()
    }

    #[test]
    fn the_picture_is_well_formed_and_has_a_row_for_every_side() {
        let picture = svg(&lines(1.02), "a machine & more");
        assert!(well_formed(&picture).unwrap() > SIDES.len() * 5);
        for side in SIDES {
            assert!(picture.contains(&escape(side.words)), "{}", side.name);
        }
        assert!(!picture.contains(MISSED));
        assert!(svg(&lines(1.2), "m").contains(MISSED));
        assert!(well_formed(&svg(&[], "m")).is_ok());
    }

    #[test]
    fn the_axis_holds_every_ratio() {
        for ratio in [0.41, 0.97, 1.0, 1.13, 3.3] {
            let axis = Axis::over(&lines(ratio));
            for value in [ratio - 0.01, 1.0, ratio + 0.02] {
                assert!((LEFT - 1e-6..=RIGHT + 1e-6).contains(&axis.x(value)), "{ratio}: {value}");
            }
            let ticks: Vec<f64> = axis.ticks().map(|(value, _)| value).collect();
            assert!(ticks.iter().any(|tick| (tick - 1.0).abs() < 1e-6), "{ticks:?}");
        }
    }
}
