//! What the loop tells the metrics.

use metrics::{counter, gauge, histogram};

use super::Summary;
use super::budget::Budget;
use super::delivery::Counts;
use crate::batch::encode::Rolled;
use crate::ops::metrics::{self as names, Labels};

pub fn decoded(counts: &Counts, consumer: &str) {
    let fresh = counts.deliveries - counts.flagged;
    for (flag, n) in [(names::FRESH, fresh), (names::FLAGGED, counts.flagged)] {
        if n > 0 {
            counter!(names::DELIVERIES, "consumer" => consumer.to_owned(), "flag" => flag).increment(n);
        }
    }
    for (reason, n) in &counts.quarantined {
        counter!(names::QUARANTINED, "reason" => reason.as_str()).increment(*n);
    }
}

pub fn landed(dataset: &str, rolled: Rolled, rows: u64, bytes: u64) {
    let dataset = dataset.to_owned();
    counter!(names::ROWS, "dataset" => dataset.clone()).increment(rows);
    counter!(names::BYTES, "dataset" => dataset.clone()).increment(bytes);
    counter!(names::FILES, "dataset" => dataset, "reason" => rolled.as_str()).increment(1);
}

pub fn shelved(dataset: &str, bytes: u64) {
    let dataset = dataset.to_owned();
    counter!(names::ROWS, "dataset" => dataset.clone()).increment(1);
    counter!(names::BYTES, "dataset" => dataset).increment(bytes);
}

/// Counts what depends on the data's own words, with a bound on how many of them become labels.
#[derive(Debug, Default)]
pub struct EventLabels {
    types: Labels,
    paths: Labels,
}

impl EventLabels {
    pub fn count(&mut self, counts: &Counts) {
        for (event_type, n) in &counts.unknown {
            let event_type = self.types.bounded(event_type).to_owned();
            counter!(names::UNKNOWN_TYPES, "event_type" => event_type).increment(*n);
        }
        for ((event_type, path), n) in &counts.violations {
            let (event_type, path) = self.paths.bounded_pair(event_type, path);
            let labels = [("event_type", event_type.to_owned()), ("path", path.to_owned())];
            counter!(names::VIOLATIONS, &labels).increment(*n);
        }
    }
}

/// What the loop counts for its summary anyway, and how full it is.
pub fn loop_state(summary: &Summary, open_batches: usize, budget: &Budget) {
    counter!(names::REPEATS).absolute(summary.repeats + summary.already_stored);
    counter!(names::FENCES_MET).absolute(summary.fences_met);
    counter!(names::BLOB_CONFLICTS).absolute(summary.conflicts);
    gauge!(names::OPEN_BATCHES).set(open_batches as f64);
    gauge!(names::BUDGET_USED).set(budget.used() as f64);
    gauge!(names::BUDGET_LIMIT).set(budget.limit() as f64);
}

/// One put of a file, whatever came of it.
pub fn put(outcome: &'static str, took: std::time::Duration) {
    counter!(names::PUTS, "outcome" => outcome).increment(1);
    histogram!(names::PUT_SECONDS).record(took.as_secs_f64());
}

pub fn fence_created() {
    counter!(names::FENCES_CREATED).increment(1);
}
