//! Logarithmic axes over whole decades, and the short numbers that stand at them.

/// A number in at most four characters or so: `850`, `8.2k`, `1.2M`.
pub fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => trim(v / 1e6, "M"),
        v if v >= 1e3 => trim(v / 1e3, "k"),
        v if v >= 10.0 => format!("{v:.0}"),
        v => trim(v, ""),
    }
}

fn trim(value: f64, unit: &str) -> String {
    let digits = usize::from(value < 10.0);
    let text = format!("{value:.digits$}");
    format!("{}{unit}", text.strip_suffix(".0").unwrap_or(&text))
}

/// A logarithmic axis over whole decades.
#[derive(Debug, Clone, Copy)]
pub struct Axis {
    low: i32,
    high: i32,
}

impl Axis {
    /// An axis that holds all positive values; `None` when there are none.
    pub fn over(values: impl Iterator<Item = f64>) -> Option<Self> {
        let (mut low, mut high) = (f64::INFINITY, 0.0_f64);
        for value in values.filter(|value| value.is_finite() && *value > 0.0) {
            low = low.min(value);
            high = high.max(value);
        }
        (high > 0.0).then(|| {
            let low = decade(low.log10().floor());
            Self { low, high: decade(high.log10().ceil()).max(low + 1) }
        })
    }

    /// Where a value lies, from 0 at the lower end to 1 at the upper.
    pub fn share(self, value: f64) -> f64 {
        let share = (value.log10() - f64::from(self.low)) / f64::from(self.high - self.low);
        share.clamp(0.0, 1.0)
    }

    /// Grid lines: decades strong, 2 and 5 between them weak.
    pub fn ticks(self) -> Vec<(f64, bool)> {
        let decades = (self.low..self.high).map(|exponent| 10_f64.powi(exponent));
        let mut ticks: Vec<(f64, bool)> =
            decades.flat_map(|one| [(one, true), (one * 2.0, false), (one * 5.0, false)]).collect();
        ticks.push((10_f64.powi(self.high), true));
        ticks
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the exponent of a finite f64 has three digits")]
fn decade(exponent: f64) -> i32 {
    exponent as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_hold_their_values_between_whole_decades() {
        let axis = Axis::over([3.0, 850.0].into_iter()).unwrap();
        assert_eq!((axis.low, axis.high), (0, 3));
        assert!(axis.share(850.0) > axis.share(3.0) && axis.share(850.0) <= 1.0);
        assert_eq!(axis.ticks().len(), 10);
        assert!(Axis::over([0.0, -1.0].into_iter()).is_none());
    }

    #[test]
    fn numbers_are_short() {
        let words: Vec<String> =
            [3.12, 42.0, 850.0, 8_240.0, 1_640.0, 123_456.0, 2.5e6].into_iter().map(short).collect();
        assert_eq!(words, ["3.1", "42", "850", "8.2k", "1.6k", "123k", "2.5M"]);
    }
}
