//! One metric with all its series: a cell for every combination of its labels, made once, found by index.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;

use crate::labels::{Labels, Set};

/// A metric's cells. Clones share them: one records, the other stands in the registry.
#[derive(Debug)]
pub(crate) struct ByLabel<L, M> {
    cells: Arc<[M]>,
    labels: PhantomData<L>,
}

impl<L: Labels, M> ByLabel<L, M> {
    /// A cell for each combination.
    pub(crate) fn new(cell: impl Fn(L) -> M) -> Self {
        Self { cells: (0..L::COUNT).map(L::at).map(cell).collect(), labels: PhantomData }
    }

    /// The cell of these labels.
    pub(crate) fn of(&self, labels: L) -> &M {
        &self.cells[labels.index()]
    }
}

impl<L, M> Clone for ByLabel<L, M> {
    fn clone(&self) -> Self {
        Self { cells: Arc::clone(&self.cells), labels: PhantomData }
    }
}

impl<L: Labels, M: EncodeMetric> EncodeMetric for ByLabel<L, M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        if let [cell] = &*self.cells {
            // One combination means no labels at all: a label with a single value would tell nothing.
            return cell.encode(encoder);
        }
        for (index, cell) in self.cells.iter().enumerate() {
            cell.encode(encoder.encode_family(&Set(L::at(index)))?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        self.cells.first().expect("every set of labels has at least one combination").metric_type()
    }
}
