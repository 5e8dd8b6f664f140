//! The matrix as a heat map: rows give, columns take; numbers always, colours where somebody sees them.

use std::fmt::Write as _;

use kvferry_bench_common::num::float_len;
use kvferry_bench_common::svg::{INFALLIBLE, escape, text};

use super::matrix::{Found, Matrix};

/// From slow to fast, of the best pair: orange to blue, which differ for those who see no red or no green, too.
const SCALE: [(u8, u8, u8); 5] = [(213, 94, 0), (230, 159, 0), (240, 228, 66), (86, 180, 233), (0, 114, 178)];

/// Of a pair that failed.
const FAILED: (u8, u8, u8) = (60, 60, 60);

const CELL: usize = 10;

/// Characters of a host's name that are shown in a row; the end, which tells hosts of one cluster apart.
const NAME: usize = 24;

fn colour(part: f64) -> (u8, u8, u8) {
    let reached = |index: &usize| part >= float_len(*index) / float_len(SCALE.len());
    SCALE[(1..SCALE.len()).take_while(reached).count()]
}

/// Whether dark words can be read on it.
fn is_light((red, green, blue): (u8, u8, u8)) -> bool {
    u32::from(red) + u32::from(green) + u32::from(blue) > 380
}

fn best(matrix: &Matrix) -> f64 {
    let speeds = matrix.pairs().into_iter().filter_map(|pair| pair.found.map(|found| found.gb_per_s));
    speeds.fold(0.0, f64::max).max(1e-9)
}

fn shortened(name: &str) -> String {
    let skipped = name.chars().count().saturating_sub(NAME);
    name.chars().skip(skipped).collect()
}

/// What of a pair is shown.
type Number = fn(&Found) -> String;

/// As it stands in a terminal.
pub(super) fn terminal(matrix: &Matrix, colours: bool) -> String {
    let mut out = String::new();
    let numbers: [(&str, Number); 2] = [
        ("GB/s from (row) to (column)", |found| format!("{:.2}", found.gb_per_s)),
        ("p50 of one block, us", |found| format!("{:.1}", found.p50_us)),
    ];
    for (what, number) in numbers {
        writeln!(out, "\n{what}").expect(INFALLIBLE);
        write!(out, "{:NAME$}  ", "").expect(INFALLIBLE);
        for column in 0..matrix.peers.len() {
            write!(out, "{:>CELL$}", format!("[{column}]")).expect(INFALLIBLE);
        }
        out.push('\n');
        for (from, name) in matrix.peers.iter().enumerate() {
            write!(out, "{:NAME$}  ", format!("[{from}] {}", shortened(name))).expect(INFALLIBLE);
            for to in 0..matrix.peers.len() {
                let (words, shade) = match matrix.get(from, to) {
                    None => ("-".to_owned(), None),
                    Some(Err(_)) => ("FAILED".to_owned(), Some(FAILED)),
                    Some(Ok(found)) => (number(found), Some(colour(found.gb_per_s / best(matrix)))),
                };
                let cell = format!("{words:>CELL$}");
                match shade.filter(|_| colours) {
                    Some(shade) => {
                        let (red, green, blue) = shade;
                        let ink = if is_light(shade) { 30 } else { 97 };
                        write!(out, "\x1b[48;2;{red};{green};{blue};{ink}m{cell}\x1b[0m")
                    }
                    None => write!(out, "{cell}"),
                }
                .expect(INFALLIBLE);
            }
            out.push('\n');
        }
    }
    let mut lanes: Vec<&str> =
        matrix.pairs().into_iter().filter_map(|pair| pair.found.map(|found| found.lane.as_str())).collect();
    lanes.sort_unstable();
    lanes.dedup();
    writeln!(out, "\nlanes: {}", if lanes.is_empty() { "none".into() } else { lanes.join(", ") })
        .expect(INFALLIBLE);
    out
}

const SIDE: f64 = 84.0;
const LEFT: f64 = 210.0;
const TOP: f64 = 96.0;

/// As a picture.
pub(super) fn svg(matrix: &Matrix, words: &str) -> String {
    let size = float_len(matrix.peers.len()) * SIDE;
    let (width, height) = ((LEFT + size + 30.0).max(520.0), TOP + size + 40.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"system-ui, sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    text(&mut out, (20.0, 28.0), "start", 18.0, "#222222", "How fast every host reads from every other");
    text(
        &mut out,
        (20.0, 48.0),
        "start",
        12.0,
        "#555555",
        "GB/s and p50 of one block, from the row's host to the column's",
    );
    for (from, name) in matrix.peers.iter().enumerate() {
        let y = TOP + float_len(from) * SIDE;
        text(&mut out, (LEFT - 10.0, y + SIDE / 2.0), "end", 12.0, "#222222", &shortened(name));
        let column = LEFT + (float_len(from) + 0.5) * SIDE;
        text(&mut out, (column, TOP - 10.0), "middle", 10.0, "#222222", &shortened(name));
        for to in 0..matrix.peers.len() {
            let Some(result) = matrix.get(from, to) else { continue };
            let x = LEFT + float_len(to) * SIDE;
            let (shade, first, second, title) = match result {
                Ok(found) => (
                    colour(found.gb_per_s / best(matrix)),
                    format!("{:.2}", found.gb_per_s),
                    format!("{:.0} µs", found.p50_us),
                    found.lane.clone(),
                ),
                Err(error) => (FAILED, "failed".into(), String::new(), error.clone()),
            };
            let ink = if is_light(shade) { "#111111" } else { "#ffffff" };
            let (red, green, blue) = shade;
            writeln!(
                out,
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{side:.1}\" height=\"{side:.1}\" fill=\"#{red:02x}{green:02x}{blue:02x}\"><title>{}</title></rect>",
                x + 1.0,
                y + 1.0,
                escape(&title),
                side = SIDE - 2.0,
            )
            .expect(INFALLIBLE);
            let middle = x + SIDE / 2.0;
            text(&mut out, (middle, y + SIDE / 2.0 - 2.0), "middle", 15.0, ink, &first);
            text(&mut out, (middle, y + SIDE / 2.0 + 16.0), "middle", 11.0, ink, &second);
        }
    }
    text(&mut out, (20.0, height - 12.0), "start", 11.0, "#777777", words);
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    use kvferry_bench_common::svg::well_formed;

    use super::super::matrix::tests::matrix;
    use super::*;

    #[test]
    fn the_terminal_shows_every_number_and_colours_only_where_they_are_seen() {
        let plain = terminal(&matrix(), false);
        for words in ["10.00", "2.00", "FAILED", "[2] c:1", "lanes: tcp (socket)"] {
            assert!(plain.contains(words), "{words}: {plain}");
        }
        assert!(!plain.contains('\x1b'));
        assert!(terminal(&matrix(), true).contains("\x1b[48;2;"));
    }

    #[test]
    fn faster_pairs_are_further_along_the_scale() {
        let at = |part: f64| SCALE.iter().position(|shade| *shade == colour(part)).unwrap();
        assert_eq!((at(0.0), at(0.19), at(0.3), at(0.5), at(0.7), at(0.9), at(1.0)), (0, 0, 1, 2, 3, 4, 4));
    }

    #[test]
    fn the_picture_is_well_formed_and_has_a_square_for_every_pair() {
        let picture = svg(&matrix(), "tcp & more");
        well_formed(&picture).unwrap();
        assert_eq!(picture.matches("<title>").count(), 6);
        assert!(picture.contains("connection refused"));
    }
}
