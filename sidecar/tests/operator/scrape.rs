//! One reading of `/metrics`.

use std::collections::BTreeMap;

/// What the sidecar's own names begin with.
pub(crate) const OURS: &str = "llm_d_disagg_sidecar_";

/// Series, by name and labels as they are written, with their values.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    pub(crate) fn of(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let series = lines.map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
        });
        Self(series.collect())
    }

    /// The value of a series of ours, named without what all have in common.
    pub(crate) fn get(&self, series: &str) -> f64 {
        let found = self.0.get(&format!("{OURS}{series}"));
        *found.unwrap_or_else(|| panic!("no series {series}: {:?}", self.0.keys()))
    }

    /// Names and labels of all series.
    pub(crate) fn series(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// Requests in flight and KV handles outstanding.
    pub(crate) fn under_way(&self) -> f64 {
        let in_flight = format!("{OURS}in_flight");
        let flying: f64 =
            self.0.iter().filter(|(name, _)| name.starts_with(&in_flight)).map(|(_, value)| value).sum();
        flying + self.get("kv_outstanding")
    }

    /// Which counts of events are higher than they were, and by how much; without lengths, connections and durations,
    /// and without the pieces in which answers happened to come.
    pub(crate) fn since(&self, before: &Self) -> BTreeMap<String, u64> {
        let counts = |name: &str| {
            (name.contains("_total") || name.contains("_count"))
                && !name.contains("bytes_total")
                && !name.contains("upstream_connections")
                && !name.contains("inter_token")
        };
        let ours = self.0.iter().filter_map(|(name, value)| Some((name.strip_prefix(OURS)?, value)));
        ours.filter(|(name, _)| counts(name))
            .map(|(name, value)| (name, value - before.get(name)))
            .filter(|(_, more)| *more != 0.0)
            .map(|(name, more)| (name.to_owned(), whole(more)))
            .collect()
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked")]
fn whole(number: f64) -> u64 {
    assert!(number >= 0.0 && number.fract() == 0.0, "a count: {number}");
    number as u64
}
