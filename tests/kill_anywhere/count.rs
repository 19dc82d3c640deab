//! What is in the lake in the end, counted by DuckDB.

use std::fmt::Write as _;

use serde::Deserialize;

use super::publisher::landing;
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
    /// Some ids that are lost or doubled.
    pub examples: Vec<String>,
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
