//! A local lake as its files, read with the Parquet library alone: nothing of Lakehead takes part.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use arrow::util::display::array_value_to_string;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};

/// One row: column to text; a null is not there.
pub type Row = BTreeMap<String, String>;

/// A lake in a local folder.
#[derive(Debug, Clone)]
pub struct Lake {
    root: PathBuf,
}

impl Lake {
    /// The lake in a folder, which need not exist.
    pub fn open(root: impl Into<PathBuf>) -> Lake {
        Lake { root: root.into() }
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Every file below the root, relative to it, sorted.
    pub fn paths(&self) -> Vec<String> {
        let mut found = Vec::new();
        walk(&self.root, &mut found);
        let relative =
            |p: &PathBuf| p.strip_prefix(&self.root).expect("below the root").display().to_string();
        let mut paths: Vec<String> = found.iter().map(relative).collect();
        paths.sort();
        paths
    }

    /// The Parquet files of a dataset that hold rows (fences hold none), sorted.
    pub fn files(&self, dataset: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        walk(&self.root.join(dataset), &mut found);
        found.retain(|p| p.extension().is_some_and(|e| e == "parquet"));
        found.retain(|p| metadata(p).file_metadata().num_rows() > 0);
        found.sort();
        found
    }

    /// Every row of a dataset, in the order of the files' names and within them.
    pub fn rows(&self, dataset: &str) -> Vec<Row> {
        self.files(dataset).iter().flat_map(|file| rows_of(file)).collect()
    }

    /// One column of a dataset, sorted.
    pub fn column(&self, dataset: &str, column: &str) -> Vec<String> {
        let mut values: Vec<String> =
            self.rows(dataset).into_iter().filter_map(|mut row| row.remove(column)).collect();
        values.sort();
        values
    }

    /// The audit blobs, relative to the root, sorted.
    pub fn blobs(&self) -> Vec<String> {
        let mut paths = self.paths();
        paths.retain(|p| p.starts_with("ml_audit/") && p.ends_with(".json"));
        paths
    }

    /// Insists on every wanted event id standing in a dataset exactly once, and no other.
    #[track_caller]
    pub fn holds_once(&self, dataset: &str, wanted: impl IntoIterator<Item = String>) {
        let mut wanted: Vec<String> = wanted.into_iter().collect();
        wanted.sort();
        let found = self.column(dataset, "eventId");
        let mut counts: BTreeMap<&String, i64> = BTreeMap::new();
        wanted.iter().for_each(|id| *counts.entry(id).or_default() -= 1);
        found.iter().for_each(|id| *counts.entry(id).or_default() += 1);
        let lost: Vec<_> = counts.iter().filter(|(_, n)| **n < 0).map(|(id, _)| id).collect();
        let doubled: Vec<_> = counts.iter().filter(|(_, n)| **n > 0).map(|(id, _)| id).collect();
        assert!(
            lost.is_empty() && doubled.is_empty(),
            "{dataset}: {} wanted, {} found; lost {}: {:?}; doubled or unasked {}: {:?}; look at {}",
            wanted.len(),
            found.len(),
            lost.len(),
            &lost[..lost.len().min(5)],
            doubled.len(),
            &doubled[..doubled.len().min(5)],
            self.root.display()
        );
    }
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// The footer of a Parquet file, and everything that its readers get from it.
#[track_caller]
pub fn metadata(file: &Path) -> ParquetMetaData {
    let open = File::open(file).unwrap_or_else(|e| panic!("cannot open {}: {e}", file.display()));
    let reader = SerializedFileReader::new(open);
    reader.unwrap_or_else(|e| panic!("{} is not Parquet: {e}", file.display())).metadata().clone()
}

/// The key-value pairs of a footer, but for Arrow's own.
pub fn footer(file: &Path) -> BTreeMap<String, String> {
    let metadata = metadata(file);
    let pairs = metadata.file_metadata().key_value_metadata().cloned().unwrap_or_default();
    pairs
        .into_iter()
        .filter(|p| p.key != "ARROW:schema")
        .map(|p| (p.key, p.value.unwrap_or_default()))
        .collect()
}

/// The rows of one file, in its order.
#[track_caller]
pub fn rows_of(file: &Path) -> Vec<Row> {
    let open = File::open(file).unwrap_or_else(|e| panic!("cannot open {}: {e}", file.display()));
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(open).and_then(ParquetRecordBatchReaderBuilder::build);
    let reader = reader.unwrap_or_else(|e| panic!("{} is not Parquet: {e}", file.display()));
    let batches = reader.map(|batch| batch.unwrap_or_else(|e| panic!("{}: {e}", file.display())));
    batches.flat_map(|batch| (0..batch.num_rows()).map(|i| row(&batch, i)).collect::<Vec<_>>()).collect()
}

fn row(batch: &RecordBatch, at: usize) -> Row {
    let schema = batch.schema();
    let cells = schema.fields().iter().zip(batch.columns()).filter(|(_, column)| column.is_valid(at));
    let text = |column: &arrow::array::ArrayRef| match column.data_type() {
        DataType::Timestamp(..) => {
            let micros = column.as_primitive::<TimestampMicrosecondType>().value(at);
            let time = chrono::DateTime::from_timestamp_micros(micros).expect("a time");
            time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
        }
        _ => array_value_to_string(column, at).expect("every type of a lake can be shown"),
    };
    cells.map(|(field, column)| (field.name().clone(), text(column))).collect()
}
