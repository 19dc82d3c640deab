//! What was published, what the store holds of it, and every promise that was broken.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, AsArray};
use bytes::Bytes;
use lakehead::pipeline::look::parse_name;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// Datasets that a good event lands in, one row each.
pub const DATASETS: [&str; 2] = ["risk_evaluations", "workflow_events"];

/// Folder of the blobs.
pub const BLOBS: &str = "audit/";

/// Under this header, the moment of a delivery comes back from the quarantine.
pub const DELIVERED: &str = "x-delivered";

/// What kind of message was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It lands.
    Good,
    /// No JSON: it is quarantined.
    Broken,
    /// Its time lies about where the clocks of the processes part: it lands, or is quarantined as too early.
    Early,
}

/// The record of a run.
#[derive(Debug, Default)]
pub struct Ledger {
    pub kinds: Vec<Kind>,
    /// Rows by (dataset, message), and when the first of them was stored.
    rows: BTreeMap<(&'static str, usize), (u32, u64)>,
    blobs: BTreeMap<usize, u32>,
    quarantined: BTreeMap<usize, u32>,
    /// Sequence numbers that are taken, by the folder and the writer.
    names: BTreeMap<String, BTreeSet<u32>>,
    pub violations: Vec<String>,
}

/// The event id of a message.
pub fn event_id(message: usize) -> String {
    format!("e{message}")
}

fn number(id: &str) -> Option<usize> {
    id.strip_prefix('e')?.parse().ok()
}

impl Ledger {
    pub fn violation(&mut self, what: String) {
        self.violations.push(what);
    }

    /// Notes an object that the store has committed at `now`; returns the messages in its rows.
    pub fn committed(&mut self, path: &str, bytes: &Bytes, now: u64) -> Vec<usize> {
        let mut held = Vec::new();
        if let Some((folder, name)) = path.rsplit_once('/')
            && let Some((writer, seq)) = parse_name(name)
        {
            self.names.entry(format!("{folder}/{writer}")).or_default().insert(seq);
        }
        if let Some(name) = path.strip_prefix(BLOBS) {
            let id = name.rsplit_once('-').and_then(|(_, id)| number(id.strip_suffix(".json")?));
            match id {
                Some(id) => *self.blobs.entry(id).or_default() += 1,
                None => self.violation(format!("a blob of nobody: {path}")),
            }
        } else if let Some(dataset) = DATASETS.into_iter().find(|d| path.starts_with(d)) {
            for id in texts(bytes, "eventId").iter().filter_map(|id| number(id)) {
                self.rows.entry((dataset, id)).or_insert((0, now)).0 += 1;
                held.push(id);
            }
        } else if path.starts_with("_quarantine/") {
            let (layouts, headers) = (texts(bytes, "layout"), texts(bytes, "headers"));
            for (at, body) in texts(bytes, "body").into_iter().enumerate() {
                let id = body.split('"').find_map(number);
                match id {
                    Some(id) => {
                        *self.quarantined.entry(id).or_default() += 1;
                        self.refused(id, &layouts[at], &headers[at]);
                    }
                    None => self.violation(format!("a quarantined body of nobody: {body}")),
                }
                held.extend(id);
            }
        }
        held
    }

    /// What was stored before it was delivered is not quarantined any more. (The other way round is allowed.)
    fn refused(&mut self, id: usize, layout: &str, headers: &str) {
        let Some(dataset) = DATASETS.into_iter().find(|d| *d == layout) else { return };
        let headers: serde_json::Value = serde_json::from_str(headers).expect("headers are JSON");
        let delivered = headers[DELIVERED].as_u64().expect("the moment of the delivery");
        if let Some((_, stored)) = self.rows.get(&(dataset, id)).filter(|(_, stored)| *stored < delivered) {
            let what = format!("stored at {stored}, delivered at {delivered}");
            self.violation(format!("message {id} is quarantined for {dataset}, which holds it: {what}"));
        }
    }

    fn rows(&self, dataset: &'static str, id: usize) -> u32 {
        self.rows.get(&(dataset, id)).map_or(0, |(rows, _)| *rows)
    }

    fn is_quarantined(&self, id: usize) -> bool {
        self.quarantined.contains_key(&id)
    }

    /// True if everything that a message becomes is in the store.
    pub fn is_stored(&self, id: usize) -> bool {
        let landed = || DATASETS.iter().all(|d| self.rows(d, id) > 0) && self.blobs.contains_key(&id);
        match self.kinds[id] {
            Kind::Good => landed(),
            Kind::Broken => self.is_quarantined(id),
            Kind::Early => landed() || self.is_quarantined(id),
        }
    }

    /// Everything is there once, under names without gaps.
    pub fn close(&mut self) {
        for (writer, taken) in std::mem::take(&mut self.names) {
            if !taken.iter().copied().eq(0..taken.len() as u32) {
                self.violation(format!("{writer} has gaps in its names: {taken:?}"));
            }
        }
        for (id, kind) in self.kinds.clone().into_iter().enumerate() {
            let rows = DATASETS.map(|d| self.rows(d, id));
            let blob = self.blobs.contains_key(&id);
            let quarantined = self.is_quarantined(id);
            let well = match kind {
                Kind::Good => rows == [1, 1] && blob && !quarantined,
                Kind::Broken => rows == [0, 0] && !blob && quarantined,
                Kind::Early => (rows == [1, 1] && blob) || (rows.iter().all(|n| *n <= 1) && quarantined),
            };
            if !well {
                self.violation(format!(
                    "message {id} ({kind:?}): {rows:?} rows in {DATASETS:?}, blob: {blob}, quarantined: {quarantined}"
                ));
            }
        }
    }
}

/// A column's values, as the real reader reads them.
fn texts(bytes: &Bytes, column: &str) -> Vec<String> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes.clone()).expect("a Parquet file");
    let mut out = Vec::new();
    for batch in reader.build().expect("a reader") {
        let batch = batch.expect("a batch");
        let array = batch.column_by_name(column).expect("the column is there");
        for row in 0..array.len() {
            out.push(match array.as_string_opt::<i32>() {
                Some(texts) => texts.value(row).to_owned(),
                None => String::from_utf8_lossy(array.as_binary::<i32>().value(row)).into_owned(),
            });
        }
    }
    out
}
