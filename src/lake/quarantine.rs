//! The quarantine as it lies in the store: its entries, and the marks of those that were replayed.
//!
//! An entry may stand there more than once (a crash between put and ack); what counts is the body: entries of one
//! `bodySha256` are one. A replayed body is marked by a create-only object below `_quarantine/_replayed/`.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use bytes::Bytes;
use object_store::path::Path;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::clock::Micros;
use crate::error::{Error, Result};
use crate::event::time::format_micros;
use crate::layout::QUARANTINE;
use crate::store::{Put, Store};

/// Folder of the marks, below the root.
pub const REPLAYED: &str = "_quarantine/_replayed";

/// One entry.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Hex of the body's SHA-256.
    pub body_sha256: String,
    /// Why.
    pub reason: String,
    /// What was seen where.
    pub detail: String,
    /// The routing key; empty if there was none.
    pub routing_key: String,
    /// AMQP headers as JSON.
    pub headers: String,
    /// Who received it.
    pub consumer: String,
    /// The layout that refused it.
    pub layout: Option<String>,
    /// As far as it could be read.
    pub event_id: Option<String>,
    /// As far as it could be read.
    pub event_type: Option<String>,
    /// As far as it could be read.
    pub tenant_id: Option<String>,
    /// Queue or file.
    pub source: String,
    /// Delivery tag or line.
    pub position: i64,
    /// When, in microseconds since the epoch; ISO 8601 for scripts.
    #[serde(serialize_with = "iso")]
    pub quarantined_at: Micros,
    /// The body as received; empty if it was not asked for.
    #[serde(skip)]
    pub body: Vec<u8>,
}

/// Reads every entry, file by file in the order of their names, and hands it to `each`.
///
/// # Errors
/// The store's, or a damaged file.
pub async fn read(store: &Store, with_body: bool, mut each: impl FnMut(Entry)) -> Result<()> {
    for file in files(store).await? {
        read_file(store, &file, with_body).await?.into_iter().for_each(&mut each);
    }
    Ok(())
}

/// The files of the quarantine, by name.
///
/// # Errors
/// The store's.
pub async fn files(store: &Store) -> Result<Vec<Path>> {
    let found = store.list_all(&store.path(QUARANTINE)?).await?;
    let mut files: Vec<Path> = found.into_iter().map(|m| m.location).collect();
    files.retain(|path| path.as_ref().ends_with(".parquet"));
    files.sort();
    Ok(files)
}

/// Reads the entries of one file; none if it is gone.
///
/// # Errors
/// The store's, or a damaged file.
pub async fn read_file(store: &Store, file: &Path, with_body: bool) -> Result<Vec<Entry>> {
    let Some(bytes) = store.get(file).await? else { return Ok(Vec::new()) };
    let entries = tokio::task::spawn_blocking(move || entries(bytes, with_body)).await;
    let entries = entries.map_err(|e| Error::bug("reading the quarantine has died").source(e))?;
    entries.map_err(|e| Error::unreachable(format!("{file}: cannot be read")).source(e))
}

fn iso<S: serde::Serializer>(at: &Micros, out: S) -> std::result::Result<S::Ok, S::Error> {
    out.serialize_str(&format_micros(*at))
}

fn entries(file: Bytes, with_body: bool) -> std::result::Result<Vec<Entry>, parquet::errors::ParquetError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
    let wanted =
        builder.schema().fields().iter().map(|f| f.name().clone()).filter(|n| with_body || n != "body");
    let names: Vec<String> = wanted.collect();
    let mask = ProjectionMask::columns(builder.parquet_schema(), names.iter().map(String::as_str));
    let mut out = Vec::new();
    for batch in builder.with_projection(mask).with_batch_size(256).build()? {
        let batch = batch?;
        out.extend((0..batch.num_rows()).map(|row| entry(&batch, row)));
    }
    Ok(out)
}

fn entry(batch: &RecordBatch, row: usize) -> Entry {
    let column = |name: &str| batch.column_by_name(name).filter(|c| c.is_valid(row));
    let text = |name: &str| column(name).map(|c| c.as_string::<i32>().value(row).to_owned());
    let number = |name: &str| column(name).map_or(0, |c| c.as_primitive::<Int64Type>().value(row));
    Entry {
        body_sha256: text("bodySha256").unwrap_or_default(),
        reason: text("reason").unwrap_or_default(),
        detail: text("detail").unwrap_or_default(),
        routing_key: text("routingKey").unwrap_or_default(),
        headers: text("headers").unwrap_or_default(),
        consumer: text("consumer").unwrap_or_default(),
        layout: text("layout"),
        event_id: text("eventId"),
        event_type: text("eventType"),
        tenant_id: text("tenantId"),
        source: text("source").unwrap_or_default(),
        position: number("position"),
        quarantined_at: column("quarantinedAt")
            .map_or(0, |c| c.as_primitive::<TimestampMicrosecondType>().value(row)),
        body: column("body").map(|c| c.as_binary::<i32>().value(row).to_vec()).unwrap_or_default(),
    }
}

/// Bodies that were replayed.
///
/// # Errors
/// The store's.
pub async fn replayed(store: &Store) -> Result<BTreeSet<String>> {
    let marks = store.list_all(&store.path(REPLAYED)?).await?;
    Ok(marks.iter().filter_map(|m| m.location.filename()?.strip_suffix(".json").map(str::to_owned)).collect())
}

/// Marks a body as replayed; marking it again changes nothing.
///
/// # Errors
/// The store's.
pub async fn mark(store: &Store, body_sha256: &str, landed_in: &[String], at: &str) -> Result<Put> {
    let body = serde_json::json!({ "bodySha256": body_sha256, "landedIn": landed_in, "replayedAt": at });
    store.create(&store.path(&format!("{REPLAYED}/{body_sha256}.json"))?, body.to_string().into()).await
}

/// Distinct bodies that were not replayed, by the reason of their first entry.
///
/// # Errors
/// The store's, or a damaged file.
pub async fn counts(store: &Store) -> Result<BTreeMap<String, u64>> {
    let replayed = replayed(store).await?;
    let mut seen = BTreeSet::new();
    let mut counts = BTreeMap::new();
    read(store, false, |entry| {
        if !replayed.contains(&entry.body_sha256) && seen.insert(entry.body_sha256) {
            *counts.entry(entry.reason).or_default() += 1;
        }
    })
    .await?;
    Ok(counts)
}
