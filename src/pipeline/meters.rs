//! What the loop tells the metrics.

use metrics::counter;

use super::delivery::Counts;
use crate::batch::encode::Rolled;
use crate::ops::metrics as names;

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
