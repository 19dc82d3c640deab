//! What the loop tells the metrics.

use metrics::counter;

use super::delivery::Counts;
use crate::batch::encode::Rolled;

pub fn decoded(counts: &Counts, consumer: &str) {
    let fresh = counts.deliveries - counts.flagged;
    for (flag, n) in [("fresh", fresh), ("flagged", counts.flagged)] {
        if n > 0 {
            counter!("lakehead_deliveries_total", "consumer" => consumer.to_owned(), "flag" => flag)
                .increment(n);
        }
    }
    for (reason, n) in &counts.quarantined {
        counter!("lakehead_quarantined_total", "reason" => reason.as_str()).increment(*n);
    }
}

pub fn landed(dataset: &str, rolled: Rolled, rows: u64, bytes: u64) {
    let dataset = dataset.to_owned();
    counter!("lakehead_landed_rows_total", "dataset" => dataset.clone()).increment(rows);
    counter!("lakehead_landed_bytes_total", "dataset" => dataset.clone()).increment(bytes);
    counter!("lakehead_landed_files_total", "dataset" => dataset, "rolled" => rolled.as_str()).increment(1);
}

pub fn shelved(dataset: &str, bytes: u64) {
    let dataset = dataset.to_owned();
    counter!("lakehead_landed_rows_total", "dataset" => dataset.clone()).increment(1);
    counter!("lakehead_landed_bytes_total", "dataset" => dataset).increment(bytes);
}
