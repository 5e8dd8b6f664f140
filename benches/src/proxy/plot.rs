//! The plot: bars on logarithmic axes, drawn as SVG by hand, since the picture is three panels and a legend and a plotting
//! library would be larger than the bench.

use std::fmt::Write as _;

use super::figures::{Figures, Percentiles};
use super::plan::{MANY_STREAMS, ONE_CONNECTION, OPEN_LOOP, SIZES, THROUGHPUT};
use kvferry_bench_common::axis::{Axis, short};

use crate::svg::{INFALLIBLE, escape, text};

/// Sides in the order they are drawn, with names for readers and colours that stay apart for colour-blind ones.
const SIDES: [(&str, &str, &str); 4] = [
    ("forwarder", "bare forwarder (one hop, no P/D)", "#999999"),
    ("sidecar", "kvferry, passthrough", "#56b4e9"),
    ("sidecar-pd", "kvferry, P/D", "#0072b2"),
    ("vllm-router", "vllm-router, P/D", "#e69f00"),
];

/// Colours of peers, in the order they were named.
const PEER_COLOURS: [&str; 3] = ["#009e73", "#d55e00", "#cc79a7"];

const WIDTH: f64 = 1140.0;
const HEIGHT: f64 = 470.0;
const PANEL_TOP: f64 = 96.0;
const PANEL_HEIGHT: f64 = 280.0;

/// One series of bars.
struct Series {
    name: String,
    colour: &'static str,
    /// One for each group; `None` is drawn as a gap.
    values: Vec<Option<f64>>,
}

/// One panel: groups of bars on a logarithmic axis.
struct Panel {
    title: &'static str,
    subtitle: String,
    groups: Vec<String>,
    series: Vec<Series>,
    left: f64,
    width: f64,
}

/// The whole picture.
pub(super) fn svg(figures: &[Figures], machine: &str) -> String {
    let sides = sides(figures);
    let panels = panels(figures, &sides);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"system-ui, sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n\
         <text x=\"20\" y=\"30\" font-size=\"18\" font-weight=\"600\" fill=\"#222222\">What a proxy costs in front of prefill and decode engines</text>\n"
    );
    for panel in &panels {
        draw(&mut out, panel);
    }
    legend(&mut out, &sides);
    text(&mut out, (20.0, HEIGHT - 12.0), "start", 11.0, "#777777", machine);
    out.push_str("</svg>\n");
    out
}

/// What the picture shows.
fn panels(figures: &[Figures], sides: &[(String, String, &'static str)]) -> [Panel; 3] {
    let at = |cell: &str, side: &str| {
        figures.iter().find(|figures| figures.cell == cell && figures.side == side && figures.errors == 0)
    };
    let series = |values: &dyn Fn(&str) -> Vec<Option<f64>>| {
        sides
            .iter()
            .map(|(side, name, colour)| Series { name: name.clone(), colour, values: values(side) })
            .collect::<Vec<_>>()
    };
    let three = |added: Option<Percentiles>| {
        let added = added.as_ref();
        vec![added.map(|a| a.p50_us), added.map(|a| a.p90_us), added.map(|a| a.p99_us)]
    };
    let percentiles = || ["p50", "p90", "p99"].map(str::to_owned).to_vec();
    let throughput = series(&|side| {
        SIZES.iter().map(|(_, size)| at(&format!("{THROUGHPUT}-{size}"), side)?.requests_per_cpu_s).collect()
    });
    // A quick run has no open loop; one connection at a time tells much the same.
    let open_loop = figures.iter().any(|figures| figures.cell == OPEN_LOOP);
    let (latency, load) =
        if open_loop { (OPEN_LOOP, "500 requests/s") } else { (ONE_CONNECTION, "one connection") };
    [
        Panel {
            title: "Requests per CPU-second of the proxy",
            subtitle: "by request body, 32 connections; higher is better".to_owned(),
            groups: SIZES
                .iter()
                .map(|(_, size)| size.to_uppercase().replace('K', " K").replace("2M", "2 M"))
                .collect(),
            series: throughput,
            left: 64.0,
            width: 430.0,
        },
        Panel {
            title: "Added latency, µs",
            subtitle: format!("{load}, 1 KB; lower is better"),
            groups: percentiles(),
            series: series(&|side| three(at(latency, side).and_then(|figures| figures.total_added))),
            left: 566.0,
            width: 240.0,
        },
        Panel {
            title: "Added time to first token, µs",
            subtitle: "2,000 open streams; lower is better".to_owned(),
            groups: percentiles(),
            series: series(&|side| {
                three(at(MANY_STREAMS, side).and_then(|figures| figures.first_byte_added))
            }),
            left: 878.0,
            width: 240.0,
        },
    ]
}

/// The sides that were measured: name, words, colour. Direct access is the zero line, not a side.
fn sides(figures: &[Figures]) -> Vec<(String, String, &'static str)> {
    let measured = |side: &str| figures.iter().any(|figures| figures.side == side);
    let mut sides: Vec<(String, String, &'static str)> = SIDES
        .iter()
        .filter(|(side, ..)| measured(side))
        .map(|(side, words, colour)| ((*side).to_owned(), (*words).to_owned(), *colour))
        .collect();
    let mut colours = PEER_COLOURS.iter().cycle();
    for side in figures.iter().map(|figures| &figures.side) {
        let known = sides.iter().any(|(name, ..)| name == side);
        if !known && !side.starts_with("direct") {
            let colour = colours.next().expect("a cycle over a non-empty array never ends");
            sides.push((side.clone(), side.clone(), colour));
        }
    }
    sides
}

/// Height in the picture of a share of the axis.
fn y_of(share: f64) -> f64 {
    PANEL_TOP + PANEL_HEIGHT * (1.0 - share)
}

fn draw(out: &mut String, panel: &Panel) {
    let (left, width, bottom) = (panel.left, panel.width, PANEL_TOP + PANEL_HEIGHT);
    text(out, (left - 44.0, PANEL_TOP - 34.0), "start", 14.0, "#222222", panel.title);
    text(out, (left - 44.0, PANEL_TOP - 17.0), "start", 11.0, "#777777", &panel.subtitle);
    let values = panel.series.iter().flat_map(|series| series.values.iter().flatten().copied());
    let Some(axis) = Axis::over(values) else {
        text(
            out,
            (left + width / 2.0, PANEL_TOP + PANEL_HEIGHT / 2.0),
            "middle",
            12.0,
            "#777777",
            "not measured",
        );
        return;
    };
    for (value, strong) in axis.ticks() {
        let y = y_of(axis.share(value));
        let colour = if strong { "#cccccc" } else { "#eeeeee" };
        writeln!(
            out,
            "<line x1=\"{left}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"{colour}\"/>",
            left + width
        )
        .expect(INFALLIBLE);
        if strong {
            text(out, (left - 6.0, y + 4.0), "end", 11.0, "#555555", &short(value));
        }
    }
    let step = width / crate::num::float_len(panel.groups.len());
    let bar = step * 0.8 / crate::num::float_len(panel.series.len());
    for (index, group) in panel.groups.iter().enumerate() {
        let start = left + step * (crate::num::float_len(index) + 0.1);
        text(out, (start + step * 0.4, bottom + 18.0), "middle", 12.0, "#333333", group);
        for (place, series) in panel.series.iter().enumerate() {
            let Some(value) = series.values[index].filter(|value| *value > 0.0) else {
                continue;
            };
            let x = start + bar * crate::num::float_len(place);
            let y = y_of(axis.share(value));
            writeln!(
                out,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"><title>{}, {}: {value:.1}</title></rect>",
                bar - 1.0,
                bottom - y,
                series.colour,
                escape(&series.name),
                escape(group),
            )
            .expect(INFALLIBLE);
            text(out, (x + bar / 2.0 - 0.5, y - 3.0), "middle", 8.5, "#333333", &short(value));
        }
    }
    writeln!(
        out,
        "<line x1=\"{left}\" y1=\"{bottom}\" x2=\"{:.1}\" y2=\"{bottom}\" stroke=\"#333333\"/>",
        left + width
    )
    .expect(INFALLIBLE);
}

fn legend(out: &mut String, sides: &[(String, String, &'static str)]) {
    let mut x = 20.0;
    let y = PANEL_TOP + PANEL_HEIGHT + 44.0;
    for (_, words, colour) in sides {
        writeln!(out, "<rect x=\"{x:.1}\" y=\"{y}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>")
            .expect(INFALLIBLE);
        text(out, (x + 18.0, y + 10.0), "start", 12.0, "#222222", words);
        x += 44.0 + crate::num::float_len(words.chars().count()) * 6.6;
    }
}

#[cfg(test)]
mod tests {
    use super::super::figures::{figures, tests::sample};
    use super::*;
    use crate::svg::well_formed;

    #[test]
    fn the_picture_is_well_formed_even_with_hostile_names_and_shows_every_side() {
        let mut samples = Vec::new();
        for side in ["direct", "direct-pd", "forwarder", "sidecar-pd", "a<b> & \"c\""] {
            for (_, size) in SIZES {
                samples.push(sample(&format!("{THROUGHPUT}-{size}"), side, 0, Some(0.1), 50.0));
            }
            samples.push(sample(
                OPEN_LOOP,
                side,
                0,
                Some(0.1),
                if side.starts_with("direct") { 10.0 } else { 90.0 },
            ));
        }
        let all: Vec<Figures> = samples
            .iter()
            .filter_map(|sample| figures(&samples, &sample.cell, &sample.side, "direct"))
            .collect();
        let picture = svg(&all, "a machine");
        let elements = well_formed(&picture).unwrap();
        assert!(elements > 40, "{elements}");
        assert!(picture.contains("kvferry, P/D") && picture.contains("a&lt;b&gt; &amp; &quot;c&quot;"));
        assert!(picture.contains("not measured"), "the panel without a cell says so");
    }

    #[test]
    fn nothing_measured_is_still_a_picture() {
        assert!(well_formed(&svg(&[], "m")).is_ok());
    }
}
