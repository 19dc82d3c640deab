//! What is in the lake in the end, counted by DuckDB.

use std::fmt::Write as _;

use serde::Deserialize;

use super::publisher::{event, landing};
use super::support::{Home, python_with};

/// What DuckDB says of one dataset.
#[derive(Debug, Deserialize)]
pub struct Counted {
    pub dataset: String,
    /// Events that must be there.
    pub wanted: u64,
    /// Rows or blobs that are there.
    pub found: u64,
    /// Events that must be there, and are not.
    pub lost: u64,
    /// Rows or blobs above one of an event.
    pub doubled: u64,
    /// Rows or blobs of no event that was published.
    pub unasked: u64,
    /// Some of those that are lost, doubled or unasked, with the files that hold them.
    pub examples: Vec<String>,
}

impl Counted {
    pub fn is_good(&self) -> bool {
        self.lost + self.doubled + self.unasked == 0 && self.examples.is_empty()
    }

    /// For a person.
    pub fn told(&self) -> String {
        let Counted { dataset, wanted, found, lost, doubled, unasked, examples } = self;
        format!(
            "{dataset}: {wanted} wanted, {found} found, {lost} lost, {doubled} doubled, {unasked} unasked {examples:?}"
        )
    }
}

/// Counts events 0 to `all` in the lake at `root`; those of `uncertain` (sorted) may be missing.
#[track_caller]
pub fn count(
    home: &Home,
    root: &str,
    environment: &[(&str, String)],
    all: u64,
    uncertain: &[u64],
) -> Vec<Counted> {
    let mut wanted = String::from("dataset,id,certain\n");
    for n in 0..all {
        let (dataset, id) = landing(n);
        let certain = uncertain.binary_search(&n).is_err();
        writeln!(wanted, "{dataset},{id},{certain}").expect("a string takes everything");
    }
    let file = home.write("wanted.csv", wanted);
    let file = file.to_str().expect("an own path is text");
    let text = python_with("readers/duckdb_once.py", &[root, file], environment);
    serde_json::from_str(&text).expect("the reader prints JSON")
}

#[test]
fn what_is_lost_doubled_or_unasked_is_counted() {
    let home = Home::new();
    let (all, gone, uncertain) = (80, 5, [6]);
    for dataset in ["risk_evaluations", "audit_log", "ml_audit"] {
        // Event 81 was not published.
        let there = (0..=all + 1).filter(|n| ![gone, uncertain[0], all].contains(n));
        let there: Vec<_> = there.filter(|n| landing(*n).0 == dataset).map(|n| event(n, all, 3)).collect();
        home.events("events.ndjson", &there);
        home.backfill(&["--layout", dataset, "events.ndjson"]);
    }
    let lake = home.lake();
    let audits = lake.files("audit_log").into_iter().next().expect("a file");
    let rows = super::support::lake::rows_of(&audits).len() as u64;
    std::fs::copy(&audits, audits.with_file_name("again.parquet")).expect("copied");
    let blob = lake.root().join(&lake.blobs()[0]);
    std::fs::copy(&blob, blob.with_file_name("ml.prediction.completed-p-7777.json")).expect("copied");
    let counted = count(&home, lake.root().to_str().expect("text"), &[], all, &uncertain);
    let found: Vec<_> = counted.iter().map(|d| (d.dataset.as_str(), d.lost, d.doubled, d.unasked)).collect();
    assert_eq!(
        found,
        [("audit_log", 0, rows, 0), ("ml_audit", 0, 0, 1), ("risk_evaluations", 1, 0, 1)],
        "{counted:?}"
    );
    assert!(counted.iter().all(|d| !d.is_good()));
}
