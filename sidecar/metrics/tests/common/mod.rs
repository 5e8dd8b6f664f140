//! Reads OpenMetrics text as strictly as a scraper may, and answers what a series holds.

use std::collections::{BTreeMap, BTreeSet};

/// A series' name with its labels as they stand in the text.
pub(crate) type Series = String;

/// What one scrape said.
#[derive(Debug, Default)]
pub(crate) struct Scrape {
    /// Type of each family.
    pub(crate) types: BTreeMap<String, String>,
    pub(crate) helps: BTreeMap<String, String>,
    pub(crate) samples: BTreeMap<Series, f64>,
}

impl Scrape {
    /// # Panics
    /// At anything that a scraper would refuse.
    pub(crate) fn parse(text: &str) -> Self {
        let body = text.strip_suffix("# EOF\n").expect("the text ends with its end marker");
        let mut scrape = Self::default();
        let mut family = String::new();
        for line in body.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let (keyword, rest) = comment.split_once(' ').unwrap();
                let (name, what) = rest.split_once(' ').unwrap();
                let known = match keyword {
                    "HELP" => scrape.helps.insert(name.to_owned(), what.to_owned()),
                    "TYPE" => {
                        name.clone_into(&mut family);
                        scrape.types.insert(name.to_owned(), what.to_owned())
                    }
                    "UNIT" => {
                        assert!(name.ends_with(&format!("_{what}")), "{line}");
                        None
                    }
                    _ => panic!("unknown comment: {line}"),
                };
                assert_eq!(known, None, "said twice: {line}");
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let suffixes: &[&str] = match scrape.types[&family].as_str() {
                "counter" => &["_total"],
                "gauge" => &[""],
                "info" => &["_info"],
                "histogram" => &["_sum", "_count", "_bucket"],
                other => panic!("unexpected type {other}"),
            };
            assert!(suffixes.iter().any(|suffix| name == format!("{family}{suffix}")), "{line} in {family}");
            let value: f64 = value.parse().unwrap();
            assert_eq!(scrape.samples.insert(series.to_owned(), value), None, "a series twice: {line}");
        }
        scrape
    }

    /// The value of a series, named without the sidecar's prefix.
    pub(crate) fn ours(&self, series: &str) -> f64 {
        self.value(&format!("llm_d_disagg_sidecar_{series}"))
    }

    /// The value of a series.
    pub(crate) fn value(&self, series: &str) -> f64 {
        *self.samples.get(series).unwrap_or_else(|| panic!("no series {series}"))
    }

    /// The names of all series.
    pub(crate) fn series(&self) -> BTreeSet<&str> {
        self.samples.keys().map(String::as_str).collect()
    }

    /// The values of a label among all series of a metric.
    pub(crate) fn label_values(&self, name: &str, label: &str) -> BTreeSet<&str> {
        let of_metric = self.samples.keys().filter_map(|series| {
            series.strip_prefix("llm_d_disagg_sidecar_")?.strip_prefix(name)?.strip_prefix('{')
        });
        of_metric
            .filter_map(|labels| labels.split_once(&format!("{label}=\""))?.1.split('"').next())
            .collect()
    }
}
