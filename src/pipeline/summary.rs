//! What a run has done, for the person who started it.

use std::collections::{BTreeMap, BTreeSet};

use super::delivery::Counts;
use super::land::Landing;
use crate::batch::encode::Rolled;
use crate::clock::Micros;
use crate::event::Reason;
use crate::event::time::day_of;

/// What landed in one dataset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DatasetSummary {
    /// Rows, or blobs.
    pub rows: u64,
    /// Files, or blobs.
    pub files: u64,
    /// Stored bytes.
    pub bytes: u64,
    /// Days that were written to, in days since the epoch.
    pub days: BTreeSet<i32>,
    /// Files by the reason why they were closed.
    pub rolled: BTreeMap<Rolled, u64>,
}

/// What a run has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Deliveries that were decoded.
    pub deliveries: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Deliveries outside the wanted span.
    pub skipped: u64,
    /// What landed, by dataset.
    pub datasets: BTreeMap<String, DatasetSummary>,
    /// Refused, by reason.
    pub quarantined: BTreeMap<Reason, u64>,
    /// Events of types that the catalog does not know.
    pub unknown: u64,
    /// Violations of the catalog that landed nevertheless.
    pub violations: u64,
    /// Rows that came again while, or after, they were on their way here.
    pub repeats: u64,
    /// Redelivered rows that a file held already.
    pub already_stored: u64,
    /// Receipts given back because another writer claimed their rows.
    pub given_back: u64,
    /// Fences that stood at our names.
    pub fences_met: u64,
    /// Blobs that lie beside another of their name.
    pub conflicts: u64,
    /// Deliveries that were left to the broker at the end.
    pub unacked: u64,
}

impl Summary {
    /// Adds what decoding counted.
    pub fn count(&mut self, counts: &Counts) {
        self.deliveries += counts.deliveries;
        self.bytes += counts.bytes;
        self.skipped += counts.skipped;
        for (reason, n) in &counts.quarantined {
            *self.quarantined.entry(*reason).or_default() += n;
        }
        self.unknown += counts.unknown.values().sum::<u64>();
        self.violations += counts.violations.values().sum::<u64>();
    }

    pub(super) fn file(&mut self, dataset: &str, landing: &Landing, size: u64) {
        super::meters::landed(dataset, landing.rolled, landing.rows.len() as u64, size);
        let entry = self.entry(dataset);
        entry.rows += landing.rows.len() as u64;
        entry.files += 1;
        entry.bytes += size;
        entry.days.insert(landing.partition.day);
        *entry.rolled.entry(landing.rolled).or_default() += 1;
    }

    pub(super) fn blob(&mut self, dataset: &str, size: usize, time: Micros) {
        super::meters::shelved(dataset, size as u64);
        let entry = self.entry(dataset);
        entry.rows += 1;
        entry.files += 1;
        entry.bytes += size as u64;
        entry.days.insert(day_of(time));
    }

    fn entry(&mut self, dataset: &str) -> &mut DatasetSummary {
        if !self.datasets.contains_key(dataset) {
            self.datasets.insert(dataset.to_owned(), DatasetSummary::default());
        }
        self.datasets.get_mut(dataset).expect("it was inserted just now")
    }

    /// The summary for scripts.
    pub fn as_json(&self) -> serde_json::Value {
        let datasets = self.datasets.iter().map(|(name, d)| {
            let rolled: BTreeMap<&str, u64> = d.rolled.iter().map(|(r, n)| (r.as_str(), *n)).collect();
            let value = serde_json::json!({
                "rows": d.rows, "files": d.files, "bytes": d.bytes, "days": d.days.len(), "rolled": rolled,
            });
            (name.clone(), value)
        });
        let quarantined: BTreeMap<&str, u64> =
            self.quarantined.iter().map(|(r, n)| (r.as_str(), *n)).collect();
        serde_json::json!({
            "deliveries": self.deliveries,
            "bytes": self.bytes,
            "outsideSpan": self.skipped,
            "datasets": datasets.collect::<serde_json::Map<_, _>>(),
            "quarantined": quarantined,
            "unknownTypes": self.unknown,
            "violations": self.violations,
            "repeats": self.repeats,
            "alreadyStored": self.already_stored,
            "givenBack": self.given_back,
            "fencesMet": self.fences_met,
            "conflicts": self.conflicts,
            "unacked": self.unacked,
        })
    }

    /// Everything that was refused.
    pub fn refused(&self) -> u64 {
        self.quarantined.values().sum()
    }
}
