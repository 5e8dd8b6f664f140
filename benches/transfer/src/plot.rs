//! The pictures: for each cell a row of bars, one for each side; and a page that holds them with their numbers.

use std::fmt::Write as _;

use kvferry_bench_common::num::float_len;
use kvferry_bench_common::svg::{INFALLIBLE, escape, text};

use crate::figures::Figures;

const WIDTH: f64 = 900.0;
const LEFT: f64 = 170.0;
const RIGHT: f64 = 760.0;
const TOP: f64 = 66.0;
const ROW: f64 = 20.0;
/// The name of a cell above its bars, and air below them.
const HEAD: f64 = 26.0;
const GAP: f64 = 14.0;
const FOOT: f64 = 26.0;

/// Colours that differ for those who see no red or no green, too.
const OURS: &str = "#0072b2";
const CEILING: &str = "#999999";
const OTHERS: &str = "#e69f00";

fn colour(side: &str) -> &'static str {
    match side {
        crate::worker::MEMCPY | crate::worker::SOCKETS => CEILING,
        other if ["nixl-py", "mooncake", "perftest"].iter().any(|name| other.starts_with(name)) => OTHERS,
        _ => OURS,
    }
}

/// One picture of all cells; each has an axis of its own.
pub fn svg(cells: &[(String, Vec<Figures>)], machine: &str) -> String {
    let rows: usize = cells.iter().map(|(_, lines)| lines.len()).sum();
    let height = TOP + (HEAD + GAP) * float_len(cells.len()) + ROW * float_len(rows) + FOOT;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui, sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"20\" y=\"28\" font-size=\"18\" font-weight=\"600\" fill=\"#222222\">How fast KV blocks move</text>\n"
    );
    let legend = "GB/s, medians; line: half of the rounds; blue: fabrics of ours, grey: ceilings, orange: other engines";
    text(&mut out, (20.0, 48.0), "start", 12.0, "#555555", legend);
    let mut y = TOP;
    for (name, lines) in cells {
        text(&mut out, (20.0, y + 16.0), "start", 13.0, "#222222", name);
        y += HEAD;
        let most = lines.iter().map(|line| line.quartiles[1].max(line.gb_per_s)).fold(1e-9, f64::max);
        for line in lines {
            bar(&mut out, line, most, y);
            y += ROW;
        }
        y += GAP;
    }
    text(&mut out, (20.0, height - 10.0), "start", 11.0, "#777777", machine);
    out.push_str("</svg>\n");
    out
}

fn bar(out: &mut String, line: &Figures, most: f64, y: f64) {
    let x = |value: f64| LEFT + (RIGHT - LEFT) * value / most;
    text(out, (LEFT - 8.0, y + 13.0), "end", 12.0, "#222222", &line.side);
    let (width, fill, side) = (x(line.gb_per_s) - LEFT, colour(&line.side), escape(&line.side));
    writeln!(
        out,
        "<rect x=\"{LEFT}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{fill}\"><title>{side}: {:.3} GB/s</title></rect>",
        y + 3.0,
        ROW - 6.0,
        line.gb_per_s
    )
    .expect(INFALLIBLE);
    let [low, high] = line.quartiles.map(x);
    writeln!(
        out,
        "<line x1=\"{low:.1}\" y1=\"{0:.1}\" x2=\"{high:.1}\" y2=\"{0:.1}\" stroke=\"#222222\" stroke-width=\"2\"/>",
        y + ROW / 2.0
    )
    .expect(INFALLIBLE);
    let cpu = line.cpu_us_per_block.map_or_else(String::new, |cpu| format!(", {cpu:.2} µs CPU/block"));
    text(out, (RIGHT + 8.0, y + 13.0), "start", 11.0, "#333333", &format!("{:.2}{cpu}", line.gb_per_s));
}

/// A page of its own: the picture, and the tables as they stand in the terminal.
pub fn html(picture: &str, tables: &str, date: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>kvferry-bench transfer, {date}</title>\n\
         <style>body{{font-family:system-ui,sans-serif;margin:2em;max-width:1200px}}pre{{overflow-x:auto;font-size:12px}}</style></head>\n\
         <body>\n{picture}<pre>{}</pre>\n</body></html>\n",
        escape(tables)
    )
}

#[cfg(test)]
mod tests {
    use kvferry_bench_common::svg::well_formed;

    use super::*;
    use crate::figures::figures;
    use crate::figures::tests::sample;

    fn cells(names: &[&str]) -> Vec<(String, Vec<Figures>)> {
        let samples: Vec<_> = names.iter().map(|name| sample("c & d", name, 1, 3)).collect();
        vec![("c & d".into(), names.iter().filter_map(|name| figures(&samples, "c & d", name)).collect())]
    }

    #[test]
    fn the_picture_is_well_formed_and_has_a_bar_for_every_side() {
        let picture = svg(&cells(&["tcp", "sockets", "nixl-py:tcp"]), "a machine & more");
        assert!(well_formed(&picture).unwrap() > 10);
        assert_eq!(picture.matches("<title>").count(), 3);
        assert!([OURS, CEILING, OTHERS].iter().all(|colour| picture.contains(colour)));
        assert!(well_formed(&svg(&[], "m")).is_ok());
    }

    #[test]
    fn no_words_of_a_run_break_the_page() {
        let page = html(&svg(&cells(&["<b>"]), "m"), "a < b & c", "today");
        assert!(page.contains("a &lt; b &amp; c") && !page.contains("<b>"));
    }
}
