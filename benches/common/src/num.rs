//! Number conversions and medians, in one place: everything the bench prints is a ratio of counts, and each lossy
//! conversion should be seen to be harmless once instead of being waved through everywhere.

use std::time::Duration;

/// A count as a float.
#[expect(clippy::cast_precision_loss, reason = "counts and nanoseconds here stay far below 2^53")]
pub fn float(count: u64) -> f64 {
    count as f64
}

/// A collection's length as a float.
pub fn float_len(length: usize) -> f64 {
    float(length as u64)
}

/// Nanoseconds of a duration, saturating at 584 years.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The median; the mean of the middle two for an even number of values, `None` for none. Values that are not
/// finite are left out: they come from a division by a CPU time too short to be seen.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// `a / b`, or `None` where that says nothing: a divisor that is not positive, or no number at all.
pub fn ratio(a: f64, b: f64) -> Option<f64> {
    (b > 0.0).then(|| a / b).filter(|value| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_even_and_none() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median([]), None);
    }

    #[test]
    fn median_ignores_values_that_are_no_number() {
        assert_eq!(median([f64::INFINITY, 1.0, f64::NAN]), Some(1.0));
    }

    #[test]
    fn ratio_refuses_divisors_that_say_nothing() {
        assert_eq!(ratio(6.0, 3.0), Some(2.0));
        assert_eq!(ratio(6.0, 0.0), None);
        assert_eq!(ratio(6.0, -1.0), None);
    }
}
